"""What becomes of buses that are still open when the process ends."""

from __future__ import annotations

import sys
import warnings
from typing import Protocol

from .. import log
from ..ends import at_end, hear_end
from ..errors import EventBusError
from ..forks import let_go_in_child
from ..state import CloseReport

logger = log.get(__name__)


class Forgettable(Protocol):
    """A bus that somebody may forget to close."""

    def end_with_process(self) -> CloseReport | None:
        """Send what was accepted, in bounded time; what is told of it, None for nothing."""


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
    for bus, name in list(_open.items()):
        try:
            report = bus.end_with_process()
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


let_go_in_child(_open.clear)
