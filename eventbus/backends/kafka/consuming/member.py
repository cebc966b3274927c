"""One consumer from birth to end: everything here runs on the thread of its feed, which alone touches it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

from ....errors import NotConnectedError
from ....log import get
from ....threads import Deadline, spawn
from ..clients.connecting import new_client
from ..clients.errors import ClientErrors, is_fatal, text_of
from ..clients.fork_safety import Consumer, keep
from ..names import TopicPartition, group_id
from .commits import Commits
from .in_hand import PartitionState, lease_of
from .intake import Intake
from .leaving import close
from .requests import Request
from .standstill import Standstill

if TYPE_CHECKING:
    from .consumer_thread import ConsumerThread

logger = get(__name__)

POLL = 0.1
FETCH = 256
"""Messages taken at once, at most: what is taken until the lanes are full does not yet call Python's collector."""
FULL_PATIENCE = 0.5
"""Seconds that full lanes are waited for before the partitions are paused: pausing drops what was fetched ahead."""
RUN_AHEAD = 10_000
"""Messages of a partition that are handed out from the oldest that is not done on, about: what is done behind that one
is not committed, and would be done again after a crash."""
REVOKE_GRACE = 1.0
"""Seconds that handlers have to end when a partition goes to somebody else, before he may handle it too."""
COMMITTED_WITHIN = 2.0
NO_POSITION = "Failed to fetch committed offset"
"""What librdkafka reports when it does not learn where to begin; it lets those partitions lie until they are assigned
anew (rdkafka_assignment.c)."""
_LAST_COMMIT = 1.0
OUTLAST = 90.0
"""Seconds after which a consumer whose last commit is not answered is dropped: librdkafka gives up after 45."""

_UNSUPPORTED = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)


class _Stage(Enum):
    FETCHING = "fetching"
    PAUSED = "paused"
    FAILED = "failed"
    LEAVING = "leaving"
    LEAVING_LATE = "leaving late"


class BeyondHelp(NotConnectedError):
    """The consumer is of no use any more: another one has to be made."""


class ProtocolRefused(NotConnectedError):
    """The cluster does not know the consumer group protocol."""


