"""What is in hand of a subscription, by partition and offset: it outlives consumers and sessions."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from ...consuming.attachment import Attachment
from ...message import Delivery
from .offsets import Offsets
from .runs import Run
from .topics import Place

_LOG_SPAN = 1 << 48
"""More offsets than a log will ever have: identities of two logs never meet."""


class PartitionLog:
    """A partition's log as this process sees it, and the token of its deliveries. Locked by its journal.

    base: added to an offset to make an identity. owner: the consumer that has the partition now, if one does.
    offsets: None before the first delivery. acked: what the broker has confirmed as committed. requested: the
    last commit of the present owner. known: offsets below it were handed out before, see `admit`.
    """

    __slots__ = (
        *("acked", "base", "known", "offsets", "owner", "place", "requested"),
        *("_awaited", "_begun", "_fetched", "_floor", "_given_back"),
    )

    def __init__(self, place: Place, base: int) -> None:
        self.place = place
        self.base = base
        self.offsets: Offsets | None = None
        self.owner: object = None
        self.acked = self.requested = self.known = -1
        self._begun = False
        self._floor = self._fetched = -1
        self._given_back: set[int] = set()
        self._awaited: set[int] = set()
        """Given back, and on their way here again."""

    # -- the owner -------------------------------------------------------------------------------

    def assign(self, owner: object) -> None:
        """The partition is this owner's now; where it begins the first message says, or `begin`."""
        self.owner = owner
        self.requested = -1
        self._begun = False
        self._awaited |= self._given_back  # it begins with what is not done
        self._given_back = set()

    def begin(self, offset: int) -> None:
        """The owner begins here: all below is done, whoever did it."""
        if self.offsets is None or offset > self.offsets.position:
            self._floor = offset  # of what lies between we do not know whether it was done
        if self.offsets is None:
            self.offsets = Offsets(offset)
        self.known = self.offsets.position
        self.offsets.forget_below(offset)
        self._awaited = {one for one in self._awaited if one >= offset}
        self._given_back = {one for one in self._given_back if one >= offset}
        self._fetched = offset
        self._begun = True

    def continues_at(self, offset: int) -> bool:
        """Whether an offset that may not follow the last one can be of this log.

        What was done and not committed comes again when the owner changes. Else a lower offset means that the topic
        was made anew, or somebody has reset the group.
        """
        if not self._begun:
            if offset < max(self._floor, self.acked):
                return False
            self.begin(offset)
            return True
        self.known = -1 if self.offsets is None else self.offsets.position
        return offset >= self._fetched

    def admit(self, offset: int) -> bool:
        """Whether an offset that was handed out before is to be delivered again: if it was given back."""
        if offset in self._awaited:
            self._awaited.discard(offset)
        elif offset in self._given_back:
            self._given_back.discard(offset)
        else:
            return False
        return True

    def fetched(self, first_new: int, end: int) -> None:
        """All up to `end` was fetched, of which from `first_new` on it is handed out for the first time (-1: none)."""
        self._fetched = end
        if self.offsets is None:
            return
        if first_new >= 0:
            self.offsets.hand_out(first_new, end)
        for offset in [one for one in self._awaited if one < end]:  # the broker has deleted it
            self._awaited.discard(offset)
            self.offsets.finish(offset, offset + 1)

    @property
    def begun(self) -> bool:
        """Whether it is known where the present owner began."""
        return self._begun

    @property
    def committable(self) -> int | None:
        """The offset to commit; None when there is nothing new."""
        if self.offsets is None or not self._begun:
            return None
        committed = self.offsets.committed
        return committed if committed > self.requested else None

    @property
    def rewind(self) -> bool:
        """Whether something was given back and has to be fetched again."""
        return bool(self._given_back) and self._begun

    def go_back(self) -> int:
        """Where to fetch from to get what was given back."""
        self._awaited |= self._given_back
        self._given_back = set()
        self._fetched = min(self._awaited)
        return self._fetched

    @property
    def busy(self) -> bool:
        """Whether something of it is with the lanes."""
        return self.offsets is not None and self.offsets.unfinished > len(self._given_back) + len(self._awaited)

    # -- the lanes -------------------------------------------------------------------------------

    def finish(self, first: int, end: int) -> None:
        """A run of identities is done."""
        if self.offsets is not None:
            self.offsets.finish(first - self.base, end - self.base)

    def give_back(self, identity: int) -> None:
        """A delivery will not be handled here."""
        offset = identity - self.base
        if self.offsets is not None and self.offsets.is_out(offset):
            self._given_back.add(offset)


class Journal:
    """Of one subscription, for as long as it lives. Fetching sorts out what is in hand already, by its offset.

    logs: the newest of each partition. begins: where a subscription that begins "now" does, None until that was
    asked. previous: the thread of the last consumer, which may not have left the group yet.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.lock = threading.RLock()
        self.logs: dict[Place, PartitionLog] = {}
        self.begins: dict[Place, int] | None = None
        self.previous: threading.Thread | None = None
        self._next_base = 0
        self._replaced: list[PartitionLog] = []

    def log_of(self, place: Place) -> PartitionLog:
        """The partition's log. Under the lock."""
        log = self.logs.get(place)
        return self.new_log(place) if log is None else log

    def stand_in(self, place: Place) -> int | None:
        """Where this process goes on in a partition; None where it has not begun. Under the lock."""
        log = self.logs.get(place)
        return None if log is None or log.offsets is None else log.offsets.committed

    def new_log(self, place: Place) -> PartitionLog:
        """The partition begins anew: its old offsets mean nothing now. Under the lock."""
        if place in self.logs:
            self._replaced.append(self.logs[place])
        self._next_base += _LOG_SPAN
        log = self.logs[place] = PartitionLog(place, self._next_base)
        return log

    def orphans(self) -> list[PartitionLog]:
        """Logs of partitions that no consumer of ours has, and those that were replaced since. Under the lock."""
        replaced, self._replaced = self._replaced, []
        return replaced + [log for log in self.logs.values() if log.owner is None]

    def admit(self, batch: Sequence[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """As `InHand.admit`; all are new: see `Intake`."""
        return batch, ()

    def finish(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        """As `InHand.finish`."""
        if isinstance(deliveries, Run):
            with self.lock:
                deliveries.log.finish(deliveries.first, deliveries.end)
            return deliveries
        done = list(deliveries)
        identities: list[Any] = [delivery.identity for delivery in done]
        with self.lock:
            for delivery, identity in zip(done, identities, strict=True):
                delivery.token.finish(identity, identity + 1)
        return done

    def drop(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """As `InHand.drop`."""
        dropped = list(deliveries)
        with self.lock:
            for delivery in dropped:
                delivery.token.give_back(delivery.identity)
        return dropped

    def __len__(self) -> int:
        with self.lock:
            return sum(log.offsets.unfinished for log in self.logs.values() if log.offsets is not None)


def journal_of(attachment: Attachment) -> Journal:
    """What the backend has made for this subscription."""
    journal = attachment.in_hand
    assert isinstance(journal, Journal)
    return journal
