"""Which partitions a consumer has and for whom, where each begins, and what its subscriptions are told of it.

The client calls back inside `poll` and `consume`: what fails in there is raised later, or what was fetched is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import OFFSET_BEGINNING, KafkaException
from confluent_kafka import TopicPartition as Position

from ....consuming.subscriptions import SubscriptionState
from ....errors import NotConnectedError
from ....log import get
from ..clients.errors import ClientErrors, text_of
from ..names import TopicPartition, topic_id_in
from .flow import Flow
from .partition_state import PartitionState
from .reader import Reader
from .shared import ConsumerKey, Shared

logger = get(__name__)

COMMITTED_WITHIN = 2.0
JOINING = "joining the group"
"""What a consumer failed of that its group never had."""
JOINED_AFTER = 1.0
"""Seconds without a partition after which the group's coordinator is asked whether it is there: whoever has joined
and gets nothing is told nothing by the newer group protocol."""
_ASK = 0.5


class AssignmentFailed(NotConnectedError):
    """Where the group stands could not be asked."""


class Host(Protocol):
    """The consumer that an assignment is of."""

    consumer: Any

    @property
    def is_leaving(self) -> bool:
        """Whether it is ending."""

    @property
    def is_late(self) -> bool:
        """Whether others have gone on with the group."""

    def expect(self, where: TopicPartition, offset: int) -> None:
        """The next message of a partition is to come from here."""

    def forget(self, where: TopicPartition) -> None:
        """What was read last of a partition says nothing about what comes next."""

    def note_begun(self, reader: Reader, places: Iterable[TopicPartition]) -> None:
        """Commit where a group begins."""

    def commit_now(self, gone: Sequence[tuple[Reader, PartitionState]]) -> None:
        """Commit what is done of partitions that go."""


class Owner(Protocol):
    """The thread of a consumer. errors: of its clients."""

    key: ConsumerKey
    shared: Shared
    errors: ClientErrors

    @property
    def readers(self) -> Sequence[Reader]:
        """Whom it reads for."""


class Assignment:
    """The partitions of one consumer, on its thread. readers: who has each of them."""

    def __init__(self, host: Host, owner: Owner, flow: Flow) -> None:
        self.readers: dict[TopicPartition, Reader] = {}
        self._host = host
        self._owner = owner
        self._flow = flow
        self._subscribed: list[str] | None = None
        self._failure: Exception | None = None
        self._news = True
        self._next_look = 0.0
        self._told: dict[Reader, SubscriptionState] = {}
        self._since: dict[Reader, float] = {}
        self.is_confirmed = False
        """Whether the group is known to have us."""

    @property
    def is_joined(self) -> bool:
        """Whether there is something to poll for."""
        return bool(self._subscribed or self.readers)

    def check(self) -> None:
        """Raise what failed in a callback."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # -- following the subscriptions -------------------------------------------------------------

    def follow(self, consumer: Any) -> None:
        """Have those partitions, or ask the group for those topics, that are wanted now."""
        if self._owner.key.group is None:
            self._read_all(consumer)
            return
        wanted = self._topics()
        if wanted == (self._subscribed or []):
            return
        logger.debug("%s: subscribes to %s", self._owner.key.name, wanted)
        if wanted:
            consumer.subscribe(
                wanted,
                on_assign=self._calling(self._assigned),
                on_revoke=self._calling(self._revoked),
                on_lost=self._calling(self._lost),
            )
        else:
            consumer.unsubscribe()
        self._subscribed = wanted
        self._news = True

    def _topics(self) -> list[str]:
        """What is wanted; a topic that somebody has left is given back before its next reader gets it."""
        held = {topic: reader for (topic, _), reader in self.readers.items()}
        wanted: dict[str, Reader] = {}
        for reader in self._owner.readers:
            for topic in reader.topics:
                wanted.setdefault(topic, reader)
        return sorted(topic for topic, reader in wanted.items() if held.get(topic, reader) is reader)

    def _read_all(self, consumer: Any) -> None:
        wanted = {
            (topic, partition): reader
            for reader in self._owner.readers
            for topic, partitions in reader.topics.items()
            for partition in partitions
        }
        gone = [where for where in self.readers if where not in wanted]
        if gone:
            self._give_up(gone)
            consumer.incremental_unassign([Position(*where) for where in gone])
        new = {where: reader for where, reader in wanted.items() if where not in self.readers}
        if not new:
            return
        starts = {where: self._copy_begins(where, reader) for where, reader in new.items()}
        consumer.incremental_assign([Position(*where, offset) for where, offset in starts.items()])
        consumer.resume([Position(*where) for where in starts])
        self._take(new, starts)
        self._let_rest(consumer, new)

    @staticmethod
    def _copy_begins(where: TopicPartition, reader: Reader) -> int:
        with reader.lock:
            stand = reader.in_hand.stand_in(where)
            if stand is not None:
                return stand
            return reader.in_hand.begins_at(where, OFFSET_BEGINNING)

    # -- what the group says ---------------------------------------------------------------------

    def _calling(self, callback: Callable[[Any, list[Position]], None]) -> Callable[[Any, list[Position]], None]:
        def called(consumer: Any, partitions: list[Position]) -> None:
            if self._host.is_late:
                return
            try:
                callback(consumer, partitions)
            except Exception as error:
                logger.debug("%s: a rebalance failed", self._owner.key.name, exc_info=True)
                self._failure = self._failure or error

        return called

    def _assigned(self, consumer: Any, partitions: list[Position]) -> None:
        places = [(one.topic, one.partition) for one in partitions]
        readers = {where: reader for where in places if (reader := self._reader_of(where[0])) is not None}
        starts = self._starts(consumer, readers)
        for one in partitions:
            one.offset = starts.get((one.topic, one.partition), one.offset)
        self._take(readers, starts)
        for where, start in starts.items():
            if start >= 0 and not readers[where].is_committed(where, start):
                self._host.note_begun(readers[where], [where])
        consumer.incremental_assign(partitions)
        consumer.resume(partitions)  # a pause outlives the assignment that it was meant for
        self.is_confirmed = True
        self._owner.errors.forget()
        self._let_rest(consumer, [where for where in places if where not in readers])
        self._let_rest(consumer, readers)

    def _let_rest(self, consumer: Any, places: Iterable[TopicPartition]) -> None:
        """Fetch nothing of these that nobody is to have, or not yet."""
        readers = self.readers
        idle = [
            where
            for where in places
            if where not in readers or not readers[where].fetches or where in readers[where].unresolved
        ]
        self._flow.rest(consumer, idle)

    def _reader_of(self, topic: str) -> Reader | None:
        return next((reader for reader in self._owner.readers if topic in reader.topics), None)

    def _starts(self, consumer: Any, readers: Mapping[TopicPartition, Reader]) -> dict[TopicPartition, int]:
        """Where the group stands, of this topic and not of another one that had its name before.

        Where it has no position, one that begins "now", or at a time, does so where that was when it was subscribed,
        or at the beginning of those that came later, or whose committed offset the broker has lost.
        """
        if not readers:
            return {}
        try:
            known = consumer.committed([Position(*where) for where in readers], COMMITTED_WITHIN)
        except KafkaException as error:
            if any(reader.attachment.start != "earliest" for reader in readers.values()):
                raise AssignmentFailed(f"asking where the group stands: {text_of(error)}") from error
            logger.info("%s: asking where the group stands: %s", self._owner.key.name, text_of(error))
            return {}
        starts = {where: self._start(readers[where], where, one) for one in known for where in [_place_of(one)]}
        for reader in readers.values():
            reader.in_hand.later.tell()
        return {where: start for where, start in starts.items() if start is not None}

    @staticmethod
    def _start(reader: Reader, where: TopicPartition, known: Position) -> int | None:
        """None: librdkafka finds out."""
        if known.error is not None:
            return None
        with reader.lock:
            in_hand = reader.in_hand
            of_topic, topic = topic_id_in(known.metadata), in_hand.topic_ids.get(where[0])
            state = in_hand.states.get(where)
            if known.offset >= 0 and (None in (of_topic, topic) or of_topic == topic):
                if state is not None and known.offset < state.acked:
                    in_hand.later.warning("%s [%d] was set back to %d: handled again from there", *where, known.offset)
                    in_hand.new_state(where)
                in_hand.state_of(where).acked = known.offset
                return known.offset
            if known.offset >= 0 or (state is not None and state.acked >= 0):
                in_hand.later.warning(
                    "%s [%d] was made anew, or the group's positions are lost: from its start", *where
                )
                in_hand.new_state(where)
                return OFFSET_BEGINNING
            return in_hand.begins_at(where, OFFSET_BEGINNING) if reader.attachment.start != "earliest" else None

    def _take(self, readers: Mapping[TopicPartition, Reader], starts: Mapping[TopicPartition, int]) -> None:
        for where, reader in readers.items():
            start = starts.get(where)
            reader.begin(where, self._host, start)
            self.readers[where] = reader
            if start is not None and start >= 0:
                self._host.expect(where, start)
        self._news = True

    def _revoked(self, consumer: Any, partitions: list[Position]) -> None:
        """Partitions go to somebody else, and nothing is waited for: what is not done by now is theirs."""
        for reader in self._owner.readers:
            reader.attachment.flush()
        gone = self._give_up([(one.topic, one.partition) for one in partitions])
        if not self._host.is_leaving:
            self._host.commit_now(gone)
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Any, partitions: list[Position]) -> None:
        """Partitions have gone to somebody else already."""
        self._give_up([(one.topic, one.partition) for one in partitions])

    def _give_up(self, places: Iterable[TopicPartition]) -> list[tuple[Reader, PartitionState]]:
        gone: list[tuple[Reader, PartitionState]] = []
        for where in places:
            reader = self.readers.pop(where, None)
            self._flow.forget(where)
            self._host.forget(where)
            state = None if reader is None else reader.lose(where, self._host)
            if reader is not None and state is not None:
                gone.append((reader, state))
        self._news = True
        return gone

    def give_up_all(self) -> None:
        """The consumer is no more."""
        self._give_up(list(self.readers))

    # -- what the subscriptions are told ---------------------------------------------------------

    def tell(self) -> None:
        """Say of each subscription that gets its messages, or that other members have all of them, that it is so."""
        now = time.monotonic()
        if not self._news and now < self._next_look:
            return
        self._next_look = now + JOINED_AFTER
        self._news = False
        serving, readers = set(self.readers.values()), self._owner.readers
        self._since = {reader: since for reader, since in self._since.items() if reader in readers}
        self._told = {reader: state for reader, state in self._told.items() if reader in readers}
        found: dict[SubscriptionState, list[Reader]] = {}
        for reader in readers:
            since = self._since.setdefault(reader, now)
            if reader in serving or not reader.topics:
                state = SubscriptionState.ACTIVE
            elif now - since >= JOINED_AFTER and self._is_member(reader):
                state = SubscriptionState.STANDBY
            else:
                continue
            if self._told.get(reader) is not state:
                self._told[reader] = state
                found.setdefault(state, []).append(reader)
        for state, news in found.items():
            for reader in news:
                reader.told(JOINING, None)
            self._owner.shared.on_served([reader.attachment for reader in news], state)
            for reader in news:
                reader.show_again()

    def _is_member(self, reader: Reader) -> bool:
        """Whether the group has us, and this topic's partitions are with others."""
        if self._owner.key.group is None:
            return False
        if self.is_confirmed:
            return True
        topic, partitions = next(iter(reader.topics.items()))
        try:
            self._host.consumer.committed([Position(topic, one) for one in list(partitions)[:1] or [0]], _ASK)
        except KafkaException as error:
            logger.debug("%s: its coordinator does not answer: %s", self._owner.key.name, text_of(error))
            return False
        self.is_confirmed = True
        return True

    def standing_by(self) -> dict[TopicPartition, int]:
        """Where the group stands in partitions of topics that others have all of."""
        places = [
            (topic, partition)
            for reader, state in self._told.items()
            if state is SubscriptionState.STANDBY and reader.fetches
            for topic, partitions in reader.topics.items()
            for partition in partitions
        ]
        if not places:
            return {}
        try:
            known = self._host.consumer.committed([Position(*where) for where in places], _ASK)
        except KafkaException as error:
            logger.debug("%s: asking where the group stands: %s", self._owner.key.name, text_of(error))
            return {}
        return {(one.topic, one.partition): max(one.offset, 0) for one in known}

    def unserved(self) -> list[tuple[Reader, float]]:
        """Those of whom it is not known that they are served, and since when."""
        return [
            (reader, self._since[reader])
            for reader in self._owner.readers
            if reader in self._since and reader not in self._told
        ]


def _place_of(position: Position) -> TopicPartition:
    return position.topic, position.partition
