"""Keys that wait for the retry of a message, each with what has come behind it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import count
from zlib import crc32

from ..message import Delivery
from .lease import Lease
from .retries import Tries

Parked = tuple[Lease, Delivery, bool]
"""A delivery, the lease it came under, and whether it may be finished already (see `InHand.claims`)."""


NEVER = float("inf")
LONGEST_NAP = 3600.0
"""Seconds: a queue takes no wait that is longer than some 290 years, and settings may be."""


def lane_key(delivery: Delivery) -> str | bytes | None:
    """What decides with which messages a delivery keeps its order: the key as the broker has it."""
    raw: bytes | None = getattr(delivery, "raw_key", None)
    return delivery.key if raw is None else raw


def lane_of(key: str | bytes, lanes: int) -> int:
    """The lane of a key: always the same one."""
    return crc32(key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")) % lanes


class ParkedKey:
    """One key: the message that failed comes first.

    tries: of that message. leaves_for: the error for which it becomes a dead letter; None
    while its handler is to be tried again. due, since: when the next try of either is, and when it came, by
    `time.monotonic`; never, while the broker is asked to store the dead letter.
    """

    __slots__ = ("due", "key", "leaves_for", "messages", "since", "tries")

    def __init__(self, key: Hashable, since: float) -> None:
        self.key = key
        self.since = since
        self.messages: deque[Parked] = deque()
        self.due = 0.0
        self.begin()

    @property
    def is_sent(self) -> bool:
        """Whether its first message is on its way to the dead letters."""
        return self.leaves_for is not None and self.due == NEVER

    def begin(self) -> None:
        """Another message is the first now."""
        self.tries = Tries()
        self.leaves_for: BaseException | None = None

    def wait(self, seconds: float) -> None:
        """The next try is in so many seconds."""
        self.due = time.monotonic() + seconds

    def take_first(self) -> Parked:
        """The first message does not wait any more."""
        self.begin()
        return self.messages.popleft()


class ParkedKeys:
    """The parked keys of one lane, on its thread; `ended` and `since` may be asked by any.

    A step costs no more for many keys.
    waiting: the keys and what waits for them.
    """

    def __init__(self) -> None:
        self.waiting: dict[Hashable, ParkedKey] = {}
        self.due = NEVER
        """When the next one is to be tried again, by `time.monotonic`; sooner where that one waits no more."""
        self._times: list[tuple[float, int, ParkedKey]] = []
        """A heap."""
        self._serials = count()
        self._leases: set[Lease] = set()
        """All that something may wait under."""

    def __len__(self) -> int:
        return len(self.waiting)

    def park(self, key: str | bytes | None, entry: Parked, since: float) -> ParkedKey:
        """Park a key with the message that failed; without a key, the message alone. `plan` it."""
        parked = ParkedKey(object() if key is None else key, since)
        self._leases.add(entry[0])
        parked.messages.append(entry)
        self.waiting[parked.key] = parked
        return parked

    def behind(self, key: str | bytes | None, entry: Parked) -> bool:
        """Put a message behind its parked key; False where the key is not parked."""
        parked = None if key is None else self.waiting.get(key)
        if parked is None:
            return False
        self._leases.add(entry[0])
        parked.messages.append(entry)
        return True

    def waits_first(self, parked: ParkedKey, delivery: Delivery) -> bool:
        """Whether this is still the first message of that key."""
        return self.waiting.get(parked.key) is parked and bool(parked.messages) and parked.messages[0][1] is delivery

    def plan(self, parked: ParkedKey) -> None:
        """Note when this one is due, if it is at all."""
        if parked.due == NEVER:
            return
        heappush(self._times, (parked.due, next(self._serials), parked))
        self.due = self._times[0][0]

    def take_due(self, now: float) -> ParkedKey | None:
        """The one that is due first, if it is by now; `plan` it again, or `forget` it."""
        times, found = self._times, None
        while found is None and times and times[0][0] <= now:
            due, _, parked = heappop(times)
            if parked.due == due and self.waiting.get(parked.key) is parked:
                found = parked
        self.due = times[0][0] if times else NEVER
        return found

    def forget(self, parked: ParkedKey) -> None:
        """Nothing of this key waits any more."""
        self.waiting.pop(parked.key, None)
        if not self.waiting:
            self.empty()

    def ended(self) -> bool:
        """Whether something waits, or has waited, whose lease is over; `take_stale` then sees to it."""
        return any(lease.ended for lease in list(self._leases))

    def since(self) -> list[float]:
        """When the first message of each key came."""
        return [parked.since for parked in list(self.waiting.values())]

    def take_stale(self) -> list[tuple[Lease, Delivery]]:
        """Take out what waits under an ended lease."""
        ended = {lease for lease in self._leases if lease.ended}
        self._leases -= ended
        stale: list[tuple[Lease, Delivery]] = []
        for parked in list(self.waiting.values()) if ended else ():
            gone = [(lease, one) for lease, one, _ in parked.messages if lease in ended]
            if not gone:
                continue
            stale += gone
            is_first = parked.messages[0][0] in ended
            parked.messages = deque(entry for entry in parked.messages if entry[0] not in ended)
            if not parked.messages:
                self.forget(parked)
            elif is_first:
                parked.begin()
                parked.due = 0.0
                self.plan(parked)
        return stale

    def take_unsent(self) -> list[tuple[Lease, Delivery]]:
        """Take everything out but what the broker was asked to store as a dead letter, and has not answered."""
        taken: list[tuple[Lease, Delivery]] = []
        for parked in list(self.waiting.values()):
            sent = [parked.messages.popleft()] if parked.is_sent else []
            taken += [(lease, one) for lease, one, _ in parked.messages]
            parked.messages = deque(sent)
            if not sent:
                self.forget(parked)
        return taken

    def empty(self) -> list[tuple[Lease, Delivery]]:
        """Take everything out."""
        everything = [(lease, one) for parked in self.waiting.values() for lease, one, _ in parked.messages]
        self.waiting.clear()
        self._times.clear()
        self._leases = set()
        self.due = NEVER
        return everything
