"""The order in which a bus ends, with one deadline over all of it."""

from __future__ import annotations

import logging

from ..backends.base import Session
from ..consuming.consumers import Consumers
from ..errors import ClosedError, EventBusError
from ..publishing.publisher import Publisher
from ..state import CloseReport, Phase
from ..threads import Deadline, join_all
from .callbacks import Callbacks
from .health import HealthMonitor
from .supervisor import Supervisor

logger = logging.getLogger(__name__)

CALLBACKS_GRACE = 1.0
"""Seconds for the callbacks that are queued when all else is over: one that hangs does not hold up a close."""


def close_in_order(
    monitor: HealthMonitor,
    supervisor: Supervisor,
    consumers: Consumers,
    publisher: Publisher,
    callbacks: Callbacks,
    deadline: Deadline,
) -> CloseReport:
    """End everything: monitor, intake, handlers, acknowledgements, answers, session, callbacks.

    No step may use up the time of those behind it: each has a share of what is left.
    """
    judged_well = supervisor.phases.phase is Phase.CONNECTED
    unfinished = list(monitor.stop(deadline.share(0.5)))
    session = supervisor.session
    # Nothing is waited for on a link that a reconnect was called for.
    alive = judged_well and session is not None and session.lost is None
    if session is not None and alive:
        _drain(session, deadline.share(0.25))
    unfinished += consumers.finish(deadline.share(0.6))
    if session is not None and alive:
        publisher.pending.wait_settled(deadline.share(0.5))
        _drain(session, deadline.share(0.5))
    # From here on a candidate that comes too late is closed by the supervisor.
    supervisor.phases.move(Phase.CLOSED)
    if session is not None:
        session.abandon()
    unanswered = publisher.pending.fail_all(lambda id: ClosedError("the bus is closed; make a new one"))
    if session is not None:
        unfinished += session.close(deadline.share(0.7))
    unfinished += join_all(supervisor.closers(), deadline.share(0.5))
    unfinished += publisher.close(deadline.share(0.5))
    unfinished += callbacks.close(min(CALLBACKS_GRACE, deadline.remaining()))
    return CloseReport(
        unanswered=unanswered,
        unhandled=consumers.unhandled,
        unfinished_threads=tuple(dict.fromkeys(unfinished)),
    )


def _drain(session: Session, timeout: float) -> None:
    try:
        session.drain(timeout)
    except (EventBusError, OSError) as error:
        logger.warning("acknowledgements may be lost, their messages come again: %s", error)
