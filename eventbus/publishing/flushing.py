"""A caller's part of a flush: single steps, and a wait on a lock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .inbox import Inbox
from .ledger import Ledger
from .marks import FlushWaiter

LEAVING = 0.5
"""Seconds that the sender has to say how much is unanswered."""


class Flushing:
    """Waits, on any thread, until what was accepted before is answered."""

    def __init__(self, inbox: Inbox, ledger: Ledger, numbers: Iterator[int], has_ended: Callable[[], bool]) -> None:
        self._inbox = inbox
        self._has_ended = has_ended
        self._ledger = ledger
        self._numbers = numbers
        self._waiting: dict[FlushWaiter, None] = {}

    def wait(self, timeout: float) -> int | None:
        """Wait up to `timeout` seconds; how many are unanswered then, None when the sender is too busy to say."""
        waiter, left = FlushWaiter(), FlushWaiter()

        def leave() -> None:
            waiter.missing = self._ledger.unmark(waiter)
            left.release()

        self._waiting[waiter] = self._waiting[left] = None
        try:
            self._inbox.ask(lambda: self._ledger.mark(waiter, next(self._numbers)))
            if self._has_ended():  # in this moment: what is asked now, nobody may hear
                return None
            if waiter.wait(timeout):
                return 0
            self._inbox.ask(leave)
            left.wait(LEAVING)
        except BaseException:
            self._inbox.ask(leave)  # once more does no harm
            raise
        finally:
            self._waiting.pop(waiter, None)
            self._waiting.pop(left, None)
        return waiter.missing

    def catch_up(self, timeout: float) -> None:
        """Let the sender give away what was accepted before, where that takes at most `timeout` seconds."""
        if not self._has_ended():
            seen = FlushWaiter()
            self._inbox.ask(seen.release)
            seen.wait(timeout)

    def forked(self) -> None:
        """This is a forked child's copy, in which nobody answers: let its one thread go on. Takes no lock."""
        for waiter in list(self._waiting):
            waiter.release()
