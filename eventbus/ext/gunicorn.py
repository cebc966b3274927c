"""A bus in each worker of gunicorn, opened and closed by two lines of ``gunicorn.conf.py``::

    from eventbus.ext.gunicorn import hooks

    post_worker_init, worker_exit = hooks("shop.events:bus")

Signals stay gunicorn's. What works with which worker class is told, and tested, in docs/gunicorn.rst.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from ..bus import EventBus
from ..config import EventBusConfig
from ..errors import ConfigError, NotInitializedError
from ..globals import get_global, initialize_from_config
from ..state import CloseReport
from .process import close_buses, open_bus


class Worker(Protocol):
    """What the hooks use of `gunicorn.workers.base.Worker`. log: gunicorn's error log."""

    pid: int
    cfg: Any
    log: Any


class Hooks(NamedTuple):
    """Server hooks by gunicorn's names: assign both in ``gunicorn.conf.py``, or call them from hooks of your own.

    post_worker_init opens the bus: the application is loaded by then, and the worker's user, signals and patches are
    in place. worker_exit closes it; in the master, where gunicorn calls it too, it does nothing.
    """

    post_worker_init: Callable[[Worker], None]
    worker_exit: Callable[[object, Worker], None]


def hooks(*buses: str | Callable[[], EventBus] | None) -> Hooks:
    """Hooks that open a bus in each worker, and close it in time when the worker ends; runs nothing itself.

    buses: "module:attribute", or a function that returns it; both are looked up in the worker. None, and nothing at
    all: the global bus, which is made from `EVENTBUS_URL` unless the application has initialized it. Several of them
    are closed side by side, in the time of one.
    It is opened with `wait=False`: a worker serves while the broker is away, and publishing waits or fails in time. A
    bus that cannot be opened at all (ConfigError, UnsupportedError, ClosedError) ends gunicorn with the error. The
    report of the close goes to gunicorn's error log, as does what at the start of a worker does not fit together: a
    `graceful_timeout` or `timeout` that does not leave the bus its own timeouts.
    """
    own = _WorkerBuses([_finder(bus) for bus in buses or (None,)])
    return Hooks(own.open, own.close)


class _WorkerBuses:
    """The buses of one worker; the master's copy of this stays empty."""

    def __init__(self, finders: Sequence[Callable[[], EventBus]]) -> None:
        self._finders = finders
        self._buses: list[EventBus] = []

    def open(self, worker: Worker) -> None:
        for find in self._finders:
            bus = find()
            for text in _misfits(bus.config, worker.cfg):
                worker.log.warning("eventbus: %s", text)
            open_bus(bus)
            self._buses.append(bus)

    def close(self, server: object, worker: Worker) -> None:
        buses, self._buses = self._buses, []
        if worker.pid != os.getpid():  # gunicorn's master calls for a worker that was gone already
            return
        began = time.monotonic()
        reports = close_buses({bus: _closing_time(bus.config, worker.cfg) for bus in buses})
        took = time.monotonic() - began
        for bus, report in reports.items():
            _tell(worker, bus.config.name, report, took)


def _tell(worker: Worker, name: str, report: CloseReport | Exception, took: float) -> None:
    if isinstance(report, Exception):
        worker.log.error("eventbus: %s could not be closed: %s", name, report, exc_info=report)
        return
    left = _left_by(report)
    log = worker.log.warning if left else worker.log.info
    log("eventbus: %s closed in %.2f s, %s", name, took, "; ".join(left) or "nothing left")


def _misfits(config: EventBusConfig, cfg: Any) -> list[str]:
    """What of gunicorn's settings leaves a bus less than its own timeouts, in words that say what to set."""
    found = []
    needed = config.publish_timeout + config.close_timeout
    if needed > cfg.graceful_timeout:
        found.append(
            f"graceful_timeout is {cfg.graceful_timeout:g} s, and a request that waits for the broker "
            f"(publish_timeout {config.publish_timeout:g} s) and the close behind it (close_timeout "
            f"{config.close_timeout:g} s) may take {needed:g} s: a worker may be killed before it has told what it "
            "left; raise the one or lower the others"
        )
    if cfg.worker_class_str == "sync" and 0 < cfg.timeout <= config.publish_timeout:
        found.append(
            f"timeout is {cfg.timeout:g} s: a sync worker whose request waits for the broker for longer "
            f"(publish_timeout {config.publish_timeout:g} s) is killed; raise the one, lower the other, or use gthread"
        )
    return found


def _closing_time(config: EventBusConfig, cfg: Any) -> float:
    """Seconds for a close: the bus's own, within what requests that publish leave of `graceful_timeout`.

    A worker is not told when it was asked to stop, only when its requests are over. So a `graceful_timeout` that leaves
    less than half of itself is halved.
    """
    left = max(cfg.graceful_timeout - config.publish_timeout, cfg.graceful_timeout / 2)
    return float(min(config.close_timeout, left, cfg.timeout or left))


def _left_by(report: CloseReport) -> list[str]:
    """What a close had to leave, in words."""
    left = []
    if report.unanswered:
        left.append(f"{report.unanswered} publishes without an answer")
    if report.left:
        left.append(f"{report.left} messages whose handler did not finish")
    if report.unfinished_threads:
        left.append(f"threads that still ran: {', '.join(report.unfinished_threads)}")
    return left


def _finder(bus: str | Callable[[], EventBus] | None) -> Callable[[], EventBus]:
    if bus is None:
        return _global_bus
    if not isinstance(bus, str):
        return bus
    module, colon, attribute = bus.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"hooks() takes 'module:attribute', as 'shop.events:bus', not {bus!r}")
    return lambda: _imported(module, attribute)


def _imported(module: str, attribute: str) -> EventBus:
    found = attrgetter(attribute)(importlib.import_module(module))
    if not isinstance(found, EventBus):
        raise ConfigError(f"{module}:{attribute} is no EventBus, but {found!r}")
    return found


def _global_bus() -> EventBus:
    try:
        return get_global()
    except NotInitializedError:
        return initialize_from_config(wait=False)
