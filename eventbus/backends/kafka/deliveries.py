"""Deliveries that cost little to make: what a handler does not ask for is never read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from ...message import NO_HEADERS, Delivery
from .outbox import ID_HEADER

_UNREAD: Any = object()


class KafkaDelivery(Delivery):
    """A message from a partition. identity: base of the log plus offset. token: its PartitionLog."""

    __slots__ = ("_headers", "_message", "identity", "token")

    _message: Message
    _headers: Mapping[str, str]
    attempt: int = 1  # Kafka does not count

    @property
    def topic(self) -> str:  # type: ignore[override]
        """As `Message.topic`."""
        return self._message.topic() or ""

    @property
    def payload(self) -> bytes:  # type: ignore[override]
        """As `Message.payload`; a tombstone is empty."""
        value = self._message.value()
        return value if type(value) is bytes else b""

    @property
    def key(self) -> str | None:  # type: ignore[override]
        """As `Message.key`; bytes that are not UTF-8 are shown as escapes."""
        key = self._message.key()
        return None if key is None else _text(key)

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """As `Message.headers`; where a name came twice, its last value."""
        try:
            return self._headers
        except AttributeError:
            self._headers = headers = self._read_headers()
            return headers

    @property
    def id(self) -> str | None:  # type: ignore[override]
        """As `Message.id`; None where the publisher was another program."""
        for name, value in _fields(self._message):
            if name == ID_HEADER:
                return _text(value or b"")
        return None

    @property
    def timestamp(self) -> datetime | None:  # type: ignore[override]
        """When it was published, or stored: as the topic is set up; None where the message has none."""
        kind, milliseconds = self._message.timestamp()
        if kind == TIMESTAMP_NOT_AVAILABLE:
            return None
        return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)

    def _read_headers(self) -> Mapping[str, str]:
        fields = _fields(self._message)
        if not fields or (len(fields) == 1 and fields[0][0] == ID_HEADER):
            return NO_HEADERS
        return MappingProxyType({name: _text(value or b"") for name, value in fields if name != ID_HEADER})


def _fields(message: Message) -> list[tuple[str, bytes | None]]:
    fields: Any = message.headers()  # as received it is always a list
    return fields or []


def _text(data: Any) -> str:
    return data if isinstance(data, str) else data.decode(errors="backslashreplace")
