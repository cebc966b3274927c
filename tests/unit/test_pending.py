"""Pending: whatever happens in whatever order, nothing is lost, nothing is answered twice, the order stays."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest
from fakes import FakeSink, Waiter
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventbus.errors import ClosedError, PublishNotSentError, PublishUnknownError, SessionRetired
from eventbus.message import Receipt
from eventbus.publishing.pending import SLICE, Pending
from eventbus.publishing.records import Record
from eventbus.testing import wait_until

MAX_RECORDS = 6
MAX_BYTES = 40


def make(max_records: int = 100, max_bytes: int = 10_000) -> Pending:
    return Pending(max_records, max_bytes, lambda record, error: None)


def record_of(pending: Pending, waiter: Waiter | None = None, size: int = 1, topic: str = "t") -> Record:
    return Record(pending.next_number(), topic, b"x" * size, None, None, None, waiter)


class Sequences(RuleBasedStateMachine):
    """Publish, answer, retire, swap, withdraw and close in any order."""

    @initialize()
    def begin(self) -> None:
        self.failed_nowait: list[int] = []
        self.pending = Pending(MAX_RECORDS, MAX_BYTES, lambda record, error: self.failed_nowait.append(record.number))
        self.waiters: dict[int, Waiter] = {}
        self.session: FakeSink | None = None
        self.sessions: list[FakeSink] = []
        self.refused: set[int] = set()
        self.withdrawn: set[int] = set()
        self.answered: set[int] = set()
        self.closed = False

    # -- what may happen -------------------------------------------------------------------------

    @rule(size=st.integers(0, 15))
    def publish(self, size: int) -> None:
        waiter = Waiter()
        record = record_of(self.pending, waiter, size)
        room = self._in_flight() < MAX_RECORDS and self.pending.in_flight_bytes < MAX_BYTES
        try:
            self.pending.submit(record, 0.0)
        except (PublishNotSentError, ClosedError):
            self.refused.add(record.number)
            assert self.closed or not room, "refused though there was room"
        else:
            self.waiters[record.number] = waiter
            self.pending.loaded()  # as sessions do
            assert not self.closed
            assert room, "accepted though there was no room"

    @precondition(lambda self: self.session is not None and self.session.taken)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        assert self.session is not None
        index = data.draw(st.integers(0, len(self.session.taken) - 1))
        record = self.session.taken.pop(index)
        self.answered.add(record.number)
        if data.draw(st.booleans()):
            self.pending.confirmed(record, 0, record.number)
        else:
            self.pending.failed(record, OSError("broken"))
        self.pending.loaded()

    @precondition(lambda self: self.session is not None and not self.session.retired)
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
        parked = [record for record in self.pending._parked if record.number == number]
        known = parked[0] if parked else Record(number, "t", b"", None, None, None, self.waiters[number])
        if self.pending.withdraw(known):
            assert parked
            self.withdrawn.add(number)
        else:
            assert not parked

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.closed = True
        records = [] if self.session is None else self.session.abandon()
        expected = len(records) + self.pending.parked
        assert self.pending.fail_all(records, lambda id: ClosedError("closed")) == expected
        self.session = None
        self.answered.update(number for number, waiter in self.waiters.items() if waiter.results)

    # -- what must hold --------------------------------------------------------------------------

    def _in_flight(self) -> int:
        return len(self.waiters) - len(self.answered) - len(self.withdrawn)

    @invariant()
    def nothing_is_lost_and_nothing_is_twice(self) -> None:
        held = [record.number for record in self.pending._parked]
        held += [] if self.session is None else [record.number for record in self.session.taken]
        assert len(held) == len(set(held)), "held twice"
        open_numbers = set(self.waiters) - self.answered - self.withdrawn
        assert set(held) == open_numbers
        for number, waiter in self.waiters.items():
            assert len(waiter.results) == (number in self.answered)

    @invariant()
    def the_order_is_that_of_publishing(self) -> None:
        parked = [record.number for record in self.pending._parked]
        assert parked == sorted(parked)
        for session in self.sessions:
            assert session.seen == sorted(session.seen)

    @invariant()
    def the_figures_are_true(self) -> None:
        assert self.pending.in_flight == self._in_flight()
        assert self.pending.wait_settled(0.0) == self._in_flight()
        assert self.pending.issued == len(self.waiters) + len(self.refused)
        held = list(self.pending._parked) + ([] if self.session is None else self.session.taken)
        assert self.pending.in_flight_bytes == sum(len(record.payload) for record in held)
        assert self.pending.refused_count == len(self.refused)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_parked_records_go_out_in_order_in_slices() -> None:
    pending = make(10 * SLICE)
    records = [record_of(pending) for _ in range(2 * SLICE + 7)]
    for record in reversed(records):
        pending.place(record)
    first = FakeSink(room=SLICE + 3)
    pending.retire(FakeSink())  # puts them in order, as any session that ends
    with pytest.raises(SessionRetired):
        pending.swap(first)
    pending.retire(first)
    second = FakeSink()
    pending.swap(second)
    assert second.seen == [record.number for record in records]


def test_nobody_overtakes_what_was_parked_before() -> None:
    """A publisher that comes in the middle of a swap is behind everything that was parked."""
    pending = make()
    for _ in range(3):
        pending.place(record_of(pending))

    class Busy(FakeSink):
        def publish(self, record: Record) -> None:
            if record.number <= 3:
                pending.place(record_of(pending))
            super().publish(record)

    session = Busy()
    pending.swap(session)
    assert session.seen == [1, 2, 3, 4, 5, 6]


def test_a_publish_error_of_a_session_is_the_answer_of_that_record_alone() -> None:
    pending, waiters = make(), [Waiter() for _ in range(3)]
    for waiter in waiters:
        pending.place(record_of(pending, waiter))

    class Refuses(FakeSink):
        def publish(self, record: Record) -> None:
            if record.number == 2:
                raise PublishUnknownError("no", "2")
            super().publish(record)

    session = Refuses()
    pending.swap(session)
    assert session.seen == [1, 3]
    assert [len(waiter.results) for waiter in waiters] == [0, 1, 0]
    assert pending.unknown_count == 1


def test_a_full_pending_waits_for_room_and_takes_it_at_once() -> None:
    pending, session = make(max_records=2), FakeSink()
    pending.swap(session)
    for _ in range(2):
        pending.submit(record_of(pending), 0.0)
    accepted = threading.Event()

    def publish() -> None:
        pending.submit(record_of(pending), 10.0)
        accepted.set()

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(lambda: pending._needs)
    assert not accepted.is_set()
    pending.confirmed(session.taken.pop(0), 0, 0)
    assert accepted.wait(5.0)
    thread.join(5.0)
    with pytest.raises(PublishNotSentError, match="no room"):
        pending.submit(record_of(pending), 0.0)


def test_bytes_are_bounded_too() -> None:
    pending, session = make(max_bytes=10), FakeSink()
    pending.swap(session)
    pending.submit(record_of(pending, size=10), 0.0)
    pending.loaded()
    with pytest.raises(PublishNotSentError, match="10 bytes"):
        pending.submit(record_of(pending), 0.0)
    pending.confirmed(session.taken.pop(), 0, 0)
    pending.loaded()
    pending.submit(record_of(pending), 0.0)


def test_room_that_comes_after_the_answer_is_seen_too() -> None:
    """A session may count its bytes down a moment after it has answered: then it says `loaded`."""
    pending, session = make(max_bytes=10), FakeSink()
    pending.swap(session)
    pending.submit(record_of(pending, size=10), 0.0)
    pending.loaded()
    thread = threading.Thread(target=lambda: pending.submit(record_of(pending), 30.0))
    thread.start()
    wait_until(lambda: pending._needs)
    pending.confirmed(session.taken[0], 0, 0)
    wait_until(lambda: list(pending._needs.values()) == [2])  # it looked, and there still was no room
    session.take(1)
    pending.loaded()
    thread.join(5.0)
    assert not thread.is_alive()


def test_closing_wakes_whoever_waits_for_room_and_stays_closed() -> None:
    pending = make(max_records=1)
    pending.swap(FakeSink())
    pending.submit(record_of(pending), 0.0)
    failed: list[BaseException] = []

    def publish() -> None:
        try:
            pending.submit(record_of(pending), 30.0)
        except ClosedError as error:
            failed.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(lambda: pending._needs)
    pending.fail_all([], lambda id: ClosedError("closed"))
    thread.join(5.0)
    assert len(failed) == 1
    pending.refuse_with(None)  # an open() that crossed with close()
    with pytest.raises(ClosedError):
        pending.place(record_of(pending))


def test_what_was_parked_is_not_sent_and_what_was_sent_is_unknown() -> None:
    pending, parked, sent = make(), Waiter(), Waiter()
    session = FakeSink()
    pending.swap(session)
    pending.place(record_of(pending, sent))
    session.retired = True
    pending.place(record_of(pending, parked))
    assert pending.fail_all(session.abandon(), lambda id: ClosedError("closed")) == 2
    assert [type(waiter.results[0]) for waiter in (sent, parked)] == [PublishUnknownError, PublishNotSentError]


def test_while_records_are_handed_over_nobody_is_told_that_all_is_settled() -> None:
    pending, seen = make(), list[int]()
    session = FakeSink()
    pending.swap(session)
    pending.place(record_of(pending))

    class Looks(FakeSink):
        def abandon(self, patience: float = 0.0) -> list[Record]:
            records = session.abandon()
            seen.append(pending.wait_settled(0.0))
            return records

        def publish(self, record: Record) -> None:
            seen.append(pending.wait_settled(0.0))
            super().publish(record)

    looks = Looks()
    pending.retire(looks)
    pending.swap(looks)
    assert seen == [1, 1]
    assert pending.wait_settled(0.0) == 1


def test_order_per_thread_through_many_swaps() -> None:
    """Publishers on four threads, a new session all the time: each session sees each thread in order."""
    pending = make(max_records=200)
    stop = threading.Event()
    waiters: list[Waiter] = []

    def publish(name: str) -> None:
        while not stop.is_set():
            waiter = Waiter()
            waiters.append(waiter)
            pending.submit(record_of(pending, waiter, topic=name), 5.0)

    threads = [threading.Thread(target=publish, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    stored: dict[str, list[int]] = defaultdict(list)
    session = FakeSink()
    pending.swap(session)
    for _ in range(60):
        wait_until(lambda session=session: len(session.taken) > 20)
        for record in session.take(10):
            stored[record.topic].append(record.number)
            pending.confirmed(record, 0, 0)
        pending.retire(session)
        session = FakeSink()
        pending.swap(session)
    stop.set()

    def answer_the_rest() -> bool:
        for record in session.take(1000):
            stored[record.topic].append(record.number)
            pending.confirmed(record, 0, 0)
        return not any(thread.is_alive() for thread in threads) and not session.taken

    wait_until(answer_the_rest)
    assert pending.in_flight == 0
    assert all(waiter.confirmed for waiter in waiters)
    assert all(numbers == sorted(numbers) for numbers in stored.values())
    assert sum(map(len, stored.values())) == len(waiters)


def test_receipts_carry_the_minted_or_the_given_id() -> None:
    pending, minted, given = make(), Waiter(), Waiter()
    session = FakeSink()
    pending.swap(session)
    pending.place(record_of(pending, minted))
    pending.place(Record(pending.next_number(), "t", b"", None, None, "mine", given))
    pending.sent(session.taken)
    receipts = [waiter.results[0] for waiter in (minted, given)]
    assert all(isinstance(receipt, Receipt) and not receipt.confirmed for receipt in receipts)
    assert receipts[0].id == f"{pending.origin}-{1:012d}"
    assert receipts[1].id == "mine"


def test_a_session_that_outlives_an_outage_takes_records_unless_they_are_to_be_refused() -> None:
    pending = make()
    sink = FakeSink()
    pending.swap(sink)
    pending.suspend(True)
    pending.submit(record_of(pending), 0.0)
    assert len(sink.taken) == 1, "without a refusal the session keeps them"
    pending.refuse_with(lambda id: PublishNotSentError("no connection", id))
    assert pending.ceiling == 0, "the quick way looks at nothing else"
    with pytest.raises(PublishNotSentError, match="no connection"):
        pending.submit(record_of(pending), 5.0)
    pending.suspend(False)
    pending.submit(record_of(pending), 0.0)
    assert [record.number for record in sink.taken] == [1, 3]


def test_a_publisher_that_waits_for_room_is_refused_when_the_connection_goes() -> None:
    pending = make(max_records=1)
    pending.swap(FakeSink())
    pending.submit(record_of(pending), 0.0)
    pending.refuse_with(lambda id: PublishNotSentError("no connection", id))
    refused = threading.Event()

    def publish() -> None:
        with pytest.raises(PublishNotSentError, match="no connection"):
            pending.submit(record_of(pending), 30.0)
        refused.set()

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    wait_until(lambda: pending.issued == 2)
    pending.suspend(True)
    assert refused.wait(5.0)
    thread.join(5.0)


def test_records_that_are_only_counted_make_room_like_the_others() -> None:
    pending = make(max_records=3)
    sink = FakeSink()
    pending.swap(sink)
    for _ in range(3):
        pending.submit(record_of(pending), 0.0)
    with pytest.raises(PublishNotSentError, match="no room"):
        pending.submit(record_of(pending), 0.0)
    del sink.taken[:2]
    pending.stored(2)
    assert (pending.confirmed_count, pending.in_flight) == (2, 1)
    pending.submit(record_of(pending), 0.0)


def test_who_publishes_quickly_is_told_of_each_session() -> None:
    pending, told = make(), list[object]()
    pending.on_session = told.append
    first, second = FakeSink(), FakeSink()
    pending.swap(first)
    pending.retire(first)
    pending.swap(second)
    pending.fail_all([], lambda id: ClosedError("closed"))
    assert told == [first, None, second, None]
