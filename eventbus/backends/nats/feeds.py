"""One subscription in one session: what arrives is collected per read and handed over in one call."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ...consuming.subscriptions import Subscription
from ...message import Delivery, matches
from ..base import Deliver
from . import wire
from .connection import Connection
from .deliveries import NatsDelivery

_new = NatsDelivery.__new__


class Feed:
    """What both kinds have: a batch in the making, and the flag that says the lanes are full."""

    def __init__(self, connection: Connection, sub: Subscription, deliver: Deliver) -> None:
        self.sub = sub
        self.closed = False
        self.paused = False
        self._connection = connection
        self._dirty = connection.dirty
        self._deliver = deliver
        self._batch: list[Delivery] = []

    def wants(self, topic: str) -> bool:
        """Whether a message that the server sent here is for this subscription."""
        if topic.startswith(("$", "_INBOX.")):
            return False
        # The server's `*` and `>` cover dead letters; ours do not.
        return not topic.startswith("dlq.") or matches(self.sub.topic, topic)

    def hand_over(self, batch: list[Delivery]) -> bool:
        """Give a batch to the lanes; False when they are full. Reader thread."""
        # Before the call: `resume` may come from a lane while it runs.
        self.paused = True
        if self._deliver(batch):
            self.paused = False
        return not self.paused

    def sids(self) -> list[int]:
        """The sids to unsubscribe."""
        raise NotImplementedError

    def resume(self) -> None:
        """The lanes have room again."""
        self.paused = False

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Give back what will not be handled here."""


class CoreFeed(Feed):
    """A plain SUB, in a queue group if the subscription has a group."""

    cacheable = True

    def __init__(self, connection: Connection, sub: Subscription, deliver: Deliver) -> None:
        super().__init__(connection, sub, deliver)
        self._arrived = 0.0
        self._sid = connection.subscribe(sub.topic, self, sub.group or "")

    def sids(self) -> list[int]:
        """As `Feed.sids`."""
        return [self._sid]

    def adder(self, topic: str) -> wire.Add:
        """As `Route.adder`."""
        return self.add if self.wants(topic) else _drop

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """Collect one message."""
        batch = self._batch
        if not batch:
            self._dirty.append(self)
            self._arrived = time.time()
        delivery = _new(NatsDelivery)
        delivery.topic = topic
        delivery.payload = payload
        delivery._block = block
        delivery._arrived = self._arrived
        batch.append(delivery)

    def flush(self) -> None:
        """Hand over what one read has brought; full lanes drop and count it themselves."""
        batch, self._batch = self._batch, []
        if not self.closed:
            self._deliver(batch)


def _drop(topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
    """Not for this subscription."""
