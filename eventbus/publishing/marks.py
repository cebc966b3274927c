"""Who waits until everything that was accepted before is answered."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class FlushWaiter:
    """One thread that waits for all records up to a moment."""

    __slots__ = ("_lock", "gone", "marks")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.gone = False
        """Nobody waits any more."""
        self.marks: tuple[Mark, ...] | None = None
        """What is waited for; None until the sender has taken in what was accepted before."""

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; False when something is unanswered."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Everything is answered."""
        self._lock.release()

    @property
    def missing(self) -> int | None:
        """How many records have no answer; None while nobody knows."""
        return None if self.marks is None else sum(len(mark.missing) for mark in self.marks)


class Mark:
    """The records that came after the mark before, and who waits for them and all before."""

    __slots__ = ("missing", "waiters")

    def __init__(self, missing: set[int]) -> None:
        self.missing = missing
        self.waiters: list[FlushWaiter] = []


class Marks:
    """Marks in the order of their making; each record is missing in one of them. Not locked: its owner does that."""

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, waiter: FlushWaiter, unanswered: Iterable[int]) -> None:
        """Release a waiter once all of these are answered; they are all that was accepted so far."""
        missing = set(unanswered)
        for mark in self._marks:
            missing -= mark.missing
        if missing or not self._marks:
            self._marks.append(Mark(missing))
        last = self._marks[-1]
        last.waiters = [one for one in last.waiters if not one.gone] + [waiter]
        waiter.marks = tuple(self._marks)
        self._release()

    def answered(self, numbers: Iterable[int]) -> None:
        """These are no longer missing."""
        gone = list(numbers)
        for mark in self._marks:
            mark.missing.difference_update(gone)
        self._release()

    def _release(self) -> None:
        while self._marks and not self._marks[0].missing:
            for waiter in self._marks.pop(0).waiters:
                waiter.release()
