"""Which keys a lane that has nothing to do takes over from others, and which make way for others of their lane."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from heapq import heapreplace

from ..message import Delivery
from .lane_queue import LaneQueue
from .routing import order_of

SHARED_AFTER = 0.05
"""Seconds that something waits for a lane until others take keys over from it."""
REST = 20
"""So many times as long as a look takes nobody looks again, however much there is to look through."""
MUCH = 10
"""So many messages of one key in front, and all others of it, make way for what waits behind them."""

Shares = Mapping[int, Mapping[Hashable, int]]
"""By lanes, what they give (see `order_of`), and to which lanes."""
Ways = Mapping[int, Hashable]
"""By lanes, what makes way for all else there."""


class Sharing:
    """Says what some lanes take over from others; one caller at a time.

    It takes no lock: whoever gives sees by itself what has begun by then.
    Not of those whose handlers take batches: what is taken over would wait there until a batch is full.
    """

    def __init__(self, lanes: Sequence[LaneQueue]) -> None:
        self._lanes = lanes
        self._next = 0.0

    def look(self, now: float) -> tuple[Shares, Ways]:
        """What others take over from lanes for which something has waited for a while, and what makes way there.

        Keys take turns there, some 20 ms each: one that waited for all of another one would be begun too late to share.
        """
        if now < self._next or len(self._lanes) < 2:
            return {}, {}
        begun = time.thread_time()
        waiting = {place: lane.waiting(now - SHARED_AFTER) for place, lane in enumerate(self._lanes)}
        laden = sorted(filter(waiting.get, waiting), key=lambda place: -len(waiting[place]))
        idle = [(0, place) for place in waiting if laden and self._lanes[place].is_idle]
        given = {place: self._shares(place, waiting[place], idle) for place in (laden if idle else ())}
        ways = {place: waiting[place][0] for place in laden if not given.get(place) and _is_much(waiting[place])}
        self._next = now + REST * (time.thread_time() - begun)
        return (
            {place: orders for place, orders in given.items() if orders},
            {place: order_of(first) for place, first in ways.items()},
        )

    def _shares(self, place: int, waiting: Sequence[Delivery], idle: list[tuple[int, int]]) -> dict[Hashable, int]:
        """Each key goes where less waits then: the largest first, to the lane with least. idle: a heap."""
        left, staying = len(waiting) + 1, self._lanes[place].staying
        given: dict[Hashable, int] = {}
        for order, count in Counter(map(order_of, waiting)).most_common():
            taken, other = idle[0]
            if order not in staying and taken + count < left:
                left -= count
                heapreplace(idle, (taken + count, other))
                given[order] = other
        return given


def _is_much(waiting: Sequence[Delivery]) -> bool:
    """Whether there is much of one key in front of others."""
    front = order_of(waiting[0])
    is_much = len(waiting) > MUCH and all(order_of(one) == front for one in waiting[:MUCH])
    return is_much and any(order_of(one) != front for one in waiting[MUCH:])
