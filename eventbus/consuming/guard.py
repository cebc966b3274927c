"""Stops a subscription from making dead letters of everything: a handler that fails on most messages is broken."""

from __future__ import annotations

import threading
import time
from enum import Enum

from ..config_delivery import GuardConfig
from ..errors import GuardError
from ..threads import Pauses


class _Stand(Enum):
    OPEN = "open"
    """Dead letters leave."""
    HOLDING = "holding"
    """None leaves, and no handler is started."""
    TRYING = "trying"
    """None leaves; the first message that succeeds opens, the first that fails holds on."""


class Guard:
    """Holds the dead letters of one subscription. All methods are thread-safe and never block for long."""

    def __init__(self, config: GuardConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._pauses = Pauses(config.initial_pause, 2.0, config.max_pause)
        self._lock = threading.Lock()
        self._stand = _Stand.OPEN
        self._handled = self._begun = 0
        """Messages that were handled; and how many they were when it began to count anew."""
        self._left: list[int] = []
        """The places of the last dead letters, in order."""
        self._holds = 0
        self._until = 0.0
        self.error: GuardError | None = None
        """Why nothing is handled now."""

    @property
    def holds(self) -> bool:
        """Whether no handler may be started."""
        return self._stand is _Stand.HOLDING

    def succeeded(self, count: int) -> bool:
        """So many messages were handled; True when that ends a hold."""
        self._handled += count  # without the lock: what two threads add at once, is a share of one message in 200
        if self._stand is not _Stand.TRYING:
            return False
        with self._lock:
            ends = self._stand is _Stand.TRYING
            if ends:
                self._stand, self.error, self._holds = _Stand.OPEN, None, 0
                self._begun, self._left = self._handled, []
            return ends

    @property
    def place(self) -> int:
        """Of a message that fails for the first time now: so many were handled before it."""
        return self._handled

    def lets_leave(self, place: int) -> bool:
        """Whether one more message may become a dead letter, which is counted then; False: it holds from now on.

        It counts beside those among which it came: what waits long for its last try leaves behind them all, and then
        many may follow one another however few they are.
        """
        config = self._config
        if not config.enabled:
            return True
        with self._lock:
            left = sorted([*self._left, max(place, self._begun)], reverse=True)
            newest = left[0]
            left = [one for count, one in enumerate(left, 1) if newest - one + count <= config.window]
            known = min(newest - self._begun + len(left), config.window)
            if self._stand is _Stand.OPEN and (known < config.least or len(left) <= config.share * known):
                self._left = left
                return True
            if self._stand is not _Stand.HOLDING:
                self._hold(len(self._left), known)
            return False

    def look(self, now: float) -> bool:
        """Whether it is time to try a message again: then a handler may be started from now on."""
        if self._stand is not _Stand.HOLDING or now < self._until:
            return False
        with self._lock:
            if self._stand is _Stand.HOLDING:
                self._stand = _Stand.TRYING
        return True

    def _hold(self, left: int, known: int) -> None:
        self._holds += 1
        pause = self._pauses.after(self._holds)
        self._until = time.monotonic() + pause
        self._stand = _Stand.HOLDING
        if self.error is None:
            self.error = GuardError(
                f"{self._name}: {left} of the last {known} messages became dead letters; none leaves any more. Is the "
                f"handler broken? One message is tried in {pause:g} s, and then at growing intervals"
            )
