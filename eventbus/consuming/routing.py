"""Which lane a message goes to: the same one for a key, but where lanes stand still, or have nothing to do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from attrs import define

from ..message import Delivery
from .parked import lane_key, lane_of

Parts = list[tuple[int, Sequence[Delivery]]]
NOWHERE: Mapping[Hashable, int] = {}


def order_of(delivery: Delivery) -> Hashable:
    """What it keeps its order with: its key, or nothing but itself."""
    key = lane_key(delivery)
    return id(delivery) if key is None else key


@define
class Detour:
    """Where one key goes instead of its own lane.

    lane: which has it. inside: what came this way and is in hand, by `id`.

    Counted they would be too few: of what was handled at another lane before, some may not have left yet.
    """

    lane: int
    inside: set[int]


class Routing:
    """Says which lane each message of a subscription goes to.

    Not locked, but for `split` and `is_plain`: its owner does that.
    While a lane stands still its keys make a detour through others, and so does a key that another lane takes over; all
    messages of a key through the same one. A key is back on its own lane only when nothing of it is in hand any more,
    so that none of its messages overtakes another.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._next = 0
        self._held: Mapping[int, AbstractSet[Hashable]] = {}
        """The lanes that stand still, and the keys that stay with them."""
        self._detours: dict[Hashable, Detour] = {}

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

    def split_around(self, batch: Iterable[Delivery], to: Mapping[Hashable, int] = NOWHERE) -> Parts:
        """What goes to which lane now, in order; a message on a detour has to be told by `left`.

        to: where keys go of which no lane has anything left that is to be handled, by `order_of`.
        """
        parts: dict[int, list[Delivery]] = {}
        for delivery in batch:
            parts.setdefault(self._lane_of(delivery, to.get(order_of(delivery)) if to else None), []).append(delivery)
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
                detour.inside.discard(id(delivery))
                if not detour.inside:
                    del detours[key]

    def _lane_of(self, delivery: Delivery, to: int | None) -> int:
        key = lane_key(delivery)
        if key is None:
            if to is None:
                to = self._next = self._going((self._next + 1) % self._lanes)
            return to
        detour = self._detours.get(key)
        if detour is None:
            own = lane_of(key, self._lanes)
            if to is None:
                to = own if key in self._held.get(own, (key,)) else self._going(own)
            if to == own:
                return own
            detour = self._detours[key] = Detour(to, set())
        elif to is not None:
            detour.lane = to
        detour.inside.add(id(delivery))
        return detour.lane

    def _going(self, lane: int) -> int:
        """This lane, or the next one that does not stand still."""
        while lane in self._held:
            lane = (lane + 1) % self._lanes
        return lane
