"""Where a consumer does not move, partition by partition: what no probe sees."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Position

from ..names import TopicPartition
from .in_hand import PartitionState

LOOK_EVERY = 1.0
NEVER_FETCHED = -1


class Standstill:
    """Of one consumer. `look` runs on its thread. logs: of the partitions that it has, `lock` guards them.

    drained: whether all that was fetched has been handed over at some time since the last look. Else a partition
    may just wait behind others.
    """

    def __init__(self, logs: dict[TopicPartition, PartitionState], lock: AbstractContextManager[Any]) -> None:
        self._logs = logs
        self._lock = lock
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
        before = self._since
        self._since = {
            place: known if (known := before.get(place)) is not None and known[0] == stand else (stand, now)
            for place, stand in stands.items()
        }

    def for_longer_than(self, seconds: float) -> dict[TopicPartition, int]:
        """Partitions in which it has stood still for so long, and where. Thread-safe."""
        now = time.monotonic()
        return {place: stand for place, (stand, since) in self._since.items() if now - since >= seconds}

    def _stands(self, consumer: Any) -> dict[TopicPartition, int]:
        with self._lock:
            idle = {place: log.begun for place, log in self._logs.items() if not log.busy}
        begun = [Position(*place) for place, has_begun in idle.items() if has_begun]
        # librdkafka's position is behind the markers of transactions, which are never handed over.
        stands = {(one.topic, one.partition): one.offset for one in consumer.position(begun)} if begun else {}
        for place in idle:
            if stands.get(place, -1) < 0:
                stands[place] = self._end_seen(consumer, place)
        return stands

    def _end_seen(self, consumer: Any, place: TopicPartition) -> int:
        """Where the partition ended when it was last fetched from."""
        try:
            _, end = consumer.get_watermark_offsets(Position(*place), cached=True)
        except KafkaException:  # it does not know the partition yet
            return NEVER_FETCHED
        return max(int(end), NEVER_FETCHED)
