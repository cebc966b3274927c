"""Keys and headers: as text, as bytes, and the rules for them at the door."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_HEADER_NAME = 128

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_RESERVED = ("nats-", "eventbus-")
_OURS = "Eventbus-Id"

Headers = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes | None]]
"""Headers as publishing takes them."""
RawHeaders = tuple[tuple[str, bytes | None], ...]
"""Headers as a broker keeps them: in order, repeats kept; None is a null (Kafka and memory)."""


class BadValue(ValueError):
    """What somebody passed cannot be carried. A kind of its own: a signal handler may raise any other at any line."""


class BadType(TypeError):
    """What somebody passed is of a type that cannot be carried; see `BadValue`."""


class ShownText(str):
    """Text made of bytes that are no plain text, which it remembers: published again, it is those bytes.

    raw: None for a header's null, which is shown as "".
    """

    __slots__ = ("raw",)

    raw: bytes | None

    @classmethod
    def of(cls, text: str, data: bytes | None) -> ShownText:
        """This text, made of these bytes."""
        made = cls(text)
        made.raw = data
        return made


class ShownHeaders(Mapping[str, str]):
    """Headers as immutable text: "" for a null, the last value of a name that repeats.

    Published again as a whole they are `raw`, the headers that they were made of.
    """

    __slots__ = ("_fields",)

    _own: str | None = None
    """The name of a header that is the library's, and not to be seen."""

    def __init__(self, fields: Sequence[tuple[str, bytes | None]]) -> None:
        self._fields = fields

    @property
    def raw(self) -> RawHeaders:
        """The headers as they are stored: (name, bytes or None) in order, repeats kept."""
        own = self._own
        return tuple([field for field in self._fields if field[0] != own])

    def __getitem__(self, name: str) -> str:
        for known, value in self._in_turn():
            if known == name and known != self._own:
                return _NULL if value is None else shown(value)
        for known, value in self._in_turn():
            if not known.isascii() and shown_name(known) == name:
                return _NULL if value is None else shown(value)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        own = self._own
        return iter(dict.fromkeys([shown_name(name) for name, _ in self._fields if name != own]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _in_turn(self) -> Iterable[tuple[str, bytes | None]]:
        return reversed(self._fields)

    def __or__(self, other: Mapping[str, str]) -> dict[str, str]:
        return dict(self) | dict(other)

    def __ror__(self, other: Mapping[str, str]) -> dict[str, str]:
        return dict(other) | dict(self)

    def __reduce__(self) -> tuple[type[ShownHeaders], tuple[RawHeaders]]:
        return (FirstShown if isinstance(self, FirstShown) else ShownHeaders), (self.raw,)

    def __repr__(self) -> str:
        return repr(dict(self))


class FirstShown(ShownHeaders):
    """Headers as immutable text, with the first value of a name that repeats; else as `ShownHeaders`."""

    __slots__ = ()

    def _in_turn(self) -> Iterable[tuple[str, bytes | None]]:
        return self._fields


_NULL = ShownText.of("", None)
NO_HEADERS: Mapping[str, str] = ShownHeaders(())


def kept(headers: Headers) -> dict[str, str | bytes] | tuple[tuple[str, str | bytes | None], ...]:
    """A copy of headers that nobody else can change; TypeError for what cannot be headers."""
    if isinstance(headers, ShownHeaders):
        return headers.raw
    if isinstance(headers, Mapping):
        return dict(headers)
    if not hasattr(headers, "__iter__"):
        raise BadType(f"headers must be a mapping or (name, value) pairs, not {type(headers).__name__}")
    return tuple(headers)


def raw(value: str | bytes | None) -> bytes | None:
    """A key or a header's value as bytes."""
    if isinstance(value, ShownText):
        return value.raw
    # A lone surrogate cannot be published; it can be looked at and compared.
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


def shown(data: bytes) -> str:
    """Bytes as text for people, those that are not UTF-8 as escapes. What publishing would not take remembers them."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ShownText.of(data.decode(errors="backslashreplace"), data)
    if text.isprintable() and text == text.strip():
        return text
    return ShownText.of(text, data) if _is_unsafe(text) else text


def shown_name(name: str) -> str:
    """A header's name as text for people; lone surrogates, which stand for bytes that are not UTF-8, as escapes."""
    if name.isascii():
        return name
    try:
        data = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # it was never bytes
        data = name.encode(errors="surrogatepass")
    return data.decode(errors="backslashreplace")


def shown_headers(fields: RawHeaders) -> Mapping[str, str]:
    """Headers as an immutable mapping of text: see `ShownHeaders`."""
    return ShownHeaders(fields) if fields else NO_HEADERS


def check_key(key: object) -> str | bytes:
    """Return the key; ValueError unless it is bytes, or a str without control characters or outer blanks.

    Bytes are for the backend to carry, or to refuse; so are those that a key was made of which a handler was shown.
    """
    if isinstance(key, ShownText) and key.raw is not None:
        return key.raw
    if isinstance(key, (bytes, bytearray, memoryview)):
        return bytes(key)
    return _check_text(key, "key")


def check_headers(headers: object) -> RawHeaders:
    """Return the headers as pairs with their values in bytes; ValueError that names the one that cannot be carried.

    Text, and every name in a mapping, is checked by the rules that hold on all backends. Bytes are for the backend
    to carry, or to refuse; so are the names beside bytes and None in pairs: other programs have rules of their own.
    """
    if isinstance(headers, ShownHeaders):
        return tuple([_check_pair(pair) for pair in headers.raw])
    if isinstance(headers, Mapping):
        return _check_mapping(headers)
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise BadValue(f"headers must be a mapping or (name, value) pairs, not {type(headers).__name__}")
    return tuple([_check_pair(pair) for pair in headers])


def exact(text: str) -> str:
    """Text as a plain str. A str of a kind of its own, an Enum's say, may look different wherever it is formatted."""
    return text if type(text) is str else str.__str__(text)


def show(value: object, limit: int = 60) -> str:
    """A value in an error's text: its repr, cut to `limit` characters."""
    text = repr(value)
    if len(text) <= limit:
        return text
    size = len(value) if isinstance(value, str) else len(text)
    return f"{text[:limit]}... ({size} characters)"


def _check_mapping(headers: Mapping[object, object]) -> RawHeaders:
    checked: list[tuple[str, bytes | None]] = []
    folded: set[str] = set()
    for given, value in headers.items():
        name = _check_name(given)
        lower = name.lower()
        if lower in folded:
            raise BadValue(f"header {name!r} is there twice: names that differ only in case are one header in NATS")
        folded.add(lower)
        checked.append((name, _check_value(name, value)))
    return tuple(checked)


def _check_pair(pair: object) -> tuple[str, bytes | None]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise BadValue(f"bad header {show(pair)}: not a (name, value) pair")
    name, value = pair
    if isinstance(value, ShownText):
        value = value.raw
    if isinstance(value, str):
        return _check_name(name), _check_value(name, value)
    if not isinstance(name, str) or "\x00" in name or name == _OURS:
        raise BadValue(f"bad header name {show(name)}: not a str without NUL, or {_OURS}, which is ours")
    _encoded(name, "header name")
    return exact(name), None if value is None else _check_value(name, value)


def _check_name(name: object) -> str:
    if not isinstance(name, str) or len(name) > MAX_HEADER_NAME or not _HEADER_NAME.match(name):
        raise BadValue(f"bad header name {show(name)}: 1 to {MAX_HEADER_NAME} letters, digits or !#$%&'*+-.^_`|~")
    if name.lower().startswith(_RESERVED):
        raise BadValue(f"header name {name!r} is reserved: names that begin with Nats- or Eventbus- are ours")
    return exact(name)


def _check_value(name: str, value: object) -> bytes | None:
    if isinstance(value, ShownText):
        return value.raw
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return _check_text(value, f"value of header {show(name)}").encode()


def _check_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{what} must be a str or bytes, not {type(value).__name__}")
    if _is_unsafe(value):
        raise BadValue(f"{what} {show(value)} has control characters (CR, LF, NUL, ...) or outer blanks")
    _encoded(value, what)
    return exact(value)


def _is_unsafe(text: str) -> bool:
    return _UNSAFE.search(text) is not None or text != text.strip(" \t")


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"{what} {show(text)} is not valid Unicode") from error
