"""Fetched messages become deliveries: once for each message, so every step in here counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import KafkaError, Message

from ..names import TopicPartition
from .batches import KafkaBatch
from .deliveries import KafkaDelivery
from .in_hand import KafkaInHand
from .partition_state import PartitionState

_new = KafkaDelivery.__new__
_error, _offset, _topic, _partition = Message.error, Message.offset, Message.topic, Message.partition


def split(
    messages: list[Message],
) -> tuple[list[tuple[TopicPartition, Sequence[Message]]], list[tuple[KafkaError, str | None]]]:
    """Messages by partition, in order, and the errors among them, each with its topic where it is about one."""
    errors: list[tuple[KafkaError, str | None]] = []
    if any(map(_error, messages)):
        errors = [(error, message.topic()) for message in messages if (error := message.error()) is not None]
    if errors:
        messages = [message for message in messages if message.error() is None]
    if not messages:
        return [], errors
    topics: list[Any] = list(map(_topic, messages))
    partitions: list[Any] = list(map(_partition, messages))
    first = topics[0], partitions[0]
    if topics.count(first[0]) == partitions.count(first[1]) == len(messages):
        return [(first, messages)], errors
    return list(_runs(messages, topics, partitions)), errors


def _runs(
    messages: list[Message], topics: list[str], partitions: list[int]
) -> Iterator[tuple[TopicPartition, Sequence[Message]]]:
    begin, current = 0, (topics[0], partitions[0])
    for place, where in enumerate(zip(topics, partitions, strict=True)):
        if where != current:
            yield current, messages[begin:place]
            begin, current = place, where
    yield current, messages[begin:]


class Intake:
    """Makes the deliveries of one subscription on one consumer. Under the lock of its `in_hand`.

    states: of the partitions that the consumer has for it.
    """

    def __init__(self, states: dict[TopicPartition, PartitionState], in_hand: KafkaInHand) -> None:
        self._states = states
        self._in_hand = in_hand

    def take(self, where: TopicPartition, messages: Sequence[Message]) -> Sequence[Sequence[KafkaDelivery]]:
        """Deliveries of what is ours and not done, noted as handed out, each batch of one state."""
        offsets: list[Any] = list(map(_offset, messages))
        begin = offsets[0]
        if offsets == list(range(begin, begin + len(offsets))):  # the usual case at a fraction of the cost
            state = self._state_at(where, begin)
            if state is not None and begin >= state.known and not state.rewind:
                state.fetched(begin, begin + len(offsets))
                return [KafkaBatch(messages, where[0], state, state.base + begin)]
        return self._one_by_one(where, messages, offsets)

    def _one_by_one(
        self, where: TopicPartition, messages: Sequence[Message], offsets: Sequence[int]
    ) -> Sequence[Sequence[KafkaDelivery]]:
        batches: list[list[KafkaDelivery]] = []
        state: Any = None
        following = begun = known = base = -1
        for message, offset in zip(messages, offsets, strict=True):
            if offset != following:
                _end_run(state, begun, following)
                begun = following = -1
                state = self._state_at(where, offset)
                if state is not None and state.rewind:  # it comes again, behind what was given back
                    state = None
                if state is None:  # or taken away while this was fetched
                    continue
                base, known = state.base, state.known
                if not batches or (batches[-1] and batches[-1][-1].token is not state):
                    batches.append([])
            following = offset + 1
            if begun < 0:
                if offset >= known:
                    begun = offset
                elif not state.admit(offset):
                    self._in_hand.duplicates += 1
                    continue
            delivery = _new(KafkaDelivery)
            delivery.message = message
            delivery.topic = where[0]
            delivery.identity = base + offset
            delivery.token = state
            batches[-1].append(delivery)
        _end_run(state, begun, following)
        return [one for one in batches if one]

    def _state_at(self, where: TopicPartition, offset: int) -> PartitionState | None:
        """The state of an offset that does not follow the one before it."""
        state = self._states.get(where)
        if state is None or state.continues_at(offset):
            return state
        text = "%s [%d] goes on at %d: the topic was made anew, or the group was reset"
        self._in_hand.later.warning(text, *where, offset)
        new = self._states[where] = self._in_hand.new_state(where)
        new.assign(state.owner)
        new.begin(offset)
        return new


def _end_run(state: PartitionState | None, first_new: int, end: int) -> None:
    if state is not None:
        state.fetched(first_new, end)
