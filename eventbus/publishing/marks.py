"""Who waits until everything that was accepted before is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import repeat, takewhile


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
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Let it go on; once more does no harm."""
        with suppress(RuntimeError):
            self._lock.release()


class Mark:
    """The records that came after the mark before, and who waits for them and all before."""

    __slots__ = ("missing", "waiters")

    def __init__(self) -> None:
        self.missing: set[int] = set()
        self.waiters: set[FlushWaiter] = set()


class Marks:
    """Marks in the order of their making. Not locked: its owner does that.

    A record is missing in one mark, which it knows, and only the last mark may be without a waiter. So an answer
    costs the same however many wait, and what is kept is bounded by the unanswered and by those who wait.
    """

    def __init__(self) -> None:
        self._marks: list[Mark] = []
        self._mark_of: dict[int, Mark] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, waiter: FlushWaiter, newest_first: Iterable[int], others: Iterable[int]) -> None:
        """Release a waiter once all of these are answered; they are all that was accepted so far.

        newest_first: those of a mark are behind all that came since, and are not walked through. others: a few more.
        """
        known = self._mark_of
        fresh = {*takewhile(lambda number: number not in known, newest_first)}
        fresh.update(number for number in others if number not in known)
        if not self._marks or (fresh and self._marks[-1].waiters):
            self._marks.append(Mark())
        last = self._marks[-1]
        self._put(fresh, last)
        last.waiters.add(waiter)
        self._release()

    def answered(self, numbers: Iterable[int]) -> None:
        """These are no longer missing."""
        known, gone = self._mark_of, list(numbers)
        for mark in set(map(known.pop, gone, repeat(None))):
            if mark is not None:
                mark.missing.difference_update(gone)
        self._release()

    def leave(self, waiter: FlushWaiter) -> int:
        """Forget a waiter; how many of the records that it waits for have no answer."""
        missing = 0
        for index, mark in enumerate(self._marks):
            missing += len(mark.missing)
            if waiter in mark.waiters:
                mark.waiters.remove(waiter)
                if not mark.waiters and index + 1 < len(self._marks):
                    self._merge(index)
                return missing
        return 0

    def _merge(self, index: int) -> None:
        """Make one of a mark that nobody waits for and the next one: the smaller moves, so none moves often."""
        mark, following = self._marks[index : index + 2]
        small, large = sorted((mark, following), key=lambda one: len(one.missing))
        self._put(small.missing, large)
        large.waiters = following.waiters
        self._marks[index : index + 2] = [large]

    def _put(self, numbers: set[int], mark: Mark) -> None:
        mark.missing |= numbers
        self._mark_of.update(dict.fromkeys(numbers, mark))

    def _release(self) -> None:
        while self._marks and not self._marks[0].missing:
            for waiter in self._marks.pop(0).waiters:
                waiter.release()
