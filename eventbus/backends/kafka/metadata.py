"""The thread that asks the cluster about topics: those to publish to, those of patterns, and their ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ... import log
from ...errors import NotConnectedError
from ...threads import Stopped, StopToken, spawn
from .publishing.publisher import KafkaPublisher
from .topics import TopicRefused, Topics, TopicUnready

logger = log.get(__name__)

DISCOVER_EVERY = 3.0
"""Seconds between two looks for topics that have appeared, and for partitions of broadcast topics."""
ENSURE_WITHIN = 5.0
ENSURE_AGAIN = 0.2


class Metadata:
    """Works for one session. `ensure` may be called by any thread; everything else happens on its own."""

    def __init__(self, name: str, topics: Topics, survey: Callable[[], None]) -> None:
        self._name = name
        self._topics = topics
        self._survey = survey
        self._stop = StopToken()
        self._wake = threading.Event()
        self._wanted: dict[str, None] = {}
        self.beat = time.monotonic()

    def start(self, outbox: KafkaPublisher) -> None:
        """Start the thread; what is ensured is told to the outbox."""
        self._outbox = outbox
        self.thread = spawn(self._name, self._run)

    def stop(self) -> None:
        """End the thread as soon as its question is answered."""
        self._stop.set()
        self._wake.set()

    def ensure(self, topic: str) -> None:
        """Make sure of a topic that is published to. Never blocks."""
        self._wanted[topic] = None
        self._wake.set()

    def check(self, patience: float) -> None:
        """NotConnectedError when the thread is dead, or hangs for more than `patience` seconds."""
        if not self.thread.is_alive():
            raise NotConnectedError("the thread that looks after topics has died")
        if time.monotonic() - self.beat > patience + ENSURE_WITHIN:
            raise NotConnectedError("the thread that looks after topics hangs")

    def _run(self) -> None:
        discover_at = time.monotonic() + DISCOVER_EVERY
        while not self._stop.is_set():
            self.beat = time.monotonic()
            again = self._ensure_wanted()
            if time.monotonic() >= discover_at:
                self._survey()
                discover_at = time.monotonic() + DISCOVER_EVERY
            self._wake.wait(ENSURE_AGAIN if again else max(0.05, discover_at - time.monotonic()))
            self._wake.clear()

    def _ensure_wanted(self) -> bool:
        """True when something has to be tried again."""
        for topic in list(self._wanted):
            try:
                self._topics.ensure(topic, ENSURE_WITHIN, self._stop)
            except TopicRefused as error:
                self._wanted.pop(topic, None)
                self._outbox.topic_refused(topic, error)
            except TopicUnready as error:
                logger.info("%s: %s", self._name, error)
            except NotConnectedError as error:
                logger.info("%s: %s", self._name, error)
                self._topics.renew()
            except Stopped:
                return False
            else:
                self._wanted.pop(topic, None)
                self._outbox.topic_ready(topic)
            self.beat = time.monotonic()
        for topic in self._outbox.held_topics:  # what came in while its topic was being answered for
            self._wanted[topic] = None
        return bool(self._wanted)
