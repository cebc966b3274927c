"""The end of a bus: asked for by anybody, done once, with one deadline over all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .. import log
from ..backends.base import Session
from ..consuming.consumers import Consumers
from ..errands import Errands
from ..errors import ClosedError, EventBusError
from ..publishing.publisher import Publisher
from ..state import CloseReport, Phase
from ..threads import Bell, Deadline, StopToken, join_all
from .callbacks import Callbacks
from .health import HealthMonitor
from .past import Past
from .supervisor import Supervisor

logger = log.get(__name__)

BEHIND_HANDLERS = 1.0
"""Seconds that are kept for the steps behind the handlers, or two fifths of a shorter time: handlers have the rest."""
LAST = 0.45
"""Seconds beyond the time of a close in which it says what it had to leave: clients have some to end in, too."""
OWN_GRACE = 0.1
"""Seconds that threads have at least which wait for nobody: they end at once, if the processor comes round to them."""
CALLBACKS_GRACE = 1.0
"""Seconds for the callbacks that are queued when all else is over: one that hangs does not hold up a close."""
NOTHING_LEFT = CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
"""Of a close that had nothing to end."""


class Closing:
    """Closes a bus on the thread that dispatches its errands, which exists since `open()`; whoever asks only waits.

    So an exception in a caller leaves nothing half closed, a signal handler may ask on top of whatever its thread was
    doing, and the next caller waits for the same end. on_closed(): it is over.

    is_ours(): whether the calling thread is one that the end waits for; such a one, which no signal interrupts, does
    the closing itself, or does not wait for another's. A handler only asks: the end waits for it, too, so that what it
    has done is acknowledged.
    """

    def __init__(
        self,
        errands: Errands,
        monitor: HealthMonitor,
        supervisor: Supervisor,
        consumers: Consumers,
        publisher: Publisher,
        callbacks: Callbacks,
        past: Past,
        stop: StopToken,
        is_ours: Callable[[], bool],
        on_closed: Callable[[], object],
    ) -> None:
        self._errands = errands
        self._monitor = monitor
        self._supervisor = supervisor
        self._consumers = consumers
        self._publisher = publisher
        self._callbacks = callbacks
        self._past = past
        self._stop = stop
        self._is_ours = is_ours
        self._on_closed = on_closed
        self._turn = threading.Lock()
        self._over = Bell()
        self._asked = False
        self._report: CloseReport | None = None

    def close(self, timeout: float, leave: StopToken | None = None) -> CloseReport:
        """End everything within `timeout` seconds; of several calls the first one's time counts.

        leave: when it is set the caller is told at once what is unfinished, and the close goes on without him.
        """
        if self._report is not None:
            return self._report
        deadline = Deadline(timeout)
        if self._is_ours():
            self._close(deadline)
            self._errands.stop()
        else:
            if not self._asked:
                self._errands.start()  # of a bus that was never opened there is none yet
                self._errands.run_last(lambda: self._close(deadline))  # once more than needed does no harm
                self._asked = True
            if self._consumers.is_handling():
                return self._report or self._unfinished()
            leaves = leave or StopToken()
            with leaves.interrupts(self._over.ring):
                self._over.wait_for(lambda: self._report or leaves.is_set(), Deadline(timeout + LAST))
        return self._report or self._unfinished()

    def forked(self) -> None:
        """This is a forked child's copy: whoever closes it here has nothing to close. Takes no lock."""
        self._report = NOTHING_LEFT
        self._over.ring()

    def _unfinished(self) -> CloseReport:
        """What is left of a close that goes on."""
        return CloseReport(
            unanswered=self._publisher.pending.in_flight + self._publisher.pending.left_by_close,
            unhandled=self._consumers.unhandled,
            unfinished_threads=(*self._consumers.at_work, self._errands.thread_name),
            handed_over=self._consumers.handed_over,
        )

    def _close(self, deadline: Deadline) -> None:
        if not self._turn.acquire(blocking=False):
            return
        try:
            self._report = self._close_in_order(deadline)
        except Exception:  # a bug of ours, or no thread to be had: nobody may wait for an answer for ever
            logger.exception("the bus could not be closed in order")
            self._supervisor.phases.move(Phase.CLOSED)
            self._publisher.pending.fail_all(_closed)
            self._report = self._unfinished()
        finally:
            self._on_closed()
            self._over.ring()

    def _close_in_order(self, deadline: Deadline) -> CloseReport:
        """End monitor, intake, handlers, acknowledgements, answers, session, callbacks.

        No step may use up the time of those behind it: each has a share of what is left.
        """
        supervisor, consumers, publisher = self._supervisor, self._consumers, self._publisher
        judged_well = supervisor.phases.phase is Phase.CONNECTED
        self._stop.set()  # before any lock: whoever holds one is woken and lets go
        unfinished = list(self._monitor.stop(deadline.share(0.5)))
        session = supervisor.session
        # Nothing is waited for on a link that a reconnect was called for.
        alive = judged_well and session is not None and session.lost is None
        if session is not None and alive:
            _drain(session, deadline.share(0.25))
        unfinished += consumers.finish(max(deadline.share(0.6), deadline.remaining() - BEHIND_HANDLERS))
        if session is not None and alive:
            publisher.pending.wait_settled(deadline.share(0.5))
            _drain(session, deadline.share(0.5))
        unfinished += self._past.close(deadline.share(0.5))
        # From here on a candidate that comes too late is closed by the supervisor.
        supervisor.phases.move(Phase.CLOSED)
        if session is not None:
            session.abandon()
        unanswered = publisher.pending.fail_all(_closed)
        if session is not None:
            unfinished += session.close(deadline.share(0.7))
        unfinished += join_all(supervisor.current.closers(), deadline.share(0.5))
        unfinished += publisher.close(max(OWN_GRACE, deadline.share(0.5)))
        unfinished += self._callbacks.close(min(CALLBACKS_GRACE, deadline.remaining()))
        return CloseReport(
            unanswered=unanswered,
            unhandled=consumers.unhandled,
            unfinished_threads=tuple(dict.fromkeys(unfinished)),
            handed_over=consumers.handed_over,
        )


def _closed(id: str) -> Exception:
    return ClosedError("the bus is closed; make a new one")


def _drain(session: Session, timeout: float) -> None:
    try:
        session.drain(timeout)
    except (EventBusError, OSError) as error:
        logger.warning("acknowledgements may be lost, their messages come again: %s", error)
