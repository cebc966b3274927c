"""What becomes of buses that are still open when the interpreter ends."""

from __future__ import annotations

import atexit
import sys
import warnings
from typing import Protocol

from .. import log
from ..errors import EventBusError
from ..forks import catch_up, let_go_in_child
from ..state import CloseReport

logger = log.get(__name__)


class Forgettable(Protocol):
    """A bus that somebody may forget to close."""

    def end_with_interpreter(self) -> CloseReport | None:
        """Send what was accepted, in bounded time; what is told of it, None for nothing."""


_open: dict[Forgettable, str] = {}
"""Those that were opened and not closed, and their names."""


def remember(bus: Forgettable, name: str) -> None:
    """It is open: at the end of the interpreter it gets time to send what it accepted."""
    _open[bus] = name


def forget(bus: Forgettable) -> None:
    """It was closed, or not opened after all."""
    _open.pop(bus, None)


def _end_all() -> None:
    catch_up()
    for bus, name in list(_open.items()):
        try:
            report = bus.end_with_interpreter()
        except (EventBusError, RuntimeError, OSError):
            logger.exception("a bus that was not closed could not be ended")
        else:
            if report is not None:
                _warn(name, report)


def _warn(name: str, report: CloseReport) -> None:
    text = f"{name}: the program ended without bus.close()"
    if report.unanswered:
        text += f"; {report.unanswered} accepted messages were not confirmed and may be lost"
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # warnings are errors here, and there is nobody left to catch one
        sys.stderr.write(f"RuntimeWarning: {text}\n")


atexit.register(_end_all)
let_go_in_child(_open.clear)
