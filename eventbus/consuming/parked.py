"""Keys that wait for the retry of a message, each with what has come behind it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterator
from zlib import crc32

from ..message import Delivery
from ..threads import Pauses
from .lease import Lease

RETRIES = Pauses(first=0.1, factor=2.0, longest=5.0)
"""Between the failures of a handler on one message."""

Parked = tuple[Lease, Delivery, bool]
"""A delivery, the lease it came under, and whether it may be finished already (see `InHand.claims`)."""


def lane_key(delivery: Delivery) -> str | bytes | None:
    """What decides with which messages a delivery keeps its order: the key as the broker has it."""
    raw: bytes | None = getattr(delivery, "raw_key", None)
    return delivery.key if raw is None else raw


def lane_of(key: str | bytes, lanes: int) -> int:
    """The lane of a key: always the same one."""
    return crc32(key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")) % lanes


class ParkedKey:
    """One key: the message that failed comes first.

    failures: of that message. due, since: when its next try is, and when it came, by `time.monotonic`.
    """

    __slots__ = ("due", "failures", "messages", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.messages: deque[Parked] = deque()
        self.failures = 0
        self.due = 0.0

    def fail(self, *, again: bool) -> float:
        """Note a failure of the first message, the second or a later one if `again`; the pause that follows."""
        self.failures = self.failures + 1 if again else 1
        pause = RETRIES.after(self.failures)
        self.due = time.monotonic() + pause
        return pause


class ParkedKeys:
    """Of one lane, on its thread; `ended` and `since` may be asked by any.

    waiting: the keys and what waits for them.
    """

    def __init__(self) -> None:
        self.waiting: dict[Hashable, ParkedKey] = {}
        self.due = float("inf")
        """When the next one is to be tried again, by `time.monotonic`."""

    def __len__(self) -> int:
        return len(self.waiting)

    def park(self, key: str | bytes | None, entry: Parked, since: float) -> ParkedKey:
        """Park a key with the message that failed; without a key, the message alone."""
        parked = ParkedKey(since)
        parked.messages.append(entry)
        self.waiting[object() if key is None else key] = parked
        return parked

    def behind(self, key: str | bytes | None, entry: Parked) -> bool:
        """Put a message behind its parked key; False where the key is not parked."""
        parked = None if key is None else self.waiting.get(key)
        if parked is None:
            return False
        parked.messages.append(entry)
        return True

    def take_due(self, now: float) -> Iterator[tuple[Hashable, ParkedKey]]:
        """Those whose next try is due."""
        for key, parked in list(self.waiting.items()):
            if parked.due <= now:
                yield key, parked

    def forget(self, key: Hashable) -> None:
        """Nothing of this key waits any more."""
        self.waiting.pop(key, None)

    def plan(self) -> None:
        """Find out when the next one is due."""
        self.due = min((parked.due for parked in self.waiting.values()), default=float("inf"))

    def ended(self) -> bool:
        """Whether something waits whose lease is over."""
        heads = [next(iter(parked.messages), None) for parked in list(self.waiting.values())]
        return any(head is not None and head[0].ended for head in heads)

    def since(self) -> list[float]:
        """When the first message of each key came."""
        return [parked.since for parked in list(self.waiting.values())]

    def take_stale(self) -> list[tuple[Lease, Delivery]]:
        """Take out what waits under an ended lease."""
        stale: list[tuple[Lease, Delivery]] = []
        for key, parked in list(self.waiting.items()):
            if not parked.messages or not parked.messages[0][0].ended:
                continue
            stale += [(lease, one) for lease, one, _ in parked.messages if lease.ended]
            parked.messages = deque(entry for entry in parked.messages if not entry[0].ended)
            parked.due = 0.0
            if not parked.messages:
                del self.waiting[key]
        self.plan()
        return stale

    def empty(self) -> list[tuple[Lease, Delivery]]:
        """Take everything out."""
        everything = [(lease, one) for parked in self.waiting.values() for lease, one, _ in parked.messages]
        self.waiting.clear()
        self.due = float("inf")
        return everything
