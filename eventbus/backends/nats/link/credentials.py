"""Who we are, for a server: read anew at each connect, so that what is renewed outside is used without a restart."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from typing import Any

from attrs import field, frozen

from ....config import NatsConfig
from ....errors import AuthenticationError, ConnectFailedError, UnsupportedError
from ....secret_sources import SecretSource
from ....threads import Deadline, StopToken

_BLOCK = re.compile(r"-{3,}BEGIN [^-\r\n]+-{3,}\s+(\S+)\s+-{3,}END [^-\r\n]+-{3,}")
"""One part of a credentials file: first the JWT, then the seed."""


@frozen
class Credentials:
    """What a connect shows to every server that has none of its own. No text of it is shown."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    jwt: str | None = field(default=None, repr=False)
    seed: str | None = field(default=None, repr=False)

    def fields(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What CONNECT says, to a server with this INFO. AuthenticationError: the seed is none."""
        if self.token is not None:
            return {"auth_token": self.token}
        if self.user is not None:
            return {"user": self.user, "pass": self.password}
        found: dict[str, Any] = {} if self.jwt is None else {"jwt": self.jwt}
        nonce = info.get("nonce")
        if self.seed is not None and isinstance(nonce, str):
            public, signature = _signed(self.seed, nonce.encode())
            found["sig"] = signature
            if self.jwt is None:
                found["nkey"] = public
        return found

    @property
    def expired(self) -> str:
        """When the JWT has expired, as the end of an error's text; "" if it has not, or does not say."""
        at = _expiry(self.jwt)
        if at is None or at > datetime.now(timezone.utc):
            return ""
        return f"; its JWT has expired at {at:%Y-%m-%d %H:%M:%S} UTC"


class CredentialsReader:
    """Reads what is configured, as it is now. It outlives connects: where a source hangs, only one call of it does."""

    def __init__(self, config: NatsConfig) -> None:
        self._config = config
        self._sources: dict[str, SecretSource] = {}

    def read(self, deadline: Deadline, stop: StopToken) -> Credentials:
        """Read files and call callbacks, on a thread of their own; Stopped.

        AuthenticationError: what was found is none. ConnectFailedError: it could not be had, or not in time.
        """
        config = self._config
        if config.credentials is not None:
            given = config.credentials
            source = partial(_content, given) if isinstance(given, str) else given
            return _from_text(self._ask("credentials", source, deadline, stop))
        token, jwt, seed = (
            self._ask(name, given, deadline, stop) if callable(given) else given and given.strip()
            for name, given in (("token", config.token), ("jwt", config.jwt), ("nkey", config.nkey))
        )
        return Credentials(config.user, config.password, token, jwt, seed)

    def _ask(self, name: str, call: Callable[[], str], deadline: Deadline, stop: StopToken) -> str:
        if name not in self._sources:
            self._sources[name] = SecretSource(name, call, "eventbus.nats-credentials")
        source = self._sources[name]
        answer = source.ask(deadline, stop)
        if not isinstance(answer, str) or not answer:
            raise source.refuse(answer)
        return answer


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConnectFailedError(f"the credentials cannot be read from {path!r}: {why}") from None


def _from_text(text: str) -> Credentials:
    parts = _BLOCK.findall(text)
    if len(parts) != 2:
        raise AuthenticationError(f"the credentials have {len(parts)} parts; a .creds file has two, a JWT and a seed")
    return Credentials(jwt=parts[0], seed=parts[1])


def _signed(seed: str, nonce: bytes) -> tuple[str, str]:
    try:
        import nkeys
    except ImportError as error:
        raise UnsupportedError("nkeys and JWTs need the package nkeys: pip install 'jxt-eventbus[nats]'") from error
    try:
        pair = nkeys.from_seed(seed.encode())
    except (nkeys.NkeysError, ValueError):  # whose text might show it
        raise AuthenticationError("the seed is none: it begins with SU, and is not that of a user otherwise") from None
    try:
        return pair.public_key.decode(), base64.urlsafe_b64encode(pair.sign(nonce)).rstrip(b"=").decode()
    finally:
        pair.wipe()


def _expiry(jwt: str | None) -> datetime | None:
    body = (jwt or "").split(".")[1:2]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body[0] + "=" * (-len(body[0]) % 4)))
        return datetime.fromtimestamp(claims["exp"], timezone.utc)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
