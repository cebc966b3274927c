"""Fetched messages become deliveries: once for each message, so every step in here counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message

from .deliveries import KafkaDelivery
from .journal import Journal, PartitionLog
from .topics import Place

logger = logging.getLogger(__name__)

_new = KafkaDelivery.__new__


class Intake:
    """Of one consumer. `take` runs on its thread, under the journal's lock. logs: of the partitions that it has."""

    def __init__(self, logs: dict[Place, PartitionLog], journal: Journal) -> None:
        self._logs = logs
        self._journal = journal

    def take(self, messages: Sequence[Message]) -> tuple[list[KafkaDelivery], list[KafkaError]]:
        """Deliveries of what is ours and new, noted as handed out; and the errors among the messages."""
        batch: list[KafkaDelivery] = []
        errors: list[KafkaError] = []
        log: Any = None
        topic: Any = None
        partition: Any = None
        following = begun = known = base = -1
        for message in messages:
            error = message.error()
            if error is not None:
                errors.append(error)
                continue
            offset: Any = message.offset()
            if offset != following or message.partition() != partition or message.topic() != topic:
                _end_run(log, begun, following)
                begun = following = -1
                topic, partition = message.topic(), message.partition()
                log = self._log_at((topic, partition), offset)
                if log is None:  # taken away while this was fetched
                    continue
                base, known = log.base, log.known
            following = offset + 1
            if begun < 0:
                if offset >= known:
                    begun = offset
                elif not log.admit(offset):
                    self._journal.duplicates += 1
                    continue
            delivery = _new(KafkaDelivery)
            delivery.message = message
            delivery.topic = topic
            delivery.identity = base + offset
            delivery.token = log
            batch.append(delivery)
        _end_run(log, begun, following)
        return batch, errors

    def _log_at(self, place: Place, offset: int) -> PartitionLog | None:
        """The log of an offset that does not follow the one before it."""
        log = self._logs.get(place)
        if log is None or log.continues_at(offset):
            return log
        logger.warning("%s [%d] goes on at %d: the topic was made anew, or the group was reset", *place, offset)
        new = self._logs[place] = self._journal.new_log(place)
        new.assign(log.owner)
        new.begin(offset)
        return new


def _end_run(log: PartitionLog | None, first_new: int, end: int) -> None:
    if log is not None:
        log.fetched(first_new, end)
