"""Pending: whatever happens in whatever order, nothing is lost, nothing is answered twice, the order stays."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import FakeSink, Waiter
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventbus.errors import (
    ClosedError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    SessionRetired,
)
from eventbus.publishing.pending import Pending
from eventbus.publishing.records import Record, number_of, payload_of
from eventbus.publishing.sender import SLICE
from eventbus.testing import wait_until

MAX_RECORDS = 6
MAX_BYTES = 40


def make(max_records: int = 100, max_bytes: int = 10_000) -> Pending:
    return Pending(max_records, max_bytes, lambda record, error: None)


def record_of(pending: Pending, waiter: Waiter | None = None, size: int = 1, topic: str = "t") -> Record:
    number = next(pending.numbers)
    if waiter is not None:
        waiter.number = number
    return Record(number, topic, b"x" * size, None, waiter)


def put(pending: Pending, waiter: Waiter | None = None, size: int = 1) -> Record:
    record = record_of(pending, waiter, size)
    pending.accept(record, 0.0)
    return record


def closed(id: str) -> Exception:
    return ClosedError("closed")


class Sequences(RuleBasedStateMachine):
    """Publish, answer, retire, swap, withdraw and close in any order, with the sender's work in between."""

    @initialize()
    def begin(self) -> None:
        self.pending = Pending(MAX_RECORDS, MAX_BYTES, lambda record, error: None)
        self.waiters: dict[int, Waiter] = {}
        self.records: dict[int, Record] = {}
        self.session: FakeSink | None = None
        self.sessions: list[FakeSink] = []
        self.withdrawn: set[int] = set()
        self.confirmed: set[int] = set()
        self.closed = False

    @rule(size=st.integers(0, 15))
    def publish(self, size: int) -> None:
        waiter = Waiter()
        room = self.pending.in_flight < MAX_RECORDS and self.pending.room.in_flight_bytes < MAX_BYTES
        try:
            record = put(self.pending, waiter, size)
        except (PublishNotSentError, ClosedError):
            assert self.closed or not room, "refused though there was room"
        else:
            self.waiters[waiter.number] = waiter
            self.records[waiter.number] = record
            assert room, "accepted though there was no room"
            assert not self.closed

    @rule()
    def work(self) -> None:
        self.pending.sender.work()

    @precondition(lambda self: any(session.taken for session in self.sessions))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from([session for session in self.sessions if session.taken]))
        record = session.taken.pop(data.draw(st.integers(0, len(session.taken) - 1)))
        if session is not self.session or data.draw(st.booleans()):
            self.pending.confirmed(record, 0, number_of(record))  # which a session that is replaced may say, too
            self.confirmed.add(number_of(record))
        else:
            self.pending.failed(record, OSError("broken"))

    @precondition(lambda self: self.session is not None)
    @rule()
    def lose(self) -> None:
        assert self.session is not None
        self.session.retired = True

    @precondition(lambda self: not self.closed)
    @rule(room=st.one_of(st.none(), st.integers(0, 4)))
    def replace(self, room: int | None) -> None:
        if self.session is not None:
            self.pending.retire(self.session)
        fresh = FakeSink(room)
        self.sessions.append(fresh)
        try:
            self.pending.swap(fresh)
        except SessionRetired:
            self.pending.retire(fresh)
            self.session = None
        else:
            self.session = fresh

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiters)))
        if self.pending.withdraw(self.waiters[number], self.waiters[number].number):
            assert number not in self.given(), "withdrawn though a client had it"
            assert not self.waiters[number].results
            self.withdrawn.add(number)

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.closed = True
        unanswered = self.open_numbers()
        assert self.pending.fail_all(closed) == len(unanswered)
        self.session = None
        for number in unanswered:
            kind = PublishUnknownError if number in self.given() else PublishNotSentError
            assert isinstance(self.waiters[number].results[0], kind)

    def given(self) -> set[int]:
        return {number for session in self.sessions for number in session.seen}

    def open_numbers(self) -> set[int]:
        return {number for number, waiter in self.waiters.items() if not waiter.results} - self.withdrawn

    @invariant()
    def nothing_is_lost_and_nothing_is_twice(self) -> None:
        waiting = {number_of(record) for record in self.pending.inbox.records}
        held = set(self.pending.ledger.records)
        assert not held & waiting
        assert self.open_numbers() <= held | waiting
        for number in self.withdrawn | self.confirmed:
            assert len(self.waiters[number].results) == (number not in self.withdrawn)
        if self.session is not None and not self.session.retired and not waiting:
            assert self.open_numbers() <= set(self.session.seen)

    @invariant()
    def not_sent_is_said_only_of_what_no_client_had(self) -> None:
        for number, waiter in self.waiters.items():
            if waiter.results and isinstance(waiter.results[0], PublishNotSentError):
                assert number not in self.given()

    @invariant()
    def the_order_is_that_of_publishing(self) -> None:
        for session in self.sessions:
            assert session.seen == sorted(session.seen)

    @invariant()
    def the_figures_are_true(self) -> None:
        open_numbers = self.open_numbers()
        assert self.pending.in_flight == len(open_numbers)
        assert self.pending.published == len(self.waiters)
        self.pending.sender.work()
        assert self.pending.in_flight == len(self.open_numbers())
        held = [self.records[number] for number in self.open_numbers()]
        assert self.pending.room.in_flight_bytes == sum(len(payload_of(record)) for record in held)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.fixture
