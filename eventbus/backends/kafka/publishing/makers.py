"""Making the producer, as often as it takes: at the first publish, and again when the account may have one."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import KafkaError

from .... import log
from ..clients.connecting import discard, new_client
from ..clients.errors import ClientErrors, text_of
from ..clients.fork_safety import Producer, keep
from ..clients.options import ClientOptions

logger = log.get(__name__)

BANNED_FOR = 2.0
"""Seconds for which nothing is tried after the cluster has refused a producer to this account."""
_LARGEST = 1_000_000
"""librdkafka's own bound of messages and of batches, in bytes."""
_THROTTLED_ON = 1.0


class Maker:
    """Makes producers that are configured alike. Attributes may be read by any thread."""

    def __init__(self, options: ClientOptions, errors: ClientErrors) -> None:
        """`errors` hears of all of them."""
        self.errors = errors
        self._options = options
        settings = options.producer
        self.message_bytes = int(settings.get("message.max.bytes", _LARGEST))
        """No message is larger."""
        self.batch_bytes = min(self.message_bytes, int(settings.get("batch.size", _LARGEST)))
        """No batch of several is larger."""
        self.compressed = settings.get("compression.type", "none") != "none"
        self._throttled_until = 0.0
        self._ban = ""
        self._banned_until = 0.0

    def make(self) -> Producer:
        """A new producer. ConfigError."""
        options = {**self._options.producer, "throttle_cb": self._note_throttle}
        return keep(new_client(Producer, options, self.errors))

    def discard(self, producer: Producer) -> None:
        """End one that nobody wants."""
        discard(producer, self._options.name)

    def forbid(self, error: KafkaError) -> None:
        """The account may have no producer."""
        text = text_of(error)
        if text != self._ban:
            logger.warning("%s: no producer: %s; publishing is refused, and tried again", self._options.name, text)
        self._ban, self._banned_until = text, time.monotonic() + BANNED_FOR

    def allow(self) -> None:
        """A producer works: the next refusal is news."""
        self._ban = ""

    @property
    def ban(self) -> str | None:
        """Why there is to be no producer now; None: one may be tried."""
        return self._ban if time.monotonic() < self._banned_until else None

    @property
    def throttled(self) -> bool:
        """Whether a broker puts off its answers, by a quota."""
        return time.monotonic() < self._throttled_until

    def _note_throttle(self, event: Any) -> None:
        until = time.monotonic() + event.throttle_time + _THROTTLED_ON
        self._throttled_until = max(self._throttled_until, until)
