"""The phase of a bus and what is counted about its connection: one writer, one lock, true snapshots."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from attrs import evolve

from .. import log
from ..config import ReconnectConfig
from ..state import MOVES, ConnectionState, Phase, ReconnectStatus
from ..threads import Bell, Deadline

logger = log.get(__name__)


class Phases:
    """Holds the phase. `move` is the only thing that changes it, on threads of ours; its lock is a leaf.

    Looking takes no lock: what is looked at is one immutable value, replaced as a whole. So a signal handler and a
    forked child may look at any time.
    """

    def __init__(self, bus: str, on_move: Callable[[ConnectionState], object], begins: Phase = Phase.NEW) -> None:
        self._bus = bus
        self.begins = begins
        """Where it is as new: NEW, or FORKED in a child."""
        self._on_move = on_move
        self._lock = threading.Lock()
        self._changed = Bell()
        self._state = ConnectionState(
            phase=begins, is_connected=False, reconnect_count=0, last_connected_time=None, last_error=None
        )
        self._last_reconnect: datetime | None = None
        self._down_since: float | None = None
        self.attempt = 0

    @property
    def phase(self) -> Phase:
        """Where the bus stands."""
        return self._state.phase

    @property
    def is_as_new(self) -> bool:
        """Whether it stands where it began."""
        return self._state.phase is self.begins

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
        with self._lock:
            before = self._state.phase
            if before.is_final or (only_from is not None and before is not only_from):
                return False
            assert to in MOVES[before], f"illegal move {before.name} -> {to.name}"
            self._note(to, cause, reconnected)
            # Only queues; within the lock so that callbacks see the moves in their order.
            self._on_move(self._state)
        self._changed.ring()
        lost = to is Phase.DISCONNECTED or (to is Phase.RECONNECTING and before is not Phase.CONNECTING)
        level = logging.WARNING if lost else logging.INFO  # from CONNECTING it is `open(wait=False)`: nothing is amiss
        why = "" if cause is None else f" ({cause})"
        told = {"bus": self._bus, "phase": to.value}
        logger.log(level, "%s: %s -> %s%s", self._bus, before.name, to.name, why, extra=told)
        return True

    def take_back(self, cause: BaseException | None) -> None:
        """The `open()` that led here is undone, for its caller has left with an exception: as new again."""
        with self._lock:
            if not self._state.phase.is_final:
                self._state = evolve(self._state, phase=self.begins, is_connected=False, last_error=cause)
                self._down_since = None
                self._on_move(self._state)
        self._changed.ring()

    def forked(self) -> None:
        """This is a forked child's copy, that nobody moves any more."""
        self._state = evolve(self._state, phase=Phase.FORKED, is_connected=False)
        self.attempt = 0

    def failed(self, cause: BaseException) -> None:
        """Note an error without a move."""
        with self._lock:
            self._state = evolve(self._state, last_error=cause)
        self._changed.ring()

    def trouble(self) -> None:
        """The first sign of trouble: downtime counts from here."""
        with self._lock:
            if self._down_since is None:
                self._down_since = time.monotonic()

    def trouble_over(self) -> None:
        """It was nothing: a probe succeeded before anything was judged lost."""
        with self._lock:
            if self._state.phase is Phase.CONNECTED:
                self._down_since = None

    def downtime(self) -> float:
        """Seconds since the first sign of trouble; 0.0 when there is none."""
        since = self._down_since
        return 0.0 if since is None else time.monotonic() - since

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for CONNECTED; False at once when the bus has ended."""
        ends = (Phase.CONNECTED, Phase.CLOSED, Phase.FORKED)
        self.wait_for(lambda: self.phase in ends, Deadline(timeout))
        return self.phase is Phase.CONNECTED

    def wait_first_attempt(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until the first attempt to connect has ended, somehow."""

        def ended() -> bool:
            state = self._state
            return state.phase.is_final or not (state.last_connected_time is None and state.last_error is None)

        self.wait_for(ended, Deadline(timeout))

    def wait_for(self, condition: Callable[[], object], deadline: Deadline) -> bool:
        """Wait for something that comes with a move; whether it holds. The condition takes no lock."""
        return self._changed.wait_for(condition, deadline)

    def wake(self) -> None:
        """Have those that wait look at their condition again; a signal handler may."""
        self._changed.ring()

    def connection_state(self) -> ConnectionState:
        """A snapshot."""
        return self._state

    def reconnect_status(self, failures: int, config: ReconnectConfig) -> ReconnectStatus:
        """A snapshot, with what the health check counts."""
        reconnecting = self.phase is Phase.RECONNECTING
        return ReconnectStatus(
            failure_count=failures,
            last_reconnect_time=self._last_reconnect,
            is_reconnecting=reconnecting,
            attempt=self.attempt if reconnecting else 0,
            config=config,
        )

    def _note(self, to: Phase, cause: BaseException | None, reconnected: bool) -> None:
        state = self._state
        count, connected = state.reconnect_count, state.last_connected_time
        if to is Phase.CONNECTED:
            connected = datetime.now(timezone.utc)
            self._down_since = None
            if reconnected:
                count += 1
                self._last_reconnect = connected
        elif self._down_since is None and to in (Phase.RECONNECTING, Phase.DISCONNECTED):
            self._down_since = time.monotonic()
        self._state = ConnectionState(
            phase=to,
            is_connected=to is Phase.CONNECTED,
            reconnect_count=count,
            last_connected_time=connected,
            last_error=state.last_error if cause is None else cause,
        )
