"""Publishes that are not answered although the broker is: the stall that no probe sees."""

from __future__ import annotations

import time

from ....errors import NotConnectedError
from .publisher import KafkaPublisher


class Progress:
    """Looks at an outbox from time to time, on the thread that probes."""

    def __init__(self, outbox: KafkaPublisher, stall_timeout: float) -> None:
        self._outbox = outbox
        self._stall_timeout = stall_timeout
        self._answered = -1
        self._since = time.monotonic()

    def excuse(self) -> None:
        """The broker does not answer: nothing could have been answered until now."""
        self._since = time.monotonic()

    def check(self) -> None:
        """NotConnectedError when publishes wait and none was answered for `stall_timeout` seconds."""
        answered, now = self._outbox.answered, time.monotonic()
        if answered != self._answered or not self._outbox.in_flight or self._outbox.throttled:
            self._answered, self._since = answered, now
        if not self._outbox.thread_alive:
            raise NotConnectedError("the thread that serves delivery reports has died")
        still = now - self._since
        if still >= self._stall_timeout:
            raise NotConnectedError(
                f"{self._outbox.in_flight} publishes wait and none was answered for {still:.0f} s, "
                "although the broker answers"
            )
