"""SIGTERM and SIGINT as a wish to stop: noted, told to whoever waits, and nothing else done in the signal handler."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from .errors import UnsupportedError
from .forks import let_go_in_child
from .threads import StopToken

TWIN = 0.25
"""Seconds within which the same signal again is the same wish: `timeout` and shells send theirs to a process, and then
to the group that it is in."""
LOOK = 1.0
"""Seconds between two looks of a main thread that waits: a signal that the system gave to another one wakes nobody."""
_STOPPING = (signal.SIGTERM, signal.SIGINT)

_entered: dict[StopSignals, None] = {}


class StopSignals:
    """Within its `with` block SIGTERM and SIGINT ask for a stop; afterwards the handlers are there that were before.

    Enter it on the main thread: UnsupportedError on another one, which gets no signals. `EventBus.wait` does so by
    itself; a program that is to hear signals while it still starts enters one early, and passes it to `wait`.

    The first signal sets `asked`, the next one `again`; the same within 0.25 s is taken for the first one's twin. A
    SIGINT that is ignored (a job in the background of a shell) stays so. Children that are forked inside have the
    handlers that were there before. Single use.
    """

    def __init__(self) -> None:
        self.asked = StopToken()
        self.again = StopToken()
        self._first: tuple[int, float] | None = None
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The signal that came first, "SIGTERM" say; "" before, or where `ask` was called."""
        return "" if self._first is None else signal.Signals(self._first[0]).name

    def ask(self) -> None:
        """Ask for a stop, without a signal; from any thread. The first signal that follows changes nothing."""
        self.asked.set()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            raise UnsupportedError(
                "only the main thread gets signals: wait there, or call wait(signals=False) and close() to end it"
            )
        _entered[self] = None
        try:
            for number in _STOPPING:
                self._take(number)
        except BaseException:  # Ctrl-C, between the two
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._restore()
        _entered.pop(self, None)

    def _take(self, number: int) -> None:
        before = signal.getsignal(number)
        if before is None:
            raise UnsupportedError(f"{signal.Signals(number).name} belongs to the program that embeds Python")
        if number == signal.SIGINT and before is signal.SIG_IGN:
            return
        self._before[number] = before
        signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:  # else somebody has set his own meanwhile
                signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now, first = time.monotonic(), self._first
        if first is None:
            self._first = number, now
            self.asked.set()
        elif first[0] != number or now - first[1] >= TWIN:
            self.again.set()


@let_go_in_child
def _give_back() -> None:
    for one in list(_entered):
        one._restore()
    _entered.clear()
