"""Making a client that is proven by an answer: one attempt, bounded, interruptible, with the cause of its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from ....config_fields import is_secret_option
from ....config_kafka import KafkaConfig
from ....errors import AuthenticationError, ConfigError, ConnectFailedError, EventBusError
from ....threads import Deadline, StopToken, interruptibly, spawn
from .api_versions import examine, speaks
from .client_log import CLIENT_LOG
from .errors import ClientErrors, is_fatal, is_refusal, text_of
from .fork_safety import AdminClient, Consumer, Producer
from .login import LOGIN, Login
from .options import ALIASES, ClientOptions

_ASK = 0.25
_LONGEST_ASK = 1.5
"""Each question waits twice as long as the one before: a far or busy broker takes its time for each answer."""
_PAUSE = 0.02
_LAST_LOOK = 0.05
_GRACE = 1.0
"""Seconds that the other brokers have when one refuses: a cluster may be amid a change of credentials."""
_LONGEST_DIAGNOSIS = 0.5

Client = TypeVar("Client")
_Client = list[AdminClient]
"""One client, which ends when nobody has it any more: it must not stand in a traceback."""


def connected_admin(options: ClientOptions, errors: ClientErrors, timeout: float, stop: StopToken) -> AdminClient:
    """An admin client whose broker has answered; `errors` is its `error_cb` for good, silent until then.

    It takes no right to write or to read. AuthenticationError as soon as the only broker refuses us or we it (a second
    later where there are several), ConnectFailedError after `timeout` seconds, Stopped at most 0.3 s after a stop,
    ConfigError for an option that librdkafka refuses. What fails leaves nothing behind but, for as long as librdkafka
    needs to end it, a daemon thread.
    """
    deadline = Deadline(timeout)
    stop.check()
    errors.quiet = True
    client: _Client = [new_client(AdminClient, options.admin, errors)]
    try:
        _prove(client, options.config, errors, deadline, stop)
    except BaseException:
        drop(client, options.name)
        raise
    errors.forget()
    return client.pop()


def new_client(kind: Callable[[dict[str, Any]], Client], options: dict[str, Any], errors: ClientErrors) -> Client:
    """A client (`Producer`, `Consumer`, `AdminClient`) that nobody has heard of yet: every one is made here.

    ConfigError names the option that librdkafka refuses. ConnectFailedError: there are no threads or files left for
    it. AuthenticationError: no token could be had.
    """
    given = dict(options)
    login: Login | None = given.pop(LOGIN, None)
    if login is not None:
        login.require()
    given["error_cb"] = errors.note if login is None else partial(_note, errors, login)
    polled = isinstance(kind, type) and issubclass(kind, (confluent_kafka.Producer, confluent_kafka.Consumer))
    if polled and "debug" not in given:  # with debug lines among them a poll may never return (librdkafka 5325)
        given["logger"] = CLIENT_LOG
    try:
        client = kind(given)
    except Exception as error:  # the binding raises many kinds of them
        raise _refusal_of(error, given) from error
    if login is not None:
        login.register(client)
    return client


def _note(errors: ClientErrors, login: Login, error: KafkaError) -> None:
    errors.note(error)
    if is_refusal(error):
        login.refused()


def check_options(options: ClientOptions) -> None:
    """ConfigError for options that librdkafka would refuse later, at the first subscription: it is asked now.

    The clients know of no broker, and are gone at once: 1 ms for all.
    """
    errors = ClientErrors(options.name)
    protocol = options.config.group_protocol
    protocols = ("consumer", "classic") if protocol == "auto" else (protocol,)
    consumers = [options.consumer("eventbus", protocol=one, start="earliest") for one in protocols]
    kinds = [(AdminClient, options.admin), (Producer, options.producer), *[(Consumer, one) for one in consumers]]
    for kind, given in kinds:
        alone = {name: value for name, value in given.items() if name not in (LOGIN, "oauth_cb", "bootstrap.servers")}
        client: Any = new_client(kind, {**alone, "log_level": 0}, errors)
        if not isinstance(client, AdminClient):
            client.close()


def _refusal_of(error: Exception, options: Mapping[str, Any]) -> EventBusError:
    """What is raised for a client that cannot be made."""
    text = text_of(error)
    code = error.args[0].code() if isinstance(error, KafkaException) else None
    if code == KafkaError._CRIT_SYS_RESOURCE:
        return ConnectFailedError(f"a client cannot be made: {text}")
    if code in (KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION):
        return AuthenticationError(text)
    for name, value in options.items():
        if is_secret_option(name) and isinstance(value, str) and value:
            text = text.replace(value, "***")
    known_as = [ours for other, ours in ALIASES.items() if f'"{other}"' in text and ours in options]
    also = f", here {known_as[0]!r}" if known_as else ""
    return ConfigError(f"librdkafka refuses the configuration: {text}{also}")


def discard(producer: Producer, name: str) -> None:
    """End a producer whose messages nobody wants, on a thread of its own: that may take librdkafka a while."""
    producer.purge()
    spawn(f"eventbus.kafka-discard-{name}", _end, producer)


def drop(client: _Client, name: str) -> None:
    """Forget the client in the list, on a thread of its own: that ends it, and may take librdkafka a while."""
    spawn(f"eventbus.kafka-discard-{name}", client.clear)


def _end(producer: Producer) -> None:
    producer.flush(1.0)  # what is purged is reported; `close` would wait for it without end
    if len(producer) == 0:
        producer.close()


def _prove(client: _Client, config: KafkaConfig, errors: ClientErrors, deadline: Deadline, stop: StopToken) -> None:
    diagnosis = min(_LONGEST_DIAGNOSIS, deadline.share(0.25))
    grace: Deadline | None = None
    patience = _ASK
    while True:
        left = deadline.remaining() - diagnosis
        cause = _answered(client, min(patience, left), stop, again=patience > _ASK)
        try:
            client[0].poll(0)  # the callback runs in here only
        except KafkaException as error:  # fatal: the brokers are too old
            raise ConnectFailedError(text_of(error), server_spoke=True) from error.with_traceback(None)
        if cause is None:
            return
        if errors.refused is not None:
            grace = grace or Deadline(_GRACE if len(config.brokers) > 1 else 0.0)
            if grace.over or left <= _PAUSE:
                raise AuthenticationError(_refusal(errors.refused, config))
        if is_fatal(cause) or left <= _PAUSE:
            break
        patience = min(patience * 2, _LONGEST_ASK)
        stop.wait(min(_PAUSE, left))
    failure = _diagnosed(config, errors, cause, deadline, stop)
    stop.check()
    if _answered(client, _LAST_LOOK, stop) is None:  # it has gone on meanwhile
        return
    raise failure


def _answered(client: _Client, timeout: float, stop: StopToken, *, again: bool = False) -> KafkaError | None:
    """None, or why there is no answer. Stopped at once."""
    ask = partial(_cluster_id, client, max(0.01, timeout), again)
    try:
        if interruptibly("eventbus.kafka-connecting", ask, timeout + 1.0, stop):
            return None
    except TimeoutError:
        pass
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        return cause
    return KafkaError(KafkaError._TIMED_OUT)


def _cluster_id(client: _Client, timeout: float, again: bool) -> str | None:
    """In the metadata that a client asks for by itself: to ask for a topic that is not there would go on for ever.

    A broker that has just started may answer that it knows of no broker, and librdkafka leaves it at that: again.
    """
    if again:
        timeout /= 2
        with suppress(KafkaException):
            client[0].list_topics(timeout=timeout)
    return client[0].cluster_id(timeout=timeout)


def _refusal(error: KafkaError, config: KafkaConfig) -> str:
    text = text_of(error)
    if "certificate" in text and error.code() == KafkaError._TRANSPORT:
        given = config.tls is not None and config.tls.certificate is not None
        return f"{text}: the broker refuses {'our' if given else 'to go on without a'} client certificate"
    return text


def _diagnosed(
    config: KafkaConfig, errors: ClientErrors, cause: KafkaError, deadline: Deadline, stop: StopToken
) -> ConnectFailedError:
    """What a look by hand says about it: librdkafka is silent about most servers of the wrong kind."""
    findings = examine(config.brokers, config.tls, deadline.share(0.5), stop)
    speaking = [finding for finding in findings if finding.speaks]
    seen = "; ".join(map(str, findings))
    foreign = findings and all(finding.is_foreign for finding in findings)  # librdkafka takes its words for a size
    said = (not foreign and errors.last) or seen or f"{', '.join(config.brokers)}: {text_of(cause)}"
    if speaking:
        logs_in = "sasl" in ClientOptions(config, "").admin["security.protocol"]
        if not logs_in and all(finding.asks_login for finding in speaking):
            return AuthenticationError(f"{speaking[0].broker}: the broker asks for a login: set user and password")
        return ConnectFailedError(
            errors.last or f"{speaking[0].broker}: a broker is there, but did not answer in time", server_spoke=True
        )
    other = config.tls is None
    if speaks(config.brokers, other, deadline.remaining() - _LAST_LOOK, stop):
        hint = "speaks Kafka behind TLS only: set tls" if other else "speaks Kafka without TLS only, and tls is set"
        said = f"{said}: the broker {hint}"
    return ConnectFailedError(said)
