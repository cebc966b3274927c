"""The life of a bus: what its public calls set in motion, each done whole on a thread of ours, or not at all."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import warnings

from attrs import evolve

from ..backends.base import Backend
from ..config import EventBusConfig
from ..consuming.consumers import Consumers
from ..consuming.subscriptions import Handler, Subscription, SubscriptionState
from ..errands import Errands, NotInTime
from ..errors import (
    ClosedError,
    ConnectFailedError,
    EventBusError,
    NotConnectedError,
    PublishNotSentError,
    SubscribeError,
)
from ..gate import Gate
from ..publishing.publisher import Publisher
from ..state import CloseReport, HealthStatus, Phase
from ..threads import Deadline, Stopped, StopToken, spawn, works_for
from .callbacks import Callbacks
from .closing import Closing
from .health import HealthMonitor
from .supervisor import Supervisor

logger = logging.getLogger(__name__)

LATE_AGAIN = 0.5
"""Seconds between two tries for subscriptions that were not ready in time."""
AT_EXIT = 1.0
"""Seconds that a forgotten bus has at the end of the interpreter, when its broker is away or nobody watches it."""

_open: dict[Lifecycle, None] = {}
"""Those that were opened and not closed: at the end of the interpreter they get time to send what they accepted."""


class Lifecycle:
    """Owns the errands, the supervisor, the health check and the end of one bus."""

    def __init__(
        self,
        config: EventBusConfig,
        backend: Backend,
        consumers: Consumers,
        publisher: Publisher,
        callbacks: Callbacks,
    ) -> None:
        self._config = config
        self._consumers = consumers
        self._publisher = publisher
        self._callbacks = callbacks
        self._stop = StopToken()
        self._turn = threading.Lock()  # of those who open, on threads of ours
        self._beginning = self._bringing = False
        self.errands = Errands(f"eventbus.{config.name}", owner=callbacks)
        self.supervisor = Supervisor(
            config,
            backend,
            consumers.subscriptions,
            publisher.pending,
            callbacks,
            on_lost=self._lost,
            on_connected=self._connected,
        )
        self.phases = self.supervisor.phases
        self.monitor = HealthMonitor(config, backend.retry_interval, self.supervisor, callbacks.report, self._stop)
        self.gate = Gate(config.name, self._forked, self._inherited)
        self._closing = Closing(
            self.errands,
            self.monitor,
            self.supervisor,
            consumers,
            publisher,
            callbacks,
            self._stop,
            is_ours=lambda: works_for(callbacks) or consumers.is_handling(),
            on_closed=lambda: _open.pop(self, None),
        )
        publisher.pending.refuse_with(lambda id: PublishNotSentError("the bus is not open: call open() first", id))

    # -- open and close --------------------------------------------------------------------------

    def open(self, timeout: float, wait: bool) -> None:
        """See `EventBus.open`."""
        self.gate.check()
        if self.phases.phase in (Phase.NEW, Phase.CONNECTING):
            self.errands.start()
            try:
                self.errands.run("open", lambda stop: self._open(timeout, wait, stop), timeout)
            except NotInTime as error:
                raise ConnectFailedError(f"{self._config.name}: not connected within {timeout:g} s") from error
        elif wait and not self.supervisor.was_connected and not self.phases.wait_connected(timeout):
            self.gate.check()
            raise NotConnectedError(f"{self._config.name}: not connected within {timeout:g} s")

    def close(self, timeout: float) -> CloseReport:
        """See `EventBus.close`."""
        if self.gate.is_forked:
            return CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
        self.gate.shut()
        self._publisher.pending.quicken(False)  # from now on every publish looks at the gate
        return self._closing.close(timeout)

    def _open(self, timeout: float, wait: bool, stop: StopToken) -> None:
        deadline = Deadline(timeout)
        while not self._begin():
            if not wait or self._is_opened_by_another(timeout, deadline):
                return
        try:
            self._publisher.start()
            if wait:
                self._connect(timeout, stop)
            elif not self.phases.move(Phase.RECONNECTING):
                raise ClosedError("the bus was closed while it was being opened")
        except BaseException:
            self._as_new()
            raise
        self._publisher.pending.refuse_with(None if self._config.on_outage == "wait" else _no_connection)
        if self._config.health_check.enabled:
            self.monitor.start()
        elif not wait:
            name = f"eventbus.{self._config.name}.reconnect"
            spawn(name, self.monitor.episodes.until_connected, self._stop.child(), owner=self._callbacks)
        self._bring_late()

    def _is_opened_by_another(self, timeout: float, deadline: Deadline) -> bool:
        """Wait for him who was faster; False: he has given up, and it is our turn."""
        phases = self.phases
        phases.wait_for(lambda: phases.phase not in (Phase.CONNECTING, Phase.RECONNECTING), deadline)
        if phases.phase not in (Phase.CONNECTED, Phase.NEW):
            self.gate.check()
            raise NotConnectedError(f"{self._config.name}: not connected within {timeout:g} s")
        return phases.phase is Phase.CONNECTED

    def _connect(self, timeout: float, stop: StopToken) -> None:
        own = self._stop.child()
        try:
            with stop.interrupts(own.set):
                self.supervisor.connect(timeout, own)
        except BaseException as error:
            closed = not self.phases.move(Phase.NEW, error, only_from=Phase.CONNECTING)
            if closed or self._stop.is_set():
                raise ClosedError("the bus was closed while it was connecting") from error
            if isinstance(error, Stopped):
                raise NotConnectedError("open() was given up") from error
            raise
        finally:
            self._stop.release(own)

    def _begin(self) -> bool:
        with self._turn:
            if self._beginning or self.phases.phase is not Phase.NEW:
                return False
            self._beginning = True
            self.gate.guard()
            self.errands.start()  # an open that failed just now may have let the dispatcher go
            _open[self] = None
        try:
            return self.phases.move(Phase.CONNECTING, only_from=Phase.NEW)
        finally:
            self._beginning = False

    def _as_new(self) -> None:
        """An open that failed leaves nothing behind."""
        with self._turn:
            if self.phases.phase in (Phase.NEW, Phase.CLOSED):
                self._publisher.stop(1.0)
            if self.phases.phase is Phase.NEW:
                self.gate.unguard()
                _open.pop(self, None)
                self.errands.stop()

    def end_with_interpreter(self) -> None:
        """The interpreter ends and the bus was not closed: a bounded time to send what it accepted."""
        if self.gate.is_shut or self.phases.phase.is_final:
            return
        watched = self.monitor.is_running
        well = watched and self.phases.phase is Phase.CONNECTED
        report = self.close(self._config.close_timeout if well else min(AT_EXIT, self._config.close_timeout))
        if not (watched or report.unanswered):
            return  # stop_health_check() was called: this is how such a program ends
        text = f"{self._config.name}: the program ended without bus.close()"
        if report.unanswered:
            text += f"; {report.unanswered} accepted messages were not confirmed and may be lost"
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # warnings are errors here, and there is nobody left to catch one
            sys.stderr.write(f"RuntimeWarning: {text}\n")

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(
        self, topic: object, handler: Handler, group: object, concurrency: object, start: object
    ) -> Subscription:
        """See `EventBus.subscribe`."""
        self.gate.check()

        def call(stop: StopToken) -> Subscription:
            sub = self._consumers.add(topic, handler, group, concurrency, start, unwanted=stop.is_set)
            try:
                self.supervisor.activate(sub, stop)
                self.gate.check()  # closed meanwhile
                self._bring_late()
            except BaseException as error:
                self._consumers.remove(sub, 0.0, from_handler=True)
                if self.gate.is_shut:
                    raise self.gate.error() from error
                raise
            return sub

        try:
            return self.errands.run(
                "subscribe",
                call,
                2 * self._config.connect_timeout,
                undo=lambda sub: self._consumers.remove(sub, 0.0, from_handler=True),
            )
        except NotInTime as error:
            raise SubscribeError(f"{topic}: the broker did not answer in time") from error

    def unsubscribe(self, sub: Subscription, timeout: float) -> bool:
        """See `EventBus.unsubscribe`."""
        if not isinstance(sub, Subscription):
            raise TypeError(f"unsubscribe takes what subscribe() returned, not {type(sub).__name__}")
        if self.gate.is_forked:
            self.gate.check()
        if not self._consumers.knows(sub):
            raise SubscribeError(f"{sub!r} is another bus's subscription")
        if self._consumers.is_handling():  # a thread of ours; and it waits for no other handler, which may wait for it
            return not self._consumers.remove(sub, timeout, from_handler=True)
        try:
            return not self.errands.run("unsubscribe", lambda stop: self._consumers.remove(sub, timeout), timeout)
        except NotInTime:
            return False

    def _bring_late(self) -> None:
        """Bring what was not ready in time, where there is no health check to do that."""
        if self.supervisor.current.has_late and not (self.monitor.is_running or self._bringing):
            self._bringing = True
            spawn(f"eventbus.{self._config.name}.late", self._bring, self._stop.child(), owner=self._callbacks)

    def _bring(self, stop: StopToken) -> None:
        try:
            while self.phases.phase is Phase.CONNECTED and self.supervisor.current.has_late:
                if self.monitor.is_running or stop.wait(LATE_AGAIN) or self.supervisor.repair(stop):
                    return
        finally:
            self._bringing = False
            self._stop.release(stop)

    # -- recovery --------------------------------------------------------------------------------

    def start_health_check(self) -> None:
        """See `EventBus.start_health_check`."""
        self.gate.check()
        if self.phases.phase is Phase.NEW:
            raise NotConnectedError("the bus is not open: call open() first, it starts the health check")
        self.errands.run("start_health_check", lambda stop: self.monitor.start(), self._config.close_timeout)

    def stop_health_check(self, timeout: float) -> bool:
        """See `EventBus.stop_health_check`; in a forked child there is nothing to stop."""
        if self.gate.is_forked:
            return True
        try:
            return not self.errands.run("stop_health_check", lambda stop: self.monitor.stop(timeout), timeout)
        except NotInTime:
            return False

    def reconnect(self, timeout: float) -> None:
        """See `EventBus.reconnect`."""
        self.gate.check()
        if self.phases.phase in (Phase.NEW, Phase.CONNECTING):
            raise NotConnectedError("the bus is not open: call open() first")
        try:
            self.errands.run("reconnect", lambda stop: self._reconnect(timeout, stop), timeout)
        except (NotConnectedError, NotInTime) as error:
            self.gate.check()  # closed meanwhile
            last = self.phases.connection_state().last_error
            text = f"{self._config.name}: not reconnected within {timeout:g} s ({last or error})"
            raise NotConnectedError(text) from error

    def _reconnect(self, timeout: float, stop: StopToken) -> None:
        self.monitor.episodes.replace(timeout, stop)
        self._bring_late()

    # -- status ----------------------------------------------------------------------------------

    def health_status(self) -> HealthStatus:
        """What was measured last, and what is not served. Takes no lock."""
        status, phase = self.monitor.status(), self.phases.phase
        if phase.is_final:
            return evolve(status, is_healthy=False, is_running=False, detail=f"the bus is {phase.value}")
        not_served = tuple(
            f"{sub.topic}: {sub.error or 'waits for the broker'}"
            for sub in self._consumers.subscriptions
            if sub.state in (SubscriptionState.PENDING, SubscriptionState.FAILED)
        )
        return evolve(status, is_healthy=status.is_healthy and phase is Phase.CONNECTED, not_served=not_served)

    def check_to_publish(self) -> None:
        """ClosedError or ForkedError; while the bus closes, handlers that still run publish what they have to."""
        if self.gate.is_shut and (
            self.gate.is_forked or self.phases.phase is Phase.CLOSED or not self._consumers.is_handling()
        ):
            self.gate.check()

    # The supervisor is made before the monitor that is told.

    def _lost(self, cause: BaseException) -> None:
        self.monitor.lost(cause)

    def _connected(self, detail: str) -> None:
        self.monitor.recovered(detail)

    # -- fork ------------------------------------------------------------------------------------

    def _forked(self) -> None:
        self._publisher.pending.forked(self.gate.error)
        self.phases.forked()
        self._consumers.forked(self.gate.error())

    def _inherited(self) -> None:
        self.phases.inherited()
        self._consumers.inherited()
        self._publisher.pending.renew_origin()


def _no_connection(id: str) -> Exception:
    return PublishNotSentError("there is no connection, and on_outage is 'raise'", id)


def _at_exit() -> None:
    for life in list(_open):
        try:
            life.end_with_interpreter()
        except (EventBusError, RuntimeError, OSError):
            logger.exception("a bus that was not closed could not be ended")


def _after_fork_in_child() -> None:
    _open.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
