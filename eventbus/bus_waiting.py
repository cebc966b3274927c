"""What the main thread of a worker process does: it waits for the end, and sees to it that it is a good one."""

from __future__ import annotations

from contextlib import suppress

from . import log
from .config import EventBusConfig
from .errors import ClosedError, NotConnectedError, UnsupportedError
from .recovery.lifecycle import Lifecycle
from .state import CloseReport, Phase
from .stop_signals import LOOK, StopSignals
from .threads import Deadline, yes_or_no

logger = log.get(__name__)


class WaitCalls:
    """The part of `EventBus` that is for the main thread of a worker process."""

    config: EventBusConfig
    _life: Lifecycle

    def wait(self, signals: bool | StopSignals = True) -> CloseReport:
        """Block until SIGTERM, SIGINT or `close()`, then close the bus; what that had to leave.

        The first signal begins a `close()` with `close_timeout`: no more is fetched, handlers finish what they have,
        acknowledgements and answers are waited for. A second one leaves that at once: the report says what is
        unfinished then. An outage is waited through. The handlers of both signals are taken over for the time of the
        call only; pass a `StopSignals` that was entered before to hear those that came while the program started.
        signals=False leaves them alone: it returns once somebody else has closed the bus, and any thread may call it.
        Raises UnsupportedError when signals are wanted on another thread than the main one, and in a handler or
        callback of this bus; NotConnectedError when the bus is not open, ForkedError in a forked child where `on_fork`
        is "raise".
        """
        if isinstance(signals, StopSignals):
            return self._wait(signals)
        if not yes_or_no(signals, "signals"):
            return self._wait(StopSignals())
        with StopSignals() as caught:
            return self._wait(caught)

    def _wait(self, caught: StopSignals) -> CloseReport:
        life = self._life  # of this process: a child that a signal handler forks has another one
        if life.is_awaited_here:
            raise UnsupportedError("wait() for the end of the bus, which waits for this handler or callback: return")
        phases = life.phases
        with suppress(ClosedError):  # then its report is there, or about to be
            life.gate.check()

        def ended() -> bool:
            return caught.asked.is_set() or phases.phase is Phase.NEW or phases.phase.is_final

        with caught.asked.interrupts(phases.wake):
            while not phases.wait_for(ended, Deadline(LOOK)):
                pass
        if life.gate.is_forked:
            raise life.gate.error()
        if phases.phase is Phase.NEW:
            raise NotConnectedError("the bus is not open: call open() first")
        timeout = self.config.close_timeout
        if caught.asked.is_set() and phases.phase is not Phase.CLOSED:
            why = caught.name or "a stop was asked for"
            logger.info("%s: %s: closing within %g s, at once when asked again", self.config.name, why, timeout)
        return life.close(timeout, caught.again)