def pending():
    made = make()
    made.sender.start("eventbus.test.sender")
    yield made
    made.fail_all(closed)
    assert made.sender.close(5.0) == ()


def test_parked_records_go_out_in_order_in_slices() -> None:
    pending = make(10 * SLICE, 10**9)
    records = [put(pending) for _ in range(2 * SLICE + 7)]
    dead = FakeSink(room=3)
    with pytest.raises(SessionRetired):
        pending.swap(dead)
    pending.retire(dead)
    first = FakeSink(room=SLICE + 3)
    pending.swap(first)  # it dies behind the first slice: its session will say so
    pending.retire(first)
    second = FakeSink()
    pending.swap(second)
    assert second.seen == [number_of(record) for record in records]


def test_a_swap_ends_however_much_is_published_meanwhile() -> None:
    """What comes after its start is behind everything that was parked, and does not prolong it."""
    pending = make(max_records=10_000)
    for _ in range(3):
        put(pending)

    class Busy(FakeSink):
        def publish(self, records: list[Record]) -> int:
            for _ in records:
                put(pending)
            return super().publish(records)

    session = Busy()
    pending.swap(session)
    assert session.seen == [1, 2, 3]
    pending.inbox.records.clear()


def test_a_swap_under_publishers_that_never_stop_is_short(pending: Pending) -> None:
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            try:
                put(pending)
            except PublishNotSentError:
                stop.wait(0.0001)

    class Answering(FakeSink):
        def publish(self, records: list[Record]) -> int:
            took = super().publish(records)
            pending.stored(self.take(took))
            return took

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            session, started = Answering(), time.monotonic()
            pending.swap(session)
            pending.retire(session)
            assert time.monotonic() - started < 2.0
    finally:
        stop.set()
        for thread in threads:
            thread.join(5.0)


def test_a_failure_in_a_swap_is_the_answer_of_that_record_alone() -> None:
    pending, waiters = make(), [Waiter() for _ in range(3)]
    for waiter in waiters:
        put(pending, waiter)

    class Refuses(FakeSink):
        def publish(self, records: list[Record]) -> int:
            pending.failed(records[1], PublishRejectedError("no", "2"))
            return super().publish(records)

    pending.swap(Refuses())
    assert [len(waiter.results) for waiter in waiters] == [0, 1, 0]
    assert (pending.counts.rejected, pending.in_flight) == (1, 2)


def test_a_publisher_that_breaks_its_contract_costs_its_records_and_not_the_thread(pending: Pending) -> None:
    class Broken(FakeSink):
        def publish(self, records: list[Record]) -> int:
            raise ZeroDivisionError

    pending.swap(Broken())
    waiter = Waiter()
    put(pending, waiter)
    wait_until(lambda: waiter.results)
    assert isinstance(waiter.results[0], PublishUnknownError)
    sink = FakeSink()
    pending.swap(sink)
    put(pending)
    wait_until(lambda: len(sink.seen) == 1)


