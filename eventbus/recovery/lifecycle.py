"""The life of a bus: what its public calls set in motion, each done whole on a thread of ours, or not at all."""

from __future__ import annotations

import threading

from attrs import evolve

from ..backends.base import Backend
from ..config import EventBusConfig
from ..consuming.arguments import Arguments
from ..consuming.consumers import Consumers
from ..consuming.subscriptions import Subscription
from ..errands import Errand, Errands, NotInTime
from ..errors import (
    ClosedError,
    ConnectFailedError,
    NotConnectedError,
    PublishNotSentError,
    SubscribeError,
)
from ..gate import Gate
from ..publishing.publisher import Publisher
from ..state import CloseReport, HealthStatus, Phase
from ..threads import Deadline, Stopped, StopToken, spawn, works_for
from . import at_exit
from .callbacks import Callbacks
from .closing import Closing
from .health import HealthMonitor
from .past import Past
from .supervisor import Supervisor

LATE_AGAIN = 0.5
"""Seconds between two tries for subscriptions that were not ready in time."""
AT_EXIT = 1.0
"""Seconds that a forgotten bus has at the end of the interpreter, when its broker is away or nobody watches it."""


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
        self._opener: StopToken | None = None  # set once the caller of the open has left with an exception
        self._elsewhere = self._stop.child()  # ends what reconnects without the health check
        self.errands = Errands(f"eventbus.{config.name}", owner=callbacks)
        self.supervisor = Supervisor(
            config,
            backend,
            consumers.subscriptions,
            publisher.pending,
            callbacks,
            on_lost=self._lost,
            on_connected=self._connected,
            on_refused=self._bring_late,
        )
        self.phases = self.supervisor.phases
        self.monitor = HealthMonitor(config, backend.retry_interval, self.supervisor, callbacks.report, self._stop)
        self.gate = Gate(config.name, self._forked, self._inherited)
        self.past = Past(config.name, self.supervisor, self.gate, self.errands, self._stop, callbacks)
        self._closing = self._make_closing()
        publisher.pending.refuse_with(_not_open)

    def _make_closing(self) -> Closing:
        return Closing(
            self.errands,
            self.monitor,
            self.supervisor,
            self._consumers,
            self._publisher,
            self._callbacks,
            self.past,
            self._stop,
            is_ours=lambda: works_for(self._callbacks) or self._consumers.is_handling(),
            on_closed=lambda: at_exit.forget(self),
        )

    # -- open and close --------------------------------------------------------------------------

    def open(self, timeout: float, wait: bool, asked: list[Errand[StopToken | None]]) -> None:
        """See `EventBus.open`. asked: for the caller to leave if an exception comes as this returns."""
        self.gate.check()
        opener = self._opener
        if self.phases.phase in (Phase.NEW, Phase.CONNECTING) or (opener is not None and opener.is_set()):
            self.gate.guard()  # before anything is there that a forked child could not use
            try:
                self.errands.run("open", lambda stop: self._open(timeout, wait, stop), timeout, self._take_back, asked)
            except NotInTime as error:
                raise ConnectFailedError(f"{self._config.name}: not connected within {timeout:g} s") from error
        elif wait and not self.supervisor.was_connected and not self.phases.wait_connected(timeout):
            self.gate.check()
            raise NotConnectedError(f"{self._config.name}: not connected within {timeout:g} s")

    def close(self, timeout: float, leave: StopToken | None = None) -> CloseReport:
        """See `EventBus.close`. leave: when it is set the caller waits no longer."""
        if self.gate.is_forked:
            return CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
        self.gate.shut()
        self._publisher.pending.quicken(False)  # from now on every publish looks at the gate
        return self._closing.close(timeout, leave)

    def _open(self, timeout: float, wait: bool, stop: StopToken) -> StopToken | None:
        """Open; None when somebody else has, else whose bus it is."""
        deadline = Deadline(timeout)
        while not self._begin(stop):
            if wait:
                self._wait_for_other(timeout, deadline)
            if self._adopt(stop):
                return stop
            if self.phases.phase is not Phase.NEW:
                return None
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
            spawn(f"eventbus.{self._config.name}.reconnect", self._keep_trying, self._elsewhere, owner=self._callbacks)
        self._bring_late()
        return stop

    def _keep_trying(self, stop: StopToken) -> None:
        self.monitor.episodes.until_connected(stop)
        if stop.is_set():
            self.supervisor.abort(NotConnectedError("stop_health_check() was called"))

    def _take_back(self, opener: StopToken | None) -> None:
        """The caller of an open that has just succeeded has left with an exception: he has no open bus."""
        with self._turn:
            if opener is None or self._opener is not opener or self.gate.is_shut:
                return
            self.monitor.stop(AT_EXIT)
            self._publisher.pending.refuse_with(_not_open)
            self.supervisor.take_back()
            self._clean_up()

    def _adopt(self, stop: StopToken) -> bool:
        """Whether the bus is open for somebody who has left with an exception: it is this caller's then."""
        with self._turn:
            opening = self.phases.phase in (Phase.NEW, Phase.CONNECTING)
            left = not opening and self._opener is not None and self._opener.is_set()
            if left:
                self._opener = stop
            return left

    def _wait_for_other(self, timeout: float, deadline: Deadline) -> None:
        """Wait until whoever was faster has opened, or has given up."""
        phases = self.phases
        phases.wait_for(lambda: phases.phase not in (Phase.CONNECTING, Phase.RECONNECTING), deadline)
        if phases.phase not in (Phase.CONNECTED, Phase.NEW):
            self.gate.check()
            raise NotConnectedError(f"{self._config.name}: not connected within {timeout:g} s")

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
            self._stop.forget(own)

    def _begin(self, stop: StopToken) -> bool:
        with self._turn:
            if self._beginning or self.phases.phase is not Phase.NEW:
                return False
            self._beginning = True
            self._opener = stop
            self.gate.guard()
            self.errands.start()  # an open that failed just now may have let the dispatcher go
            at_exit.remember(self, self._config.name)
        try:
            return self.phases.move(Phase.CONNECTING, only_from=Phase.NEW)
        finally:
            self._beginning = False

    def _as_new(self) -> None:
        """An open that failed leaves nothing behind."""
        with self._turn:
            self._clean_up()

    def _clean_up(self) -> None:
        if self.phases.phase in (Phase.NEW, Phase.CLOSED):
            self._opener = None
            self._publisher.stop(1.0)
        if self.phases.phase is Phase.NEW:
            self.monitor.stop(AT_EXIT)
            self.gate.unguard()
            at_exit.forget(self)
            self.errands.stop()

    def end_with_interpreter(self) -> CloseReport | None:
        """The interpreter ends and the bus was not closed: a bounded time to send what it accepted.

        None where that is no news: it was closed after all, or `stop_health_check()` was called, and nothing is left.
        """
        if self.gate.is_shut or self.phases.phase.is_final:
            return None
        watched = self.monitor.is_running
        well = watched and self.phases.phase is Phase.CONNECTED
        report = self.close(self._config.close_timeout if well else min(AT_EXIT, self._config.close_timeout))
        return report if watched or report.unanswered else None

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(self, given: Arguments, asked: list[Errand[Subscription]]) -> Subscription:
        """See `EventBus.subscribe`. asked: for the caller to leave if an exception comes as this returns."""
        self.gate.check()

        def call(stop: StopToken) -> Subscription:
            sub = self._consumers.add(given, unwanted=stop.is_set)
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
                asked=asked,
            )
        except NotInTime as error:
            raise SubscribeError(f"{given.topic}: the broker did not answer in time") from error

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
        if self.supervisor.current.has_unserved and not (self.monitor.is_running or self._bringing):
            self._bringing = True
            spawn(f"eventbus.{self._config.name}.late", self._bring, self._stop.child(), owner=self._callbacks)

    def _bring(self, stop: StopToken) -> None:
        try:
            current = self.supervisor.current
            while self.phases.phase is Phase.CONNECTED and current.has_unserved:
                pause = LATE_AGAIN if current.has_late else self._config.health_check.interval
                if self.monitor.is_running or stop.wait(pause):
                    return
                self.supervisor.repair(stop)
        finally:
            self._bringing = False
            self._stop.forget(stop)

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
            return not self.errands.run("stop_health_check", lambda stop: self._unwatch(timeout), timeout)
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
            raise NotConnectedError(f"{self._config.name}: not reconnected: {error}") from error

    def _unwatch(self, timeout: float) -> tuple[str, ...]:
        elsewhere, self._elsewhere = self._elsewhere, self._stop.child()
        elsewhere.set()
        self._stop.forget(elsewhere)
        return self.monitor.stop(timeout)

    def _reconnect(self, timeout: float, stop: StopToken) -> None:
        own = self._elsewhere.child()
        try:
            with stop.interrupts(own.set):
                self.monitor.episodes.replace(timeout, own)
        finally:
            self._elsewhere.forget(own)
        self._bring_late()

    # -- status ----------------------------------------------------------------------------------

    def health_status(self) -> HealthStatus:
        """What was measured last, and what is not served. Takes no lock."""
        status, connection = self.monitor.status(), self.phases.connection_state()
        phase = connection.phase
        if phase.is_final:
            return evolve(status, is_healthy=False, is_running=False, detail=f"the bus is {phase.value}")
        not_served = self._consumers.not_served()
        detail = status.detail
        if not detail and phase is not Phase.CONNECTED and connection.last_error is not None:
            detail = str(connection.last_error)  # nothing was probed yet, and attempts fail
        well = status.is_healthy and phase is Phase.CONNECTED
        return evolve(status, is_healthy=well, detail=detail, not_served=not_served)

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
        self._turn = threading.Lock()
        self._beginning = self._bringing = False
        self.errands.renew()
        self.supervisor.inherited()
        self.monitor.inherited()
        self._callbacks.inherited()
        self.past.inherited()
        self._publisher.inherited()
        self._consumers.inherited()


def _not_open(id: str) -> Exception:
    return PublishNotSentError("the bus is not open: call open() first", id)


def _no_connection(id: str) -> Exception:
    return PublishNotSentError("there is no connection, and on_outage is 'raise'", id)
