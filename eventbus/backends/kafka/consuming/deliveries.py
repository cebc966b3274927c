"""Deliveries that cost little to make: what a handler does not ask for is never read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from ....fields import RawHeaders, ShownHeaders, shown
from ....message import TOMBSTONE, Delivery
from ..names import ID_HEADER
from .header_fields import Fields, fields_of


class KafkaDelivery(Delivery):
    """A message from a partition. identity: base of the log plus offset. token: its PartitionState."""

    __slots__ = ("identity", "message", "token", "topic")

    message: Message

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """Starts of its handler in this process, this one included: Kafka does not count."""
        return 1 + self.starts

    @property
    def payload(self) -> bytes:  # type: ignore[override]
        """The value; `TOMBSTONE`, which is empty, for a null."""
        value: Any = self.message.value()
        return value if value is not None else TOMBSTONE

    @property
    def raw_key(self) -> bytes | None:
        """The key, byte for byte; None for a null."""
        key: Any = self.message.key()
        return key  # type: ignore[no-any-return]

    @property
    def key(self) -> str | None:
        """The key as text; bytes that are not UTF-8 are shown as escapes."""
        key: Any = self.message.key()
        return None if key is None else shown(key)

    @property
    def raw_headers(self) -> RawHeaders:
        """The headers but for ours: (name, bytes or None) in order, repeats kept."""
        return without_ours(fields_of(self.message))

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers as text; where a name came twice, its last value."""
        headers = _new_headers(Headers)
        headers._message = self.message
        return headers

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """The id that its publisher gave it; None where that was another program."""
        for name, value in fields_of(self.message):
            if name == ID_HEADER:
                return None if value is None else shown(value)
        return None

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When it was published, or stored: as the topic is set up; None where it has none, or none that is a date."""
        kind, milliseconds = self.message.timestamp()
        return None if kind == TIMESTAMP_NOT_AVAILABLE else moment_of(milliseconds)

    @property
    def partition(self) -> int | None:  # type: ignore[override]
        """The partition that it is in."""
        return self.message.partition()

    @property
    def offset(self) -> int | None:  # type: ignore[override]
        """Its place in the partition."""
        return self.message.offset()


def without_ours(fields: Fields) -> RawHeaders:
    """The headers of a message but for ours, as they are stored."""
    others = []
    for field in fields:  # before Python 3.12 a comprehension costs 0.07 us more for each message
        if field[0] != ID_HEADER:
            others.append(field)
    return tuple(others)


class Headers(ShownHeaders):
    """A message's headers but for ours, read when they are looked at."""

    __slots__ = ("_message",)

    _own = ID_HEADER
    _message: Message

    @property
    def _fields(self) -> Fields:  # type: ignore[override]
        return fields_of(self._message)


_new_headers = Headers.__new__


def moment_of(milliseconds: int) -> datetime | None:
    """A Kafka timestamp; None where it is no date."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError):  # its publisher counted micro- or nanoseconds
        return None
