"""Consecutive messages of one partition, handed on as they were fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from confluent_kafka import Message

from .deliveries import KafkaDelivery

if TYPE_CHECKING:
    from .journal import PartitionLog

_new = KafkaDelivery.__new__


class Run(Sequence[KafkaDelivery]):
    """Makes each delivery when it is its turn, so that one dies before the next is born.

    A batch made at once costs a third more: so many new objects keep calling Python's collector, which looks through
    everything else that the process has.
    first, end: the identities, from that of the first delivery to behind that of the last.
    """

    __slots__ = ("_messages", "end", "first", "log", "topic")

    def __init__(self, messages: Sequence[Message], topic: str, log: PartitionLog, first: int) -> None:
        self._messages = messages
        self.topic = topic
        self.log = log
        self.first = first
        self.end = first + len(messages)

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[KafkaDelivery]:
        topic, log, identity = self.topic, self.log, self.first
        for message in self._messages:
            delivery = _new(KafkaDelivery)
            delivery.message = message
            delivery.topic = topic
            delivery.identity = identity
            delivery.token = log
            yield delivery
            identity += 1

    @overload
    def __getitem__(self, index: int) -> KafkaDelivery: ...

    @overload
    def __getitem__(self, index: slice) -> Run: ...

    def __getitem__(self, index: int | slice) -> KafkaDelivery | Run:
        if isinstance(index, slice):
            places = range(len(self))[index]
            if places.step != 1:
                raise ValueError("a run has no gaps")
            return Run(self._messages[index], self.topic, self.log, self.first + places.start)
        place = range(len(self))[index]
        return next(iter(self[place : place + 1]))
