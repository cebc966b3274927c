"""Subscriptions and the map that keeps them through every reconnect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import count
from typing import Any, Final

from ..message import Message
from .inhand import InHand

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
    """A handler on a topic or pattern. Made by `EventBus.subscribe`; it outlives every session.

    topic, group (None: broadcast), concurrency, start: as given. state, error: how it stands.
    """

    def __init__(self, topic: str, handler: Handler, *, group: str | None, concurrency: int, start: str) -> None:
        self.number = next(_numbers)
        self.topic = topic
        self.handler = handler
        self.group = group
        self.concurrency = concurrency
        self.start = start
        self.state = SubscriptionState.PENDING
        self.error: Exception | None = None
        self.in_hand = InHand()
        self.positions: dict[str, int] = {}
        """Written by sessions: where a broadcast copy stands per stream or partition, for the next session."""
        self.renewed_at = 0.0
        """Written by sessions, `time.monotonic`: until then the broker knew that what is in hand is ours."""
        self.session: Any = None
        """The session that delivers it now; written under the map's lock only."""
        self.discard_unstarted: Callable[..., None] = lambda *tokens: None
        """Drop what no handler was started for, or of that what has one of the tokens given; see `Lanes.discard`."""

    def __repr__(self) -> str:
        group = "broadcast" if self.group is None else f"group {self.group!r}"
        return f"<Subscription {self.number} {self.topic!r} {group} {self.state.value}>"


class SubscriptionMap:
    """All subscriptions of a bus, under one RLock. Holding it, only local and bounded work is done."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._subscriptions: dict[int, Subscription] = {}

    def add(self, sub: Subscription) -> None:
        """Keep a subscription: from now on every new session delivers it."""
        with self.lock:
            self._subscriptions[sub.number] = sub

    def remove(self, sub: Subscription) -> Any:
        """Forget a subscription and return the session that delivers it; CLOSED from now on.

        The session stays noted: what the handler finishes last is still acknowledged through it.
        """
        with self.lock:
            if self._subscriptions.pop(sub.number, None) is None:
                return None  # removed before, or another bus's
            sub.state = SubscriptionState.CLOSED
            return sub.session

    def unattached(self, session: object) -> list[Subscription]:
        """Those that this session does not deliver yet."""
        with self.lock:
            return [sub for sub in self._subscriptions.values() if sub.session is not session]

    def attach(
        self,
        session: Any,
        subs: Sequence[Subscription],
        deliver: Callable[[Subscription], Callable[..., bool]],
    ) -> None:
        """Let a session deliver these, each exactly once; one that was removed meanwhile is left out.

        A session that ends in the middle raises `SessionRetired`; the rest keep their old one.
        """
        with self.lock:
            for sub in subs:
                if sub.number not in self._subscriptions or sub.session is session:
                    continue
                session.attach(sub, deliver(sub))
                sub.session = session
                sub.state = SubscriptionState.ACTIVE
                sub.error = None

    def fail(self, sub: Subscription, error: Exception) -> bool:
        """Mark one that cannot be prepared; True when this is news."""
        with self.lock:
            if sub.number not in self._subscriptions:
                return False
            news = sub.state is not SubscriptionState.FAILED or str(sub.error) != str(error)
            sub.session = None
            sub.state = SubscriptionState.FAILED
            sub.error = error
            return news

    def lose(self, session: object) -> None:
        """The session is gone: what it delivered waits for the next one."""
        with self.lock:
            for sub in self._subscriptions.values():
                if sub.session is session:
                    sub.session = None
                    sub.state = SubscriptionState.PENDING

    def __iter__(self) -> Iterator[Subscription]:
        with self.lock:
            return iter(list(self._subscriptions.values()))

    def __len__(self) -> int:
        return len(self._subscriptions)
