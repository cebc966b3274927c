"""Publishes that are not answered although the broker is: the stall that no probe sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from .... import log
from ....errors import NotConnectedError
from .publisher import KafkaPublisher

logger = log.get(__name__)

ANSWER = 2.0


class Progress:
    """Looks at an outbox from time to time, on the thread that probes.

    takes_nothing(topics, timeout): those of these that can store nothing now, and why: no new client would mend that.
    told(error): the user should hear of it.
    """

    def __init__(
        self,
        outbox: KafkaPublisher,
        stall_timeout: float,
        takes_nothing: Callable[[Sequence[str], float], Mapping[str, str]],
        told: Callable[[Exception], object],
    ) -> None:
        self._outbox = outbox
        self._stall_timeout = stall_timeout
        self._takes_nothing = takes_nothing
        self._told = told
        self._said = ""
        self._answered = -1
        self._since = time.monotonic()

    def excuse(self) -> None:
        """The broker does not answer: nothing could have been answered until now."""
        self._since = time.monotonic()

    def check(self) -> None:
        """NotConnectedError when publishes wait and none was answered for `stall_timeout` seconds, without cause."""
        answered, now = self._outbox.answered, time.monotonic()
        if answered != self._answered or not self._outbox.in_flight or self._outbox.throttled:
            self._answered, self._since, self._said = answered, now, ""
        if not self._outbox.thread_alive:
            raise NotConnectedError("the thread that serves delivery reports has died")
        still = now - self._since
        if still >= self._stall_timeout and not self._has_cause():
            raise NotConnectedError(
                f"{self._outbox.in_flight} publishes wait and none was answered for {still:.0f} s, "
                "although the broker answers"
            )

    def _has_cause(self) -> bool:
        """Whether all that waits is for topics that can store nothing now, or could not a moment ago."""
        waiting = self._outbox.topics_in_flight
        causes = self._takes_nothing(waiting, ANSWER)
        before = self._said
        self._said = "; ".join(causes.values()) if len(causes) == len(waiting) else ""
        if self._said or before:  # what had a cause until now has its time anew
            self._since = time.monotonic()
        if self._said not in ("", before):
            logger.warning("publishes wait: %s", self._said)
            self._told(NotConnectedError(f"publishes wait: {self._said}"))
        return bool(self._said or before)
