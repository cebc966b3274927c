"""Where a consumer stands in partitions of which nothing is in hand, once a second: what no probe sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Position

from ..names import TopicPartition
from .partition_state import PartitionState
from .reader import Reader

LOOK_EVERY = 1.0
ASK_EVERY = 5.0
NEVER_FETCHED = -1


class Standstill:
    """Where one consumer stands still. `look` runs on its thread. readers: of the partitions that it has.

    drained: whether all that was fetched has been handed over at some time since the last look. Else a partition
    may just wait behind others. advanced(reader, state): behind what is done there was no message. standing_by():
    where the group stands in partitions that others have.
    """

    def __init__(
        self,
        readers: Mapping[TopicPartition, Reader],
        advanced: Callable[[Reader, PartitionState], object],
        standing_by: Callable[[], Mapping[TopicPartition, int]] = dict,
    ) -> None:
        self._readers = readers
        self._advanced = advanced
        self._standing_by = standing_by
        self._next_question = 0.0
        self._by: Mapping[TopicPartition, int] = {}
        self._next_look = 0.0
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        self.drained = False

    def look(self, consumer: Any) -> None:
        """Note where it stands in each partition of which nothing is with the lanes, once a second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        drained, self.drained = self.drained, False
        stands = self._stands(consumer) if drained else {}
        if now >= self._next_question:
            self._next_question = now + ASK_EVERY
            self._by = self._standing_by()
        stands = {**self._by, **stands}
        before = self._since
        self._since = {
            where: known if (known := before.get(where)) is not None and known[0] == stand else (stand, now)
            for where, stand in stands.items()
        }
        for where, reader in list(self._readers.items()):
            low, end = self.watermarks(consumer, where)
            reader.note_end(where, end, low)

    def for_longer_than(self, seconds: float) -> dict[TopicPartition, int]:
        """Partitions in which it has stood still for so long, and where. Thread-safe."""
        now = time.monotonic()
        return {where: stand for where, (stand, since) in self._since.items() if now - since >= seconds}

    def _stands(self, consumer: Any) -> dict[TopicPartition, int]:
        idle = {where: reader for where, reader in list(self._readers.items()) if self._is_idle(where, reader)}
        begun = [Position(*where) for where, reader in idle.items() if reader.states[where].begun]
        # librdkafka's position is behind the markers of transactions, which are never handed over.
        positions = consumer.position([Position(*where) for where in idle]) if idle else []
        stands = {(one.topic, one.partition): one.offset for one in positions}
        for one in begun:
            self._advance((one.topic, one.partition), idle, stands)
        for where in idle:
            if stands.get(where, -1) < 0:
                stands[where] = self.watermarks(consumer, where)[1]
        return stands

    @staticmethod
    def _is_idle(where: TopicPartition, reader: Reader) -> bool:
        with reader.lock:
            state = reader.states.get(where)
            return state is not None and not state.busy and reader.reserve(where) is None and reader.fetches

    def _advance(
        self, where: TopicPartition, idle: Mapping[TopicPartition, Reader], stands: Mapping[TopicPartition, int]
    ) -> None:
        reader = idle[where]
        with reader.lock:
            state = reader.states[where]
            news = state.advance(stands.get(where, -1))
        if news:
            self._advanced(reader, state)

    @staticmethod
    def watermarks(consumer: Any, where: TopicPartition) -> tuple[int, int]:
        """Where the partition began and ended when it was last fetched from."""
        try:
            low, end = consumer.get_watermark_offsets(Position(*where), cached=True)
        except KafkaException:  # it does not know the partition yet
            return NEVER_FETCHED, NEVER_FETCHED
        return max(int(low), NEVER_FETCHED), max(int(end), NEVER_FETCHED)
