"""One consumer from birth to end: everything here runs on its thread, which alone touches it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

from ....errors import NotConnectedError
from ....log import get
from ....threads import Deadline, spawn
from ..clients.connecting import new_client
from ..clients.errors import ClientErrors, is_fatal, text_of
from ..clients.fork_safety import Consumer, keep
from ..names import TopicPartition
from .assignment import Assignment
from .commits import Commits
from .flow import Flow
from .intake import split
from .leaving import close
from .partition_state import PartitionState
from .reader import Reader
from .requests import Request
from .shared import ConsumerKey, Shared
from .standstill import Standstill

logger = get(__name__)

POLL = 0.1
FETCH = 256
"""Messages taken at once, at most: what is taken until the lanes are full does not yet call Python's collector."""
DRAIN = 4096
NO_POSITION = "Failed to fetch committed offset"
"""What librdkafka reports when it does not learn where to begin; it lets those partitions lie until they are assigned
anew (rdkafka_assignment.c)."""
_LAST_COMMIT = 1.0
OUTLAST = 90.0
"""Seconds after which a consumer whose last commit is not answered is dropped: librdkafka gives up after 45."""

_UNSUPPORTED = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)
_GROUP_REFUSED = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.INVALID_GROUP_ID})
_TOPIC_REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION})


class _Stage(Enum):
    FETCHING = "fetching"
    FAILED = "failed"
    LEAVING = "leaving"
    LEAVING_LATE = "leaving late"


class BeyondHelp(NotConnectedError):
    """The consumer is of no use any more: another one has to be made."""


class ProtocolRefused(NotConnectedError):
    """The cluster does not know the consumer group protocol."""


class Owner(Protocol):
    """What a consumer asks of its thread.

    key, shared: as the thread has them. errors: of its clients.
    """

    key: ConsumerKey
    shared: Shared
    errors: ClientErrors

    @property
    def request(self) -> Request:
        """What the whole thread is asked for."""

    @property
    def readers(self) -> Sequence[Reader]:
        """Whom it reads for."""

    def note_beat(self) -> None:
        """It is alive."""

    def pause(self, seconds: float) -> None:
        """Sleep until something is asked, or up to so many seconds."""

    def take_orders(self, member: Member) -> None:
        """Do what others have asked for; may raise BeyondHelp."""

    def dismiss(self, reader: Reader, error: Exception | None, *, lasting: bool = False) -> None:
        """It reads no more for this one: it has left, or is refused."""

    def complain(self, error: Exception) -> None:
        """Report trouble, the same one not too often."""


