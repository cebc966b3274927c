"""Stops a subscription from making dead letters of everything: a handler that fails on most messages is broken."""

from __future__ import annotations

import threading
import time
from collections import deque
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
    """Of one subscription. All methods are thread-safe and never block for long."""

    def __init__(self, config: GuardConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._pauses = Pauses(config.initial_pause, 2.0, config.max_pause)
        self._lock = threading.Lock()
        self._stand = _Stand.OPEN
        self._seen = 0
        """Messages that were seen to."""
        self._left: deque[int] = deque()
        """Which of the last ones became dead letters."""
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
        self._seen += count  # without the lock: what two threads add at once, is a share of one message in 200
        if self._stand is not _Stand.TRYING:
            return False
        with self._lock:
            ends = self._stand is _Stand.TRYING
            if ends:
                self._stand, self.error, self._holds, self._seen = _Stand.OPEN, None, 0, 0
                self._left.clear()
            return ends

    def lets_leave(self) -> bool:
        """Whether one more message may become a dead letter, which is counted then; False: it holds from now on."""
        config = self._config
        if not config.enabled:
            return True
        with self._lock:
            if self._stand is _Stand.OPEN:
                self._seen += 1
                self._left.append(self._seen)
                while self._left and self._left[0] <= self._seen - config.window:
                    self._left.popleft()
                known = min(self._seen, config.window)
                if known < config.least or len(self._left) <= config.share * known:
                    return True
                self._left.pop()  # this one stays
                self._seen -= 1
            if self._stand is not _Stand.HOLDING:
                self._hold(len(self._left), min(self._seen, config.window))
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
