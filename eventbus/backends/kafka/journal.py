"""What is known of a subscription's partitions: some of it outlives the consumer, some the session."""

from __future__ import annotations

import threading

from ...consuming.subscriptions import Subscription
from ...consuming.watermark import Watermark
from .topics import Place

_LOG_SPAN = 1 << 48
"""More offsets than a log will ever have: identities of two logs never meet."""


class Journal:
    """Of one subscription, for as long as it lives; used by one consumer's thread at a time.

    acked: what the broker has confirmed as committed. begins: where a subscription that begins "now" does,
    None until that was asked. positions: where a broadcast copy stands. previous: the thread of the last
    consumer, which may not have left the group yet.
    """

    def __init__(self) -> None:
        self.acked: dict[Place, int] = {}
        self.begins: dict[Place, int] | None = None
        self.positions: dict[Place, int] = {}
        self.previous: threading.Thread | None = None
        self._bases: dict[Place, int] = {}
        self._next_base = 0

    def base_of(self, place: Place) -> int:
        """What is added to the offsets of this log to make identities."""
        base = self._bases.get(place)
        return self.new_log(place) if base is None else base

    def new_log(self, place: Place) -> int:
        """The partition begins anew (it was made again, or lost its state): its old offsets mean nothing now."""
        self._next_base += _LOG_SPAN
        self._bases[place] = self._next_base
        self.acked.pop(place, None)
        self.positions.pop(place, None)
        return self._next_base


def journal_of(sub: Subscription) -> Journal:
    """The subscription's journal, made by the first who asks."""
    if sub.journal is None:
        sub.journal = Journal()
    journal: Journal = sub.journal
    return journal


class PartitionLog:
    """One partition while it is assigned to a consumer: the token of its deliveries. Locked by its feed.

    mark: None before the first delivery. requested: the last commit. rewind: something has to be fetched again.
    """

    __slots__ = ("_given_back", "base", "mark", "place", "requested", "rewind")

    def __init__(self, place: Place, base: int) -> None:
        self.place = place
        self.base = base
        self.mark: Watermark | None = None
        self.requested = -1
        self.rewind = False
        self._given_back: set[int] = set()

    def begin(self, offset: int) -> None:
        """Deliveries begin here."""
        self.mark = Watermark(offset)

    @property
    def committable(self) -> int | None:
        """The offset to commit; None when there is nothing new."""
        mark = self.mark
        return mark.committed if mark is not None and mark.committed > self.requested else None

    @property
    def busy(self) -> bool:
        """Whether something of it is with the lanes."""
        return self.mark is not None and any(one not in self._given_back for one in self.mark.in_hand)

    def give_back(self, identity: int) -> None:
        """A delivery will not be handled here."""
        self._given_back.add(identity - self.base)
        self.rewind = True

    def go_back(self) -> int | None:
        """Where to fetch from to get what was given back; None without anything."""
        self.rewind = False
        self._given_back.clear()
        if self.mark is None:
            return None
        self.mark.rewind()
        return self.mark.position
