"""Which partitions of a consumer rest: what lanes have no room for waits, and what is too much is not fetched.

librdkafka's `pause` throws away what was fetched ahead (20 times the traffic, measured): so all that is there is taken
out first, and a partition rests until its own reserve is handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import TopicPartition as Position

from ..names import TopicPartition
from .reader import Reader, Reserve

PATIENCE = 0.5
"""Seconds that lanes may have no room until their partitions rest."""
MOST_MESSAGES = 32_768
"""That wait for lanes, at most, about: each weighs some 400 bytes beside its value."""
LEAST = 1 / 16
"""Of that, and of the bytes: what one partition may have, however many wait."""


class Flow:
    """What of one consumer waits and what rests, on its thread.

    reader_of(where): who has a partition. most_bytes: that wait, at most, about.
    """

    def __init__(self, reader_of: Callable[[TopicPartition], Reader | None], most_bytes: int) -> None:
        self._reader_of = reader_of
        self._most_bytes = most_bytes
        self._waiting: set[TopicPartition] = set()
        self.resting: set[TopicPartition] = set()
        """Those that are not fetched from."""

    def note_waiting(self, where: TopicPartition) -> None:
        """Something of a partition found no room."""
        self._waiting.add(where)

    def forget(self, where: TopicPartition) -> None:
        """The consumer has this partition no more, or reads it anew."""
        self._waiting.discard(where)
        self.resting.discard(where)

    def rest(self, consumer: Any, places: list[TopicPartition]) -> None:
        """Fetch no more of these, whatever they have."""
        new = [where for where in places if where not in self.resting]
        if new:
            self.resting.update(new)
            consumer.pause([Position(*where) for where in new])

    def waits_for_room(self, readers: Iterable[Reader]) -> bool:
        """Whether whatever may come would find none, and some may soon be there."""
        if not self._waiting or self._waiting <= self.resting:
            return False
        return all(reader.is_full for reader in readers if reader.states)

    @property
    def is_pressed(self) -> bool:
        """Whether some partition has too much waiting, and is still fetched from."""
        return bool(self._too_much())

    def balance(self, consumer: Any) -> None:
        """Hand on what waits as far as that goes, and wake the partitions of whom nothing waits any more."""
        for where in list(self._waiting):
            reader = self._reader_of(where)
            if reader is not None and reader.reserve(where) is not None:
                reader.pump()  # the oldest unfinished message may have gone on
            if reader is None or reader.reserve(where) is None:
                self._waiting.discard(where)
        awake = [where for where in self.resting if where not in self._waiting and self._wants(where)]
        if awake:
            self.resting.difference_update(awake)
            consumer.resume([Position(*where) for where in awake])

    def rest_pressed(self, consumer: Any) -> None:
        """Let partitions rest that have too much waiting: all that was fetched of them has been taken out."""
        self.rest(consumer, self._too_much())

    def _wants(self, where: TopicPartition) -> bool:
        reader = self._reader_of(where)
        if reader is None or not reader.fetches or where in reader.unresolved:
            return False
        return not (reader.is_full and reader.has_reserve)

    def _too_much(self) -> list[TopicPartition]:
        """A partition that waits for long, or has too much; with its reader's others, if it is the lanes' fault."""
        active = [where for where in self._waiting if where not in self.resting]
        if not active:
            return []
        part, now = max(LEAST, 1 / len(self._waiting)), time.monotonic()
        found: dict[TopicPartition, None] = {}
        for where in active:
            reader = self._reader_of(where)
            reserve = None if reader is None else reader.reserve(where)
            if reader is not None and reserve is not None and self._is_much(reserve, part, now):
                found |= dict.fromkeys(list(reader.states) if reader.is_full else [where])
        return [where for where in found if where not in self.resting]

    def _is_much(self, reserve: Reserve, part: float, now: float) -> bool:
        return (
            now - reserve.since >= PATIENCE
            or reserve.size >= self._most_bytes * part
            or reserve.count >= MOST_MESSAGES * part
        )
