"""What a consumer commits: sent now and then, confirmed or asked for again. On the consumer's thread alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from .... import log
from ..clients.errors import text_of
from ..names import TopicPartition
from .in_hand import PartitionState

if TYPE_CHECKING:
    from .consumer_thread import ConsumerThread

logger = log.get(__name__)

COMMIT_EVERY = 0.1


class Commits:
    """Of one consumer. logs: of the partitions that it has."""

    def __init__(self, feed: ConsumerThread, logs: dict[TopicPartition, PartitionState]) -> None:
        self._feed = feed
        self._logs = logs
        self._next = 0.0
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """How many are on their way to the broker."""
        return self._in_flight

    def send_if_due(self, consumer: Any, *, at_once: bool) -> None:
        """Commit what is done since the last time."""
        now = time.monotonic()
        if at_once or now >= self._next:
            self._next = now + COMMIT_EVERY
            self.send(consumer, list(self._logs.values()))

    def send(self, consumer: Any, logs: Sequence[PartitionState]) -> None:
        """Commit what is done in these partitions."""
        offsets: list[Position] = []
        with self._feed.lock:
            for log in logs:
                offset = log.committable
                if offset is not None:
                    log.requested = offset
                    offsets.append(Position(*log.place, offset))
            if not offsets or self._feed.attachment.group is None:
                return
            self._feed.unsettled = True
        try:
            consumer.commit(offsets=offsets, asynchronous=True)
            self._in_flight += 1
        except KafkaException as error:
            self._failed(offsets, error.args[0])

    def answered(self, error: KafkaError | None, partitions: list[Position]) -> None:
        """The client's `on_commit`."""
        self._in_flight -= 1
        if error is not None:
            self._failed(partitions, error)
            return
        failed = [one for one in partitions if one.error is not None]
        with self._feed.lock:
            for one in partitions:
                log = self._logs.get((one.topic, one.partition))
                if log is not None and one.error is None:
                    log.acked = max(log.acked, one.offset)
        if failed:
            self._failed(failed, failed[0].error)
        self._note_settled()

    def _failed(self, partitions: Sequence[Position], error: KafkaError | None) -> None:
        """Not stored: asked for again, as long as the partition is ours."""
        logger.info("%r: a commit failed and is repeated: %s", self._feed.attachment, text_of(error))
        with self._feed.lock:
            for one in partitions:
                log = self._logs.get((one.topic, one.partition))
                if log is not None:
                    log.requested = -1
        self._note_settled()

    def _note_settled(self) -> None:
        with self._feed.lock:
            self._feed.unsettled = self._in_flight > 0
