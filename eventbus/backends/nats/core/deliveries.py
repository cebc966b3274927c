"""Deliveries that cost little to make: what handlers seldom ask for is read when they do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from ....fields import NO_HEADERS, FirstShown, RawHeaders, shown
from ....message import Delivery
from ..link import wire


class Fields(NamedTuple):
    """A header block, read. copy_id: of a message that is stored under another id than its own."""

    raw_key: bytes | None
    id: str | None
    raw_headers: RawHeaders
    headers: Mapping[str, str]
    copy_id: str | None = None


def read_fields(block: bytes | None) -> Fields:
    """Read a header block. What the broker and the library put in is not among the headers."""
    if block is None:
        return _NOTHING
    key: bytes | None = None
    message_id: bytes | None = None
    copy_id: str | None = None
    own: list[tuple[str, bytes | None]] = []
    for name, value in wire.parse_raw_headers(block):
        if name == wire.KEY_HEADER:
            key = value if key is None else key
        elif name == wire.ID_HEADER:
            message_id = value if message_id is None else message_id
        elif name == wire.COPY_HEADER and value:
            copy_id = shown(value)
        elif not name.lower().startswith("nats-"):
            own.append((name, value))
    # Of a name that repeats the first value is shown, as NATS clients do.
    fields = tuple(own)
    return Fields(
        key,
        None if message_id is None else shown(message_id),
        fields,
        FirstShown(fields) if fields else NO_HEADERS,
        copy_id,
    )


_NOTHING = Fields(None, None, (), NO_HEADERS)


class NatsDelivery(Delivery):
    """A message from core NATS. Its fields are read from the header block when first asked for."""

    __slots__ = ("_arrived", "_block")

    _block: bytes | Fields | None
    _arrived: float

    # These stand in front of the slots of Message: attributes that cost nothing until they are read.
    identity: Any = None
    token: Any = None
    partition: str | None = None
    offset: int | None = None

    def _fields(self) -> Fields:
        block = self._block
        if not isinstance(block, Fields):
            block = self._block = read_fields(block)
        return block

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """Starts of its handler in this process, this one included."""
        return 1 + self.starts

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
        fields = self._fields()
        return fields.id if fields.copy_id is None else fields.copy_id

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
