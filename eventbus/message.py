"""Messages, receipts and the rules for topics, groups, headers and payloads."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import partial
from itertools import count
from secrets import token_hex
from types import MappingProxyType
from typing import Any

from attrs import frozen

MAX_TOPIC = 180
MAX_GROUP = 64
MAX_ID = 128
MAX_HEADER_NAME = 128

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\Z")
_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]+|\*)(?:\.(?:[A-Za-z0-9_-]+|\*))*(?:\.>)?\Z|>\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_RESERVED = ("nats-", "eventbus-")
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Message:
    """A message, as handlers get it and as `publish_many` takes it. Treat it as a value.

    topic: where it was published. payload: the bytes (a str or JSON-able value is encoded).
    key: messages with the same key keep their order. headers: str to str.
    id: unique for the message, the same on every redelivery.
    timestamp: when the broker stored it (aware UTC); core NATS does not stamp: when it arrived here.
    attempt: 1 on the first delivery, as the broker counts.
    """

    __slots__ = ("attempt", "headers", "id", "key", "payload", "timestamp", "topic")

    topic: str
    payload: bytes
    key: str | None
    headers: Mapping[str, str]
    id: str | None
    timestamp: datetime | None
    attempt: int

    def __init__(
        self,
        topic: str,
        payload: object,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        timestamp: datetime | None = None,
        attempt: int = 1,
    ) -> None:
        self.topic = topic
        self.payload = payload if type(payload) is bytes else encode_payload(payload)
        self.key = key
        self.headers = NO_HEADERS if headers is None else headers
        self.id = id
        self.timestamp = timestamp
        self.attempt = attempt

    def text(self) -> str:
        """The payload as UTF-8 text; UnicodeDecodeError if it is none."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as a JSON value; ValueError if it is none."""
        return json.loads(self.payload)

    def __repr__(self) -> str:
        size = len(self.payload)
        return f"<Message {self.topic!r} id={self.id!r} key={self.key!r} attempt={self.attempt} {size} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (self.topic, self.payload, self.key, self.id, dict(self.headers)) == (
            other.topic,
            other.payload,
            other.key,
            other.id,
            dict(other.headers),
        )

    def __hash__(self) -> int:
        return hash((self.topic, self.id, self.payload))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process is a plain message: what a session needs to acknowledge it stays here.
        make = partial(
            Message,
            key=self.key,
            headers=dict(self.headers) or None,
            id=self.id,
            timestamp=self.timestamp,
            attempt=self.attempt,
        )
        return make, (self.topic, self.payload)


@frozen(kw_only=True)
class Receipt:
    """What the broker answered to a publish.

    confirmed: the broker has stored it; False on core NATS, which stores nothing.
    partition: the Kafka or memory partition, or the JetStream stream; offset: the position in it.
    duplicate: the broker had this id already and kept one.
    """

    topic: str
    id: str
    confirmed: bool
    partition: int | str | None = None
    offset: int | None = None
    duplicate: bool = False


class IdMint:
    """Makes message ids: 64 random bits, the same for one bus, and a number that counts up."""

    __slots__ = ("next_number", "origin")

    origin: str

    def __init__(self) -> None:
        self.renew()
        self.next_number = count(1).__next__

    def renew(self) -> None:
        """Draw new random bits; the number goes on."""
        self.origin = token_hex(8)

    def id_of(self, number: int) -> str:
        """The id of the message with this number; always 29 characters below 10**12 messages."""
        return f"{self.origin}-{number:012d}"


def encode_payload(payload: object) -> bytes:
    """Bytes as they are, str as UTF-8, anything else as JSON.

    TypeError for None and for what JSON cannot carry; ValueError for NaN, infinity, cycles and depths.
    """
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    if isinstance(payload, str):
        return payload.encode()
    if payload is None:
        raise TypeError("payload is None; publish b'' for an empty message or 'null' for a JSON null")
    try:
        return json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("payload is nested too deeply for JSON") from error


