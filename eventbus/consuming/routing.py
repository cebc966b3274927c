"""Which lane a message goes to: always the same one for a key, but for lanes that stand still."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from ..message import Delivery
from .parked import lane_key, lane_of

Parts = list[tuple[int, Sequence[Delivery]]]


class Routing:
    """Says which lane each message of a subscription goes to.

    Not locked, but for `split` and `is_plain`: its owner does that.
    While a lane stands still its keys make a detour through others, all messages of a key through the same one. A key
    is back on its own lane only when nothing of it is in hand any more, so that none of its messages overtakes another.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._next = 0
        self._held: Mapping[int, AbstractSet[Hashable]] = {}
        """The lanes that stand still, and the keys that stay with them."""
        self._detours: dict[Hashable, list[int]] = {}
        """Keys on a detour: through which lane, and how many of their messages are in hand."""

    @property
    def is_plain(self) -> bool:
        """Whether every key goes to its own lane."""
        return not (self._held or self._detours)

    def stand(self, held: Mapping[int, AbstractSet[Hashable]]) -> None:
        """These lanes stand still, and no others; each with the keys that only it may handle."""
        self._held = held

    def split(self, batch: Sequence[Delivery]) -> Parts:
        """What goes to which lane while each key goes to its own, in order."""
        if self._lanes == 1:
            return [(0, batch)]
        parts: dict[int, list[Delivery]] = {}
        for delivery in batch:
            key = lane_key(delivery)
            if key is None:
                self._next = lane = (self._next + 1) % self._lanes
            else:
                lane = lane_of(key, self._lanes)
            parts.setdefault(lane, []).append(delivery)
        return list(parts.items())

    def split_around(self, batch: Iterable[Delivery]) -> Parts:
        """What goes to which lane now, in order; a message on a detour has to be told by `left`."""
        parts: dict[int, list[Delivery]] = {}
        for delivery in batch:
            parts.setdefault(self._lane_of(lane_key(delivery)), []).append(delivery)
        return list(parts.items())

    def left(self, deliveries: Iterable[Delivery]) -> None:
        """These are not in the lanes any more."""
        detours = self._detours
        if not detours:
            return
        for delivery in deliveries:
            key = lane_key(delivery)
            detour = detours.get(key)
            if detour is not None:
                detour[1] -= 1
                if not detour[1]:
                    del detours[key]

    def _lane_of(self, key: str | bytes | None) -> int:
        if key is None:
            self._next = self._going((self._next + 1) % self._lanes)
            return self._next
        detour = self._detours.get(key)
        if detour is not None:
            detour[1] += 1
            return detour[0]
        own = lane_of(key, self._lanes)
        if key in self._held.get(own, (key,)):
            return own
        lane = self._going(own)
        self._detours[key] = [lane, 1]
        return lane

    def _going(self, lane: int) -> int:
        """This lane, or the next one that does not stand still."""
        while lane in self._held:
            lane = (lane + 1) % self._lanes
        return lane
