"""What happens to a subscription's deliveries: into the lanes, through the handler, back as done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Hashable, Sequence

from ..message import Delivery
from ..state import ErrorEvent
from ..threads import StopToken
from .attachment import Attachment, Link
from .in_hand import InHand
from .lanes import Lanes
from .subscriptions import Handler, Subscription

logger = logging.getLogger(__name__)

FIRST_RETRY = 0.1
RETRY_FACTOR = 2.0
LONGEST_RETRY = 5.0
HIGH_WATER = 1024
"""Deliveries in the lanes at which a session stops fetching. What it fetched comes again if we die."""
HIGH_WATER_UNSTORED = 524_288
"""The same where nothing is redelivered: what arrives above it is lost, so more may wait. As many as in nats-py."""
MOST_UNSTORED_BYTES = 128 * 1024 * 1024
"""Of payloads, about: all are taken to be as large as the first one of the batch that arrives. As in nats-py."""


class Consumption:
    """One subscription at work; it outlives all sessions.

    attachment: what joins it to the session of now, None between two; written under the map's lock only.
    """

    def __init__(
        self,
        bus: str,
        sub: Subscription,
        handler: Handler,
        in_hand: InHand,
        replays: bool,
        report: Callable[[ErrorEvent], object],
    ) -> None:
        self.sub = sub
        sub._work = self
        self.in_hand = in_hand
        self.attachment: Attachment | None = None
        self.is_unwanted: Callable[[], bool] = lambda: False
        self._next: Attachment | None = None
        self._handler = handler
        self._replays = replays
        self._report = report
        self._high = HIGH_WATER if replays else HIGH_WATER_UNSTORED
        self._retry_stop = StopToken()
        self._lock = threading.Lock()
        self.delivered = self.handled = self.retried = self.dropped = 0
        self._lanes = Lanes(
            f"eventbus.{bus}.lane-{sub.topic}",
            sub.concurrency,
            handler=handler,
            failed=self._failed,
            done=self._done,
            dropped=self._dropped,
            has_room=self._has_room,
            high=self._high,
        )

    @property
    def unhandled(self) -> int:
        """Deliveries in hand, now."""
        return self._lanes.backlog

    def attachment_to(self, session: Link) -> Attachment:
        """What would join it to a session, complete; the same again for the session that was asked for last."""
        attachment = self._next
        if attachment is None or attachment.session is not session:
            attachment = self._next = Attachment(self, session)
        return attachment

    def is_attached_to(self, session: object) -> bool:
        """Whether a session delivers it."""
        attachment = self.attachment
        return attachment is not None and attachment.attached and attachment.session is session

    def take(self, attachment: Attachment, batch: Sequence[Delivery]) -> bool:
        """Take a batch that came through an attachment; see `Attachment.deliver`."""
        if not self._replays:
            return self._take_unstored(batch)
        fresh, finished = self.in_hand.admit(batch)
        if finished:
            attachment.session.acknowledge(attachment, finished)
        with self._lock:
            self.delivered += len(fresh)
        return self._lanes.put(fresh)

    def discard(self, tokens: Collection[Hashable] | None = None) -> None:
        """Drop what no handler was started for, all or what has one of these tokens."""
        self._lanes.discard(tokens)

    def counts(self) -> dict[str, int]:
        """What was counted, by the names of `Statistics`."""
        with self._lock:
            return {
                "delivered": self.delivered,
                "handled": self.handled,
                "retried": self.retried,
                "duplicates": self.in_hand.duplicates,
                "dropped": self.dropped,
            }

    def begin_finish(self) -> None:
        """From now on what fails is not retried."""
        self._retry_stop.set()

    def finish(self, timeout: float) -> tuple[str, ...]:
        """Handle what is in the lanes, up to `timeout` seconds."""
        self._retry_stop.set()
        return self._lanes.finish(timeout)

    def stop(self, timeout: float) -> tuple[str, ...]:
        """Start no more handlers; wait up to `timeout` seconds for those that run."""
        self._retry_stop.set()
        return self._lanes.stop(timeout)

    def _take_unstored(self, batch: Sequence[Delivery]) -> bool:
        backlog = self._lanes.backlog
        if backlog >= min(self._high, MOST_UNSTORED_BYTES // (len(batch[0].payload) or 1)):
            with self._lock:
                first = not self.dropped
                self.dropped += len(batch)
            if first:
                logger.error("%r: the handler is too slow; messages are dropped from now on", self.sub)
                error = RuntimeError(f"{self.sub!r}: {backlog} messages wait for the handler; dropping new ones")
                self._report(ErrorEvent(source="subscription", error=error, topic=self.sub.topic))
            return False
        with self._lock:
            self.delivered += len(batch)
        return self._lanes.put(batch)

    def _failed(self, delivery: Delivery, error: BaseException) -> bool:
        """Call the handler again until it succeeds (True) or a stop ends it (False)."""
        pause = FIRST_RETRY
        while True:
            self._note_failure(delivery, error, pause)
            if self._retry_stop.wait(pause):
                return False
            pause = min(pause * RETRY_FACTOR, LONGEST_RETRY)
            try:
                self._handler(delivery)
            except BaseException as again:
                error = again
            else:
                return True

    def _note_failure(self, delivery: Delivery, error: BaseException, pause: float) -> None:
        with self._lock:
            self.retried += 1
        logger.warning("handler of %r failed on %r; again in %.1f s", self.sub, delivery, pause, exc_info=error)
        self._report(ErrorEvent(source="handler", error=error, topic=delivery.topic, message=delivery))

    def _done(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            self.handled += len(deliveries)
        if self._replays:
            newest = self.in_hand.finish(deliveries)
            attachment = self.attachment
            if attachment is not None:
                attachment.session.acknowledge(attachment, newest)

    def _dropped(self, deliveries: Sequence[Delivery]) -> None:
        if not self._replays:
            return
        newest = self.in_hand.drop(deliveries)
        attachment = self.attachment
        if attachment is not None:
            attachment.session.release(attachment, newest)

    def _has_room(self) -> None:
        attachment = self.attachment
        if attachment is not None:
            attachment.session.resume(attachment)
