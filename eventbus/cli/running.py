"""A consumer process from its start to its end: for the command line, and for those of web frameworks."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import UnsupportedOperation

from attrs import asdict, frozen

from .. import CloseReport, EventBus, StopSignals, log
from ..config_sources import ConfigSource
from ..stop_signals import LOOK
from ..threads import StopToken, join_all, spawn
from .console import NOWHERE, Console
from .figures import Figures
from .logs import LEVELS, logging_to
from .output import flush_printed, hidden, positive_seconds
from .reloading import Watch, files_of, start_again

logger = log.get(__name__)

INTERVAL = 10.0
"""Seconds between two reports where none are given."""
LEAVE = 1.0
"""Seconds that a process has for its end once its time to close is used up: what still runs may hold that up."""
UNFINISHED = 1
"""The exit code where something was left unfinished."""
NOTHING = CloseReport(unanswered=0, unhandled=0, unfinished_threads=())


@frozen(kw_only=True)
class RunOptions:
    """How a consumer process tells what it does.

    as_json: JSON lines on a terminal, too. interval: seconds between two reports in them. level: of what is logged, if
    the program sets up no logging itself. reload: start again when a file of the program has changed. source: the
    settings of the bus, so that their secrets are not told.
    """

    as_json: bool = False
    interval: float = INTERVAL
    level: str = "info"
    reload: bool = False
    source: ConfigSource = None


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what `RunOptions` needs to a command line: `--json`, `--interval`, `--log-level` and `--reload`."""
    parser.add_argument("--json", action="store_true", help="JSON lines on a terminal, too, instead of a live line")
    parser.add_argument(
        "--interval", type=positive_seconds, default=INTERVAL, help=f"seconds between two reports ({INTERVAL:g})"
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="what is logged (info)")
    parser.add_argument("--reload", action="store_true", help="start again when a file of the program has changed")


def run(make: Callable[[], EventBus], options: RunOptions) -> int:
    """Consume until SIGTERM or SIGINT, or until the bus is closed; the exit code, 1 where something was left over.

    make(): a bus with its subscriptions; it is opened here, and waits for its broker as long as that takes. What it
    raises goes through. A signal before it has returned ends the process at once, by SystemExit with 128 and the
    signal's number. The first signal after that drains, a second one leaves at once, as `EventBus.wait` says. On the
    main thread; it is the last thing that a process does: where handlers are left running it ends within a second.
    """
    console = _console(options, partial(hidden, source=options.source))
    again = False
    try:
        with StopSignals() as signals, logging_to(console, options.level):
            if options.reload:
                again, report = _run_reloading(make, options, console, signals)
            else:
                report = _run(_made(make, signals), options, console, signals)
    finally:
        console.close()
    if again:
        flush_printed()
        start_again()
    if report.unfinished_threads:
        _end_in_time(UNFINISHED)
    flush_printed()
    return UNFINISHED if _is_unfinished(report) else 0


def _console(options: RunOptions, hide: Callable[[str], str]) -> Console:
    if sys.stderr is None:  # it was closed before we began
        return Console(os.open(os.devnull, os.O_WRONLY), live=False)
    try:
        descriptor = sys.stderr.fileno()
    except UnsupportedOperation:  # a test's, that is no file
        return Console(NOWHERE, live=False)
    live = not options.as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return Console(descriptor, live, hide)


def _run_reloading(
    make: Callable[[], EventBus], options: RunOptions, console: Console, signals: StopSignals
) -> tuple[bool, CloseReport]:
    """Run until a file changes, too; whether one has. What cannot be started waits for a change of its files."""
    sys.dont_write_bytecode = True  # it is told from a newer source by whole seconds and the size alone
    try:
        bus = _made(make, signals)
    except Exception as error:
        watch, report = Watch(signals.ask, files_of(error)), NOTHING  # first: who reads of it may mend it at once
        logger.exception("this cannot be started; it is tried again when one of its files changes")
        while not signals.asked.wait(LOOK):
            pass
    else:
        watch = Watch(signals.ask)
        report = _run(bus, options, console, signals)
    watch.close()
    again = bool(watch.changed) and not signals.name
    if again:
        logger.info("%s has changed: starting again", watch.changed)
    return again, report


def _made(make: Callable[[], EventBus], signals: StopSignals) -> EventBus:
    def leave() -> None:
        raise SystemExit(128 + signal.Signals[signals.name])

    with signals.asked.interrupts(leave):
        return make()


def _run(bus: EventBus, options: RunOptions, console: Console, signals: StopSignals) -> CloseReport:
    bus.open(wait=False)
    figures = Figures(bus)

    def line() -> str:
        return figures.line() + ("  closing; once more to leave at once" if signals.name else "")

    console.draw = line
    with _reporting(figures, options.interval, console):
        report = bus.wait(signals)
    told = {**figures.fields(), **asdict(report)}
    if _is_unfinished(report):
        logger.error(
            "closed; left are %d messages in hand, %d publishes without an answer, and these threads: %s",
            report.left,
            report.unanswered,
            ", ".join(report.unfinished_threads) or "none",
            extra=told,
        )
    elif report.handed_over:
        text = "closed: what was begun is finished; %d messages that no handler was started for go to others"
        logger.info(text, report.handed_over, extra=told)
    else:
        logger.info("closed: all that was in hand is handled", extra=told)
    return report


def _is_unfinished(report: CloseReport) -> bool:
    return bool(report.left or report.unanswered or report.unfinished_threads)


@contextmanager
def _reporting(figures: Figures, interval: float, console: Console) -> Iterator[None]:
    """Within the block log the figures now and then, where no line shows them all the time."""
    stop = StopToken()

    def report() -> None:
        while not stop.wait(interval):
            found = figures.fields()
            logger.info("handled %(handled)d, %(rate)s/s, in hand %(in_hand)d, lag %(lag)s", found, extra=found)

    thread = None if console.live else spawn("eventbus.report", report)
    try:
        yield
    finally:
        stop.set()
        if thread is not None:
            join_all([thread], LOOK)


def _end_in_time(code: int) -> None:
    """End the process within `LEAVE` seconds, whatever else would have it wait: threads that are no daemons, say."""

    def end() -> None:
        StopToken().wait(LEAVE)
        os._exit(code)

    spawn("eventbus.end", end)
