"""Who waits until everything that was accepted before is answered."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Collection
from contextlib import suppress
from operator import attrgetter

from ..threads import taken


class FlushWaiter:
    """One thread that waits for all records up to a moment."""

    __slots__ = ("_lock", "missing")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.missing: int | None = None
        """How many records had no answer when it left; None while nobody knows."""

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; False when something is unanswered."""
        return taken(self._lock, timeout)

    def release(self) -> None:
        """Let it go on; once more does no harm."""
        with suppress(RuntimeError):
            self._lock.release()


class Mark:
    """A moment of the bus, and how many records of before it have no answer.

    before: the number that was drawn at that moment; records with smaller ones are of before it.
    missing: how many of them have no answer, those that the mark before it counts left out.
    """

    __slots__ = ("before", "missing", "waiter")

    def __init__(self, before: int, missing: int, waiter: FlushWaiter) -> None:
        self.before = before
        self.missing = missing
        self.waiter = waiter


_before = attrgetter("before")


class Marks:
    """One mark for each flush that waits, in the order of their making. Not locked: its owner does that.

    Records are counted, not kept: a mark costs the same however much is unanswered, and an answer the same
    however many wait.
    """

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, waiter: FlushWaiter, before: int, unanswered: int) -> None:
        """Release a waiter once all of now is answered: so many records, whose numbers are smaller than `before`."""
        counted = sum(mark.missing for mark in self._marks)
        self._marks.append(Mark(before, unanswered - counted, waiter))
        self._release()

    def entered(self, numbers: Collection[int]) -> None:
        """These came in only now. Some may have been drawn before a mark: one for each thread that publishes."""
        if self._marks and numbers and min(numbers) < self._marks[-1].before:
            self._count(numbers, 1)

    def answered(self, numbers: Collection[int]) -> None:
        """These are no longer missing."""
        if self._marks and numbers:
            self._count(numbers, -1)
            self._release()

    def leave(self, waiter: FlushWaiter) -> int:
        """Forget a waiter; how many of the records that it waits for have no answer."""
        missing = 0
        for index, mark in enumerate(self._marks):
            missing += mark.missing
            if mark.waiter is waiter:
                del self._marks[index]
                if index < len(self._marks):
                    self._marks[index].missing += mark.missing
                return missing
        return 0

    def _count(self, numbers: Collection[int], step: int) -> None:
        marks = self._marks
        if max(numbers) < marks[0].before:  # as it nearly always is
            marks[0].missing += step * len(numbers)
            return
        for number in numbers:
            index = bisect_right(marks, number, key=_before)
            if index < len(marks):
                marks[index].missing += step

    def _release(self) -> None:
        while self._marks and not self._marks[0].missing:
            self._marks.pop(0).waiter.release()
