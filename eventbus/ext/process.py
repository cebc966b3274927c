"""The bus of a web process, from its beginning to its end: the same in every framework."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakSet

from .. import ClosedError, CloseReport, EventBus, EventBusError, log
from ..ends import at_end
from ..threads import Deadline

logger = log.get(__name__)

_all: WeakSet[EventBus] = WeakSet()


def open_bus(bus: EventBus) -> None:
    """Open a bus without waiting for the broker; nothing happens where it is open. Raises what `EventBus.open` does.

    Where `on_outage` is "raise" the first attempt to connect gets its time (`wait_first_attempt`): else the first
    publish of each process would be refused, though the broker is there.
    """
    bus.open(wait=False)
    if bus.config.on_outage == "raise" and not log.is_logging():
        wait_first_attempt(bus)


def wait_first_attempt(bus: EventBus) -> None:
    """Give a bus that was opened just now up to `health_check.timeout` seconds: no process is away for being new.

    Of any other it returns at once. For a readiness check that opens the bus, in front of `health.ready`.
    """
    state = bus.get_connection_state()
    if state.last_connected_time is None and state.last_error is None:
        bus.wait_connected(bus.config.health_check.timeout)


def close_buses(times: Mapping[EventBus, float]) -> dict[EventBus, CloseReport | Exception]:
    """Close buses side by side, each within so many seconds; half of them is for what was accepted, in an outage, too.

    Without an outage it has all that handlers leave; for a broker that is away `EventBus.close` alone does not wait.
    What one of them raises is in the place of its report. Starts no thread: at the end of the interpreter none can be.
    """
    ends = {bus: Deadline(timeout) for bus, timeout in times.items()}
    reports: dict[EventBus, CloseReport | Exception] = {}

    def flush(bus: EventBus) -> None:
        with suppress(ClosedError):
            bus.flush(max(0.0, ends[bus].remaining() - times[bus] / 2))

    def begin(bus: EventBus) -> None:
        bus._begin_close(ends[bus].remaining())

    def end(bus: EventBus) -> None:
        reports[bus] = bus.close(ends[bus].remaining())

    for step in (flush, begin, end):
        for bus in times:
            try:
                if bus not in reports:
                    step(bus)
            except (EventBusError, RuntimeError, OSError) as error:
                reports[bus] = error
    return reports


def close_at_exit(bus: EventBus) -> None:
    """Have it closed by `close_buses` when the process ends, with all others for which that is so, if it is open then.

    What it had to leave is logged, or told on stderr where nobody hears what is logged. A bus that
    `stop_health_check()` was called for is left to the library's own end of forgotten buses, which takes a second. In a
    forked child it counts for the child's copy.
    """
    _all.add(bus)


@at_end
def _end_all() -> None:
    times = {bus: bus.config.close_timeout for bus in list(_all) if bus.get_health_status().is_running}
    for bus, report in close_buses(times).items():
        if isinstance(report, Exception):
            logger.error("%s: could not be closed at the end of the process", bus.config.name, exc_info=report)
        elif report.unanswered or report.left:
            _tell(bus.config.name, report)


def _tell(name: str, report: CloseReport) -> None:
    text = (
        f"{name}: the process ends; {report.unanswered} accepted messages were not confirmed and may be lost, and "
        f"{report.left} were left in the hands of handlers"
    )
    if logger.is_heard:
        logger.warning("%s", text)
    elif sys.stderr is not None:
        with suppress(OSError):  # its reader has gone
            print(text, file=sys.stderr)
