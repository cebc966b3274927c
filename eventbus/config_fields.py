"""attrs fields that take a value or its text form (from a URL or the environment) and validate it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any

from attrs import Attribute, field, frozen

from .callables import check_plain
from .errors import ConfigError
from .pem import is_pem

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_NONE = {"none", "null", ""}
_SECRET_WORDS = ("password", "passphrase", "secret", "key.pem", "ssl_key", "token", "oauthbearer.config", "extensions")

_PLACE = re.compile(r"(?:\[([^\[\]]*)\]|([^\s\[\]/?#@:\\]+))(?::(.+))?")
"""[address] or host, and the port. Not `urlsplit`: what it lets pass differs from one Python to the next."""

_LONGEST_PORT = 9
"""Digits, zeros in front included."""

_Check = Callable[[Any, "Attribute[Any]", Any], None]


def number(default: float, *, low: float = 0.0, above: bool = False, high: float = math.inf) -> Any:
    """A float, at least `low` (or more than it with `above`) and at most `high`. Seconds where it is a time."""
    return field(default=default, converter=_to_float, validator=_bounds(low, above, high))


def optional_number(default: float | None, *, low: float = 0.0) -> Any:
    """A float of more than `low`, or None (the text "none" is None, too). Seconds where it is a time."""
    return field(default=default, converter=_or_none(_to_float), validator=_bounds(low, True, optional=True))


def integer(default: int, *, low: int = 1) -> Any:
    """An int of at least `low`."""
    return field(default=default, converter=_to_int, validator=_bounds(low, whole=True))


def optional_integer(default: int | None, *, low: int = 1) -> Any:
    """An int of at least `low`, or None (the text "none" is None, too)."""
    return field(default=default, converter=_or_none(_to_int), validator=_bounds(low, whole=True, optional=True))


def flag(default: bool) -> Any:
    """A bool, or one of the texts true/false, yes/no, on/off, 1/0."""
    return field(default=default, converter=_to_bool, validator=_typed(bool, "a bool"))


def text(default: str) -> Any:
    """A str without control characters."""
    return field(default=default, validator=_plain_text)


def optional_text() -> Any:
    """A str without control characters, or None."""
    return field(default=None, validator=_plain_text)


def secret() -> Any:
    """A str that is never shown, or None."""

    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{attribute.name} must be a str, not {type(value).__name__}")

    return field(default=None, repr=False, validator=check)


def pem() -> Any:
    """The path of a PEM file, or such a file's text, of which nothing is shown; or None."""

    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if not (isinstance(value, str) and is_pem(value)):
            _plain_text(instance, attribute, value)
        elif "\0" in value:
            raise ConfigError(f"{attribute.name} is a text with NUL in it")

    return field(
        default=None, validator=check, repr=lambda value: "'<PEM>'" if value and is_pem(value) else repr(value)
    )


def is_secret(instance: object, attribute: Attribute[Any], value: object) -> None:
    """A validator for a secret: a str, a plain function that returns one when it is needed, or None. Never shown."""
    if value is None or isinstance(value, str):
        return
    try:
        check_plain(value, attribute.name, takes=0)
    except ValueError as error:
        raise ConfigError(f"{attribute.name} must be a str or a function that returns one: {error}") from error


