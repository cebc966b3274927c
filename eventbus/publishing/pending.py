"""What was accepted and has no answer yet: in order, bounded, and kept through every change of sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from ..errors import EventBusError, PublishError, PublishNotSentError, PublishUnknownError
from ..message import IdMint, Receipt, receipt_of_stored
from ..threads import Bell, Deadline
from .causes import Causes
from .counts import Counts
from .failures import Failures, verdict_on
from .flushing import Flushing
from .inbox import SMALL, Inbox
from .ledger import Ledger
from .port import Publishes
from .records import Confirmation, Record, Waiter, given_id_of, number_of, payload_of, topic_of, waiter_of
from .room import Room
from .sender import Sender

Refusal = Callable[[str], Exception]
"""Makes the error for a message id that finds no session."""

LAST_ANSWERS = 2.0
"""Seconds that a session which is replaced in good health has to answer what is on its way."""
SWITCH = 30.0
"""Seconds within which the sender does what it is asked: it never blocks, but may have much to do."""


class Pending:
    """All unanswered publishes of one bus. Every method is thread-safe.

    What callers do (`accept`, `withdraw`, the figures) takes no lock and is over in single steps: an
    exception or a signal handler may come at any instruction of it. All else runs on threads of ours.
    on_failed(record, error): a record that nobody waits for has failed; on the thread that brought the answer.
    """

    def __init__(self, max_records: int, max_bytes: int, on_failed: Callable[[Record, PublishError], object]) -> None:
        self._mint = IdMint()
        self.numbers: Iterator[int] = self._mint.numbers
        """`next` draws the number of a record."""
        self._on_failed = on_failed
        self.failures = Failures()
        self.inbox = Inbox()
        self._bell = Bell()
        self.ledger = Ledger(self.inbox, max_records, max_bytes, self._answered)
        self.room = Room(self.inbox, self.ledger, max_records, max_bytes)
        self.sender = Sender(self.inbox, self.ledger, self._withdrawn, self.failed, self._unwanted)
        self._lock = threading.Lock()
        self._refusal: Refusal | None = None
        self._suspended = False
        self._closed = False
        self._swapping = False
        """There is no session, but the next one is ready: what comes waits for it."""
        self._flushing = Flushing(self.inbox, self.ledger, self.numbers, lambda: self.sender.ended)
        self._causes = Causes()
        self._fork: Callable[[], EventBusError] | None = None
        """In a forked child: makes what everybody is told."""
        self._failed_by_close = 0
        """Those that the sender takes in only now, with nowhere to give them, are among them."""
        self.door: Refusal | None = None
        """Makes the error for whoever publishes now; None: records are taken."""
        self.counts = Counts()

    @property
    def origin(self) -> str:
        """The first part of minted ids."""
        return self._mint.origin

    def id_of(self, record: Record) -> str:
        """The record's id: given by the user, or minted from its number."""
        return given_id_of(record) or self._mint.id_of(number_of(record))

    def new_id(self) -> str:
        """An id for a message that never becomes a record."""
        return self._mint.id_of(next(self.numbers))

    # -- publishers ------------------------------------------------------------------------------

    def accept(self, record: Record, timeout: float) -> None:
        """Take a record. Waits up to `timeout` seconds for room; with 0 it never blocks.

        Raises PublishNotSentError (no room in time), or what `refuse_with` says; then nothing of it is left.
        """
        if self.door is not None or not self.room.is_there:
            self._wait_for_room(record, timeout)
        self.inbox.put(record)
        if self.sender.ended:
            self.too_late(record)

    def accept_at_once(self, record: Record) -> bool:
        """Take a small record where that needs no look at anything but the room; False: it is for `accept`."""
        inbox = self.inbox
        if len(inbox.records) >= inbox.room or len(payload_of(record)) > SMALL:
            return False
        inbox.records.append(record)
        if inbox.idle:
            inbox.wake()
            if self.sender.ended:
                self.too_late(record)
        return True

    def too_late(self, record: Record) -> None:
        """A record was accepted as the bus was closed, in a signal handler say: it is refused, or has its answer."""
        try:
            self.inbox.records.remove(record)
        except ValueError:
            if self._fork is None:
                return  # the sender's last step has taken it in, and told whoever waits
        self._refuse(record)

    def withdraw(self, waiter: Waiter, number: int) -> bool:
        """Take back a record of a waiter, which no client was given yet; False when it is too late for that."""
        if not waiter.claim(number):
            return False
        self.inbox.take_back(number)
        return True

    def wait_settled(self, timeout: float) -> int:
        """Wait up to `timeout` seconds until all that was accepted so far is answered; how many are not."""
        if timeout <= 0 or not self.sender.is_running:
            return self.in_flight
        missing = self._flushing.wait(timeout)
        if self._fork is not None:
            raise self._fork()
        return self.in_flight if missing is None else missing

    # -- sessions (the Answers of the backend contract) ------------------------------------------

    def sent(self, records: Sequence[Record]) -> None:
        """The broker has read these, and stores nothing."""
        taken = self.ledger.take(records, self.counts.note_confirmed)
        for record in filter(waiter_of, taken):
            number, topic, _, _, waiter = record
            if waiter is not None:
                waiter.answer(Receipt(topic=topic, id=self.id_of(record), confirmed=False), number)
        self.ledger.told(taken)

    def stored(self, records: Sequence[Record]) -> None:
        """The broker has stored these, and nobody waits for where."""
        self.ledger.told(self.ledger.take(records, self.counts.note_confirmed))

    def confirmed(self, record: Record, partition: int | str, offset: int | None, duplicate: bool = False) -> None:
        """The broker has stored this one."""
        self.all_confirmed(((record, partition, offset, duplicate),))

    def all_confirmed(self, confirmations: Sequence[Confirmation]) -> None:
        """The broker has stored these."""
        taken = self.ledger.take([one[0] for one in confirmations], self.counts.note_confirmed)
        if len(taken) < len(confirmations):
            answered = set(map(number_of, taken))
            confirmations = [one for one in confirmations if number_of(one[0]) in answered]
        for waiter, theirs in groupby(confirmations, lambda one: waiter_of(one[0])):
            if waiter is not None:
                waiter.confirmed(list(theirs), self.receipt_of)
        self.ledger.told(taken)

    def receipt_of(self, confirmation: Confirmation) -> Receipt:
        """What whoever waits for a record is given."""
        record, partition, offset, duplicate = confirmation
        return receipt_of_stored(topic_of(record), self.id_of(record), partition, offset, duplicate)

    def failed(self, record: Record, error: Exception) -> None:
        """This one is answered with an error; anything but a PublishError means "unknown"."""
        carried = number_of(record) in self.sender.carried
        verdict = verdict_on(topic_of(record), self.id_of(record), error, carried)
        waiter = waiter_of(record)

        def note(taken: Sequence[Record]) -> None:
            self.counts.note_failed(taken, verdict)
            if taken and waiter is None:
                self.failures.add(verdict)

        taken = self.ledger.take((record,), note)
        if taken and waiter is None:
            self._on_failed(record, verdict)
        elif taken and waiter is not None:
            waiter.answer(verdict, number_of(record))
        self.ledger.told(taken)

    def returned(self, record: Record, cause: str) -> None:
        """Each sending by this session was refused for now: if no other had it, whoever waits may take it back."""
        waiter, number = waiter_of(record), number_of(record)
        self._causes.note(number, cause)
        if number not in self.sender.carried:
            self.sender.ungiven.add(number)
            if waiter is not None:
                waiter.give_back(number)

    def delayed(self, record: Record, cause: str) -> None:
        """It has no answer yet, and may be stored."""
        self._causes.note(number_of(record), cause)

    def given(self, record: Record) -> bool:
        """It is to be sent again; False: it was taken back."""
        waiter, number = waiter_of(record), number_of(record)
        if number in self.sender.ungiven and waiter is not None and not waiter.claim(number):
            return False
        self.sender.ungiven.discard(number)
        return number in self.ledger.records

    def cause_of(self, record: Record) -> str:
        """Why the broker takes this one not for now, "" when it said no such thing."""
        return self._causes.of(number_of(record))

    # -- the supervisor and the end: threads of ours ---------------------------------------------

    def refuse_with(self, refusal: Refusal | None) -> None:
        """From now on publishing without a session raises this instead of waiting for one; None: wait.

        After `fail_all` nothing is changed any more.
        """
        with self._lock:
            if not self._closed:
                self._refusal = refusal
        self._set_door()

    def quicken(self, quick: bool) -> None:
        """Whether `publish_nowait` may look at the room alone, as long as nothing is refused.

        With False single steps only: in a signal handler, in a forked child.
        """
        self.ledger.quick = quick
        self.inbox.room = 0
        if quick:
            self._set_door()

    def suspend(self, suspended: bool) -> None:
        """There is no connection, though a session may take records: refuse them if that is what `refuse_with` says."""
        with self._lock:
            self._suspended = suspended
        self._set_door()

    def retire(self, session: Publishes, successor: bool = False) -> None:
        """Give up a session: what it does not answer any more waits here for the next one.

        successor: that one is ready, and `swap` follows, or this once more without: until then nothing is refused.
        """
        self._swapping = successor
        try:
            self.sender.call(self._let_go, SWITCH, at_once=True)
            session.abandon(LAST_ANSWERS)
        except BaseException:
            self._swapping = False
            self._set_door()
            raise

    def swap(self, session: Publishes) -> None:
        """Give everything unanswered to a new session, in order, then let publishers reach it; bounded.

        SessionRetired: it died in the middle, and is to be retired.
        """
        try:
            self.sender.call(lambda: self.sender.switch(session.publisher), SWITCH, at_once=True)
        finally:
            self._swapping = False
            self._set_door()

    def fail_all(self, refusal: Refusal) -> int:
        """The bus closes: whoever waits is told, and so is whoever publishes from now on; how many were unanswered.

        What a client was given is *unknown*, what none was ever given *not sent*.
        """
        with self._lock:
            self._refusal = refusal
            self._closed = True
        self._set_door()

        def work() -> None:
            self.sender.let_go()
            for record in list(self.ledger.records.values()):
                self._fail_closed(record)

        self.sender.call(work, SWITCH)
        return self._failed_by_close

    # -- figures: any thread, no lock ------------------------------------------------------------

    @property
    def published(self) -> int:
        """How many records were accepted."""
        return self.ledger.entered + len(self.inbox.records)

    @property
    def in_flight(self) -> int:
        """Accepted and unanswered, now."""
        return self.room.in_flight

    @property
    def left_by_close(self) -> int:
        """How many were unanswered when the bus closed, and have failed by it so far."""
        return self._failed_by_close

    def catch_up(self, timeout: float) -> None:
        """Let the sender give away what was accepted before, where that takes at most `timeout` seconds."""
        if self.in_flight:
            self._flushing.catch_up(timeout)

    def forked(self, error: Callable[[], EventBusError]) -> None:
        """This is a forked child's copy: what is unanswered is its parent's, as whoever waits here is told.

        Takes no lock.
        """
        self.quicken(False)
        self.sender.ended = self.inbox.idle = True
        self._fork = error
        self._refusal = self.door = lambda id: error()
        for record in (*self.inbox.records, *self.ledger.records.values(), *self.ledger.answering):
            waiter = waiter_of(record)
            if waiter is not None:
                waiter.forked(error())
        self._flushing.forked()
        self._bell.ring()
        self.ledger.entered += len(self.inbox.records)
        self.inbox.records.clear()
        self.inbox.withdrawn.clear()
        self.ledger.records = {}
        self.ledger.bytes = self.ledger.moving = 0

    # -- inside ----------------------------------------------------------------------------------

    def _wait_for_room(self, record: Record, timeout: float) -> None:
        if not self._bell.wait_for(lambda: self._look_for_room(record), Deadline(timeout)):
            raise PublishNotSentError(
                f"no room: {self.in_flight} messages (at most {self.room.most_bytes} bytes) are unanswered",
                self.id_of(record),
            )

    def _look_for_room(self, record: Record) -> bool:
        if self.door is not None:
            self._refuse(record)
        return self.room.is_there

    def _refuse(self, record: Record) -> None:
        refusal = self.door or self._refusal
        if refusal is not None:
            raise refusal(self.id_of(record))

    def _set_door(self) -> None:
        with self._lock:
            no_session = self.sender.port is None and not self._swapping
            shut = self._closed or self._suspended or no_session
            self.door = self._refusal if shut else None
            self.ledger.let_in(self.door is None)
        self._bell.ring()

    def _let_go(self) -> None:
        self.sender.let_go()
        self._set_door()
        ledger, ungiven = self.ledger.records, self.sender.ungiven
        self._unwanted([ledger[number] for number in list(ungiven) if number in ledger])

    def _answered(self) -> None:
        self._causes.keep(self.ledger.records)
        self._bell.ring()

    def _withdrawn(self, records: Sequence[Record]) -> None:
        self.ledger.told(self.ledger.take(records, self.counts.note_not_sent))
        self.sender.ungiven.difference_update(map(number_of, records))

    def _unwanted(self, records: Sequence[Record]) -> None:
        """No session took these: they wait for the next one, unless publishing without one is refused."""
        if self._closed:
            for record in records:
                self._fail_closed(record)
            return
        refusal = self._refusal
        if refusal is not None and not self._swapping:
            self._set_door()
            for record in records:
                self._fail_unsent(record, refusal(self.id_of(record)))

    def _fail_closed(self, record: Record) -> None:
        self._failed_by_close += 1
        if number_of(record) not in self.sender.ungiven:
            error = PublishUnknownError("the bus was closed before the answer came", self.id_of(record))
            self.failed(record, error)
        else:
            id = self.id_of(record)
            text = f"the bus was closed while it was waiting {self.cause_of(record)}".rstrip()
            self._fail_unsent(record, PublishNotSentError(text, id))

    def _fail_unsent(self, record: Record, error: Exception) -> None:
        """Certainly not stored, unless whoever waits has taken it back himself."""
        if not isinstance(error, PublishNotSentError):
            error = PublishNotSentError(str(error), self.id_of(record))
        waiter = waiter_of(record)
        if waiter is None or waiter.claim(number_of(record)):
            self.failed(record, error)
            self.sender.ungiven.discard(number_of(record))
        else:
            self._withdrawn([record])
