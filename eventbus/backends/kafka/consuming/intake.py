"""Fetched messages become deliveries: once for each message, so every step in here counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message

from .... import log
from ..names import TopicPartition
from .batches import KafkaBatch
from .deliveries import KafkaDelivery
from .in_hand import KafkaInHand, PartitionState

logger = log.get(__name__)

_new = KafkaDelivery.__new__
_error, _offset, _topic, _partition = Message.error, Message.offset, Message.topic, Message.partition


class Intake:
    """Of one consumer. `take` runs on its thread, under the journal's lock. logs: of the partitions that it has."""

    def __init__(self, logs: dict[TopicPartition, PartitionState], journal: KafkaInHand) -> None:
        self._logs = logs
        self._journal = journal

    def take(self, messages: Sequence[Message]) -> tuple[Sequence[Sequence[KafkaDelivery]], list[KafkaError]]:
        """Deliveries of what is ours and not done, noted as handed out, each batch of one log; and the errors."""
        run = self._one_run(messages)
        return self._one_by_one(messages) if run is None else ([run], [])

    def _one_run(self, messages: Sequence[Message]) -> KafkaBatch | None:
        """The usual case at a fraction of the cost: consecutive messages of one partition, all new. Else None."""
        count = len(messages)
        if not count or any(map(_error, messages)):
            return None
        offsets: list[Any] = list(map(_offset, messages))
        begin = offsets[0]
        if offsets != list(range(begin, begin + count)):
            return None
        place: Any = messages[0].topic(), messages[0].partition()
        topics, partitions = map(_topic, messages), map(_partition, messages)
        if (list(topics).count(place[0]), list(partitions).count(place[1])) != (count, count):
            return None
        log = self._log_at(place, begin)
        if log is None or begin < log.known or log.rewind:
            return None
        log.fetched(begin, begin + count)
        return KafkaBatch(messages, place[0], log, log.base + begin)

    def _one_by_one(self, messages: Sequence[Message]) -> tuple[Sequence[Sequence[KafkaDelivery]], list[KafkaError]]:
        batches: list[list[KafkaDelivery]] = []
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
                if log is not None and log.rewind:  # it comes again, behind what was given back
                    log = None
                if log is None:  # or taken away while this was fetched
                    continue
                base, known = log.base, log.known
                batch = _batch_of(log, batches)
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
        return [one for one in batches if one], errors

    def _log_at(self, place: TopicPartition, offset: int) -> PartitionState | None:
        """The log of an offset that does not follow the one before it."""
        log = self._logs.get(place)
        if log is None or log.continues_at(offset):
            return log
        logger.warning("%s [%d] goes on at %d: the topic was made anew, or the group was reset", *place, offset)
        new = self._logs[place] = self._journal.new_log(place)
        new.assign(log.owner)
        new.begin(offset)
        return new


def _batch_of(log: PartitionState, batches: list[list[KafkaDelivery]]) -> list[KafkaDelivery]:
    """The batch that a log's next delivery belongs to: a batch is of one log."""
    if not batches or (batches[-1] and batches[-1][-1].token is not log):
        batches.append([])
    return batches[-1]


def _end_run(log: PartitionState | None, first_new: int, end: int) -> None:
    if log is not None:
        log.fetched(first_new, end)
