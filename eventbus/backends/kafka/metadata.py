"""The thread that asks the cluster about topics that are consumed: those of patterns, and where they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ... import log
from ...errors import NotConnectedError
from ...threads import StopToken, spawn
from .consuming.consumer_thread import ConsumerThread
from .consuming.stalls import Stalls
from .names import is_pattern
from .topics import Topics

logger = log.get(__name__)

DISCOVER_EVERY = 3.0
"""Seconds between two looks for topics that have appeared, and for partitions of broadcast topics."""
ASK_WITHIN = 5.0


class Metadata:
    """Works for one session, on a thread of its own."""

    def __init__(
        self, name: str, topics: Topics, feeds: Callable[[], list[ConsumerThread]], stall_timeout: float
    ) -> None:
        self._name = name
        self._topics = topics
        self._feeds = feeds
        self._stop = StopToken()
        self._wake = threading.Event()
        self._stalls = Stalls(topics, stall_timeout)
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
                self._guarded(self._discover)
                self._guarded(lambda: self._stalls.look(self._feeds()))
                discover_at = time.monotonic() + DISCOVER_EVERY
            self._wake.wait(max(0.05, discover_at - time.monotonic()))
            self._wake.clear()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except NotConnectedError as error:  # the probe tells of it; this waits for better times
            logger.debug("%s: %s", self._name, error)

    def _discover(self) -> None:
        feeds = [feed for feed in self._feeds() if _follows(feed)]
        if not feeds:
            return
        everything = self._topics.all(2.0)
        for feed in feeds:
            found = self._topics.among(everything, feed.attachment.topic)
            if found != feed.topics:
                feed.follow(found)


def _follows(feed: ConsumerThread) -> bool:
    return feed.attachment.group is None or is_pattern(feed.attachment.topic)
