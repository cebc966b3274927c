"""The thread of a bus that sees to what its lanes have done while their handlers run."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from .. import log
from ..threads import join_all, spawn

logger = log.get(__name__)

LOOK_EVERY = 0.02
"""Seconds. What is done waits at most so long for its acknowledgement, and a little more on a busy machine."""
GO_ON = 1.0
"""Seconds without anything to do, after which the thread sleeps until a lane wakes it."""


class Watched(Protocol):
    """What is looked at."""

    def look(self, now: float) -> bool:
        """See to what is due; True while there is something at work."""


class Acknowledgements:
    """Looks at lanes, every few milliseconds while one is at work. All methods are thread-safe.

    asleep: whether a lane that begins to work has to `wake` it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._watched: list[Watched] = []
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        self.asleep = False

    def add(self, watched: Watched) -> None:
        """Look at this one from now on; the first one starts the thread. RuntimeError: it could not be started."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = spawn(self._name, self._run)
            self._watched = [*self._watched, watched]

    def remove(self, watched: Watched) -> None:
        """Look at this one no more; without any the thread ends."""
        with self._lock:
            self._watched = [one for one in self._watched if one is not watched]
        self._wake.set()

    def wake(self) -> None:
        """A lane begins to work. Never blocks."""
        self._wake.set()

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the thread; its name if it still runs after `timeout` seconds."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        return () if thread is None else join_all([thread], timeout)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while self._goes_on():
            now = time.monotonic()
            if self._look(now):
                idle_since = now
            elif now - idle_since > GO_ON:
                self._sleep(now)
                idle_since = time.monotonic()
                continue
            self._wake.wait(LOOK_EVERY)
            self._wake.clear()

    def _goes_on(self) -> bool:
        with self._lock:
            goes_on = bool(self._watched) and not self._closed
            if not goes_on:
                self._thread = None
            return goes_on

    def _sleep(self, now: float) -> None:
        self._wake.clear()
        self.asleep = True  # before the look: a lane that begins after it wakes us
        if not self._look(now) and self._watched and not self._closed:
            self._wake.wait()
        self.asleep = False

    def _look(self, now: float) -> bool:
        busy = False
        for watched in self._watched:
            try:
                busy |= watched.look(now)
            except Exception:  # of one: the others wait for us
                logger.exception("%s: looking at %r failed", self._name, watched)
        return busy
