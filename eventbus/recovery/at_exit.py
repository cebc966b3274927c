"""What becomes of buses that are still open when the process ends."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .. import log
from ..ends import at_end, hear_end
from ..errors import EventBusError
from ..forks import let_go_in_child
from ..state import CloseReport

logger = log.get(__name__)


class Forgettable(Protocol):
    """A bus that somebody may forget to close."""

    def await_first_attempt(self, since: float) -> None:
        """Where it was opened just now, and has something to send, wait until it has tried to connect, in bounded time.

        since: by `time.monotonic`, when the process began to end.
        """

    def end_with_process(self) -> Callable[[], CloseReport | None]:
        """Begin to send what was accepted, in bounded time.

        What is returned waits for the end of that, and says what is told of it, None for nothing.
        """


_open: dict[Forgettable, str] = {}
"""Those that were opened and not closed, and their names."""


def remember(bus: Forgettable, name: str) -> None:
    """It is open: at the end of the process it gets time to send what it accepted."""
    _open[bus] = name
    hear_end()


def forget(bus: Forgettable) -> None:
    """It was closed, or not opened after all."""
    _open.pop(bus, None)


@at_end
def _end_all() -> None:
    """End all of them side by side: the time of one is all that it takes."""
    since = time.monotonic()
    ends: list[tuple[str, Callable[[], CloseReport | None]]] = []
    for bus in list(_open):
        with _tried():
            bus.await_first_attempt(since)
    for bus, name in list(_open.items()):
        with _tried():
            ends.append((name, bus.end_with_process()))
    for name, end in ends:
        with _tried():
            report = end()
            if report is not None:
                _warn(name, report)


@contextmanager
def _tried() -> Iterator[None]:
    try:
        yield
    except (EventBusError, RuntimeError, OSError):
        logger.exception("a bus that was not closed could not be ended")


def _warn(name: str, report: CloseReport) -> None:
    text = f"{name}: the program ended without bus.close()"
    if report.unanswered:
        text += f"; {report.unanswered} accepted messages were not confirmed and may be lost"
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # warnings are errors here, and there is nobody left to catch one
        sys.stderr.write(f"RuntimeWarning: {text}\n")


let_go_in_child(_open.clear)
