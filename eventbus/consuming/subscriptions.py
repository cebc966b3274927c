"""What a user holds of a subscription."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Any, Final

from ..message import Message

Handler = Callable[[Message], object]

_numbers = count(1)


class Broadcast(Enum):
    """The type of `BROADCAST`."""

    BROADCAST = "broadcast"

    def __repr__(self) -> str:
        return "eventbus.BROADCAST"


BROADCAST: Final = Broadcast.BROADCAST
"""As a group: every process gets its own copy, from now on."""


class SubscriptionState(Enum):
    """Where a subscription stands.

    PENDING: waits for a connection. ACTIVE: delivering. FAILED: the broker refuses it (`error` says why);
    it is tried again by itself. CLOSED: unsubscribed, or the bus is closed.
    """

    PENDING = "pending"
    ACTIVE = "active"
    FAILED = "failed"
    CLOSED = "closed"


class Subscription:
    """A handler on a topic or pattern. Made by `EventBus.subscribe`; it outlives every connection.

    topic: the topic or pattern. group: None is a broadcast copy. concurrency: how many handlers run at once.
    start: where a new group begins. state: how it stands. error: why it is FAILED.
    """

    def __init__(self, topic: str, *, group: str | None, concurrency: int, start: str) -> None:
        self._number = next(_numbers)
        self._work: Any = None
        self._owner: object = None
        self.topic = topic
        self.group = group
        self.concurrency = concurrency
        self.start = start
        self.state = SubscriptionState.PENDING
        self.error: Exception | None = None

    def __repr__(self) -> str:
        group = "broadcast" if self.group is None else f"group {self.group!r}"
        return f"<Subscription {self._number} {self.topic!r} {group} {self.state.value}>"
