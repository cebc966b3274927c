"""One subscription in one session: what arrives is collected per read and handed over in one call."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from ....consuming.attachment import Attachment
from ....consuming.batches import LazyBatch
from ....consuming.lease import Lease
from ....errors import SubscribeError
from ....message import Delivery, matches
from ..link import wire
from ..link.connection import Connection
from .deliveries import NatsDelivery

_new = NatsDelivery.__new__
_FOR_EVER = Lease()
"""What core NATS delivers, nobody else has."""


AnsweredFeed = Callable[["Feed", str], object]
"""`answered(feed, text)`: what the server says to its SUB, as `Answered`."""


def cannot_subscribe(attachment: Attachment, cause: object) -> SubscribeError:
    """What the server refuses, in the same words wherever it shows: what is refused again is no news."""
    return SubscribeError(f"cannot subscribe to {attachment.topic!r}: {cause}")


class Feed(ABC):
    """What both kinds have: the way to the lanes, and the flag that says they are full."""

    gives_back = False
    """Whether what arrives when it is closed goes to somebody else; else it would be lost."""

    def __init__(self, connection: Connection, attachment: Attachment) -> None:
        self.attachment = attachment
        self.closed = False
        self.paused = False
        self._connection = connection
        self._dirty = connection.dirty
        self._inboxes = f"{connection.inbox_prefix}."
        self._deliver = attachment.deliver

    @property
    def shares(self) -> bool:
        """Whether what comes here comes nowhere else and never again: also beside a successor it is delivered."""
        return False

    def wants(self, topic: str) -> bool:
        """Whether a message that the server sent here is for this subscription."""
        if topic.startswith(("$", "_INBOX.", self._inboxes)):
            return False
        # The server's `*` and `>` cover dead letters; ours do not.
        return not topic.startswith("dlq.") or matches(self.attachment.topic, topic)

    def hand_over(self, batch: list[Delivery], lease: Lease) -> bool:
        """Give a batch to the lanes; False when they are full. Reader thread."""
        # Before the call: `resume` may come from a lane while it runs.
        self.paused = True
        if self._deliver(batch, lease):
            self.paused = False
        return not self.paused

    @abstractmethod
    def sids(self) -> list[int]:
        """The sids to unsubscribe."""

    def resume(self) -> None:
        """The lanes have room again."""
        self.paused = False

    @abstractmethod
    def release(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> None:
        """Give back what will not be handled here."""


class CoreBatch(LazyBatch[NatsDelivery]):
    """The messages that one read has brought for a subscription; a delivery is made when it is looked at.

    fields: of all messages, one after another: topic, payload, header block. arrived: when, as `time.time`.
    """

    __slots__ = ("_arrived", "_fields")

    def __init__(self, fields: Sequence[Any], arrived: float) -> None:
        self._fields = fields
        self._arrived = arrived

    def __len__(self) -> int:
        return len(self._fields) // 3

    @property
    def size(self) -> int:
        """The bytes of all payloads together."""
        return sum(map(len, self._fields[1::3]))

    def __iter__(self) -> Iterator[NatsDelivery]:
        arrived, each = self._arrived, iter(self._fields)
        for topic, payload, block in zip(each, each, each, strict=True):
            delivery = _new(NatsDelivery)
            delivery.topic = topic
            delivery.payload = payload
            delivery._block = block
            delivery._arrived = arrived
            yield delivery

    def part(self, start: int, stop: int) -> CoreBatch:
        """The messages from `start` to `stop`, themselves not decoded before they are looked at."""
        return CoreBatch(self._fields[3 * start : 3 * stop], self._arrived)


class CoreFeed(Feed):
    """A plain SUB, in a queue group if the subscription has a group."""

    cacheable = True

    def __init__(self, connection: Connection, attachment: Attachment, answered: AnsweredFeed) -> None:
        super().__init__(connection, attachment)
        self._arrived = 0.0
        self._fields: list[Any] = []
        self._sid = connection.subscribe(attachment.topic, self, attachment.group or "", partial(answered, self))

    @property
    def shares(self) -> bool:
        """Whether the server gives each message to one member only: those of a queue group."""
        return self.attachment.group is not None

    def release(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> None:
        """Nothing: core NATS takes nothing back."""

    def sids(self) -> list[int]:
        """The number of its subscription on this link."""
        return [self._sid]

    def adder(self, topic: str) -> wire.Add:
        """What takes the messages of a topic; reader thread only."""
        return self.add if self.wants(topic) else _drop

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """Collect one message."""
        fields = self._fields
        if not fields:
            self._dirty.append(self)
            self._arrived = time.time()
        fields += (topic, payload, block)

    def flush(self) -> None:
        """Hand over what one read has brought; full lanes drop and count it themselves."""
        fields, self._fields = self._fields, []
        if not self.closed:
            self._deliver(CoreBatch(fields, self._arrived), _FOR_EVER)


def _drop(topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
    """Not for this subscription."""
