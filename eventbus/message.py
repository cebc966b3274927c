"""Messages, receipts, ids, payloads, and the rules for topics and groups. For keys and headers see `fields`."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import partial
from itertools import count
from secrets import token_hex
from typing import Any

from attrs import frozen

from .fields import BadType, BadValue, Headers, RawHeaders, exact, kept, raw, show, shown, shown_headers

MAX_TOPIC = 180
MAX_GROUP = 64
MAX_ID = 128
"""Characters that a topic, a group and an id may have on every backend."""
ANSWERS = ("_INBOX", "_R_", "_GR_")
"""Answers in NATS come on subjects that begin so. A stream of them would keep all of them, and have the server believe
that whoever has asked for messages, and has gone, still waits for them."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\Z")
_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]+|\*)(?:\.(?:[A-Za-z0-9_-]+|\*))*(?:\.>)?\Z|>\Z")


class Tombstone(bytes):
    """The type of `TOMBSTONE`, which is its only instance."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "TOMBSTONE"

    def __reduce__(self) -> str:
        return "TOMBSTONE"  # by name: there is one


TOMBSTONE = Tombstone()
"""The payload that is no value: Kafka deletes its key from a compacted topic. To `len` and `==` it is b""."""


class Message:
    """A message, as handlers get it and as `publish_many` takes it. Treat it as a value.

    topic: where it was published. payload: the bytes (a str or JSON-able value is encoded); empty for a tombstone.
    key: messages with the same key keep their order; str or bytes when it is made, always read as text.
    headers: a mapping, or pairs where names repeat; always read as an immutable mapping of str to str.
    What is not UTF-8 is shown with escapes there; `raw_key` and `raw_headers` have it unchanged.
    id: unique for the message, the same on every redelivery.
    timestamp: when the broker stored it (aware UTC), None where that is no date; core NATS does not stamp: when it
    arrived here. attempt: counts the starts of its handler, from 1 on: in this process, and before as far as the broker
    tells (JetStream and memory count deliveries).
    partition, offset: where it is stored, as in `Receipt`; None on core NATS. Of one that you make for `publish_many`
    partition and timestamp say where and when it is to be stored, as in `publish`.
    Nothing that another program wrote makes reading an attribute raise.
    """

    __slots__ = ("_headers", "_key", "attempt", "id", "offset", "partition", "payload", "timestamp", "topic")

    topic: str
    payload: bytes
    id: str | None
    timestamp: datetime | None
    attempt: int
    partition: int | str | None
    offset: int | None

    def __init__(
        self,
        topic: str,
        payload: object,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        id: str | None = None,
        timestamp: datetime | None = None,
        attempt: int = 1,
        partition: int | str | None = None,
        offset: int | None = None,
    ) -> None:
        self.topic = topic
        self.payload = payload if type(payload) is bytes else encode_payload(payload)
        self._key = key
        self._headers = None if headers is None else kept(headers)
        self.id = id
        self.timestamp = timestamp
        self.attempt = attempt
        self.partition = partition
        self.offset = offset

    @property
    def key(self) -> str | None:
        """The key as text; bytes that are not UTF-8 are shown as escapes."""
        key = self._key
        return shown(key) if isinstance(key, bytes) else key

    @property
    def raw_key(self) -> bytes | None:
        """The key as it is stored, byte for byte; None without one."""
        return raw(self._key)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers as text: immutable, "" for a null, the last value of a name that repeats."""
        return shown_headers(self.raw_headers)

    @property
    def raw_headers(self) -> RawHeaders:
        """The headers as they are stored: (name, bytes or None) in order, repeats kept."""
        given = self._headers
        if not given:
            return ()
        pairs = given.items() if isinstance(given, dict) else given
        return tuple([(name, raw(value)) for name, value in pairs])

    @property
    def is_tombstone(self) -> bool:
        """Whether the payload is `TOMBSTONE`, and not merely empty."""
        return isinstance(self.payload, Tombstone)

    def text(self) -> str:
        """The payload as UTF-8 text; UnicodeDecodeError if it is none."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as a JSON value; ValueError if it is none, or nested too deeply to be read."""
        try:
            return json.loads(self.payload)
        except RecursionError as error:
            raise ValueError("payload is nested too deeply for JSON") from error

    def replace(self, **changes: Any) -> Message:
        """A copy with other values, by the names that `Message()` takes; what is not named stays, byte for byte.

        TypeError for an unknown name, and for a payload that cannot be encoded. What is acknowledged of a received
        message stays the original.
        """
        topic, payload, key, headers, message_id = parts_of(self)
        values: dict[str, Any] = {
            **{"topic": topic, "payload": payload, "key": key, "headers": headers, "id": message_id},
            **{name: getattr(self, name) for name in ("timestamp", "attempt", "partition", "offset")},
            **changes,
        }
        return (Received if isinstance(self, Received) else Message)(**values)

    def __repr__(self) -> str:
        size = "TOMBSTONE" if self.is_tombstone else f"{len(self.payload)} bytes"
        return f"<Message {self.topic!r} id={self.id!r} key={self.key!r} attempt={self.attempt} {size}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self._value() == other._value()

    def _value(self) -> tuple[object, ...]:
        return self.topic, self.payload, self.is_tombstone, self.id, self.raw_key, self.raw_headers

    def __hash__(self) -> int:
        return hash((self.topic, self.id, self.payload))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process is a plain message: what a session needs to acknowledge it stays here.
        topic, payload, key, headers, message_id = parts_of(self)
        make = partial(
            Received if isinstance(self, Received) else Message,
            key=key,
            headers=headers,
            id=message_id,
            timestamp=self.timestamp,
            attempt=self.attempt,
            partition=self.partition,
            offset=self.offset,
        )
        return make, (topic, payload)


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


