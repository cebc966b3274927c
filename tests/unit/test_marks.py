"""Marks: flushes cost and keep no more than what is unanswered and who waits."""

from __future__ import annotations

import random
import threading
import time

import pytest

from eventbus.errors import ClosedError
from eventbus.publishing.marks import FlushWaiter, Marks
from eventbus.publishing.pending import Pending
from eventbus.publishing.records import Record
from eventbus.testing import wait_until


class Counted:
    """Numbers, newest first, that know how many of them were looked at."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.looks = 0

    def __iter__(self):
        for number in reversed(self.numbers):
            self.looks += 1
            yield number


def kept(marks: Marks) -> tuple[int, int, int]:
    """How many marks, numbers and waiters are kept."""
    assert sum(len(mark.missing) for mark in marks._marks) == len(marks._mark_of)
    return len(marks), len(marks._mark_of), sum(len(mark.waiters) for mark in marks._marks)


def test_whatever_is_answered_and_whoever_leaves_the_figures_are_those_of_a_plain_count() -> None:
    chance = random.Random(9)
    for _ in range(60):
        marks, unanswered, waiting, next_number = Marks(), list[int](), dict[FlushWaiter, set[int]](), 0
        for _ in range(120):
            step = chance.random()
            if step < 0.4:
                next_number += 1
                unanswered.append(next_number)
            elif step < 0.6:
                waiter = FlushWaiter()
                split = chance.randrange(len(unanswered) + 1) if chance.random() < 0.2 and not waiting else 0
                marks.add(waiter, reversed(unanswered[split:]), unanswered[:split])
                waiting[waiter] = set(unanswered)
            elif step < 0.8 and unanswered:
                gone = chance.sample(unanswered, chance.randint(1, min(3, len(unanswered))))
                unanswered = [number for number in unanswered if number not in gone]
                marks.answered(gone)
            elif waiting:
                waiter = chance.choice(list(waiting))
                assert marks.leave(waiter) == len(waiting.pop(waiter) & set(unanswered))
            for waiter in list(waiting):
                released = waiter.wait(0)
                assert released == (not waiting[waiter] & set(unanswered))
                if released:
                    del waiting[waiter]
            count, numbers, waiters = kept(marks)
            assert (waiters, count <= waiters + 1, numbers <= len(unanswered)) == (len(waiting), True, True)


def test_thousands_of_flushes_in_an_outage_keep_one_mark_and_look_at_what_is_new_alone() -> None:
    marks, unanswered, looks = Marks(), Counted([]), 0
    for number in range(5000):
        unanswered.numbers.append(number)
        unanswered.looks = 0
        waiter = FlushWaiter()
        marks.add(waiter, unanswered, ())
        assert marks.leave(waiter) == number + 1
        looks = max(looks, unanswered.looks)
    assert looks == 2
    assert kept(marks) == (1, 5000, 0)
    marks.answered(range(5000))
    assert kept(marks) == (0, 0, 0)


def test_the_first_record_never_answered_keeps_no_chain_of_marks_alive() -> None:
    marks = Marks()
    first, last = FlushWaiter(), FlushWaiter()
    marks.add(first, [0], ())
    for number in range(1, 1000):
        marks.add(last, [number, 0], ())
        after, last = last, FlushWaiter()
        marks.leave(after)
        marks.answered([number])
    assert kept(marks)[0] <= 2
    assert marks.leave(first) == 1


@pytest.fixture
def pending():
    made = Pending(200_000, 10**9, lambda record, error: None)
    made.sender.start("eventbus.test.sender")
    yield made
    made.fail_all(lambda id: ClosedError("closed"))
    assert made.sender.close(5.0) == ()


def put(pending: Pending) -> None:
    pending.accept(Record(pending.next_number(), "t", b"x", None, None, None, None), 0.0)


def test_flushes_that_end_without_an_answer_leave_nothing_behind_and_say_how_much_is_missing(pending: Pending) -> None:
    for count in range(1, 51):
        put(pending)
        assert pending.wait_settled(0.001) == count
    assert not pending.inbox.requests
    assert kept(pending.ledger._marks) == (1, 50, 0)


def test_what_is_missing_is_what_was_accepted_before_and_not_what_came_since(pending: Pending) -> None:
    put(pending)
    left: list[int] = []
    thread = threading.Thread(target=lambda: left.append(pending.wait_settled(0.2)))
    thread.start()
    wait_until(lambda: kept(pending.ledger._marks)[2])
    for _ in range(10):
        put(pending)
    thread.join(5.0)
    assert left == [1]


def test_a_flush_that_is_interrupted_leaves_nothing_behind(pending: Pending, monkeypatch: pytest.MonkeyPatch) -> None:
    put(pending)

    def interrupted(self: FlushWaiter, timeout: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FlushWaiter, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pending.wait_settled(5.0)
    wait_until(lambda: not pending.inbox.requests)
    wait_until(lambda: kept(pending.ledger._marks)[2] == 0)


def test_many_flushes_of_100_000_unanswered_are_cheap(pending: Pending) -> None:
    for _ in range(100_000):
        put(pending)
    assert pending.wait_settled(1.0) == 100_000
    started = time.monotonic()
    for _ in range(300):
        assert pending.wait_settled(0.0001) == 100_000
    assert time.monotonic() - started < 2.0  # with a walk through all of them: 3 s and more


def test_a_flush_that_is_interrupted_while_it_leaves_disturbs_nobody(
    pending: Pending, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(pending)
    wait, waits = FlushWaiter.wait, list[float]()

    def interrupted(self: FlushWaiter, timeout: float) -> bool:
        waits.append(timeout)
        if len(waits) > 1:
            raise KeyboardInterrupt
        return wait(self, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(FlushWaiter, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pending.wait_settled(0.01)
    pending.sender.call(lambda: None, 5.0)
    assert caplog.records == []
    assert pending.wait_settled(0.01) == 1
