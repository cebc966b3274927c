"""The health check: a daemon thread that measures the broker, counts failures and hands off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone

from attrs import evolve

from .. import log
from ..config import EventBusConfig
from ..errors import EventBusError, NotConnectedError
from ..state import ErrorEvent, HealthStatus, Phase
from ..threads import Alarm, Stopped, StopToken, join_all, spawn
from .episodes import FORCED, Episodes
from .supervisor import Supervisor

logger = log.get(__name__)


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
        self._check = check = config.health_check
        self._threshold = config.reconnect.failure_threshold
        self._retry_interval = check.retry_interval or retry_interval or check.interval
        self._supervisor = supervisor
        self._report = report
        self._bus_stop = stop
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = StopToken()
        self._wake = Alarm()
        self._probing: StopToken | None = None
        self._status = HealthStatus(
            is_healthy=False,
            is_running=False,
            consecutive_failures=0,
            last_success_time=None,
            last_failure_time=None,
            detail="",
        )
        self.episodes = Episodes(supervisor, config.reconnect, lambda: self.is_running, self._hurry)

    def start(self) -> None:
        """Start the thread; while it runs, nothing happens."""
        with self._lock:
            if self.is_running:
                return
            self._stop = stop = self._bus_stop.child()
            # Its own: a thread that was stopped and is not out yet must not take its wake-up.
            self._wake = wake = Alarm()
            self._thread = spawn(f"eventbus.{self._name}.health", self._run, stop, wake)

    def stop(self, timeout: float) -> tuple[str, ...]:
        """Stop the thread and any reconnect that it runs; names it if it is not out in `timeout` seconds."""
        stop, thread = self._stop, self._thread
        if thread is None:
            return ()
        stop.set()
        unfinished = join_all([thread], timeout)
        self._bus_stop.forget(stop)
        return unfinished

    @property
    def is_running(self) -> bool:
        """Whether the thread is alive and was not told to stop."""
        thread = self._thread
        return thread is not None and thread.is_alive() and not self._stop.is_set()

    @property
    def failures(self) -> int:
        """Failed probes in a row, now."""
        return self._status.consecutive_failures

    def poke(self) -> None:
        """Look at once. Any thread, signal handlers included; never blocks."""
        self._wake.set()

    def suspect(self) -> None:
        """Something failed that a probe can judge: look at once, unless failures are being counted already."""
        if not self.failures:
            self.poke()

    def lost(self, cause: BaseException) -> None:
        """The client says that the link is gone. Any thread; never blocks."""
        self._judge_lost(cause)
        if self.is_running:
            self.poke()
        else:
            self._supervisor.abort(cause)

    def recovered(self, detail: str) -> None:
        """There is a connection, proven by a round trip, whoever made it."""
        self._note_success(detail)

    def status(self) -> HealthStatus:
        """What was measured last. Takes no lock."""
        return evolve(self._status, is_running=self.is_running)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self, stop: StopToken, wake: Alarm) -> None:
        with stop.interrupts(wake.set):
            pause = self._first_pause()
            while True:
                wake.wait(pause)
                if stop.is_set():
                    break
                pause = self._guarded_tick(stop)
        if self._stop is stop:  # else another thread watches already
            self._supervisor.abort(NotConnectedError("the health check is stopped"))

    def _first_pause(self) -> float:
        at_work = self._supervisor.phases.phase is Phase.CONNECTED and self._supervisor.lost is None
        return self._until_next_look() if at_work else 0.0

    def _until_next_look(self) -> float:
        return self._retry_interval if self._supervisor.current.has_late else self._check.interval

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
        phase, lost = self._supervisor.phases.phase, self._supervisor.lost
        if phase is Phase.CONNECTED and lost is not None:
            self._judge_lost(lost)
            return self._episode(lost, stop)
        if self._supervisor.is_replacement_wanted and not phase.is_final:
            return self._episode(NotConnectedError(FORCED), stop)
        if phase is Phase.CONNECTED:
            return self._probe(stop)
        if phase in (Phase.RECONNECTING, Phase.DISCONNECTED):
            return self.episodes.step(stop) or self._until_next_look()
        return self._check.interval

    def _probe(self, stop: StopToken) -> float:
        session = self._supervisor.session
        if session is None:  # it was given up just now, and the phase follows
            return self._retry_interval
        self._probing = own = stop.child()
        try:
            detail = session.probe(self._check.timeout, own)
        except (EventBusError, OSError) as error:
            if session.lost is not None:
                self._judge_lost(session.lost)
                return self._episode(session.lost, stop)
            return self._count(error, stop)
        finally:
            stop.forget(own)
        self._note_success(detail)
        self._supervisor.phases.trouble_over()
        return self._check.interval if self._supervisor.repair(stop) else self._retry_interval

    def _count(self, error: Exception, stop: StopToken) -> float:
        self._note_failure(error)
        self._supervisor.phases.trouble()
        logger.error("%s: health probe failed (%d in a row): %s", self._name, self.failures, error)
        self._report(ErrorEvent(source="health", error=error))
        if self.failures < self._threshold:
            return self._retry_interval
        logger.warning(
            "%s: %d failed probes in a row reach the threshold of %d: reconnecting",
            self._name,
            self.failures,
            self._threshold,
        )
        return self._episode(error, stop)

    def _episode(self, cause: BaseException, stop: StopToken) -> float:
        return self.episodes.run(cause, stop) or self._until_next_look()

    def _hurry(self) -> None:
        """Somebody wants another session: no matter what a probe that runs would say."""
        probing = self._probing
        if probing is not None:
            probing.set()
        self.poke()

    def _judge_lost(self, cause: BaseException) -> None:
        """Evidence that cannot heal counts as the threshold reached."""
        if self.failures < self._threshold:
            self._note_failure(cause, at_least=self._threshold)
            logger.warning("%s: the connection is lost: %s", self._name, cause)

    def _note_success(self, detail: str) -> None:
        with self._lock:
            self._status = evolve(
                self._status,
                is_healthy=True,
                consecutive_failures=0,
                last_success_time=datetime.now(timezone.utc),
                detail=detail,
            )

    def _note_failure(self, cause: BaseException, at_least: int = 0) -> None:
        with self._lock:
            self._status = evolve(
                self._status,
                is_healthy=False,
                consecutive_failures=max(self.failures + 1, at_least),
                last_failure_time=datetime.now(timezone.utc),
                detail=str(cause),
            )
