"""The phase of a bus and what is counted about its connection: one writer, one lock, true snapshots."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from ..config import ReconnectConfig
from ..state import MOVES, ConnectionState, Phase, ReconnectStatus

logger = logging.getLogger(__name__)


class Phases:
    """Holds the phase. `move` is the only thing that changes it; the lock is a leaf."""

    def __init__(self, bus: str, on_move: Callable[[ConnectionState], object]) -> None:
        self._bus = bus
        self._on_move = on_move
        self._changed = threading.Condition(threading.Lock())
        self._phase = Phase.NEW
        self._reconnect_count = 0
        self._last_connected: datetime | None = None
        self._last_reconnect: datetime | None = None
        self._last_error: BaseException | None = None
        self._down_since: float | None = None
        self.attempt = 0

    @property
    def phase(self) -> Phase:
        """Where the bus stands."""
        return self._phase

    def move(
        self,
        to: Phase,
        cause: BaseException | None = None,
        *,
        only_from: Phase | None = None,
        reconnected: bool = False,
    ) -> bool:
        """Go to another phase. False when the bus was closed meanwhile, or does not stand in `only_from`.

        Any other illegal move is a bug.
        """
        with self._changed:
            before = self._phase
            if before is Phase.CLOSED or (only_from is not None and before is not only_from):
                return False
            assert to in MOVES[before], f"illegal move {before.name} -> {to.name}"
            self._phase = to
            self._note(to, cause, reconnected)
            self._changed.notify_all()
            # Only queues; within the lock so that callbacks see the moves in their order.
            self._on_move(self._snapshot())
        level = logging.WARNING if to in (Phase.RECONNECTING, Phase.DISCONNECTED) else logging.INFO
        why = "" if cause is None else f" ({cause})"
        logger.log(level, "%s: %s -> %s%s", self._bus, before.name, to.name, why)
        return True

    def failed(self, cause: BaseException) -> None:
        """Note an error without a move."""
        with self._changed:
            self._last_error = cause

    def trouble(self) -> None:
        """The first sign of trouble: downtime counts from here."""
        with self._changed:
            if self._down_since is None:
                self._down_since = time.monotonic()

    def trouble_over(self) -> None:
        """It was nothing: a probe succeeded before anything was judged lost."""
        with self._changed:
            if self._phase is Phase.CONNECTED:
                self._down_since = None

    def downtime(self) -> float:
        """Seconds since the first sign of trouble; 0.0 when there is none."""
        with self._changed:
            return 0.0 if self._down_since is None else time.monotonic() - self._down_since

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for CONNECTED; False at once when the bus is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._phase in (Phase.CONNECTED, Phase.CLOSED), timeout)
            return self._phase is Phase.CONNECTED

    def connection_state(self) -> ConnectionState:
        """A snapshot."""
        with self._changed:
            return self._snapshot()

    def reconnect_status(self, failures: int, config: ReconnectConfig) -> ReconnectStatus:
        """A snapshot, with what the health check counts."""
        with self._changed:
            return ReconnectStatus(
                failure_count=failures,
                last_reconnect_time=self._last_reconnect,
                is_reconnecting=self._phase is Phase.RECONNECTING,
                attempt=self.attempt if self._phase is Phase.RECONNECTING else 0,
                config=config,
            )

    def _note(self, to: Phase, cause: BaseException | None, reconnected: bool) -> None:
        if cause is not None:
            self._last_error = cause
        if to is Phase.CONNECTED:
            self._last_connected = datetime.now(timezone.utc)
            self._down_since = None
            if reconnected:
                self._reconnect_count += 1
                self._last_reconnect = self._last_connected
        elif self._down_since is None and to in (Phase.RECONNECTING, Phase.DISCONNECTED):
            self._down_since = time.monotonic()

    def _snapshot(self) -> ConnectionState:
        return ConnectionState(
            phase=self._phase,
            is_connected=self._phase is Phase.CONNECTED,
            reconnect_count=self._reconnect_count,
            last_connected_time=self._last_connected,
            last_error=self._last_error,
        )
