"""The thread that looks after the topics that are consumed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...errors import NotConnectedError
from ...threads import StopToken, spawn

DISCOVER_EVERY = 3.0
"""Seconds between two looks for topics that have appeared, and for partitions of broadcast topics."""
ASK_WITHIN = 5.0


class Metadata:
    """Works for one session, on a thread of its own. survey(): one look, of some seconds at most."""

    def __init__(self, name: str, survey: Callable[[], None]) -> None:
        self._name = name
        self._survey = survey
        self._stop = StopToken()
        self._wake = threading.Event()
        self.beat = time.monotonic()

    def start(self) -> None:
        """Start the thread."""
        self.thread = spawn(self._name, self._run)

    def stop(self) -> None:
        """End the thread as soon as its question is answered."""
        self._stop.set()
        self._wake.set()

    def check(self, patience: float) -> None:
        """NotConnectedError when the thread is dead, or hangs for more than `patience` seconds."""
        if not self.thread.is_alive():
            raise NotConnectedError("the thread that looks after topics has died")
        if time.monotonic() - self.beat > patience + ASK_WITHIN:
            raise NotConnectedError("the thread that looks after topics hangs")

    def _run(self) -> None:
        discover_at = time.monotonic() + DISCOVER_EVERY
        while not self._stop.is_set():
            self.beat = time.monotonic()
            if time.monotonic() >= discover_at:
                self._survey()
                discover_at = time.monotonic() + DISCOVER_EVERY
            self._wake.wait(max(0.05, discover_at - time.monotonic()))
            self._wake.clear()