def check_topic(topic: object) -> str:
    """Return the topic; ValueError unless it is 1 to 180 characters of A-Z a-z 0-9 . _ -."""
    if not isinstance(topic, str) or len(topic) > MAX_TOPIC or not _NAME.match(topic):
        raise ValueError(
            f"bad topic {_show(topic)}: 1 to {MAX_TOPIC} characters of A-Z a-z 0-9 . _ -, no empty part between dots"
        )
    return topic


def check_pattern(topic: object) -> str:
    """Return the topic or pattern; `*` stands for one part, a final `>` for one or more."""
    if not isinstance(topic, str) or len(topic) > MAX_TOPIC or not _PATTERN.match(topic):
        raise ValueError(
            f"bad topic pattern {_show(topic)}: 1 to {MAX_TOPIC} characters of A-Z a-z 0-9 . _ -, "
            "'*' for one whole part, '>' for the rest"
        )
    return topic


def check_group(group: object) -> str:
    """Return the group's name; ValueError unless it is 1 to 64 characters of A-Z a-z 0-9 . _ -."""
    if not isinstance(group, str) or len(group) > MAX_GROUP or not _NAME.match(group):
        raise ValueError(
            f"bad group {_show(group)}: 1 to {MAX_GROUP} characters of A-Z a-z 0-9 . _ -, no empty part between dots"
        )
    return group


def check_id(id: object) -> str:
    """Return the message id; ValueError unless it is 1 to 128 visible ASCII characters."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or not id.isascii() or not id.isprintable() or " " in id:
        raise ValueError(f"bad message id {_show(id)}: 1 to {MAX_ID} visible ASCII characters, no space")
    return id


def check_key(key: object) -> str:
    """Return the key; ValueError unless it is a str without control characters or outer spaces."""
    return _check_text(key, "key")


def check_headers(headers: object) -> dict[str, str]:
    """Return the headers as a new dict; ValueError that names the one that cannot be carried."""
    if not isinstance(headers, Mapping):
        raise ValueError(f"headers must be a mapping of str to str, not {type(headers).__name__}")
    checked: dict[str, str] = {}
    folded: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or len(name) > MAX_HEADER_NAME or not _HEADER_NAME.match(name):
            raise ValueError(
                f"bad header name {_show(name)}: 1 to {MAX_HEADER_NAME} letters, digits or !#$%&'*+-.^_`|~"
            )
        lower = name.lower()
        if lower.startswith(_RESERVED):
            raise ValueError(f"header name {name!r} is reserved: names that begin with Nats- or Eventbus- are ours")
        if lower in folded:
            raise ValueError(f"header {name!r} is there twice: names that differ only in case are one header in NATS")
        folded.add(lower)
        checked[name] = _check_text(value, f"value of header {name!r}")
    return checked


def matches(pattern: str, topic: str) -> bool:
    """Whether the pattern (`*` one part, final `>` the rest) covers the topic."""
    if "*" not in pattern and ">" not in pattern:
        return pattern == topic
    wanted, given = pattern.split("."), topic.split(".")
    # Dead letters are for those who ask for them by name.
    if given[0] == "dlq" and wanted[0] != "dlq":
        return False
    for position, part in enumerate(wanted):
        if part == ">":
            return len(given) > position
        if position >= len(given) or part not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


def _check_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a str, not {type(value).__name__}")
    if _UNSAFE.search(value) or value != value.strip(" \t"):
        raise ValueError(f"{what} {_show(value)} has control characters (CR, LF, NUL, ...) or outer blanks")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {_show(value)} is not valid Unicode") from error
    return value


def _show(value: object, limit: int = 60) -> str:
    text = repr(value)
    if len(text) <= limit:
        return text
    size = len(value) if isinstance(value, str) else len(text)
    return f"{text[:limit]}... ({size} characters)"


class Delivery(Message):
    """A message as a session hands it over.

    identity: what is the same on every redelivery, None where nothing is redelivered.
    token: what the session needs to acknowledge it.
    """

    __slots__ = ("identity", "token")

    identity: Hashable
    token: Any
