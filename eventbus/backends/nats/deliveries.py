"""Deliveries that cost little to make: what handlers seldom ask for is read when they do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any, NamedTuple

from ...message import Delivery
from . import wire

_NONE: Mapping[str, str] = MappingProxyType({})
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SHORT_REPLY = 9
"""Parts of `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<time>.<pending>`.

Newer servers may put `<domain>.<account>` behind `$JS.ACK`, and more at the end.
"""


class Fields(NamedTuple):
    """A header block, read."""

    key: str | None
    id: str | None
    headers: Mapping[str, str]


def read_fields(block: bytes | None) -> Fields:
    """Read a header block. What the broker and the library put in is not among the headers."""
    if block is None:
        return Fields(None, None, _NONE)
    headers = wire.parse_headers(block)
    key = headers.pop("Eventbus-Key", None)
    message_id = headers.pop("Nats-Msg-Id", None)
    own = {name: value for name, value in headers.items() if not name.lower().startswith("nats-")}
    return Fields(key, message_id, MappingProxyType(own) if own else _NONE)


class NatsDelivery(Delivery):
    """A message from core NATS. Its fields are read from the header block when first asked for."""

    __slots__ = ("_arrived", "_block")

    _block: bytes | Fields | None
    _arrived: float

    # These stand in front of the slots of Message: attributes that cost nothing until they are read.
    identity: Any = None
    token: Any = None
    attempt: int = 1

    def _fields(self) -> Fields:
        block = self._block
        if not isinstance(block, Fields):
            block = self._block = read_fields(block)
        return block

    @property
    def key(self) -> str | None:  # type: ignore[override]
        """As `Message.key`."""
        return self._fields().key

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """As `Message.id`."""
        return self._fields().id

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """As `Message.headers`; where a name came twice, its first value."""
        return self._fields().headers

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When it arrived here: core NATS does not stamp messages."""
        return datetime.fromtimestamp(self._arrived, timezone.utc)


class JetStreamDelivery(NatsDelivery):
    """A message from a stream. token: the reply subject that acknowledges it."""

    __slots__ = ("identity", "token")

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """How often the consumer has delivered it, this time included."""
        return self._part(4)

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When the stream stored it."""
        return _EPOCH + timedelta(microseconds=self._part(7) // 1000)

    def _part(self, position: int) -> int:
        parts = self.token.split(b".")
        return int(parts[position if len(parts) <= _SHORT_REPLY else position + 2])


def sequence_of(reply: bytes) -> int:
    """The stream sequence in an acknowledgement's subject; ValueError or IndexError if it is none."""
    parts = reply.split(b".")
    return int(parts[5 if len(parts) <= _SHORT_REPLY else 7])