def test_a_full_pending_waits_for_room_and_takes_it_at_once() -> None:
    pending, session = make(max_records=2), FakeSink()
    pending.swap(session)
    for _ in range(2):
        put(pending)
    accepted = threading.Event()

    def publish() -> None:
        pending.accept(record_of(pending), 10.0)
        accepted.set()

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(lambda: pending._bell._waiting)
    assert not accepted.is_set()
    pending.sender.work()
    pending.confirmed(session.taken.pop(0), 0, 0)
    assert accepted.wait(5.0)
    thread.join(5.0)
    with pytest.raises(PublishNotSentError, match="no room"):
        put(pending)
    assert not pending._bell._waiting


def test_whoever_gives_up_waiting_for_room_leaves_nothing() -> None:
    pending = make(max_records=1)
    put(pending)
    for timeout in (0.0, 0.001):
        with pytest.raises(PublishNotSentError, match="no room: 1 messages"):
            pending.accept(record_of(pending), timeout)
    assert (len(pending._bell._waiting), pending.in_flight, pending.published) == (0, 1, 1)


def test_bytes_are_bounded_too() -> None:
    pending, session = make(max_bytes=10), FakeSink()
    pending.swap(session)
    put(pending, size=10)
    with pytest.raises(PublishNotSentError, match="10 bytes"):
        put(pending)
    pending.sender.work()
    with pytest.raises(PublishNotSentError, match="10 bytes"):
        put(pending)
    pending.confirmed(session.taken.pop(), 0, 0)
    put(pending)


def test_closing_wakes_whoever_waits_for_room_and_stays_closed(pending: Pending) -> None:
    while pending.room.is_there:
        put(pending)
    errors: list[Exception] = []

    def publish() -> None:
        try:
            pending.accept(record_of(pending), 30.0)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(lambda: pending._bell._waiting)
    assert pending.fail_all(closed) == 100
    thread.join(5.0)
    assert len(errors) == 1
    pending.refuse_with(None)
    with pytest.raises(ClosedError):
        put(pending)


def test_closing_counts_what_the_sender_had_not_looked_at_yet() -> None:
    pending = make()
    put(pending)
    pending.sender.work()
    for _ in range(4):
        put(pending)
    assert pending.fail_all(closed) == 5


def test_flush_waits_for_what_was_accepted_before_and_for_nothing_else(pending: Pending) -> None:
    session = FakeSink()
    pending.swap(session)
    for _ in range(5):
        put(pending)
    assert pending.wait_settled(0.05) == 5
    left: list[int] = []
    thread = threading.Thread(target=lambda: left.append(pending.wait_settled(10.0)))
    thread.start()
    wait_until(lambda: len(pending.ledger._marks))
    put(pending)
    wait_until(lambda: len(session.taken) == 6)
    first = session.take(5)
    for record in first[:0:-1]:  # in any order
        pending.confirmed(record, 0, 0)
    assert left == []
    pending.confirmed(first[0], 0, 0)
    thread.join(5.0)
    assert left == [0]
    assert pending.in_flight == 1


def test_a_waiter_is_told_before_flush_returns(pending: Pending) -> None:
    class Slow(Waiter):
        def answer(self, result) -> None:
            time.sleep(0.1)  # not a wait for anything: it makes the answer late
            super().answer(result)

    session, waiter = FakeSink(), Slow()
    pending.swap(session)
    put(pending, waiter)
    wait_until(lambda: session.taken)
    thread = threading.Thread(target=lambda: pending.confirmed(session.taken.pop(), 0, 0))
    thread.start()
    wait_until(lambda: not pending.in_flight)
    assert pending.wait_settled(5.0) == 0
    assert waiter.results
    thread.join(5.0)