class Member:
    """A member of a group, or with manual assignment the reader of broadcast copies."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        shared, key = owner.shared, owner.key
        self._stage = _Stage.FETCHING
        self._next: dict[TopicPartition, int] = {}
        self._protocol = "classic" if key.group is None else shared.protocol.name
        self._commits = Commits(self.reader_of, shared.commit_interval, key.name, commits=key.group is not None)
        self._flow = Flow(self.reader_of, shared.reserve_bytes)
        self.assignment = Assignment(self, owner, self._flow)
        self.standstill = Standstill(self.assignment.readers, self._advanced, self.assignment.standing_by)
        options = shared.options.consumer(
            shared.instance if key.group is None else key.group,
            protocol=self._protocol,
            start="earliest",  # where "now" is, `Assignment` says; a position that is gone must not skip what is left
        )
        if key.group is not None and shared.options.static_id is not None:
            options["group.instance.id"] = shared.options.static_id
        options["on_commit"] = self._commits.answered
        self.consumer: Any = keep(new_client(Consumer, options, owner.errors))

    def reader_of(self, where: TopicPartition) -> Reader | None:
        """Who has a partition; None if it is not ours."""
        return self.assignment.readers.get(where)

    @property
    def is_leaving(self) -> bool:
        """Whether callbacks come from the end of the consumer."""
        return self._stage in (_Stage.LEAVING, _Stage.LEAVING_LATE)

    @property
    def is_late(self) -> bool:
        """Whether others have gone on with the group."""
        return self._stage is _Stage.LEAVING_LATE

    @property
    def resting(self) -> set[TopicPartition]:
        """Partitions that are not fetched from now."""
        return self._flow.resting

    @property
    def is_settled(self) -> bool:
        """Whether the broker has confirmed all that is done."""
        return self._commits.is_settled

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Fetch and commit until nobody is left to read for; BeyondHelp, ProtocolRefused."""
        owner = self._owner
        while owner.request is not Request.END:
            owner.note_beat()
            self._dismiss_leavers()
            if not owner.readers:
                return
            owner.take_orders(self)
            self.assignment.follow(self.consumer)
            self._see_to_touched()
            self._commits.send_if_due(self.consumer, at_once=owner.request > Request.FETCH)
            self._fetch()
            self._flow.balance(self.consumer)
            self.assignment.tell()
            self.standstill.look(self.consumer)

    def _dismiss_leavers(self) -> None:
        for reader in self._owner.readers:
            if reader.request > Request.FETCH:
                self._flow.rest(self.consumer, list(reader.states))
            if reader.is_done:
                self._note_touched(reader)
                self._owner.dismiss(reader, None)

    def _see_to_touched(self) -> None:
        """Commit what was finished, and read again what was given back."""
        for reader in self._owner.readers:
            for state in self._note_touched(reader):
                if state.rewind and reader.fetches:
                    self.read_again(reader, state.where, reader.go_back(state))

    def _note_touched(self, reader: Reader) -> list[PartitionState]:
        ours = [state for state in reader.in_hand.take_touched() if state.owner is self]
        self._commits.note(reader, ours)
        return ours

    def _fetch(self) -> None:
        consumer, pressed = self.consumer, self._flow.is_pressed
        if not self.assignment.is_joined or (not pressed and self._flow.waits_for_room(self._owner.readers)):
            self._owner.pause(POLL)
            return
        try:
            self._take(0.02 if pressed or self._owner.request > Request.FETCH else self._patience)
            if pressed:
                self._drain()
                self._flow.rest_pressed(consumer)
        except KafkaException as error:
            self._event(error.args[0])
        self.assignment.check()

    @property
    def _patience(self) -> float:
        return min(POLL, max(0.005, self._owner.shared.commit_interval))

    def _take(self, patience: float) -> None:
        """Hand over what was fetched, or else the next message that comes, with all behind it."""
        batch: list[Message] = []
        try:
            # With a time to wait it would wait for a full batch: 500 ms where this takes 3.
            batch += self.consumer.consume(FETCH, 0)
            if not batch and (first := self.consumer.poll(patience)) is not None:
                batch.append(first)
                batch += self.consumer.consume(FETCH, 0)
        finally:
            self._hand_over(batch)
        self.standstill.drained |= len(batch) < FETCH

    def _drain(self) -> None:
        """Take out all that was fetched: what is there would be lost by a pause, and fetched again."""
        batch = [*self.consumer.consume(DRAIN, 0)]
        self._hand_over(batch)
        while len(batch) == DRAIN:
            batch = [*self.consumer.consume(DRAIN, 0)]
            self._hand_over(batch)

    def _hand_over(self, batch: list[Message]) -> None:
        runs, errors = split(batch)
        for where, messages in runs:
            reader = self.reader_of(where)
            if reader is None:
                continue
            self._look_for_a_gap(reader, where, messages)
            if reader.is_troubled:
                reader.told(f"reading {where[0]}", None)
            for begin in range(0, len(messages), FETCH + 1):
                if not reader.take(where, messages[begin : begin + FETCH + 1]):
                    self._flow.note_waiting(where)
        for error, topic in errors:
            self._event(error, topic)

    def _look_for_a_gap(self, reader: Reader, where: TopicPartition, messages: Sequence[Message]) -> None:
        """Tell of messages that were deleted before they were read; other gaps come of compaction, or are markers."""
        offset, last = messages[0].offset(), messages[-1].offset()
        expected = self._next.get(where)
        self._next[where] = (last or 0) + 1
        if offset is None or expected is None or offset == expected:
            return
        low = self.standstill.watermarks(self.consumer, where)[0]
        if expected < low <= offset:
            lost = f"{where[0]} [{where[1]}]: {expected} to {low - 1} were deleted before they were read"
            reader.attachment.told(NotConnectedError(lost))

    def read_again(self, reader: Reader, where: TopicPartition, offset: int) -> None:
        """Have a partition fetched from an offset, and nothing else disturbed."""
        self._flow.forget(where)
        self.forget(where)
        position = Position(*where, offset)
        try:
            self.consumer.incremental_unassign([Position(*where)])
            self.consumer.incremental_assign([position])
            self.consumer.resume([Position(*where)])
        except KafkaException as error:
            raise BeyondHelp(f"going back in {where[0]} [{where[1]}]: {text_of(error)}") from error

    def expect(self, where: TopicPartition, offset: int) -> None:
        """The next message of a partition is to come from here; what is not there any more was deleted unread."""
        self._next[where] = offset

    def forget(self, where: TopicPartition) -> None:
        """What was read last of a partition says nothing about what comes next."""
        self._next.pop(where, None)

    def note_begun(self, reader: Reader, places: Iterable[TopicPartition]) -> None:
        """Commit where a group begins: were we to die before the first commit, others would begin later."""
        self._commits.note(reader, [reader.states[where] for where in places])

    def cure(self, where: TopicPartition) -> None:
        """Have a partition read anew from where it stands."""
        reader = self.reader_of(where)
        state = None if reader is None else reader.states.get(where)
        if reader is not None and state is not None and state.begun:
            self.read_again(reader, where, reader.go_back(state))
        elif reader is not None:
            raise BeyondHelp(f"{where[0]} [{where[1]}]: nothing is fetched although there is something")

    def begin_at(self, reader: Reader, where: TopicPartition, offset: int) -> None:
        """It is known now where a partition is to be read from."""
        if reader.resolve(where, offset):
            self.read_again(reader, where, offset)

    def begin_anew(self, reader: Reader, topic: str) -> None:
        """A topic was made anew: read it from its start, and have the group know."""
        for state in reader.begin_anew(topic):
            self.read_again(reader, state.where, OFFSET_BEGINNING)
            self._commits.note(reader, [state])

    def _advanced(self, reader: Reader, state: PartitionState) -> None:
        self._commits.note(reader, [state])

    def commit_now(self, gone: Sequence[tuple[Reader, PartitionState]]) -> None:
        """Commit what is done of partitions that go."""
        self._commits.send(self.consumer, {state: reader for reader, state in gone})

    # -- the end ---------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """What is not done by now is for whoever has the partitions next."""
        for reader in self._owner.readers:
            reader.attachment.flush()
            self._note_touched(reader)
        self.assignment.give_up_all()

    def end(self) -> None:
        """Send the last commits and leave the group; where that takes long, others go on with it."""
        failed = self._stage is _Stage.FAILED
        self._stage = _Stage.LEAVING
        try:
            if not failed:  # the close of one that has failed for good never returns
                self._leave()
        except (KafkaException, RuntimeError, BeyondHelp) as error:
            logger.debug("%s: leaving the group: %s", self._owner.key.name, text_of(error))
        finally:
            self.consumer = None  # it refers to us by its callbacks: dropped now, not when the collector comes

    def _leave(self) -> None:
        self._commits.send_if_due(self.consumer, at_once=True)
        deadline = Deadline(_LAST_COMMIT)
        while self._commits.in_flight and not deadline.over:
            self.consumer.poll(0.02)
        if self._commits.in_flight:
            self._stage = _Stage.LEAVING_LATE
            spawn(f"{self._owner.shared.thread_name}-leaving", self._outlast, self.consumer)
        else:
            close(self.consumer, self._protocol)

    def _outlast(self, consumer: Any) -> None:
        """Leave the group once the last commit is answered, on a thread that nobody waits for.

        librdkafka neither closes nor drops a consumer with a commit on its way to a broker that is gone: that hangs
        for 45 s, without a look whether the broker has come back, and the group is not left.
        """
        deadline = Deadline(OUTLAST)
        try:
            while self._commits.in_flight and not deadline.over:
                consumer.poll(POLL)
            if not self._commits.in_flight:
                close(consumer, self._protocol)
        except (KafkaException, RuntimeError) as error:
            logger.debug("%s: leaving the group late: %s", self._owner.key.name, text_of(error))

    # -- trouble ---------------------------------------------------------------------------------

    def _event(self, error: KafkaError, topic: str | None = None) -> None:
        owner, code = self._owner, error.code()
        if code in _UNSUPPORTED and owner.shared.protocol.may_fall_back:
            raise ProtocolRefused(text_of(error))
        if is_fatal(error):
            self._stage = _Stage.FAILED
            if not _refuses_group(error):
                raise BeyondHelp(f"the consumer of {owner.key.name} failed for good: {text_of(error)}")
        if NO_POSITION in error.str():
            raise BeyondHelp(f"{owner.key.name}: {text_of(error)}")
        if _refuses_group(error):
            for reader in owner.readers:
                owner.dismiss(reader, NotConnectedError(f"group {owner.key.group}: {text_of(error)}"), lasting=True)
        elif code in _TOPIC_REFUSED:
            self._refuse(topic, error)
        elif not error.retriable():
            owner.complain(NotConnectedError(f"{owner.key.name}: {text_of(error)}"))

    def _refuse(self, topic: str | None, error: KafkaError) -> None:
        """A topic may not be read: that ends its own subscription, and costs a pattern this topic."""
        refused = NotConnectedError(f"topic {topic}: {text_of(error)}")
        for reader in self._owner.readers:
            if topic == reader.attachment.topic:
                self._owner.dismiss(reader, refused, lasting=True)
            elif topic in reader.topics:
                reader.told(f"reading {topic}", refused)
        if topic is None:
            self._owner.complain(NotConnectedError(f"{self._owner.key.name}: {text_of(error)}"))


def _refuses_group(error: KafkaError) -> bool:
    """Whether the account may not be in the group: a member whose right is taken away is told so by a fatal error."""
    if is_fatal(error):
        return any(KafkaError(code).str() in error.str() for code in _GROUP_REFUSED)
    return error.code() in _GROUP_REFUSED