def choice(default: str, *allowed: str) -> Any:
    """One of a few words."""

    def check(instance: object, attribute: Attribute[str], value: object) -> None:
        if value not in allowed:
            raise ConfigError(f"{attribute.name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    return field(default=default, validator=check)


def checked_text(default: str | None, check: Callable[[object], str]) -> Any:
    """A str that `check` accepts (it raises ValueError), or None where that is the default."""

    def validate(instance: object, attribute: Attribute[str], value: object) -> None:
        if value is None and default is None:
            return
        try:
            check(value)
        except ValueError as error:
            raise ConfigError(f"{attribute.name}: {error}") from error

    return field(default=default, validator=validate)


def is_a(kind: type) -> _Check:
    """A validator for a group of settings: a value of that class."""
    return _typed(kind, f"a {kind.__name__}")


def is_a_or_none(kind: type) -> _Check:
    """A validator for a group of settings that may be left out: a value of that class, or None."""
    return _typed((kind, type(None)), f"a {kind.__name__} or None")


def options(refused: Mapping[str, str]) -> Any:
    """A mapping of raw options that is passed on; `refused` maps a key to the reason why it may not be set."""

    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{attribute.name} must be a mapping with str keys, not {value!r}")
        for key in value:
            if key in refused:
                raise ConfigError(f"{attribute.name}[{key!r}] may not be set: {refused[key]}")

    return field(factory=dict, converter=_copied, validator=check)


def client_options(refused: Mapping[str, str]) -> Any:
    """Raw options of a client library, by name: str, int, float or bool; as `options` otherwise.

    Credentials among them are not shown.
    """

    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            kind = type(value).__name__  # not the value: there may be a password in it
            raise ConfigError(f"{attribute.name} must be a mapping of options with str keys, not this {kind}")
        for key, one in value.items():
            place = f"{attribute.name}[{key!r}]"
            if key in refused:
                raise ConfigError(f"{place} may not be set: {refused[key]}")
            if callable(one) or key.endswith("_cb"):
                raise ConfigError(f"{place} may not be set: the callbacks of the clients are the library's own")
            if not isinstance(one, (str, int, float)) or (isinstance(one, str) and "\0" in one):
                raise ConfigError(f"{place} must be a str without NUL, a number or a bool, not a {type(one).__name__}")

    return field(factory=dict, converter=_copied, validator=check, repr=_without_secrets)


def addresses(value: object, name: str, scheme: str, port: int) -> tuple[str, ...]:
    """A tuple of "host:port" from one text (comma-separated) or several; `port` for those without one.

    "host", "host:port", "[::1]:port", "::1" and `scheme`://host:port are taken; ConfigError names the setting.
    """
    return tuple(_address(text, name, scheme, port) for text in texts(value, name))


def _address(text: str, name: str, scheme: str, port: int) -> str:
    shown = text.rpartition("@")[2]
    if shown != text:
        raise ConfigError(f"{name}: {shown!r} stands behind credentials; they have settings of their own")
    before, separator, place = text.rpartition("://")
    if separator and before.lower() != scheme:
        raise ConfigError(f"{name}: {text!r} has a scheme other than {scheme}://")
    place = place.rstrip("/") if separator else place
    host, number = host_and_port(place, port, f"{name}: {text!r}")
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def host_and_port(place: str, port: int, words: str) -> tuple[str, int]:
    """The host, without brackets, and the port, `port` where there is none; ConfigError, which begins with `words`."""
    if place.count(":") > 1 and not place.startswith("["):
        place = f"[{place}]"
    found = _PLACE.fullmatch(place)
    if found is None or not place.isprintable():
        raise ConfigError(f"{words} is not host, host:port or [::1]:port")
    inside, host, digits = found.groups()
    if inside is not None:
        try:
            host = str(IPv6Address(inside))
        except ValueError:  # whose text shows it, and part of a password may stand there
            raise ConfigError(f"{words}: what is in brackets, or has several colons, is no IPv6 address") from None
    return host.lower() if inside is None else host, port if digits is None else _port(digits, words)


def _port(digits: str, words: str) -> int:
    # Python makes no int of thousands of digits, and says so by an error of its own.
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _LONGEST_PORT and 0 < int(digits) <= 65535):
        raise ConfigError(f"{words}: the port must be a number from 1 to 65535")
    return int(digits)


@frozen
class ServerUrl:
    """A server as "host", "host:port", "[::1]:4222", "::1" or a URL says it; credentials as they stand there.

    scheme: in lower case, "" where there is none. No text shows the credentials.
    """

    scheme: str
    credentials: str | None = field(repr=False)
    host: str
    port: int


