"""The health check: a daemon thread that measures the broker, counts failures and hands off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timezone

from ..config import EventBusConfig
from ..errors import (
    ConfigError,
    ConnectFailedError,
    EventBusError,
    NotConnectedError,
    ReconnectExhaustedError,
)
from ..state import ErrorEvent, HealthStatus, Phase
from ..threads import Deadline, Stopped, StopToken, join_all, spawn
from .supervisor import Supervisor

logger = logging.getLogger(__name__)

FORCED = "reconnect() was called"
LOOK_AGAIN = 0.25
"""Seconds between two looks at a broker that was given up and did not speak."""
STOPPING = 0.25
"""Seconds that a stopped episode has to end."""
REACHABLE_TIMEOUT = 1.0
"""Seconds that a server has to speak, when a broker that was given up is looked at again."""


class HealthMonitor:
    """Probes every `interval`, or at once when poked. All counting happens on its own thread.

    Success sets the failures to 0. A failed probe adds one; the next follows after `retry_interval`. At
    `failure_threshold`, or on evidence that cannot heal (a lost link), it hands off to the supervisor on
    the same thread, so that no two reconnects run at once and one stop interrupts probe, pause and attempt.
    """

    def __init__(
        self,
        config: EventBusConfig,
        retry_interval: float | None,
        supervisor: Supervisor,
        report: Callable[[ErrorEvent], object],
        stop: StopToken,
    ) -> None:
        self._name = config.name
        self._check = config.health_check
        self._reconnect = config.reconnect
        check = config.health_check
        self._retry_interval = check.retry_interval or retry_interval or check.interval
        self._supervisor = supervisor
        self._report = report
        self._bus_stop = stop
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop: StopToken | None = None
        self._wake = threading.Event()
        self._only_connect = False
        self._forced: list[threading.Event] = []
        self._healthy = False
        self.failures = 0
        self._last_success: datetime | None = None
        self._last_failure: datetime | None = None
        self._detail = ""

    def start(self, *, only_connect: bool = False) -> None:
        """Start the thread; while it runs, nothing happens. `only_connect`: it ends once CONNECTED."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive() and self._stop and not self._stop.is_set():
                self._only_connect = self._only_connect and only_connect
                return
            self._only_connect = only_connect
            self._stop = stop = self._bus_stop.child()
            # Its own: a thread that was stopped and is not out yet must not miss its wake-up.
            self._wake = wake = threading.Event()
            self._thread = spawn(f"eventbus.{self._name}.health", self._run, stop, wake)

    def stop(self, timeout: float) -> tuple[str, ...]:
        """Stop the thread and any reconnect that it runs; names it if it is not out in `timeout` seconds."""
        with self._lock:
            stop, thread = self._stop, self._thread
        if stop is None or thread is None:
            return ()
        stop.set()
        unfinished = join_all([thread], timeout)
        self._bus_stop.release(stop)
        return unfinished

    @property
    def is_running(self) -> bool:
        """Whether the thread is alive and was not told to stop."""
        with self._lock:
            return bool(self._thread and self._thread.is_alive() and self._stop and not self._stop.is_set())

    def poke(self) -> None:
        """Look at once. Any thread; never blocks."""
        self._wake.set()

    def suspect(self) -> None:
        """Something failed that a probe can judge: look at once, unless failures are being counted already."""
        if not self.failures:
            self._wake.set()

    def lost(self, cause: BaseException) -> None:
        """The client says that the link is gone. Any thread; never blocks."""
        self._judge_lost(cause)
        if self.is_running:
            self.poke()
        else:
            self._supervisor.abort(cause)

    def recovered(self, detail: str) -> None:
        """A connect or reconnect that ran elsewhere succeeded: it was proven by a round trip."""
        self._note_success(detail)

    def reconnect_now(self, timeout: float) -> bool:
        """Replace the session, on this monitor's thread or, while it is stopped, on one made for it.

        False when that has not succeeded within `timeout` seconds.
        """
        deadline = Deadline(timeout)
        phases = self._supervisor.phases
        before = phases.connection_state().reconnect_count
        if self.is_running:
            self._force().wait(deadline.remaining())
        else:
            stop = self._bus_stop.child()
            episode = spawn(f"eventbus.{self._name}.reconnect", self._reconnect_here, stop)
            episode.join(deadline.remaining())
            stop.set()
            episode.join(STOPPING)  # else the next call could find it still on its way out
            self._bus_stop.release(stop)
        return phases.phase is Phase.CONNECTED and phases.connection_state().reconnect_count > before

    def _reconnect_here(self, stop: StopToken) -> None:
        if self._supervisor.reconnect(NotConnectedError(FORCED), stop, force=True):
            self._note_success("reconnected")

    def _force(self) -> threading.Event:
        over = threading.Event()
        with self._lock:
            self._forced.append(over)
        self.poke()
        return over

    def status(self) -> HealthStatus:
        """A snapshot of what was measured last."""
        running = self.is_running
        with self._lock:
            return HealthStatus(
                is_healthy=self._healthy,
                is_running=running,
                consecutive_failures=self.failures,
                last_success_time=self._last_success,
                last_failure_time=self._last_failure,
                detail=self._detail,
            )

    # -- the thread ------------------------------------------------------------------------------

    def _run(self, stop: StopToken, wake: threading.Event) -> None:
        with stop.interrupts(wake.set):
            pause = self._first_pause()
            while True:
                wake.wait(pause)
                wake.clear()
                if stop.is_set():
                    break
                pause = self._guarded_tick(stop)
                if self._has_connected():
                    break
        with self._lock:
            newest = self._stop is stop  # else another thread watches already
        if stop.is_set() and newest:
            self._supervisor.abort(NotConnectedError("the health check is stopped"))
        self._end_forced()

    def _has_connected(self) -> bool:
        """Whether that was all this thread was for."""
        with self._lock:
            over = self._only_connect and self._supervisor.phases.phase is Phase.CONNECTED
            if over:
                self._thread = None  # a start that comes now makes another one
            return over

    def _first_pause(self) -> float:
        at_work = self._supervisor.phases.phase is Phase.CONNECTED and self._supervisor.lost is None
        return self._until_next_look() if at_work else 0.0

    def _until_next_look(self) -> float:
        return self._retry_interval if self._supervisor.has_late else self._check.interval

    def _guarded_tick(self, stop: StopToken) -> float:
        try:
            return self._tick(stop)
        except Stopped:
            return 0.0
        except Exception as error:  # the watchman must not die of what he sees
            logger.exception("%s: the health check failed in an unexpected way", self._name)
            self._note_failure(error)
            return self._retry_interval

    def _tick(self, stop: StopToken) -> float:
        """One look; returns seconds to the next."""
        phase = self._supervisor.phases.phase
        lost = self._supervisor.lost
        with self._lock:
            forced = bool(self._forced)
        if forced:
            return self._episode(NotConnectedError(FORCED), stop, force=True)
        if phase is Phase.CONNECTED:
            if lost is not None:
                self._judge_lost(lost)
                return self._episode(lost, stop)
            return self._probe(stop)
        if phase is Phase.RECONNECTING:
            return self._episode(self._last_error(), stop)
        if phase is Phase.DISCONNECTED:
            return self._look_again(stop)
        return self._check.interval

    def _probe(self, stop: StopToken) -> float:
        session = self._supervisor.session
        assert session is not None
        try:
            detail = session.probe(self._check.timeout, stop)
        except (EventBusError, OSError) as error:
            if session.lost is not None:
                self._judge_lost(session.lost)
                return self._episode(session.lost, stop)
            return self._count(error, stop)
        self._note_success(detail)
        self._supervisor.phases.trouble_over()
        return self._check.interval if self._supervisor.repair() else self._retry_interval

    def _count(self, error: Exception, stop: StopToken) -> float:
        self._note_failure(error)
        self._supervisor.phases.trouble()
        logger.error("%s: health probe failed (%d in a row): %s", self._name, self.failures, error)
        self._report(ErrorEvent(source="health", error=error))
        if self.failures < self._reconnect.failure_threshold:
            return self._retry_interval
        logger.warning(
            "%s: %d failed probes in a row reach the threshold of %d: reconnecting",
            self._name,
            self.failures,
            self._reconnect.failure_threshold,
        )
        return self._episode(error, stop)

    def _episode(self, cause: BaseException, stop: StopToken, *, force: bool = False) -> float:
        connected = self._supervisor.reconnect(cause, stop, force=force)
        self._end_forced()
        if connected:
            self._note_success("reconnected")
            return self._until_next_look()
        if self._supervisor.phases.phase is Phase.RECONNECTING:  # another thread's episode
            return self._retry_interval
        return self._pace_of_looking()

    def _look_again(self, stop: StopToken) -> float:
        """The attempts are used up, or were stopped: a broker that speaks again starts a new episode."""
        if self._speaks_and_refuses() or self._supervisor.reachable(REACHABLE_TIMEOUT, stop):
            return self._episode(self._last_error(), stop)
        return self._pace_of_looking()

    def _pace_of_looking(self) -> float:
        return self._reconnect.max_backoff if self._speaks_and_refuses() else LOOK_AGAIN

    def _speaks_and_refuses(self) -> bool:
        """Whether the last attempt failed on a server that was there: looking at it more often is no use."""
        error = self._last_error()
        cause = error.__cause__ if isinstance(error, ReconnectExhaustedError) else error
        return isinstance(cause, ConfigError) or (isinstance(cause, ConnectFailedError) and cause.server_spoke)

    def _last_error(self) -> BaseException:
        return self._supervisor.phases.connection_state().last_error or NotConnectedError("there is no connection")

    def _judge_lost(self, cause: BaseException) -> None:
        """Evidence that cannot heal counts as the threshold reached."""
        if self.failures < self._reconnect.failure_threshold:
            self._note_failure(cause, at_least=self._reconnect.failure_threshold)
            logger.warning("%s: the connection is lost: %s", self._name, cause)

    def _note_success(self, detail: str) -> None:
        with self._lock:
            self._healthy = True
            self.failures = 0
            self._last_success = datetime.now(timezone.utc)
            self._detail = detail

    def _note_failure(self, cause: BaseException, at_least: int = 0) -> None:
        with self._lock:
            self._healthy = False
            self.failures = max(self.failures + 1, at_least)
            self._last_failure = datetime.now(timezone.utc)
            self._detail = str(cause)

    def _end_forced(self) -> None:
        with self._lock:
            forced, self._forced = self._forced, []
        for over in forced:
            over.set()
