"""What is on the wire to JetStream, and what is about to be."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Set
from itertools import repeat, takewhile

from ....publishing.records import Batch, Record, number_of, topic_of

Sent = tuple[Record, float]
"""A record, and when it was sent (`time.monotonic`)."""


class OnWire:
    """In the order of the wire. Not locked: its owner does that."""

    def __init__(self) -> None:
        self._sent: dict[int, Sent] = {}
        self._next: deque[Batch] = deque()
        """What goes out before all that is queued."""

    def __contains__(self, number: int) -> bool:
        return number in self._sent

    @property
    def oldest(self) -> float | None:
        """When the first of those was sent that have no answer; None without one."""
        return next((sent for _, sent in self._sent.values()), None)

    def send(self, batch: Batch) -> None:
        """These go out now."""
        self._sent.update(zip(batch.numbers, zip(batch, repeat(time.monotonic()), strict=False), strict=True))

    def send_next(self, batch: Batch) -> None:
        """These go out in front of what is queued."""
        self._next.append(batch)

    def take_next(self) -> Batch | None:
        """What is to go out in front of what is queued; None: nothing."""
        return self._next.popleft() if self._next else None

    def pop(self, number: int) -> Sent | None:
        """The record with this number, off the wire."""
        return self._sent.pop(number, None)

    def first_of(self, topic: str) -> Record | None:
        """The record that was sent first, of those with this topic."""
        return next((record for record, _ in self._sent.values() if topic_of(record) == topic), None)

    def before(self, moment: float) -> list[Sent]:
        """Those that were sent before."""
        return list(takewhile(lambda entry: entry[1] <= moment, self._sent.values()))

    def count(self, topic: str) -> int:
        """How many there are of a topic, sent or about to be."""
        return sum(topic_of(record) == topic for record in self._all())

    def topics(self) -> set[str]:
        """Those of which there is any, sent or about to be."""
        return set(map(topic_of, self._all()))

    def sent_of(self, topics: Set[str]) -> list[Sent]:
        """Those with these topics that were sent."""
        return [entry for entry in self._sent.values() if topic_of(entry[0]) in topics]

    def call_back(self, topics: Set[str]) -> list[Record]:
        """Those with these topics that were about to be sent: they are not any more."""
        called = [record for batch in self._next for record in batch if topic_of(record) in topics]
        if called:
            gone = {number_of(record) for record in called}
            kept = (Batch([one for one in batch if number_of(one) not in gone]) for batch in self._next)
            self._next = deque(batch for batch in kept if batch)
        return called

    def clear_next(self) -> None:
        """Nothing more goes out."""
        self._next.clear()

    def _all(self) -> Iterator[Record]:
        for record, _ in self._sent.values():
            yield record
        for batch in self._next:
            yield from batch
