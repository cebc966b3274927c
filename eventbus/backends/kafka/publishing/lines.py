"""The line of one topic: what waits to be sent, what came back, and what has to be sent alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from attrs import frozen
from confluent_kafka import KafkaError

from ....publishing.records import NO_EXTRAS, Record, extras_of, key_of, number_of
from ....threads import Deadline
from ..clients.errors import text_of
from .limits import Topic, size_of
from .verdicts import TOO_LARGE, Verdict, stored_nothing, verdict_of

PAUSE = 0.25
"""Seconds between two tries of what may pass."""
DRAIN = 3.0
"""Seconds that a line waits for answers to all that is out before it sends again what came back: another partition
may have no leader for long."""
_SMALLEST_WINDOW = 16_384
_ANYWHERE = -1


class Fate(Enum):
    """What became of a record that was to be sent."""

    OUT = "the producer has it"
    DONE = "it has its answer, or is not wanted any more"
    LOOK = "it would be refused, by what may be out of date"


class Desk(Protocol):
    """What a line needs of the publisher. Called under its lock."""

    batch_bytes: int
    """No batch of several is larger."""
    message_bytes: int
    """No message is larger."""
    compressed: bool
    """Whether sizes say nothing about what the broker sees."""

    def give(self, record: Record, partition: int) -> KafkaError | None:
        """Give a record to the producer; what is wrong with that. SessionRetired."""

    def ask(self, line: Line) -> None:
        """Have the topic made sure of."""

    def refuse(self, record: Record, text: str, doubtful: bool) -> None:
        """It is rejected; *unknown* when it may be stored all the same."""

    def put_back(self, record: Record, cause: KafkaError | str, noted: bool) -> None:
        """It has no answer yet, and why. noted: it may be stored, or was put back before."""

    def may_go(self, record: Record) -> bool:
        """Whether one that was put back without doubt is still wanted."""

    def overtaken(self, count: int) -> None:
        """So many were stored behind later ones of their key."""


@frozen
class Returned:
    """What the producer gave back. partition: -1 where it is not known."""

    record: Record
    error: KafkaError
    partition: int


class Line:
    """Everything that is published to one topic, in order. Under the publisher's lock, but for `fast` and `open`.

    While it is open the sender gives records to the producer without a look at the rest. It closes when something
    comes back, or when each record has to be looked at; what comes then is held. What came back is sent first: as
    a batch again, or, after an answer that one of its members may be to blame for, one at a time in each partition.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.topic: Topic | None = None
        """What is known of it; None: it has to be made sure of."""
        self.open = False
        self.fast = 0
        """Records that the sender gave while it was open. Written by the sender alone."""
        self.asking = False
        self.stale = False
        """Whether the producer has to learn anew what the topic is."""
        self.cause = ""
        """Why it is not ready."""
        self._slow = self._answered = 0
        self._held: deque[Record] = deque()
        self._back: list[Returned] = []
        self._alone: dict[int, deque[Record]] = {}
        self._out_alone: dict[int, int] = {}
        self._idle: set[int] = set()
        self._doubtful: set[int] = set()
        self._weights: dict[int, int] = {}
        self._weight = 0
        self._window: int | None = None
        self._may_open = False
        self._latest: dict[object, int] = {}
        self._not_before = 0.0
        self._drained = Deadline(0.0)

    # -- figures ---------------------------------------------------------------------------------

    @property
    def out(self) -> int:
        """How many records the producer has."""
        return self.fast + self._slow - self._answered

    @property
    def waits(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._held or self._back or self._alone)

    # -- in --------------------------------------------------------------------------------------

    def hold(self, record: Record, desk: Desk) -> None:
        """Take a record that waits for its turn."""
        self.open = False
        self._held.append(record)
        if self.cause:
            self._put_back(record, self.cause, desk)

    def stored(self, records: Sequence[Record], desk: Desk) -> None:
        """These are stored."""
        self._answered += len(records)
        if not (self._back or self._alone or self._out_alone or self._weights or self._doubtful):
            return
        overtaken = 0
        for record in records:
            number, key = number_of(record), key_of(record)
            self._forget(number)
            self._out_alone.pop(number, None)
            if key is not None and number < self._latest.get(key, 0):
                overtaken += 1
            elif key is not None and self.waits:
                self._latest[key] = number  # no smaller one: that would have been overtaken
        if overtaken:
            desk.overtaken(overtaken)

    def failed(self, back: Returned, lone: bool, desk: Desk) -> None:
        """The producer gave one back. lone: it was in a batch of its own."""
        self._answered += 1
        number = number_of(back.record)
        self._lighten(number)
        queue = self._out_alone.pop(number, None)
        verdict = verdict_of(back.error)
        by_itself = verdict is Verdict.ALONE and (queue is not None or lone)
        by_topic = verdict is Verdict.TOPIC and (queue is not None or (lone and back.partition >= 0))
        if verdict is Verdict.REFUSED or by_itself:
            self._refuse(back.record, back.error, desk)
            self._doubt_the_limits()
        elif by_topic:
            self._refuse_forbidden(back, desk)
        else:
            self._return(back, queue, desk)

    def _return(self, back: Returned, queue: int | None, desk: Desk) -> None:
        if not stored_nothing(back.error):
            self._doubtful.add(number_of(back.record))
        self._put_back(back.record, back.error, desk)
        if queue is None:
            self._close()
            self._back.append(back)
        else:
            self._alone.setdefault(queue, deque()).appendleft(back.record)
            self._wait_for(verdict_of(back.error))

    def unready(self, cause: str, desk: Desk) -> None:
        """The topic is not there for now."""
        self.cause = cause
        for record in self._waiting():
            self._put_back(record, cause, desk)

    def refused(self, text: str, desk: Desk) -> None:
        """Nothing that waits for this topic will ever be taken."""
        waiting = self._waiting()
        self._held.clear()
        self._back.clear()
        self._alone.clear()
        self.cause = ""
        for record in waiting:
            self._say(record, text, desk)

    def _waiting(self) -> list[Record]:
        alone = [record for queue in self._alone.values() for record in queue]
        return sorted([*(one.record for one in self._back), *alone, *self._held], key=number_of)

    # -- out -------------------------------------------------------------------------------------

    def know(self, topic: Topic, desk: Desk) -> None:
        """The topic is there."""
        self.topic, self.cause, self.stale = topic, "", False
        largest = topic.limits.largest
        if largest is not None:
            self._window = largest if largest < desk.batch_bytes else None
        self._may_open = not topic.limits.needs_key and (largest is None or largest >= desk.message_bytes)
        self._leave_partitions_from(topic.partitions)

    def forget(self) -> None:
        """Make sure of the topic before anything else is sent."""
        self.open, self.topic = False, None

    def advance(self, desk: Desk) -> None:
        """Send what may be sent now, in order. SessionRetired."""
        if not self.waits:
            self._reopen()
            return
        if self._back and not self._sort_out(desk):
            return
        topic = self.topic
        if (
            topic is not None
            and time.monotonic() >= self._not_before
            and ((not self._alone and not self._out_alone) or self._send_alone(topic, desk))
        ):
            self._send_held(topic, desk)
        if self.topic is None and self.waits:
            desk.ask(self)

    def _sort_out(self, desk: Desk) -> bool:
        """Once all answers are there, see how to send again what came back; False: not yet."""
        if (self.out and not self._drained.over) or time.monotonic() < self._not_before:
            return False
        back, self._back = sorted(self._back, key=lambda one: number_of(one.record)), []
        verdicts = {verdict_of(one.error) for one in back}
        for verdict in verdicts:
            self._wait_for(verdict)
        if Verdict.ALONE in verdicts or Verdict.TOPIC in verdicts:
            known = all(one.partition >= 0 for one in back)
            for one in back:
                queue = one.partition if known else _ANYWHERE
                self._alone.setdefault(queue, deque()).append(one.record)
            self._doubt_the_limits()
            if any(one.error.code() in TOO_LARGE for one in back):
                self._narrow(desk)
        else:
            self._held.extendleft(one.record for one in reversed(back))
        return True

    def _send_alone(self, topic: Topic, desk: Desk) -> bool:
        """One at a time in each partition; True when there are none left."""
        busy = set(self._out_alone.values())
        for queue, records in list(self._alone.items()):
            while records and queue not in busy:
                record = records.popleft()
                fate = self._give(record, queue, topic, desk)
                if fate is Fate.OUT:
                    self._out_alone[number_of(record)] = queue
                    busy.add(queue)
                elif fate is not Fate.DONE:
                    records.appendleft(record)
                    self._wait_for(fate)
                    return False
            if not records:
                del self._alone[queue]
        return not (self._alone or self._out_alone)

    def _send_held(self, topic: Topic, desk: Desk) -> None:
        while self._held:
            record = self._held.popleft()
            if self._window is not None and self.out and self._is_full(record, self._window):
                self._held.appendleft(record)
                return
            fate = self._give(record, _ANYWHERE, topic, desk)
            if not isinstance(fate, Fate) or fate is Fate.LOOK:
                self._held.appendleft(record)
                self._wait_for(fate)
                return
        self._reopen()

    def _give(self, record: Record, partition: int, topic: Topic, desk: Desk) -> Fate | Verdict:
        """What became of it; a verdict when the producer does not take it for now."""
        number = number_of(record)
        refusal = topic.refusal(record, desk.compressed)
        if refusal is not None:
            if not topic.is_fresh:
                return Fate.LOOK
            self._say(record, refusal, desk)
            return Fate.DONE
        if number in self._idle:
            self._idle.discard(number)
            if not desk.may_go(record):
                self._forget(number)
                return Fate.DONE
        place = (extras_of(record) or NO_EXTRAS).place
        error = desk.give(record, place[0] if place is not None and place[0] >= 0 else partition)
        if error is None:
            self._slow += 1
            if self._window is not None:
                self._weights[number] = size = size_of(record)
                self._weight += size
            return Fate.OUT
        if verdict_of(error) in (Verdict.REFUSED, Verdict.ALONE):  # no batch is to blame
            self._refuse(record, error, desk)
            return Fate.DONE
        self._put_back(record, error, desk)
        return verdict_of(error)

    def unsent(self, record: Record, error: KafkaError, desk: Desk) -> None:
        """The producer did not take one from the sender."""
        if verdict_of(error) in (Verdict.REFUSED, Verdict.ALONE):
            self._refuse(record, error, desk)
            return
        self._put_back(record, error, desk)
        self._close()
        self._back.append(Returned(record, error, _ANYWHERE))

    # -- inside ----------------------------------------------------------------------------------

    def _close(self) -> None:
        if self.open or not self._back:
            self._drained = Deadline(DRAIN)
        self.open = False

    def _reopen(self) -> None:
        self._latest.clear()
        self.open = self.topic is not None and self._window is None and self._may_open

    def _wait_for(self, what: Verdict | Fate) -> None:
        """See to what has to happen before a message that had this verdict is sent again."""
        if what is Fate.LOOK:
            self.forget()
        elif what in (Verdict.GONE, Verdict.TOPIC):
            if self.topic is not None and self.topic.is_fresh:
                self._not_before = time.monotonic() + PAUSE
            self.stale = True
            self.forget()
        elif what is Verdict.WAIT:
            self._not_before = time.monotonic() + PAUSE

    def _doubt_the_limits(self) -> None:
        if self.topic is not None and not self.topic.is_fresh:
            self.forget()

    def _narrow(self, desk: Desk) -> None:
        """Let less be out at a time than made a batch that was too large."""
        if self.topic is None or self.topic.limits.largest is None:
            self._window = max(_SMALLEST_WINDOW, (self._window or desk.batch_bytes) // 2)

    def _is_full(self, record: Record, window: int) -> bool:
        return self._weight + size_of(record) > window

    def _put_back(self, record: Record, cause: KafkaError | str, desk: Desk) -> None:
        number = number_of(record)
        doubtful = number in self._doubtful
        again = doubtful or number in self._idle
        if not again:
            self._idle.add(number)
        desk.put_back(record, cause, again)

    def _refuse(self, record: Record, error: KafkaError, desk: Desk) -> None:
        size = f": it takes {size_of(record)} bytes" if error.code() in TOO_LARGE else ""
        self._say(record, f"{text_of(error)}{size}", desk)

    def _refuse_forbidden(self, back: Returned, desk: Desk) -> None:
        self._refuse(back.record, back.error, desk)
        alone = [record for queue in self._alone.values() for record in queue]
        self._alone.clear()
        for record in alone:
            self._refuse(record, back.error, desk)
        self.stale = True
        self.forget()

    def _leave_partitions_from(self, first: int) -> None:
        """What was to go alone to partitions that are not there any more goes to any: the topic was made anew."""
        if any(queue >= first for queue in self._alone):
            gone = [queue for queue in self._alone if queue >= first or queue == _ANYWHERE]
            records = [record for queue in gone for record in self._alone.pop(queue)]
            self._alone[_ANYWHERE] = deque(sorted(records, key=number_of))

    def _say(self, record: Record, text: str, desk: Desk) -> None:
        number = number_of(record)
        wanted = number not in self._idle or desk.may_go(record)
        doubtful = number in self._doubtful
        self._forget(number)
        if wanted:
            desk.refuse(record, f"{self.name}: {text}", doubtful)

    def _forget(self, number: int) -> None:
        self._idle.discard(number)
        self._doubtful.discard(number)
        self._lighten(number)

    def _lighten(self, number: int) -> None:
        self._weight -= self._weights.pop(number, 0)
