"""Which keys a lane that has nothing to do takes over from others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from heapq import heapreplace

from .lane_queue import LaneQueue
from .routing import order_of

SHARED_AFTER = 0.05
"""Seconds that something waits for a lane until others take keys over from it."""
REST = 20
"""So many times as long as a look takes nobody looks again, however much there is to look through."""

Shares = Mapping[int, Mapping[Hashable, int]]
"""By lanes, what they give (see `order_of`), and to which lanes."""


class Sharing:
    """Of some lanes; one caller at a time. It takes no lock: whoever gives sees by itself what has begun by then.

    Not of those whose handlers take batches: what is taken over would wait there until a batch is full.
    """

    def __init__(self, lanes: Sequence[LaneQueue]) -> None:
        self._lanes = lanes
        self._next = 0.0

    def look(self, now: float) -> Shares:
        """What lanes with nothing to do take over from those for which something has waited for a while."""
        if now < self._next:
            return {}
        begun = time.thread_time()
        idle = [(0, place) for place, lane in enumerate(self._lanes) if lane.is_idle]
        found = self._shares(idle, now - SHARED_AFTER) if idle else {}
        self._next = now + REST * (time.thread_time() - begun)
        return found

    def _shares(self, idle: list[tuple[int, int]], before: float) -> Shares:
        """Each key goes where less waits then: the largest first, to the lane with least. idle: a heap."""
        waiting = {place: lane.waiting(before) for place, lane in enumerate(self._lanes)}
        given: dict[int, dict[Hashable, int]] = {}
        for place in sorted(filter(waiting.get, waiting), key=lambda place: -len(waiting[place])):
            left, staying = len(waiting[place]) + 1, self._lanes[place].staying
            for order, count in Counter(map(order_of, waiting[place])).most_common():
                taken, other = idle[0]
                if order not in staying and taken + count < left:
                    left -= count
                    heapreplace(idle, (taken + count, other))
                    given.setdefault(place, {})[order] = other
        return given
