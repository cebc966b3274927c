"""The life of a bus: what its public calls set in motion, each done whole on a thread of ours, or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import evolve

from .. import greenlets, log
from ..backends.base import Backend
from ..config import EventBusConfig
from ..consuming.arguments import Arguments
from ..consuming.consumers import Consumers
from ..consuming.subscriptions import Subscription
from ..errands import Errand, Errands, NotInTime
from ..errors import (
    ForkedError,
    NotConnectedError,
    SubscribeError,
)
from ..gate import Entry, Gate
from ..publishing.publisher import Publisher
from ..state import CloseReport, HealthStatus, Phase
from ..threads import Deadline, StopToken, spawn, works_for
from . import at_exit
from .callbacks import Callbacks
from .closing import NOTHING_LEFT, Closing
from .health import HealthMonitor
from .opening import Opening
from .past import Past
from .supervisor import Supervisor

logger = log.get(__name__)

LATE_AGAIN = 0.5
"""Seconds between two tries for subscriptions that were not ready in time."""
_PHASE_OF = {Entry.UNUSED: Phase.NEW, Entry.ASLEEP: Phase.FORKED, Entry.CLOSED: Phase.CLOSED}
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
        begins: Entry = Entry.UNUSED,
    ) -> None:
        self._config = config
        self._consumers = consumers
        self._publisher = publisher
        self._callbacks = callbacks
        self._stop = StopToken()
        self._bringing = False
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
            begins=_PHASE_OF[begins],
        )
        self.phases = self.supervisor.phases
        self.monitor = HealthMonitor(config, backend.retry_interval, self.supervisor, callbacks.report, self._stop)
        # It is made later.
        self.gate = Gate(config.name, begins, lambda patience: self._opening.open_itself(patience))  # noqa: PLW0108
        self._opening = self._make_opening(backend)
        self.open = self._opening.open
        self.past = Past(config.name, self.supervisor, self.gate, self.errands, self._stop, callbacks)
        self._closing = self._make_closing()

    def _make_opening(self, backend: Backend) -> Opening:
        return Opening(
            self._config,
            self.errands,
            self.gate,
            self.supervisor,
            self.monitor,
            self._publisher,
            self._stop,
            check=lambda: greenlets.check(self._config.name, backend.name, backend.waits_in_c),
            on_begin=lambda: at_exit.remember(self, self._config.name),
            on_open=self._begin_watching,
            on_undone=lambda: at_exit.forget(self),
        )

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
            is_ours=lambda: works_for(self._callbacks),
            on_closed=lambda: at_exit.forget(self),
        )

    # -- open and close --------------------------------------------------------------------------

    def wake(self, patience: float) -> None:
        """Open it if it is a forked child's copy that nobody has used yet, for somebody who has so many seconds."""
        if self.gate.entry is Entry.ASLEEP:
            self.gate.check(patience)

    def _begin_watching(self, connected: bool) -> None:
        if self._config.health_check.enabled:
            self.monitor.start()
        elif not connected:
            spawn(f"eventbus.{self._config.name}.reconnect", self._keep_trying, self._elsewhere, owner=self._callbacks)
        self._bring_late()

    def _keep_trying(self, stop: StopToken) -> None:
        self.monitor.episodes.until_connected(stop)
        if stop.is_set():
            self.supervisor.abort(NotConnectedError("stop_health_check() was called"))
        self._bring_late()

    def close(self, timeout: float, leave: StopToken | None = None) -> CloseReport:
        """See `EventBus.close`. leave: when it is set the caller waits no longer."""
        if self.gate.is_forked:
            return NOTHING_LEFT
        self.gate.shut()
        self._publisher.pending.quicken(False)  # from now on every publish looks at the gate
        return self._closing.close(timeout, leave)

    @property
    def is_awaited_here(self) -> bool:
        """Whether the calling thread is one that the end of the bus waits for: a handler's, or a callback's."""
        return works_for(self._callbacks) or self._consumers.is_handling()

    def begin_close(self, timeout: float) -> None:
        """Have it close within `timeout` seconds, and do not wait for that: `close` does."""
        left = StopToken()
        left.set()
        self.close(timeout, left)

    def await_first_attempt(self, since: float) -> None:
        """Let a bus that was opened just now, and has something to send, try to connect before the process ends.

        since: by `time.monotonic`, when that began. Up to half of `close_timeout`.
        """
        if self._publisher.pending.in_flight and not (self.gate.is_shut or self.phases.phase.is_final):
            self.phases.wait_first_attempt(max(0.0, since + self._config.close_timeout / 2 - time.monotonic()))

    def end_with_process(self) -> Callable[[], CloseReport | None]:
        """The process ends and the bus was not closed: a bounded time to send what it accepted, from now on.

        What is returned waits for that, and says what is told of it. None where it is no news: the bus was closed after
        all; or nothing is left, and `stop_health_check()` was called or it is a forked child's copy, which nobody
        opened.
        """
        if self.gate.is_shut or self.phases.phase.is_final:
            return lambda: None
        watched, timeout = self.monitor.is_running, self._config.close_timeout
        well = watched and self.phases.phase is Phase.CONNECTED
        deadline = Deadline(timeout if well else min(AT_EXIT, timeout))
        self.begin_close(deadline.remaining())

        def end() -> CloseReport | None:
            report = self.close(deadline.remaining())
            return report if report.unanswered or (watched and not self.gate.was_asleep) else None

        return end

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(self, given: Arguments, asked: list[Errand[Subscription]]) -> Subscription:
        """See `EventBus.subscribe`. asked: for the caller to leave if an exception comes as this returns."""
        self.gate.check()

        def call(stop: StopToken) -> Subscription:
            sub = self._consumers.add(given, unwanted=stop.is_set)
            own = self._stop.child()
            try:
                with stop.interrupts(own.set):
                    self.supervisor.activate(sub, own)
                self.gate.check()  # closed meanwhile
                self._bring_late()
            except BaseException as error:
                self._consumers.remove(sub, 0.0, from_handler=True)
                if self.gate.is_shut:
                    raise self.gate.error() from error
                raise
            finally:
                self._stop.forget(own)
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
        """Bring what is not delivered, where there is no health check to do that: again and again."""
        if self._has_unserved and not (self.monitor.is_running or self._bringing):
            self._bringing, stop = True, self._stop.child()
            try:
                spawn(f"eventbus.{self._config.name}.late", self._bring, stop, owner=self._callbacks)
            except RuntimeError as error:
                # The interpreter ends, say: whoever was refused or stopped is not to fail of it.
                self._bringing = False
                self._stop.forget(stop)
                logger.warning("%s: nobody brings what is not delivered yet: %s", self._config.name, error)

    @property
    def _has_unserved(self) -> bool:
        return self.phases.phase is Phase.CONNECTED and self.supervisor.current.has_unserved

    def _bring(self, stop: StopToken) -> None:
        try:
            while self._has_unserved:
                late = self.supervisor.current.has_late
                if self.monitor.is_running or stop.wait(LATE_AGAIN if late else self._config.health_check.interval):
                    return
                self.supervisor.repair(stop)
        finally:
            self._bringing = False
            self._stop.forget(stop)
        self._bring_late()  # one may have been refused as this ended

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
        except ForkedError:
            return True

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
        unfinished = self.monitor.stop(timeout)
        self._bring_late()
        return unfinished

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
        if phase in (Phase.CLOSED, Phase.FORKED):
            return evolve(status, is_healthy=False, is_running=False, detail=f"the bus is {phase.value}")
        not_served = self._consumers.not_served()
        detail = status.detail
        if not detail and phase is not Phase.CONNECTED and connection.last_error is not None:
            detail = str(connection.last_error)  # nothing was probed yet, and attempts fail
        well = status.is_healthy and phase is Phase.CONNECTED
        return evolve(status, is_healthy=well, detail=detail, not_served=not_served)

    def check_to_publish(self, patience: float) -> None:
        """ClosedError or ForkedError, for a call that has so many seconds.

        While the bus closes, handlers that still run publish what they have to.
        """
        gate = self.gate
        if not gate.is_open and (
            gate.entry is not Entry.CLOSED or self.phases.phase is Phase.CLOSED or not self._consumers.is_handling()
        ):
            gate.check(patience)

    # The supervisor is made before the monitor that is told.

    def _lost(self, cause: BaseException) -> None:
        self.monitor.lost(cause)

    def _connected(self, detail: str) -> None:
        self.monitor.recovered(detail)

    # -- fork ------------------------------------------------------------------------------------

    def forked(self) -> None:
        """This is a forked child's copy: whoever waits in it, on the thread that forked, is told. Takes no lock."""
        self.gate.fork()
        self._publisher.pending.forked(self.gate.forked_error)
        self.phases.forked()
        self._consumers.forked(self.gate.forked_error())
        self._closing.forked()
        self.errands.forked(self.gate.forked_error)
