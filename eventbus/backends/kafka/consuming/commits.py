"""What a consumer commits: sent now and then, confirmed or asked for again. On the consumer's thread alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from .... import log
from ....errors import NotConnectedError
from ..clients.errors import text_of
from ..names import TopicPartition, note_of
from .partition_state import PartitionState
from .reader import Reader

logger = log.get(__name__)

TOLD_AFTER = 2.0
"""Seconds for which commits fail until that is told: coordinators move, and members are fenced and come back."""
_REFUSALS = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED})


class Commits:
    """The commits of one consumer. reader_of(where): who has a partition. every: seconds between two of them."""

    def __init__(
        self, reader_of: Callable[[TopicPartition], Reader | None], every: float, name: str, commits: bool
    ) -> None:
        self._reader_of = reader_of
        self._every = every
        self._name = name
        self._commits = commits
        self._next = 0.0
        self._touched: dict[PartitionState, Reader] = {}
        self._failing_since: float | None = None
        self._suspects: set[str] = set()
        """Topics of a request that was refused for one of them."""
        self._sent: dict[TopicPartition, PartitionState] = {}
        """What was asked last for each partition, also of those that went meanwhile."""
        self.in_flight = 0
        """How many are on their way to the broker."""

    @property
    def is_settled(self) -> bool:
        """Whether the broker has confirmed all that was noted."""
        return not (self.in_flight or self._touched)

    def note(self, reader: Reader, states: Iterable[PartitionState]) -> None:
        """Something of these was finished."""
        if self._commits:
            self._touched.update(dict.fromkeys(states, reader))

    def send_if_due(self, consumer: Any, *, at_once: bool) -> None:
        """Commit what is done since the last time."""
        now = time.monotonic()
        if self._touched and (at_once or now >= self._next):
            self._next = now + self._every
            touched, self._touched = self._touched, {}
            self.send(consumer, touched)

    def send(self, consumer: Any, states: dict[PartitionState, Reader]) -> None:
        """Commit what is done in these partitions."""
        offsets: list[Position] = []
        for state, reader in states.items():
            with reader.lock:
                offset = state.committable
                if offset is not None:
                    state.requested = offset
                    self._sent[state.where] = state
                    offsets.append(Position(*state.where, offset, note_of(state.topic_id)))
        if not self._commits:
            return
        for request in self._requests(offsets):
            try:
                consumer.commit(offsets=request, asynchronous=True)
                self.in_flight += 1
            except KafkaException as error:
                self._failed(request, error.args[0])

    def _requests(self, offsets: list[Position]) -> list[list[Position]]:
        """One for all of them; those of topics under suspicion alone, for librdkafka says of none who is at fault."""
        together = [one for one in offsets if one.topic not in self._suspects]
        apart: dict[str, list[Position]] = {}
        for one in offsets:
            if one.topic in self._suspects:
                apart.setdefault(one.topic, []).append(one)
        return [request for request in (together, *apart.values()) if request]

    def answered(self, error: KafkaError | None, partitions: list[Position]) -> None:
        """The client's `on_commit`."""
        self.in_flight -= 1
        failed = [one for one in partitions if error is not None or one.error is not None]
        for one in partitions:
            if one not in failed:
                self._note_stored(one)
        if failed:
            self._failed(failed, error or failed[0].error)
        else:
            self._failing_since = None

    def _note_stored(self, one: Position) -> None:
        self._suspects.discard(one.topic)
        state, reader = self._sent.get((one.topic, one.partition)), self._reader_of((one.topic, one.partition))
        if state is not None:
            state.acked = max(state.acked, one.offset)
        if reader is not None:
            reader.told(f"commit {one.topic}", None)

    def _failed(self, partitions: Sequence[Position], error: KafkaError | None) -> None:
        """Not stored: asked for again, as long as the partition is ours; told when that goes on."""
        logger.info("%s: a commit failed and is repeated: %s", self._name, text_of(error))
        now = time.monotonic()
        self._failing_since = since = self._failing_since or now
        topics = {one.topic for one in partitions}
        refused = error is not None and error.code() in _REFUSALS
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._suspects |= topics
        is_known = len(topics) == 1 or not self._suspects & topics
        for one in partitions:
            reader = self._ask_again(one)
            if reader is not None and is_known and (refused or now - since >= TOLD_AFTER):
                text = f"{one.topic}: what is done is not committed: {text_of(error)}"
                reader.told(f"commit {one.topic}", NotConnectedError(text))

    def _ask_again(self, one: Position) -> Reader | None:
        """Have a partition's position committed with the next ones; who reads it."""
        reader = self._reader_of((one.topic, one.partition))
        if reader is None:
            self._suspects.discard(one.topic)
            return None
        with reader.lock:
            state = reader.states.get((one.topic, one.partition))
            if state is not None:
                state.requested = -1
                self._touched[state] = reader
        return reader
