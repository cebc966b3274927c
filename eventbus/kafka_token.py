"""The token that Kafka's OAUTHBEARER takes."""

from __future__ import annotations

import base64
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen

from .errors import ConfigError

_NAME = re.compile(r"[A-Za-z]+")
_VALUE = re.compile(r"[\x20-\x7e\t\r\n]+")

LIFETIME = 300.0
"""Seconds that a token is taken to live which does not say it."""


def _lasting(instance: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{attribute.name} must be a number of seconds since 1970, not a {type(value).__name__}")


def _text(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value.isprintable() or not value.isascii():
        raise ConfigError(f"{attribute.name} must be a str of visible ASCII characters")


def _sasl_extensions(instance: object, attribute: Attribute[Any], value: dict[Any, Any]) -> None:
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "auth":
            raise ConfigError(f"{attribute.name}: a name is made of letters, and is not 'auth'")
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise ConfigError(f"{attribute.name}[{name!r}] must be a str of visible ASCII characters, blanks and lines")


@frozen
class KafkaToken:
    """A token for Kafka's OAUTHBEARER, as `KafkaConfig.token` or the function there returns it.

    value: what the broker is shown. expires_at: seconds since 1970; new ones are asked for before. principal: whom it
    is for, if the broker wants it said. extensions: SASL extensions. No text of it shows value or extensions.
    """

    value: str = field(repr=False, validator=_text)
    expires_at: float = field(validator=_lasting)
    principal: str = field(default="", validator=_text)
    extensions: Mapping[str, str] = field(factory=dict, repr=False, converter=dict, validator=_sasl_extensions)

    @classmethod
    def from_text(cls, text: str) -> KafkaToken:
        """A token whose text is a JWT, which tells its end and its subject; any other is taken to live 300 s."""
        claims = _claims(text)
        expires_at, subject = claims.get("exp"), claims.get("sub")
        if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)) or not math.isfinite(expires_at):
            expires_at = time.time() + LIFETIME
        return cls(text, float(expires_at), subject if isinstance(subject, str) else "")


def _claims(text: str) -> dict[str, Any]:
    try:
        body = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
