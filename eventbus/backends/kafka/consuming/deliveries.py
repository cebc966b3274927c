"""Deliveries that cost little to make: what a handler does not ask for is never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from ....fields import NO_HEADERS, RawHeaders, shown
from ....message import TOMBSTONE, Delivery
from ..names import ID_HEADER


class KafkaDelivery(Delivery):
    """A message from a partition. identity: base of the log plus offset. token: its PartitionState."""

    __slots__ = ("identity", "message", "token", "topic")

    message: Message
    attempt: int = 1  # Kafka does not count

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
        fields: Any = self.message.headers()
        return tuple([field for field in fields or () if field[0] != ID_HEADER])

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers as text; where a name came twice, its last value."""
        fields: Any = self.message.headers()
        if not fields or (len(fields) == 1 and fields[0][0] == ID_HEADER):
            return NO_HEADERS
        headers = _new_headers(Headers)
        headers._fields = fields
        return headers

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """The id that its publisher gave it; None where that was another program."""
        fields: Any = self.message.headers()
        for name, value in fields or ():
            if name == ID_HEADER:
                return _text(value)
        return None

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When it was published, or stored: as the topic is set up; None where it has none, or none that is a date."""
        kind, milliseconds = self.message.timestamp()
        if kind == TIMESTAMP_NOT_AVAILABLE:
            return None
        try:
            return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
        except (ValueError, OverflowError, OSError):  # its publisher counted micro- or nanoseconds
            return None

    @property
    def partition(self) -> int | None:  # type: ignore[override]
        """The partition that it is in."""
        return self.message.partition()

    @property
    def offset(self) -> int | None:  # type: ignore[override]
        """Its place in the partition."""
        return self.message.offset()


class Headers(Mapping[str, str]):
    """A message's headers but for ours, decoded when they are asked for."""

    __slots__ = ("_fields",)

    _fields: list[tuple[str, bytes | None]]

    def __getitem__(self, name: str) -> str:
        for known, value in reversed(self._fields):
            if known == name and known != ID_HEADER:
                return _text(value)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._fields if name != ID_HEADER))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


_new_headers = Headers.__new__


def _text(data: bytes | None) -> str:
    return "" if data is None else shown(data)
