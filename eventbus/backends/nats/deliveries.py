"""Deliveries that cost little to make: what handlers seldom ask for is read when they do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from ...fields import NO_HEADERS, RawHeaders, shown, shown_headers
from ...message import Delivery
from . import wire

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SHORT_REPLY = 9
"""Parts of `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<time>.<pending>`.

Newer servers may put `<domain>.<account>` behind `$JS.ACK`, and more at the end.
"""


class Fields(NamedTuple):
    """A header block, read."""

    raw_key: bytes | None
    id: str | None
    raw_headers: RawHeaders
    headers: Mapping[str, str]


def read_fields(block: bytes | None) -> Fields:
    """Read a header block. What the broker and the library put in is not among the headers."""
    if block is None:
        return _NOTHING
    key: bytes | None = None
    message_id: bytes | None = None
    own: list[tuple[str, bytes | None]] = []
    for name, value in wire.parse_raw_headers(block):
        if name == wire.KEY_HEADER:
            key = value if key is None else key
        elif name == wire.ID_HEADER:
            message_id = value if message_id is None else message_id
        elif not name.lower().startswith("nats-"):
            own.append((name, value))
    # Of a name that repeats the first value is shown, as NATS clients do.
    headers = shown_headers(tuple([(wire.shown_name(name), value) for name, value in reversed(own)]))
    return Fields(key, None if message_id is None else shown(message_id), tuple(own), headers)


_NOTHING = Fields(None, None, (), NO_HEADERS)


class NatsDelivery(Delivery):
    """A message from core NATS. Its fields are read from the header block when first asked for."""

    __slots__ = ("_arrived", "_block")

    _block: bytes | Fields | None
    _arrived: float

    # These stand in front of the slots of Message: attributes that cost nothing until they are read.
    identity: Any = None
    token: Any = None
    attempt: int = 1
    partition: str | None = None
    offset: int | None = None

    def _fields(self) -> Fields:
        block = self._block
        if not isinstance(block, Fields):
            block = self._block = read_fields(block)
        return block

    @property
    def raw_key(self) -> bytes | None:
        """The key, byte for byte, found without reading the other headers: lanes ask each message for it."""
        block = self._block
        return wire.key_in(block) if type(block) is bytes else self._fields().raw_key

    @property
    def key(self) -> str | None:
        """The key as text; bytes that are not UTF-8 are shown as escapes."""
        key = self.raw_key
        return None if key is None else shown(key)

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """The `Nats-Msg-Id`; None where its publisher gave it none."""
        return self._fields().id

    @property
    def raw_headers(self) -> RawHeaders:
        """The headers but for ours and the server's: in order, repeats kept."""
        return self._fields().raw_headers

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers as text; where a name came twice, its first value."""
        return self._fields().headers

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When it arrived here: core NATS does not stamp messages."""
        return datetime.fromtimestamp(self._arrived, timezone.utc)


class JetStreamDelivery(NatsDelivery):
    """A message from a stream. token: the reply subject that acknowledges it."""

    __slots__ = ("identity", "token")

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """The `Nats-Msg-Id`, without the topic that our own have behind it; None where its publisher gave it none."""
        id = self._fields().id
        return None if id is None else id.removesuffix(f"/{self.topic}")

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """How often the consumer has delivered it, this time included; 1 where the server does not say."""
        return self._number(4) or 1

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When the stream stored it; None where the server does not say."""
        nanoseconds = self._number(7)
        try:
            return None if nanoseconds is None else _EPOCH + timedelta(microseconds=nanoseconds // 1000)
        except OverflowError:
            return None

    @property
    def partition(self) -> str | None:  # type: ignore[override]
        """The stream."""
        part = self._part(2)
        return None if part is None else shown(part)

    @property
    def offset(self) -> int | None:  # type: ignore[override]
        """The stream sequence."""
        return self._number(5)

    def _part(self, position: int) -> bytes | None:
        parts = self.token.split(b".")
        place = position if len(parts) <= _SHORT_REPLY else position + 2
        return parts[place] if place < len(parts) else None

    def _number(self, position: int) -> int | None:
        part = self._part(position)
        return int(part) if part is not None and part.isdigit() else None


def sequence_of(reply: bytes) -> int:
    """The stream sequence in an acknowledgement's subject; ValueError or IndexError if it is none."""
    parts = reply.split(b".")
    return int(parts[5 if len(parts) <= _SHORT_REPLY else 7])
