"""Who we are, for all clients of a backend: renewed while they work, without a new client where librdkafka can."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any
from weakref import ref

from .... import log
from ....config_kafka import KafkaConfig, is_cut
from ....errors import AuthenticationError, ConfigError, ConnectFailedError
from ....kafka_token import KafkaToken
from ....secret_sources import Asked, SecretSource
from ....threads import Deadline, StopToken

logger = log.get(__name__)

LOGIN = "eventbus.login"
"""Among the options of a client: the `Login` that wants to know it. No option of librdkafka."""
_THREAD = "eventbus.kafka-login"
_BRIEFLY = 0.5
"""Seconds that a client's own thread waits for a token: while it does, the client cannot be ended."""
_OLD = 0.5
"""The part of its life after which a token is asked for anew; librdkafka asks us after 0.8 of it."""
_ASK_AGAIN = 1.0
_COMPLAIN_EVERY = 30.0


class Login:
    """The password or token of now. Any thread; no text of it is shown.

    on_trouble(error): what a function of the user's has failed with while nobody waited for it.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._password = "" if callable(config.password) else config.password
        self._token: KafkaToken | None = None
        self._since = 0.0
        self._source: SecretSource | None = None
        if callable(config.password):
            self._source = SecretSource("password", config.password, _THREAD, self._answered)
        elif callable(config.token):
            self._source = SecretSource("token", config.token, _THREAD, self._answered)
        elif config.token is not None:
            self._take_token(config.token)
        self._clients: dict[int, ref[Any]] = {}
        self._asked_at = self._complained_at = -_COMPLAIN_EVERY
        self._waiting = 0
        self.on_trouble: Callable[[Exception], object] = lambda error: None

    def options(self) -> dict[str, Any]:
        """What a client is made with; nothing without user and token."""
        config = self._config
        if config.token is not None:
            return {"sasl.mechanisms": "OAUTHBEARER", "oauth_cb": self.token_of_now, LOGIN: self}
        if config.user is None:
            return {}
        known = {
            "sasl.mechanisms": config.sasl_mechanism,
            "sasl.username": config.user,
            "sasl.password": self._password,
        }
        return known | ({} if self._source is None else {LOGIN: self})

    def refresh(self, deadline: Deadline, stop: StopToken) -> None:
        """Ask for what is to be asked for, before a connect; Stopped.

        ConnectFailedError: the user's function raised, which is the cause, or was not back in time.
        AuthenticationError: what it returned, or what is configured, is of no use.
        """
        if self._source is not None:
            with self._counted():
                self._take(self._source.ask(deadline, stop))
        if self._config.token is not None:
            self._living_token()

    def require(self) -> None:
        """AuthenticationError where there is no token to make a client with: confluent_kafka would wait 10 s."""
        if self._config.token is not None:
            self.token_of_now("")

    # -- what clients say, on threads of librdkafka or on those that poll ----------------------------

    def register(self, client: Any) -> None:
        """Have a client get new passwords for as long as it lives."""
        key = id(client)
        self._clients[key] = ref(client, lambda gone: self._clients.pop(key, None))

    def refused(self) -> None:
        """A broker does not want us: ask for something newer, where there is somebody to ask. Never waits."""
        now = time.monotonic()
        if self._source is not None and now - self._asked_at >= _ASK_AGAIN:
            self._asked_at = now
            with suppress(RuntimeError):  # the interpreter ends: no thread can be started
                self._source.begin()

    def token_of_now(self, config: str) -> tuple[str, float, str, dict[str, str]]:
        """A client's `oauth_cb`: what it raises is a failure, after which librdkafka asks again in 10 s."""
        if self._source is not None and self._is_old():
            self._source.begin().done.wait(_BRIEFLY)
        token = self._living_token()
        return token.value, token.expires_at, token.principal, dict(token.extensions)

    # -- inside ----------------------------------------------------------------------------------

    def _is_old(self) -> bool:
        token = self._token
        return token is None or time.time() > self._since + _OLD * (token.expires_at - self._since)

    def _living_token(self) -> KafkaToken:
        token = self._token
        if token is None:
            raise AuthenticationError("there is no token yet")
        if token.expires_at <= time.time():
            raise AuthenticationError(f"the token has expired at {_clock(token.expires_at)}")
        return token

    def _answered(self, asked: Asked) -> None:
        """The user's function is back, on the thread that called it."""
        source = self._source
        if source is None:
            return
        try:
            self._take(source.outcome_of(asked))
        except ConnectFailedError as error:
            if not self._waiting:
                self._complain(error)

    def _take(self, answer: object) -> None:
        if self._config.token is not None:
            self._take_token(answer)
            return
        source = self._source
        if source is not None and (not isinstance(answer, str) or not answer):
            raise source.refuse(answer)
        if is_cut(answer):
            raise AuthenticationError("the password begins with a blank, which librdkafka leaves out: take another one")
        if answer != self._password:
            self._password = str(answer)
            self._tell_clients()

    def _take_token(self, answer: object) -> None:
        try:
            token = answer if isinstance(answer, KafkaToken) else KafkaToken.from_text(_text(answer))
        except ConfigError as error:
            raise AuthenticationError(f"the token is none: {error}") from error
        if token != self._token:
            self._since = time.time()
            self._token = token

    def _tell_clients(self) -> None:
        """The links that are up stay up; the next one that is made shows the new password."""
        for living in list(self._clients.values()):
            client = living()
            if client is not None:
                with suppress(Exception):  # it has been closed
                    take = getattr(client, "take_password", None) or client.set_sasl_credentials
                    take(self._config.user, self._password)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained_at < _COMPLAIN_EVERY:
            return
        self._complained_at = now
        logger.warning("renewing the login: %s", error)
        self.on_trouble(error)

    def _counted(self) -> _Counted:
        return _Counted(self)


class _Counted:
    """While somebody waits for the user's function, its failure is his."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def __enter__(self) -> None:
        self._login._waiting += 1

    def __exit__(self, *raised: object) -> None:
        self._login._waiting -= 1


def _text(answer: object) -> str:
    if not isinstance(answer, str) or not answer:
        raise AuthenticationError(f"the token is none: a str or KafkaToken, and not {type(answer).__name__}")
    return answer.strip()


def _clock(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s since 1970"