def server_url(text: str, name: str, schemes: Sequence[str], port: int) -> ServerUrl:
    """Take the text of a server apart; `port` where there is none. ConfigError names the setting, never credentials."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    credentials, at, place = rest.rpartition("@")
    shown = _shown(place)
    if separator and scheme.lower() not in schemes:
        raise ConfigError(f"{name}: {shown}: the scheme is {' or '.join(f'{one}://' for one in schemes)}")
    host, found = host_and_port(place.rstrip("/"), port, f"{name}: {shown}")
    return ServerUrl(scheme.lower(), credentials if at else None, host, found)


def _shown(place: str) -> str:
    """The repr of a place up to its port: behind the colon of a malformed one a password may stand."""
    host, colon, _ = place.partition(":")
    return repr(f"{host}:..." if colon else host)


def server_urls(default: str, schemes: Sequence[str], port: int) -> Any:
    """A tuple of servers, each a text that `server_url` takes, from one text (comma-separated) or several."""

    def check(instance: object, attribute: Attribute[Any], value: Sequence[str]) -> None:
        if not value:
            raise ConfigError(f"{attribute.name} is empty: name at least one, for example {default!r}")
        for one in value:
            server_url(one, attribute.name, schemes, port)

    return field(default=(default,), converter=texts, validator=check, repr=without_credentials)


def texts(value: object, name: str = "servers") -> tuple[str, ...]:
    """A tuple of str, from one (comma-separated) or several."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Sequence) and all(isinstance(part, str) for part in value):
        return tuple(value)
    kind = type(value).__name__  # not the value: there may be a password in it
    raise ConfigError(f"{name} must be a str or a list of str, not {kind}")


def without_credentials(urls: Sequence[str]) -> str:
    """The repr of some URLs, with *** for the user, password or token in them."""
    return repr(tuple(_hide(url) for url in urls))


def _hide(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    _, at, host = url.rpartition("@")
    return f"{scheme + separator if separator else ''}***@{host}" if at else url


def is_secret_option(name: str) -> bool:
    """Whether the value of an option of librdkafka is not to be shown."""
    return any(word in name for word in _SECRET_WORDS)


def _without_secrets(given: Mapping[str, Any]) -> str:
    hidden = {key: "***" for key in given if is_secret_option(key)}
    return repr(dict(given) | hidden)


def _to_float(value: object) -> object:
    """A float, or the value as it is: the validator knows the name of the setting, and refuses it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _to_int(value: object) -> object:
    result = _to_float(value)
    return int(result) if isinstance(result, float) and result.is_integer() else value


def _to_bool(value: object) -> object:
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    return value


def _copied(value: object) -> object:
    """A copy of a mapping, which nobody else can change, or the value as it is: the validator refuses it."""
    return dict(value) if isinstance(value, Mapping) else value


def _or_none(convert: Callable[[object], Any]) -> Callable[[object], Any]:
    def converter(value: object) -> Any:
        if value is None or (isinstance(value, str) and value.lower() in _NONE):
            return None
        return convert(value)

    return converter


def _bounds(
    low: float, above: bool = False, high: float = math.inf, *, whole: bool = False, optional: bool = False
) -> _Check:
    def check(instance: object, attribute: Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if type(value) is not (int if whole else float):
            raise ConfigError(f"{attribute.name} must be a {'whole ' if whole else ''}number, not {value!r}")
        if not (whole or math.isfinite(value)) or value < low or value > high or (above and value == low):
            least = f"more than {low:g}" if above else f"at least {low:g}"
            most = f" and at most {high:g}" if math.isfinite(high) else ""
            raise ConfigError(f"{attribute.name} must be {least}{most}, not {value!r}")

    return check


def _typed(kind: type | tuple[type, ...], words: str) -> _Check:
    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if not isinstance(value, kind):
            raise ConfigError(f"{attribute.name} must be {words}, not {value!r}")

    return check


def _plain_text(instance: object, attribute: Attribute[Any], value: object) -> None:
    if value is None and attribute.default is None:
        return
    if not isinstance(value, str) or any(ord(character) < 32 for character in value):
        raise ConfigError(f"{attribute.name} must be a str without control characters, not {value!r}")
