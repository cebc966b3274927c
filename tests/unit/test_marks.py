"""Marks: flushes cost and keep no more than what is unanswered and who waits."""

from __future__ import annotations

import itertools
import random
import threading
import time

import pytest

from eventbus.errors import ClosedError
from eventbus.publishing.marks import FlushWaiter, Marks
from eventbus.publishing.pending import Pending
from eventbus.publishing.records import Record
from eventbus.testing import wait_until


def kept(marks: Marks) -> tuple[int, int]:
    """How many waiters are kept, and how many missing records are counted."""
    return len(marks), sum(mark.missing for mark in marks._marks)


class Plain:
    """What marks are to count, with a set of numbers for each waiter."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.unanswered: set[int] = set()
        self.waiting: dict[FlushWaiter, tuple[int, set[int]]] = {}
        self.drawn: list[int] = []
        self.numbers = itertools.count(1)

    def draw(self) -> None:
        """A thread has a number, and is slow with the rest."""
        self.drawn.append(next(self.numbers))

    def enter(self, chance: random.Random) -> None:
        """Records come in, not in the order of their numbers."""
        entering = chance.sample(self.drawn, chance.randint(1, min(3, len(self.drawn))))
        self.drawn = [number for number in self.drawn if number not in entering]
        self.marks.entered(entering)
        self.unanswered.update(entering)
        for before, missing in self.waiting.values():
            missing.update(number for number in entering if number < before)

    def mark(self) -> None:
        """A flush begins."""
        waiter, before = FlushWaiter(), next(self.numbers)
        self.marks.add(waiter, before, len(self.unanswered))
        self.waiting[waiter] = before, set(self.unanswered)

    def answer(self, chance: random.Random) -> None:
        """Some are answered, in any order."""
        gone = chance.sample(sorted(self.unanswered), chance.randint(1, min(3, len(self.unanswered))))
        self.unanswered.difference_update(gone)
        self.marks.answered(gone)
        for _, missing in self.waiting.values():
            missing.difference_update(gone)

    def check(self) -> None:
        """Released are those for whom nothing is missing, and they are forgotten."""
        for waiter, (_, missing) in list(self.waiting.items()):
            assert waiter.wait(0) == (not missing)
            if not missing:
                del self.waiting[waiter]
        waiting = [missing for _, missing in self.waiting.values()]
        assert kept(self.marks) == (len(waiting), len(set().union(*waiting)))


def test_whatever_enters_is_answered_and_leaves_the_figures_are_those_of_a_plain_count() -> None:
    chance = random.Random(9)
    for _ in range(100):
        plain = Plain()
        for _ in range(150):
            step = chance.random()
            if step < 0.3:
                plain.draw()
            elif step < 0.5 and plain.drawn:
                plain.enter(chance)
            elif step < 0.65:
                plain.mark()
            elif step < 0.85 and plain.unanswered:
                plain.answer(chance)
            elif plain.waiting:
                waiter = chance.choice(list(plain.waiting))
                assert plain.marks.leave(waiter) == len(plain.waiting.pop(waiter)[1])
            plain.check()


def test_thousands_of_flushes_in_an_outage_keep_nothing_when_they_have_left() -> None:
    marks = Marks()
    for number in range(1, 5001):
        waiter = FlushWaiter()
        marks.add(waiter, number * 2, number)
        assert marks.leave(waiter) == number
    assert kept(marks) == (0, 0)


def test_a_flush_waits_for_what_was_drawn_before_it_and_comes_in_after_it() -> None:
    marks, waiter = Marks(), FlushWaiter()
    marks.add(waiter, 10, 1)
    marks.entered([9, 11])
    marks.answered([5])
    assert not waiter.wait(0)
    marks.answered([11, 9])
    assert waiter.wait(0)


@pytest.fixture
def pending():
    made = Pending(200_000, 10**9, lambda record, error: None)
    made.sender.start("eventbus.test.sender")
    yield made
    made.fail_all(lambda id: ClosedError("closed"))
    assert made.sender.close(5.0) == ()


def put(pending: Pending) -> None:
    pending.accept(Record(next(pending.numbers), "t", b"x", None, None), 0.0)


def test_flushes_that_end_without_an_answer_leave_nothing_behind_and_say_how_much_is_missing(pending: Pending) -> None:
    for count in range(1, 51):
        put(pending)
        assert pending.wait_settled(0.001) == count
    assert not pending.inbox.requests
    assert kept(pending.ledger._marks) == (0, 0)


def test_what_is_missing_is_what_was_accepted_before_and_not_what_came_since(pending: Pending) -> None:
    put(pending)
    left: list[int] = []
    thread = threading.Thread(target=lambda: left.append(pending.wait_settled(0.2)))
    thread.start()
    wait_until(lambda: kept(pending.ledger._marks)[0])
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
    wait_until(lambda: kept(pending.ledger._marks)[0] == 0)


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
