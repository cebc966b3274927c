"""What was accepted and has no answer yet: in order, bounded, and owned through every swap of sessions.

A record is either with the current session or parked here. While there is no session, records park;
a swap gives the new session everything parked, in order, and only then lets publishers reach it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter

from ..errors import (
    EventBusError,
    PublishError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    SessionRetired,
)
from ..message import IdMint, Receipt
from ..threads import Deadline
from .records import Record
from .sink import Sink
from .tally import drawn_from

Refusal = Callable[[str], Exception]
"""Makes the error for a message id that finds no session."""

SLICE = 500
"""Records given to a new session between two looks at the lock."""
LAST_ANSWERS = 2.0
"""Seconds that a session which is replaced in good health has to answer what is on its way."""

_waiter_of = itemgetter(6)


class Pending:
    """All unanswered publishes of one bus. Every method is thread-safe.

    No lock is taken on the way of a publish that finds a session and room: `session` and
    `ceiling` are single attributes, and a session takes a record or raises `SessionRetired`.
    """

    def __init__(self, max_records: int, max_bytes: int, on_failed: Callable[[Record, PublishError], object]) -> None:
        self._mint = IdMint()
        self.next_number = self._mint.next_number
        self.session: Sink | None = None
        self.on_session: Callable[[Sink | None], object] = lambda session: None
        """Called with the session that publishers reach from now on, or None, by whoever changed it."""
        self.ceiling = max_records
        """The highest number for which there is room now."""
        self._settled = 0
        self._limit = max_records
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._on_failed = on_failed
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._parked: deque[Record] = deque()
        self._parked_bytes = 0
        self._needs: dict[object, float] = {}
        self._wake_at: float = math.inf
        self._refusal: Refusal | None = None
        self._closed = False
        self._suspended = False
        self._handovers = 0
        """Odd while records are on their way between a session and here: then nobody can count them."""
        self.refused_count = 0
        self.confirmed_count = 0
        self.rejected_count = 0
        self.unknown_count = 0

    @property
    def origin(self) -> str:
        """The first part of minted ids."""
        return self._mint.origin

    def renew_origin(self) -> None:
        """This is a forked child's copy: its ids must not be the parent's, whose messages they would shadow."""
        self._mint.renew()

    # -- publishers ------------------------------------------------------------------------------

    def id_of(self, record: Record) -> str:
        """The record's id, minted from its number unless the user gave one."""
        return record.id or self._mint.id_of(record.number)

    def submit(self, record: Record, timeout: float) -> None:
        """Accept a record: give it to the session, or park it. Waits up to `timeout` seconds for room.

        Raises PublishNotSentError (no room in time), PublishRejectedError (too large), or what
        `refuse_with` says. Then the record's number is settled and nothing of it is left.
        """
        try:
            if record.number > self.ceiling:
                self._wait_for_room(record, timeout)
            self.place(record)
        except EventBusError:
            self.refused()
            raise

    def place(self, record: Record) -> None:
        """Give a record to the current session, or park it when there is none."""
        retired: Sink | None = None
        while True:
            session = self.session
            if session is not None and session is not retired:
                try:
                    session.publish(record)
                except SessionRetired:
                    retired = session
                else:
                    return
                continue
            with self._lock:
                # A swap may have brought a new session since we looked.
                if self.session is not None and self.session is not retired:
                    continue
                if self._refusal is not None:
                    raise self._refusal(self.id_of(record))
                self._parked.append(record)
                self._parked_bytes += len(record.payload)
                self._set_limit()
                return

    def withdraw(self, record: Record) -> bool:
        """Take a record back that no session has been given; False when it is too late for that."""
        with self._lock:
            try:
                self._parked.remove(record)
            except ValueError:
                return False
            self._parked_bytes -= len(record.payload)
            self._settle_locked(1)
            return True

    def refused(self) -> None:
        """A number that was drawn will not be used: its publish was refused at the door."""
        with self._lock:
            self.refused_count += 1
            self._settle_locked(1)

    def refuse_with(self, refusal: Refusal | None) -> None:
        """From now on a record that finds no session raises this instead of being parked; None: park.

        After `fail_all` nothing is changed any more.
        """
        with self._changed:
            if not self._closed:
                self._refusal = refusal
                self._set_ceiling()
                self._changed.notify_all()

    def suspend(self, suspended: bool) -> None:
        """There is no connection, though a session may take records: refuse them if that is what `refuse_with` says."""
        with self._changed:
            self._suspended = suspended
            self._set_ceiling()
            self._changed.notify_all()

    def wait_settled(self, timeout: float) -> int:
        """Wait up to `timeout` seconds until all that was accepted so far is answered; how many are not."""
        deadline = Deadline(timeout)
        target = self.issued
        pause = 0.001
        while True:
            # More recent answers may count before older ones: reaching the target is only a hint.
            self._wait(target, deadline)
            missing = self._unanswered(target)
            if not missing or deadline.over:
                return missing
            with self._changed:
                self._changed.wait(min(pause, deadline.remaining()))
            pause = min(pause * 1.5, 0.02)

    # -- sessions (the Answers of the backend contract) ------------------------------------------

    def sent(self, records: Sequence[Record]) -> None:
        """The broker has read these, and stores nothing."""
        with self._lock:
            self.confirmed_count += len(records)
            self._settle_locked(len(records))
        for record in map(Record._make, filter(_waiter_of, records)):
            if record.waiter is not None:
                record.waiter.answer(Receipt(topic=record.topic, id=self.id_of(record), confirmed=False))

    def confirmed(self, record: Record, partition: int | str, offset: int, duplicate: bool = False) -> None:
        """The broker has stored this one."""
        with self._lock:
            self.confirmed_count += 1
            self._settle_locked(1)
        waiter = record[6]
        if waiter is not None:
            record = Record(*record)
            receipt = Receipt(
                topic=record.topic,
                id=self.id_of(record),
                confirmed=True,
                partition=partition,
                offset=offset,
                duplicate=duplicate,
            )
            waiter.answer(receipt)

    def stored(self, count: int) -> None:
        """The broker has stored so many more records that nobody waits for."""
        with self._lock:
            self.confirmed_count += count
            self._settle_locked(count)
            self._set_limit()

    def failed(self, record: Record, error: Exception) -> None:
        """This one is answered with an error; anything but a PublishError means "unknown"."""
        record = Record(*record)
        if not isinstance(error, PublishError):
            unknown = PublishUnknownError(f"{record.topic}: {error}", self.id_of(record))
            unknown.__cause__ = error
            error = unknown
        with self._lock:
            if isinstance(error, PublishRejectedError):
                self.rejected_count += 1
            elif isinstance(error, PublishUnknownError):
                self.unknown_count += 1
            self._settle_locked(1)
        if record.waiter is None:
            self._on_failed(record, error)
        else:
            record.waiter.answer(error)

    def loaded(self) -> None:
        """The session's `unanswered_bytes` has changed: check the bounds again."""
        with self._lock:
            self._set_limit()

    # -- the supervisor --------------------------------------------------------------------------

    def retire(self, session: Sink) -> None:
        """Abandon a session: its unanswered records wait here, in order, for the next one."""
        self._handovers += 1
        self.on_session(None)
        records = session.abandon(LAST_ANSWERS)
        with self._lock:
            self.session = None
            self._merge(records)
            self._handovers += 1

    def swap(self, session: Sink) -> None:
        """Give everything parked to a new session, in order, then let publishers reach it.

        SessionRetired: it died in the middle; what it did not take is parked again, what it took comes
        back when it is retired.
        """
        self._handovers += 1
        try:
            while True:
                with self._lock:
                    batch = [self._parked.popleft() for _ in range(min(SLICE, len(self._parked)))]
                    self._parked_bytes -= sum(len(record.payload) for record in batch)
                    if not batch:
                        self.session = session
                        self._set_limit()
                        break
                self._resend(session, batch)
            self.on_session(session)
        finally:
            self._handovers += 1

    def fail_all(self, records: Sequence[Record], refusal: Refusal) -> int:
        """The bus closes: fail what a session had as unknown and what was parked as not sent; how many."""
        self.on_session(None)
        with self._changed:
            self.session = None
            self._refusal = refusal
            self._closed = True
            parked, self._parked = list(self._parked), deque()
            self._parked_bytes = 0
            self._changed.notify_all()
        for record in records:
            record = Record(*record)
            self.failed(record, PublishUnknownError("the bus was closed before the answer came", self.id_of(record)))
        for record in parked:
            self.failed(record, PublishNotSentError("the bus was closed while it was waiting", self.id_of(record)))
        return len(records) + len(parked)

    # -- figures ---------------------------------------------------------------------------------

    @property
    def issued(self) -> int:
        """How many numbers were drawn."""
        return drawn_from(self.next_number.__self__) - 1  # type: ignore[attr-defined]

    @property
    def in_flight(self) -> int:
        """Accepted and unanswered, now."""
        return max(0, self.issued - self._settled)

    @property
    def in_flight_bytes(self) -> int:
        """Their payload bytes."""
        session = self.session
        return self._parked_bytes + (0 if session is None else session.unanswered_bytes)

    @property
    def parked(self) -> int:
        """How many wait for a session."""
        return len(self._parked)

    # -- inside ----------------------------------------------------------------------------------

    def _resend(self, session: Sink, batch: list[Record]) -> None:
        for position, record in enumerate(batch):
            try:
                session.publish(record)
            except SessionRetired:
                with self._lock:
                    self._merge(batch[position:])
                raise
            except PublishError as error:
                self.failed(record, error)

    def _merge(self, records: Sequence[Record]) -> None:
        both = [Record(*record) for record in records] + list(self._parked)
        both.sort(key=lambda record: record.number)
        self._parked = deque(both)
        self._parked_bytes += sum(len(record[2]) for record in records)
        self._set_limit()

    def _unanswered(self, up_to: int) -> int:
        with self._lock:
            before = self._handovers
            session = self.session
            parked = sum(record.number <= up_to for record in self._parked)
        count = parked + (0 if session is None else session.unanswered(up_to))
        certain = before % 2 == 0 and before == self._handovers
        return count if certain else max(1, count)

    def _wait_for_room(self, record: Record, timeout: float) -> None:
        deadline = Deadline(timeout)
        while record.number > self.ceiling:
            if self._refusal is not None and (self.session is None or self._suspended):
                raise self._refusal(self.id_of(record))
            if deadline.over:
                raise PublishNotSentError(
                    f"no room: {self.in_flight} messages ({self.in_flight_bytes} bytes) are unanswered",
                    self.id_of(record),
                )
            # With the bytes used up any answer may make room.
            need = self._settled + 1 if self._limit == 0 else record.number - self._limit
            self._wait(need, deadline, record.number)

    def _wait(self, need: float, deadline: Deadline, number: float = math.inf) -> None:
        key = object()
        with self._changed:
            self._needs[key] = need
            self._wake_at = min(self._wake_at, need)
            try:
                before = (self._refusal, self._suspended)
                while self._settled < need and number > self.ceiling and not deadline.over:
                    if (self._refusal, self._suspended) != before:
                        break
                    self._changed.wait(deadline.remaining())
            finally:
                del self._needs[key]
                self._wake_at = min(self._needs.values(), default=math.inf)

    def _settle_locked(self, count: int) -> None:
        self._settled += count
        self._set_ceiling()
        if self._limit == 0:
            self._set_limit()
        if self._settled >= self._wake_at:
            self._changed.notify_all()

    def _set_limit(self) -> None:
        full = self.in_flight_bytes >= self._max_bytes
        limit = 0 if full else self._max_records
        if limit != self._limit:
            self._limit = limit
            self._set_ceiling()
            self._changed.notify_all()

    def _set_ceiling(self) -> None:
        refusing = self._suspended and self._refusal is not None
        self.ceiling = 0 if refusing else self._settled + self._limit