def test_one_who_takes_it_back_and_the_sender_never_both_win() -> None:
    for _ in range(200):
        pending, session, waiter = make(), FakeSink(), Waiter()
        pending.swap(session)
        put(pending, waiter)
        together = threading.Barrier(2)
        thread = threading.Thread(target=lambda b=together, p=pending: (b.wait(), p.sender.work()))
        thread.start()
        together.wait()
        withdrawn = pending.withdraw(waiter, waiter.number)
        thread.join()
        pending.sender.work()
        assert withdrawn == (session.seen == [])
        assert pending.in_flight == (not withdrawn)


def test_what_was_given_is_unknown_for_ever_and_what_was_not_is_not_sent() -> None:
    pending, given, parked = make(), Waiter(), Waiter()
    first = FakeSink(room=1)
    pending.swap(first)
    put(pending, given)
    put(pending, parked)
    pending.sender.work()
    pending.retire(first)
    assert not pending.withdraw(given, given.number)
    with pytest.raises(SessionRetired):
        pending.swap(FakeSink(room=0))
    assert pending.fail_all(closed) == 2
    assert isinstance(given.results[0], PublishUnknownError)
    assert isinstance(parked.results[0], PublishNotSentError)


def test_a_session_that_was_replaced_may_still_confirm() -> None:
    pending, waiter = make(), Waiter()
    first, second = FakeSink(), FakeSink()
    pending.swap(first)
    record = put(pending, waiter)
    pending.sender.work()
    pending.retire(first)
    pending.swap(second)
    pending.confirmed(record, 0, 7)
    assert waiter.is_confirmed
    pending.confirmed(second.taken.pop(), 0, 8, duplicate=True)
    assert len(waiter.results) == 1
    assert pending.counts.confirmed == 1


def test_without_a_session_a_refusal_is_raised_at_once_and_with_one_nothing() -> None:
    pending = make()
    pending.refuse_with(lambda id: PublishNotSentError("no connection", id))
    with pytest.raises(PublishNotSentError, match="no connection") as caught:
        put(pending)
    assert caught.value.id == f"{pending.origin}-{1:012d}"
    session = FakeSink()
    pending.swap(session)
    put(pending)
    pending.suspend(True)
    with pytest.raises(PublishNotSentError, match="no connection"):
        put(pending)
    pending.suspend(False)
    put(pending)
    pending.retire(session)
    with pytest.raises(PublishNotSentError, match="no connection"):
        put(pending)
    assert pending.in_flight == 2


def test_what_meets_a_dead_session_is_refused_like_what_meets_none() -> None:
    pending, waiter = make(), Waiter()
    pending.refuse_with(lambda id: PublishNotSentError("no connection", id))
    session = FakeSink()
    pending.swap(session)
    session.retired = True
    put(pending, waiter)
    pending.sender.work()
    assert isinstance(waiter.results[0], PublishNotSentError)
    assert pending.in_flight == 0


def test_a_sender_that_has_ended_takes_nothing_silently() -> None:
    pending = make()
    pending.sender.start("eventbus.test.sender")
    pending.fail_all(closed)
    assert pending.sender.close(5.0) == ()
    pending.door = None  # as whoever looked a moment before saw it
    with pytest.raises(ClosedError):
        put(pending)


def no_connection(id: str) -> Exception:
    return PublishNotSentError("no connection", id)


def test_while_a_swap_runs_publishes_wait_for_the_successor_and_are_not_refused(pending: Pending) -> None:
    first, second, waiters = FakeSink(), FakeSink(), [Waiter() for _ in range(3)]
    pending.swap(first)
    pending.refuse_with(no_connection)

    class Slow(FakeSink):
        def abandon(self, patience: float = 0.0) -> None:
            put(pending, waiters[0])
            pending.sender.call(lambda: None, 5.0)  # it has looked at it
            put(pending, waiters[1])
            super().abandon(patience)

    old = Slow()
    pending.swap(old)
    pending.retire(old, successor=True)
    put(pending, waiters[2])
    pending.swap(second)
    wait_until(lambda: len(second.seen) == 3)
    assert not any(waiter.results for waiter in waiters)