_set_topic, _set_id, _set_confirmed, _set_partition, _set_offset, _set_duplicate = (
    getattr(Receipt, name).__set__ for name in ("topic", "id", "confirmed", "partition", "offset", "duplicate")
)


def receipt_of_stored(topic: str, id: str, partition: int | str | None, offset: int | None, duplicate: bool) -> Receipt:
    """The receipt of a message that is stored: in 0.26 us, where the frozen class takes 0.54 us to make it."""
    made: Receipt = object.__new__(Receipt)
    _set_topic(made, topic)
    _set_id(made, id)
    _set_confirmed(made, True)
    _set_partition(made, partition)
    _set_offset(made, offset)
    _set_duplicate(made, duplicate)
    return made


class IdMint:
    """Makes message ids: 64 random bits, the same for one bus, and a number that counts up."""

    __slots__ = ("numbers", "origin")

    origin: str

    def __init__(self) -> None:
        self.origin = token_hex(8)
        self.numbers = count(1)

    def id_of(self, number: int) -> str:
        """The id of the message with this number; always 29 characters below 10**12 messages."""
        return f"{self.origin}-{number:012d}"


def encode_payload(payload: object) -> bytes:
    """Bytes and `TOMBSTONE` as they are, str as UTF-8, anything else as JSON.

    TypeError for None and for what JSON cannot carry; ValueError for NaN, infinity, cycles and depths.
    """
    if isinstance(payload, Tombstone):
        return TOMBSTONE
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    if isinstance(payload, str):
        try:
            return payload.encode()
        except UnicodeEncodeError as error:
            raise BadValue(str(error)) from error
    if payload is None:
        raise TypeError(
            "payload is None; publish b'' for an empty message, 'null' for a JSON null, TOMBSTONE for no value"
        )
    try:
        return json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError as error:
        raise BadValue("payload is nested too deeply for JSON") from error
    except ValueError as error:
        raise BadValue(str(error)) from error
    except TypeError as error:
        raise BadType(str(error)) from error


