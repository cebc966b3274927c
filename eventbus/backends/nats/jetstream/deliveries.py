"""Deliveries from a stream: where they stand in it is in the subject that acknowledges them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from ....fields import shown
from ..core.deliveries import NatsDelivery

_PIN_LINE = b"\r\nNats-Pin-Id: "
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SHORT_REPLY = 9
"""Parts of `$JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<time>.<pending>`.

Newer servers may put `<domain>.<account>` behind `$JS.ACK`, and more at the end.
"""


Identity = tuple[str, int, bytes]
"""What a message is known by: the stream's incarnation, the sequence in it, and when it was stored."""


class JetStreamDelivery(NatsDelivery):
    """A message from a stream. token: the reply subject that acknowledges it."""

    __slots__ = ("identity", "token")

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """The `Nats-Msg-Id`, without the topic that our own have behind it; None where its publisher gave it none."""
        fields = self._fields()
        if fields.copy_id is not None:
            return fields.copy_id
        id = fields.id
        return None if id is None else id.removesuffix(f"/{self.topic}")

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """How often the consumer has delivered it, and its handler was started in this process since."""
        return self.deliveries + self.starts

    @property
    def deliveries(self) -> int:
        """How often the consumer has delivered it, this time included; 1 where the server does not say."""
        return place_in(self.token, 4) or 1

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When the stream stored it; None where the server does not say."""
        nanoseconds = place_in(self.token, 7)
        try:
            return None if nanoseconds is None else _EPOCH + timedelta(microseconds=nanoseconds // 1000)
        except OverflowError:
            return None

    @property
    def partition(self) -> str | None:  # type: ignore[override]
        """The stream."""
        part = _part_of(self.token, 2)
        return None if part is None else shown(part)

    @property
    def offset(self) -> int | None:  # type: ignore[override]
        """The stream sequence."""
        return place_in(self.token, 5)


def place_in(reply: bytes, position: int) -> int | None:
    """The number at a position of the short form of an acknowledgement's subject; None where there is none."""
    part = _part_of(reply, position)
    return int(part) if part is not None and part.isdigit() else None


def _part_of(reply: bytes, position: int) -> bytes | None:
    parts = reply.split(b".")
    place = position if len(parts) <= _SHORT_REPLY else position + 2
    return parts[place] if place < len(parts) else None


class OrderedDelivery(JetStreamDelivery):
    """A message of an ordered group: it is acknowledged with all before it, never alone."""

    __slots__ = ()


def numbers_of(reply: bytes) -> tuple[int, int, bytes]:
    """The stream sequence, the consumer's own number, and when it was stored; errors as `sequence_of`."""
    parts = reply.split(b".")
    place = 5 if len(parts) <= _SHORT_REPLY else 7
    return int(parts[place]), int(parts[place + 1]), parts[place + 2]


def sequence_of(reply: bytes) -> tuple[int, bytes]:
    """The stream sequence in an acknowledgement's subject, and when it was stored; ValueError or IndexError if it is
    none.

    A server that lost its last messages, or was given a backup, gives their sequences to others.
    """
    parts = reply.split(b".")
    place = 5 if len(parts) <= _SHORT_REPLY else 7
    return int(parts[place]), parts[place + 2]


def pin_in(block: bytes | None) -> str:
    """The pin that a message came with; "" without one. The server's own is the last line."""
    start = -1 if block is None else block.rfind(_PIN_LINE)
    if block is None or start < 0:
        return ""
    start += len(_PIN_LINE)
    return block[start : block.find(b"\r\n", start)].decode("utf-8", "replace")