def test_a_successor_that_fails_has_what_waited_for_it_refused_as_not_sent(pending: Pending) -> None:
    old, waiter, given = FakeSink(), Waiter(), Waiter()
    pending.swap(old)
    pending.refuse_with(no_connection)
    put(pending, given)
    wait_until(lambda: old.seen)
    pending.retire(old, successor=True)
    put(pending, waiter)
    put(pending)
    dead = FakeSink(room=0)
    with pytest.raises(SessionRetired):
        pending.swap(dead)
    pending.retire(dead)
    assert isinstance(waiter.results[0], PublishNotSentError)
    assert len(pending.failures.take()[0]) == 1
    assert (given.results, pending.in_flight, pending.sender.ungiven) == ([], 1, set())
    with pytest.raises(PublishNotSentError, match="no connection"):
        put(pending)


def test_an_old_session_that_cannot_be_given_up_leaves_the_door_as_it_was(pending: Pending) -> None:
    class Broken(FakeSink):
        def abandon(self, patience: float = 0.0) -> None:
            raise OSError

    old = Broken()
    pending.swap(old)
    pending.refuse_with(no_connection)
    with pytest.raises(OSError):
        pending.retire(old, successor=True)
    with pytest.raises(PublishNotSentError, match="no connection"):
        put(pending)


def test_what_is_taken_back_in_an_outage_leaves_no_number_behind() -> None:
    pending = make()
    for _ in range(10):
        waiter = Waiter()
        put(pending, waiter)
        pending.sender.work()
        assert pending.withdraw(waiter, waiter.number)
        pending.sender.work()
    assert pending.sender.ungiven == set()


def test_all_that_was_published_is_in_one_of_the_figures() -> None:
    pending, session = make(), FakeSink()
    waiters = [Waiter() for _ in range(3)]
    for waiter in waiters:
        put(pending, waiter)
    assert pending.withdraw(waiters[1], waiters[1].number)
    pending.swap(session)
    for _ in range(5):
        put(pending)
    pending.sender.work()
    pending.confirmed(session.taken[0], 0, 0)
    pending.failed(session.taken[1], PublishRejectedError("no", "1"))
    pending.failed(session.taken[2], OSError("broken"))
    pending.failed(session.taken[3], PublishNotSentError("throttled", "1"))
    pending.retire(session)
    put(pending)
    pending.sender.work()

    def figures() -> tuple[int, ...]:
        counts = (pending.counts.confirmed, pending.counts.rejected, pending.counts.unknown, pending.counts.not_sent)
        assert pending.published == sum(counts) + pending.in_flight
        return counts

    assert figures() == (1, 1, 1, 2)
    pending.fail_all(closed)
    assert figures() == (1, 1, 1 + 3, 2 + 1)


def test_a_sender_that_ends_while_it_is_asked_for_something_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an `open` that is given up does, beside a `close`."""
    for at_once in (False, True):
        pending, waiter, done = make(), Waiter(), list[bool]()
        pending.sender.start("eventbus.test.sender")
        name = "ask_at_once" if at_once else "ask"
        ask = getattr(pending.inbox, name)

        def late(request: object, ask=ask, pending=pending) -> None:
            assert pending.sender.close(5.0) == ()
            ask(request)

        monkeypatch.setattr(pending.inbox, name, late)
        put(pending, waiter)
        started = time.monotonic()
        pending.sender.call(lambda done=done: done.append(True), 5.0, at_once=at_once)
        assert time.monotonic() - started < 2.0
        assert done == [True]
        assert pending.inbox.is_empty


def test_what_was_refused_for_now_may_be_taken_back_unless_an_earlier_session_had_it(pending: Pending) -> None:
    """That one may have stored it: its publisher is told "unknown", never "not sent"."""
    first, second = FakeSink(), FakeSink()
    pending.swap(first)
    carried, fresh = Waiter(), Waiter()
    old = put(pending, carried)
    wait_until(lambda: first.taken)
    pending.retire(first)
    pending.swap(second)
    new = put(pending, fresh)
    wait_until(lambda: len(second.taken) == 2)
    for record in (old, new):
        pending.returned(record, "full")
    assert (pending.cause_of(old), pending.cause_of(new)) == ("full", "full")
    assert not pending.withdraw(carried, carried.number)
    assert pending.given(old)
    assert pending.withdraw(fresh, fresh.number)
    assert not pending.given(new)