def check_topic(topic: object) -> str:
    """Return the topic; ValueError unless it is 1 to 180 characters of A-Z a-z 0-9 . _ -."""
    if not isinstance(topic, str) or len(topic) > MAX_TOPIC or not _NAME.match(topic):
        raise BadValue(
            f"bad topic {show(topic)}: 1 to {MAX_TOPIC} characters of A-Z a-z 0-9 . _ -, no empty part between dots"
        )
    check_apart(topic, *ANSWERS)
    return exact(topic)


def check_pattern(topic: object) -> str:
    """Return the topic or pattern; `*` stands for one part, a final `>` for one or more."""
    if not isinstance(topic, str) or len(topic) > MAX_TOPIC or not _PATTERN.match(topic):
        raise BadValue(
            f"bad topic pattern {show(topic)}: 1 to {MAX_TOPIC} characters of A-Z a-z 0-9 . _ -, "
            "'*' for one whole part, '>' for the rest"
        )
    check_apart(topic, *ANSWERS)
    return exact(topic)


def check_apart(topic: str, *subjects: str) -> None:
    """ValueError for a topic that is one of some subjects of NATS, or begins with all parts of one."""
    for subject in subjects:
        if topic == subject or topic.startswith(subject + "."):
            raise BadValue(f"bad topic {show(topic)}: what begins with {subject} is for NATS itself")


def check_group(group: object) -> str:
    """Return the group's name; ValueError unless it is 1 to 64 characters of A-Z a-z 0-9 . _ -."""
    if not isinstance(group, str) or len(group) > MAX_GROUP or not _NAME.match(group):
        raise BadValue(
            f"bad group {show(group)}: 1 to {MAX_GROUP} characters of A-Z a-z 0-9 . _ -, no empty part between dots"
        )
    return exact(group)


def check_id(id: object, received: bool = False) -> str:
    """Return the message id; ValueError unless it is 1 to 128 visible ASCII characters.

    received: another program may have chosen it, by rules of its own: for the backend to carry, or to refuse.
    """
    if received and isinstance(id, str):
        return exact(id)
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or not id.isascii() or not id.isprintable() or " " in id:
        raise BadValue(f"bad message id {show(id)}: 1 to {MAX_ID} visible ASCII characters, no space")
    return exact(id)


def parts_of(message: Message) -> tuple[str, bytes, str | bytes | None, Headers | None, str | None]:
    """What publishing a message takes: topic, payload, key, headers and id as they were given.

    Of a delivery, as they are stored: publishing it again changes no byte.
    """
    if isinstance(message, Delivery):
        return message.topic, message.payload, message.raw_key, message.raw_headers or None, message.id or None
    return message.topic, message.payload, message._key, message._headers or None, message.id


def plain_parts_of(message: Message) -> tuple[str, bytes, str | bytes | None] | None:
    """Topic, payload and key of a message that has nothing else; None of any other."""
    if (
        type(message) is Message
        and message._headers is None
        and message.id is None
        and message.partition is None
        and message.timestamp is None
    ):
        return message.topic, message.payload, message._key
    return None


def place_of(message: Message) -> tuple[int | str | None, datetime | None]:
    """The partition and the timestamp that whoever made the message wants for it; of a received one none."""
    return (None, None) if isinstance(message, Received) else (message.partition, message.timestamp)


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


class Received(Message):
    """A message that came from a broker: its partition and timestamp say where it is, not where a copy goes."""

    __slots__ = ()


class Delivery(Received):
    """A message as a session hands it over.

    identity: what is the same on every redelivery, None where nothing is redelivered.
    token: what the session needs to acknowledge it.
    """

    __slots__ = ("_starts", "identity", "token")

    identity: Hashable
    token: Any

    @property
    def starts(self) -> int:
        """How often its handler was started in this process before."""
        return getattr(self, "_starts", 0)

    @starts.setter
    def starts(self, count: int) -> None:
        """So often."""
        self._starts = count
