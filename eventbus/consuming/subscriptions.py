"""What a user holds of a subscription."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from itertools import count
from typing import Final, Protocol

from attrs import frozen

from ..message import Message
from .batches import Batch

Handler = Callable[[Message], object]
BatchHandler = Callable[[Batch], object]

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

    PENDING: waits for a connection, or for its place in the group. ACTIVE: delivering. STANDBY: other members of the
    group have all there is (Kafka's partitions, all of an ordered group on JetStream), and it gets what they leave.
    FAILED: the broker refuses it (`error` says why); it is tried again by itself. CLOSED: unsubscribed, or the bus is
    closed.
    """

    PENDING = "pending"
    ACTIVE = "active"
    STANDBY = "standby"
    FAILED = "failed"
    CLOSED = "closed"


@frozen(kw_only=True)
class PartitionStatus:
    """How one partition stands that this process has for its group (Kafka), as of the last second.

    committed: the offset that the broker has confirmed as the group's, by this process; None before. position: the
    next one to hand to the handlers. in_hand: messages whose handler has not finished. end: behind the last message,
    as last heard of; None before.
    """

    topic: str
    partition: int
    committed: int | None
    position: int | None
    in_hand: int
    end: int | None


@frozen(kw_only=True)
class SubscriptionStatus:
    """How a subscription stands, measured at one instant.

    state, error: as `Subscription` has them. last_error: what its handler raised last, or what went wrong with it.
    in_hand: messages delivered to this process whose handler has not finished, those that wait for a retry included.
    oldest_in_hand: seconds since the oldest of them came, about; None without one.
    lag: messages that wait for the group, in hand or not; None where the backend does not know. On JetStream as of some
    seconds ago; on Kafka in the partitions that this process has. paused: `pause()` was called. partitions: on Kafka
    those that this process has. not_served: why it gets nothing now, as in `HealthStatus.not_served`; "" when it does.
    is_joining: it is PENDING only for its place in the group, which is on its way (on Kafka: a rebalance).
    """

    state: SubscriptionState
    error: Exception | None
    last_error: BaseException | None
    in_hand: int
    oldest_in_hand: float | None
    lag: int | None
    paused: bool
    partitions: tuple[PartitionStatus, ...] = ()
    not_served: str = ""
    is_joining: bool = False


class Work(Protocol):
    """What works on a subscription."""

    def status(self) -> SubscriptionStatus:
        """How it stands."""

    def pause(self) -> None:
        """Start no handler."""

    def resume(self) -> None:
        """Go on."""


class Subscription:
    """A handler on a topic or pattern. Made by `EventBus.subscribe`; it outlives every connection.

    topic: the topic or pattern. group: None is a broadcast copy. concurrency: how many handlers run at once.
    start: where a new group begins. ordered: whether order per key is kept inside the group whatever dies. in_children:
    whether a forked child has it, too. state: how it stands. error: why it is FAILED, or what the broker does not let
    an ACTIVE one do (acknowledge, say).
    """

    def __init__(
        self,
        topic: str,
        *,
        group: str | None,
        concurrency: int,
        start: str | datetime,
        ordered: bool = False,
        in_children: bool = False,
        owner: object = None,
    ) -> None:
        self._number = next(_numbers)
        self._work: Work = _NoWork(self)
        self._owner = owner
        self.topic = topic
        self.group = group
        self.concurrency = concurrency
        self.start = start
        self.ordered = ordered
        self.in_children = in_children
        self.state = SubscriptionState.PENDING
        self.error: Exception | None = None

    def status(self) -> SubscriptionStatus:
        """How it stands, now. Any thread; never waits for a handler."""
        return self._work.status()

    def pause(self) -> None:
        """Start no handler until `resume()`; any thread, returns at once.

        A handler that runs goes on. What was fetched is kept, and no more is fetched; the group stays joined.
        """
        self._work.pause()

    def resume(self) -> None:
        """Go on after a `pause()`; any thread, returns at once."""
        self._work.resume()

    def _forget_work(self) -> None:
        """This is a forked child's copy: what works on it is its parent's."""
        self._work = _NoWork(self)

    def __repr__(self) -> str:
        group = "broadcast" if self.group is None else f"group {self.group!r}"
        return f"<Subscription {self._number} {self.topic!r} {group} {self.state.value}>"


class _NoWork:
    """What stands for the work on a subscription that no bus works on."""

    def __init__(self, sub: Subscription) -> None:
        self._sub = sub

    def status(self) -> SubscriptionStatus:
        """Nothing is in hand."""
        sub = self._sub
        return SubscriptionStatus(
            state=sub.state,
            error=sub.error,
            last_error=None,
            in_hand=0,
            oldest_in_hand=None,
            lag=None,
            paused=False,
        )

    def pause(self) -> None:
        """There is nothing to pause."""

    def resume(self) -> None:
        """There is nothing to resume."""