class Member:
    """A member of a group, or with manual assignment the reader of a broadcast copy."""

    def __init__(self, feed: ConsumerThread) -> None:
        self._feed = feed
        self._logs = feed.logs
        self._intake = Intake(feed.logs, feed.journal)
        self._stage = _Stage.FETCHING
        self._held: set[TopicPartition] = set()
        """Paused by themselves: they are too far ahead."""
        self._commits = Commits(feed, feed.logs)
        self.standstill = Standstill(feed.logs, feed.lock)
        self._followed: Any = None
        topic, group = feed.attachment.topic, feed.attachment.group
        self._protocol = "classic" if group is None else feed.shared.protocol.name
        options = feed.shared.options.consumer(
            feed.shared.instance if group is None else group_id(group, topic),
            protocol=self._protocol,
            start="earliest",  # where "now" is, `_starts` says; a position that is gone must not skip what is left
        )
        errors = ClientErrors(f"{feed.shared.thread_name}-{feed.attachment.topic}")
        self.consumer: Any = keep(new_client(Consumer, {**options, "on_commit": self._commits.answered}, errors))

    @property
    def is_paused(self) -> bool:
        """Whether the lanes are full for so long that nothing is fetched, while the membership goes on."""
        return self._stage is _Stage.PAUSED

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Fetch and commit until the feed is to leave; BeyondHelp, ProtocolRefused."""
        feed = self._feed
        while True:
            feed.beat = time.monotonic()
            order = feed.order
            if order is Request.END or (order is Request.LEAVE and not feed.busy):
                return
            cause = feed.asked_to_rebuild()
            if cause is not None:
                raise BeyondHelp(str(cause))
            self._follow()
            self._seek_back()
            self._hold_back()
            self._commits.send_if_due(self.consumer, at_once=order > Request.FETCH)
            if order > Request.FETCH:
                self._keep_membership()
            elif feed.full:
                self._wait_for_room()
            else:
                self._unpause()  # the room may have come while full lanes were being polled for
                self._fetch()
            self.standstill.look(self.consumer)

    def end(self) -> None:
        """Send the last commits and leave the group; where that takes long, others go on with it."""
        failed = self._stage is _Stage.FAILED
        self._stage = _Stage.LEAVING
        try:
            if not failed:  # the close of one that has failed for good never returns
                self._leave()
        except (KafkaException, RuntimeError, BeyondHelp) as error:
            logger.debug("%r: leaving the group: %s", self._feed.attachment, text_of(error))
        finally:
            self.consumer = None  # it refers to us by its callbacks: dropped now, not when the collector comes
        with self._feed.lock:
            self._feed.unsettled = False
            for log in self._logs.values():
                if log.owner is self:
                    log.lose()

    def _leave(self) -> None:
        self._commits.send_if_due(self.consumer, at_once=True)
        deadline = Deadline(_LAST_COMMIT)
        while self._commits.in_flight and not deadline.over:
            self.consumer.poll(0.02)
        if self._commits.in_flight:
            self._stage = _Stage.LEAVING_LATE
            spawn(f"{self._feed.shared.thread_name}-leaving", self._outlast, self.consumer)
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
            logger.debug("%r: leaving the group late: %s", self._feed.attachment, text_of(error))

    def _fetch(self) -> None:
        try:
            if not self._followed:
                self._feed.pause(POLL)
                return
            first = self.consumer.poll(POLL)
            if first is None:
                self.standstill.drained = True
                return
            batch = [first]
            try:
                # With a time to wait it would wait for a full batch: 500 ms where this takes 3.
                batch += self.consumer.consume(FETCH, 0)
                self.standstill.drained |= len(batch) <= FETCH
            finally:  # a callback in there may fail: the first one must not be passed over
                self._hand_over(batch)
        except KafkaException as error:
            self._event(error.args[0])

    def _keep_membership(self) -> None:
        """Take part in the group without fetching."""
        self._pause()
        self._poll_for_events(0.02)

    def _wait_for_room(self) -> None:
        feed = self._feed
        if feed.room.wait(0.02 if self.is_paused else FULL_PATIENCE) and not feed.full:
            return
        feed.room.clear()
        self._pause()
        self._poll_for_events(POLL)

    def _poll_for_events(self, timeout: float) -> None:
        try:
            message = self.consumer.poll(timeout)
            if message is not None:
                self._hand_over([message])
        except KafkaException as error:
            self._event(error.args[0])

    def _pause(self) -> None:
        if self._stage is _Stage.FETCHING:
            self._stage = _Stage.PAUSED
            self.consumer.pause(_as_partitions(self._logs))

    def _unpause(self) -> None:
        if self.is_paused:
            self._stage = _Stage.FETCHING
            self.consumer.resume(_as_partitions(self._logs.keys() - self._held))

    def _hold_back(self) -> None:
        """Fetch no more of a partition that is too far ahead of its oldest unfinished message."""
        with self._feed.lock:
            ahead = {place: log.ahead for place, log in self._logs.items()}
        self._held &= ahead.keys()
        far = {place for place, count in ahead.items() if count >= RUN_AHEAD} - self._held
        near = {place for place in self._held if ahead[place] <= RUN_AHEAD // 2}
        if far:
            self._held |= far
            self.consumer.pause(_as_partitions(far))
        if near:
            self._held -= near
            if not self.is_paused:
                self.consumer.resume(_as_partitions(near))

    # -- handing over ----------------------------------------------------------------------------

    def _hand_over(self, messages: Sequence[Message]) -> None:
        feed = self._feed
        with feed.lock:  # until the lanes have it: what one of them gives back is behind this, or this behind it
            batches, errors = self._intake.take(messages)
            if batches:
                feed.room.clear()  # before: a resume that comes while the lanes take the batch is not lost
                feed.full = True
                if all([feed.deliver(batch, lease_of(batch)) for batch in batches]):
                    feed.full = False
        for error in errors:
            self._event(error)

    def _seek_back(self) -> None:
        if self._feed.order > Request.FETCH:
            return
        back = [log for log in list(self._logs.values()) if log.rewind]
        for log in back:
            with self._feed.lock:
                offset = log.go_back()
            self._seek(log.place, offset)

    def _seek(self, place: TopicPartition, offset: int) -> None:
        try:
            self.consumer.seek(Position(*place, offset))
        except KafkaException as error:  # not fetching yet, or not ours any more
            raise BeyondHelp(f"going back in {place[0]} [{place[1]}]: {text_of(error)}") from error

    # -- topics and groups -----------------------------------------------------------------------

    def _follow(self) -> None:
        """Subscribe to the topics of now; a broadcast copy reads all their partitions."""
        topics = self._feed.topics
        if topics is self._followed:
            return
        if self._feed.attachment.group is None:
            self._read_all(topics)
        elif topics and (self._followed is None or list(topics) != list(self._followed)):
            self.consumer.subscribe(list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        self._followed = topics

    def _read_all(self, topics: Any) -> None:
        begins = self._feed.journal.begins or {}
        places = [(topic, partition) for topic, partitions in topics.items() for partition in partitions]
        starts = {place: begins.get(place, OFFSET_BEGINNING) for place in places if place not in self._logs}
        with self._feed.lock:
            starts |= {place: stand for place in starts if (stand := self._feed.journal.stand_in(place)) is not None}
        self._take(starts)
        if starts:
            self.consumer.incremental_assign([Position(*place, offset) for place, offset in starts.items()])

    def _assigned(self, consumer: Any, partitions: list[Position]) -> None:
        if self._stage is _Stage.LEAVING_LATE:
            return
        starts = self._starts(partitions)
        self._take({(one.topic, one.partition): starts.get((one.topic, one.partition)) for one in partitions})
        for one in partitions:
            one.offset = starts.get((one.topic, one.partition), one.offset)
        self.consumer.incremental_assign(partitions)
        if self.is_paused:
            self.consumer.pause(partitions)

    def _starts(self, partitions: list[Position]) -> dict[TopicPartition, int]:
        """Where a group that begins "now" begins: where partitions ended when it was subscribed, or at the
        beginning of those that came later, or whose committed offset the broker has lost. Not for partitions
        that it has a position in."""
        if self._feed.attachment.start != "latest" or not partitions:
            return {}
        try:
            known = self.consumer.committed(partitions, COMMITTED_WITHIN)
        except KafkaException as error:
            raise BeyondHelp(f"asking where the group stands: {text_of(error)}") from error
        begins = dict(self._feed.journal.begins or {})
        with self._feed.lock:
            for place, log in self._feed.journal.logs.items():
                if log.acked >= 0:
                    begins.pop(place, None)
        places = [(one.topic, one.partition) for one in known if one.offset < 0]
        return {place: begins.get(place, OFFSET_BEGINNING) for place in places}

    def _take(self, starts: Any) -> None:
        journal = self._feed.journal
        with self._feed.lock:
            for place, offset in starts.items():
                log = self._logs[place] = journal.log_of(place)
                log.assign(self)
                if offset is not None and offset >= 0:
                    log.begin(offset)

    def _revoked(self, consumer: Any, partitions: list[Position]) -> None:
        """Partitions go to somebody else: what is not started is dropped, what runs has a moment to end."""
        if self._stage is _Stage.LEAVING_LATE:
            return
        gone = self._give_up(partitions)
        if self._stage is not _Stage.LEAVING:
            deadline = Deadline(REVOKE_GRACE)
            while self._any_busy(gone) and not deadline.over and self._feed.order < Request.END:
                self._feed.acknowledged.wait(0.02)
                self._feed.acknowledged.clear()
            self._commits.send(self.consumer, gone)
        self.consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Any, partitions: list[Position]) -> None:
        """Partitions have gone to somebody else already."""
        if self._stage is not _Stage.LEAVING_LATE:
            self._give_up(partitions)

    def _give_up(self, partitions: list[Position]) -> list[PartitionState]:
        with self._feed.lock:
            gone = [self._logs.pop((one.topic, one.partition), None) for one in partitions]
            for log in gone:
                if log is not None and log.owner is self:
                    log.lose()
        return [log for log in gone if log is not None]

    def _any_busy(self, logs: Sequence[PartitionState]) -> bool:
        with self._feed.lock:
            return any(log.busy for log in logs)

    # -- trouble ---------------------------------------------------------------------------------

    def _event(self, error: KafkaError) -> None:
        if error.code() in _UNSUPPORTED and self._feed.shared.protocol.may_fall_back:
            raise ProtocolRefused(text_of(error))
        if is_fatal(error):
            self._stage = _Stage.FAILED
            raise BeyondHelp(f"the consumer of {self._feed.attachment.topic} failed for good: {text_of(error)}")
        if NO_POSITION in error.str():
            raise BeyondHelp(f"{self._feed.attachment.topic}: {text_of(error)}")
        if not error.retriable():
            self._feed.complain(NotConnectedError(f"{self._feed.attachment.topic}: {text_of(error)}"))


def _as_partitions(places: Iterable[TopicPartition]) -> list[Position]:
    return [Position(*place) for place in places]
