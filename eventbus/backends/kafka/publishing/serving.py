"""Which thread serves delivery reports, and what they mean for the lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from ....publishing.records import Batch, Record, topic_of
from ....threads import Alarm
from .lines import Desk, Line
from .producing import Reports

_NAP = 1.0

_Result = TypeVar("_Result")


class Turns:
    """One thread serves reports at a time, and tells them before anybody serves more.

    Else a part of a batch that came back would look like all of it, and its last member be judged as if it had been
    sent alone. The reports thread does it, but while the sender has much to send or the producer ends: two threads
    that take turns at the interpreter for each record and each report take twice the time for both.
    """

    def __init__(self, tell: Callable[[], object], alarm: Alarm) -> None:
        """alarm: what the reports thread waits on."""
        self._tell = tell
        self._alarm = alarm
        self._lock = threading.Lock()
        self._sending = self._ending = self._waits = False

    def serve(self, call: Callable[[], _Result]) -> _Result:
        """Make a call that serves reports, as soon as nobody else does, and tell them."""
        with self._lock:
            result = call()
            self._tell()
        return result

    def serve_if_free(self, call: Callable[[], object]) -> None:
        """The same, unless another thread is at it."""
        if self._lock.acquire(blocking=False):
            try:
                call()
                self._tell()
            finally:
                self._lock.release()

    def sender_begins(self) -> None:
        """The reports thread is to stay away, for the sender serves reports."""
        self._sending = True

    def sender_ends(self) -> None:
        """It is the reports thread's turn again."""
        self._sending = False
        if self._waits:
            self._alarm.set()

    def end(self) -> None:
        """The reports thread is to stay away for good."""
        self._ending = True

    def stay_away(self) -> bool:
        """The reports thread: wait a while if it is another one's turn; whether it was."""
        if not self._is_taken:
            return False
        self._waits = True  # before the look: whoever ends his turn after it calls
        if self._is_taken:
            self._alarm.wait(_NAP)
        self._waits = False
        return True

    @property
    def _is_taken(self) -> bool:
        return self._sending or self._ending


def note(reports: Reports, all_lines: Mapping[str, Line], desk: Desk) -> list[Line]:
    """Have the lines of these note them, under the publisher's lock; which lines those are.

    A batch comes back as a whole: the last that was out was in one of its own.
    """
    stored = Batch([*reports.stored, *[one[0] for one in reports.where]]) if reports.where else reports.stored
    good = _by_topic(stored, stored.topics)
    lines = {topic: all_lines[topic] for topic in {*good, *(topic_of(one.record) for one in reports.failed)}}
    lone = {topic for topic, line in lines.items() if line.out - len(good.get(topic, ())) == 1}
    for one in reports.failed:
        topic = topic_of(one.record)
        lines[topic].failed(one, topic in lone, desk)
    for topic, records in good.items():
        lines[topic].stored(records, desk)
    return list(lines.values())


def _by_topic(records: Sequence[Record], topics: Collection[str]) -> Mapping[str, Sequence[Record]]:
    if len(topics) == 1:  # as it nearly always is
        return dict.fromkeys(topics, records)
    found: dict[str, list[Record]] = {topic: [] for topic in topics}
    for record in records:
        found[topic_of(record)].append(record)
    return found
