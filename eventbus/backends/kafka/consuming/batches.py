"""Consecutive messages of one partition, handed on as they were fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import Message

from ....consuming.batches import LazyBatch
from ....fields import RawHeaders
from ....message import TOMBSTONE
from .deliveries import KafkaDelivery, without_ours
from .header_fields import fields_of, fields_of_all
from .partition_state import PartitionState

_new = KafkaDelivery.__new__


def size_of(messages: Sequence[Message]) -> int:
    """Bytes of messages of one partition, about: of all values, and keys and headers as the first one has them."""
    first = messages[0]
    beside = len(first.key() or b"") + sum(len(name) + len(value or b"") for name, value in fields_of(first))
    return sum(map(len, messages)) + beside * len(messages)


class KafkaBatch(LazyBatch[KafkaDelivery]):
    """Consecutive messages of one partition; a delivery is made when it is looked at.

    first, end: the identities, from that of the first delivery to behind that of the last.
    """

    __slots__ = ("_messages", "end", "first", "state", "topic")

    def __init__(self, messages: Sequence[Message], topic: str, state: PartitionState, first: int) -> None:
        self._messages = messages
        self.topic = topic
        self.state = state
        self.first = first
        self.end = first + len(messages)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def size(self) -> int:
        """Bytes, about: see `size_of`."""
        return size_of(self._messages)

    @property
    def payloads(self) -> list[bytes]:
        """The values; `TOMBSTONE`, which is empty, for a null."""
        values: list[Any] = [message.value() for message in self._messages]
        return [TOMBSTONE if value is None else value for value in values] if None in values else values

    @property
    def keys(self) -> list[bytes | None]:
        """The keys, byte for byte; None for a null."""
        return [message.key() for message in self._messages]

    @property
    def headers(self) -> list[RawHeaders]:
        """The headers but for ours: (name, bytes or None) in order, repeats kept."""
        return [without_ours(fields) for fields in fields_of_all(self._messages)]

    def __iter__(self) -> Iterator[KafkaDelivery]:
        topic, state, identity = self.topic, self.state, self.first
        for message in self._messages:
            delivery = _new(KafkaDelivery)
            delivery.message = message
            delivery.topic = topic
            delivery.identity = identity
            delivery.token = state
            yield delivery
            identity += 1

    def part(self, start: int, stop: int) -> KafkaBatch:
        """The messages from `start` to `stop` of this batch, made when they are looked at."""
        return KafkaBatch(self._messages[start:stop], self.topic, self.state, self.first + start)
