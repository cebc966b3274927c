"""Deliveries that cost little to make: what a handler does not ask for is never read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from ...message import NO_HEADERS, Delivery
from .outbox import ID_HEADER


class KafkaDelivery(Delivery):
    """A message from a partition. identity: base of the log plus offset. token: its PartitionLog."""

    __slots__ = ("identity", "message", "token", "topic")

    message: Message
    attempt: int = 1  # Kafka does not count

    @property
    def payload(self) -> bytes:  # type: ignore[override]
        """As `Message.payload`; a tombstone is empty."""
        value: Any = self.message.value()
        return value if value is not None else b""

    @property
    def key(self) -> str | None:  # type: ignore[override]
        """As `Message.key`; bytes that are not UTF-8 are shown as escapes."""
        key: Any = self.message.key()
        if key is None:
            return None
        try:
            text: str = key.decode()
        except UnicodeDecodeError:
            return _text(key)
        return text

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """As `Message.headers`; where a name came twice, its last value."""
        fields: Any = self.message.headers()
        if not fields or (len(fields) == 1 and fields[0][0] == ID_HEADER):
            return NO_HEADERS
        headers = _new_headers(Headers)
        headers._fields = fields
        return headers

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """As `Message.id`; None where the publisher was another program."""
        fields: Any = self.message.headers()
        for name, value in fields or ():
            if name == ID_HEADER:
                return _text(value)
        return None

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When it was published, or stored: as the topic is set up; None where the message has none."""
        kind, milliseconds = self.message.timestamp()
        if kind == TIMESTAMP_NOT_AVAILABLE:
            return None
        return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


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
    return "" if data is None else data.decode(errors="backslashreplace")
