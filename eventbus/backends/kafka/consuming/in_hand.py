"""What is in hand of a subscription, by partition and offset: it outlives consumers and sessions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ....consuming.attachment import Attachment
from ....consuming.in_hand import Admitted
from ....consuming.lease import Lease
from ....message import Delivery
from ..names import TopicPartition
from .batches import KafkaBatch
from .offsets import Offsets

_LOG_SPAN = 1 << 48
"""More offsets than a log will ever have: identities of two logs never meet."""


class PartitionState:
    """A partition's log as this process sees it, and the token of its deliveries. Locked by its journal.

    base: added to an offset to make an identity. owner: the consumer that has the partition now, if one does.
    lease: on what it has of it; ended with the assignment, and where something has to be fetched again.
    offsets: None before the first delivery. acked: what the broker has confirmed as committed. requested: the
    last commit of the present owner. known: offsets below it were handed out before, see `admit`.
    """

    __slots__ = (
        *("acked", "base", "copies", "known", "lease", "offsets", "owner", "place", "requested", "rewind"),
        *("_again", "_begun", "_fetched", "_floor"),
    )

    def __init__(self, place: TopicPartition, base: int) -> None:
        self.place = place
        self.base = base
        self.offsets: Offsets | None = None
        self.owner: object = None
        self.acked = self.requested = self.known = -1
        self.lease = Lease()
        self.copies = 0
        """Deliveries with the lanes: one that came again counts twice until its first copy is dropped."""
        self.rewind = False
        """Whether something was given back and has to be fetched again."""
        self._begun = False
        self._floor = self._fetched = -1
        self._again: set[int] = set()
        """Handed out again under this lease."""

    # -- the owner -------------------------------------------------------------------------------

    def assign(self, owner: object) -> None:
        """The partition is this owner's now; where it begins the first message says, or `begin`."""
        self.owner = owner
        self.requested = -1
        self._begun = False
        self._new_lease()

    def lose(self) -> None:
        """The owner has it no more."""
        self.owner = None
        self.lease.end()

    def begin(self, offset: int) -> None:
        """The owner begins here: all below is done, whoever did it."""
        if self.offsets is None or offset > self.offsets.position:
            self._floor = offset  # of what lies between we do not know whether it was done
        if self.offsets is None:
            self.offsets = Offsets(offset)
        self.known = self.offsets.position
        self.offsets.forget_below(offset)
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
        """Whether an offset that was handed out before is to be delivered again: if it is not done."""
        if self.offsets is None or not self.offsets.is_out(offset):
            return False
        self._again.add(offset)
        self.copies += 1
        return True

    def fetched(self, first_new: int, end: int) -> None:
        """All up to `end` was fetched, of which from `first_new` on it is handed out for the first time (-1: none)."""
        before, self._fetched = self._fetched, end
        if self.offsets is None:
            return
        for offset in self.offsets.out_between(before, min(end, self.known)):
            if offset not in self._again:  # the broker has deleted it
                self.offsets.finish(offset, offset + 1)
        if first_new >= 0:
            self.offsets.hand_out(first_new, end)
            self.copies += end - first_new

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

    def go_back(self) -> int:
        """Where to fetch from to get all that is not done, under a new lease."""
        self._new_lease()
        assert self.offsets is not None
        self.known = self.offsets.position
        self._fetched = self.offsets.committed
        return self._fetched

    @property
    def ahead(self) -> int:
        """How many offsets lie between the oldest that is not done and the next one to hand out."""
        return 0 if self.offsets is None else self.offsets.position - self.offsets.committed

    @property
    def busy(self) -> bool:
        """Whether something of it is with the lanes."""
        return self.copies > 0

    def _new_lease(self) -> None:
        self.lease.end()
        self.lease = Lease()
        self.rewind = False
        self._again.clear()

    # -- the lanes -------------------------------------------------------------------------------

    def finish(self, first: int, end: int) -> None:
        """A run of identities is done."""
        self.copies -= end - first
        if self.offsets is not None:
            self.offsets.finish(first - self.base, end - self.base)

    def claims(self, identity: int) -> bool:
        """Whether a delivery that came again is not done meanwhile."""
        if self.offsets is not None and self.offsets.is_out(identity - self.base):
            return True
        self.copies -= 1
        return False

    def give_back(self, count: int, lease: Lease, *, again: bool) -> None:
        """So many deliveries will not be handled here; what came under a lease that is over comes by itself."""
        self.copies -= count
        if again and not lease.ended and self._begun:
            lease.end()
            self.rewind = True


class KafkaInHand:
    """Of one subscription, for as long as it lives. Fetching sorts out what is in hand already, by its offset.

    logs: the newest of each partition. begins: where a subscription that begins "now" does, None until that was
    asked. previous: the thread of the last consumer, which may not have left the group yet. ending: nothing is
    fetched any more, so what the lanes give back is for others.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.lock = threading.RLock()
        self.logs: dict[TopicPartition, PartitionState] = {}
        self.begins: dict[TopicPartition, int] | None = None
        self.previous: threading.Thread | None = None
        self.ending = False
        self._next_base = 0

    def log_of(self, place: TopicPartition) -> PartitionState:
        """The partition's log. Under the lock."""
        log = self.logs.get(place)
        return self.new_log(place) if log is None else log

    def stand_in(self, place: TopicPartition) -> int | None:
        """Where this process goes on in a partition; None where it has not begun. Under the lock."""
        log = self.logs.get(place)
        return None if log is None or log.offsets is None else log.offsets.committed

    def new_log(self, place: TopicPartition) -> PartitionState:
        """The partition begins anew: its old offsets mean nothing now. Under the lock."""
        if place in self.logs:
            self.logs[place].lease.end()
        self._next_base += _LOG_SPAN
        log = self.logs[place] = PartitionState(place, self._next_base)
        return log

    def admit(self, batch: Sequence[Delivery], lease: Lease) -> Admitted:
        """Take all of a batch: `Intake` has left out what is done. What came before is to be checked by `claims`."""
        if isinstance(batch, KafkaBatch):
            return Admitted(batch)
        first: Any = batch[0]
        log: PartitionState = first.token
        return Admitted(batch, check=first.identity - log.base < log.known)

    def claims(self, delivery: Delivery) -> bool:
        """Whether this one, which came again, is still to be handled; if not, it is forgotten."""
        identity: Any = delivery.identity
        with self.lock:
            claimed: bool = delivery.token.claims(identity)
            return claimed

    def finish(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Note these as done, for the next commit; returns all of them."""
        if isinstance(deliveries, KafkaBatch):
            with self.lock:
                deliveries.log.finish(deliveries.first, deliveries.end)
            return deliveries
        identities: list[Any] = [delivery.identity for delivery in deliveries]
        with self.lock:
            for delivery, identity in zip(deliveries, identities, strict=True):
                delivery.token.finish(identity, identity + 1)
        return deliveries

    def drop(self, deliveries: Sequence[Delivery], lease: Lease) -> Sequence[Delivery]:
        """Have these, all of one log, fetched again with all behind them that is not done; returns them."""
        if deliveries:
            log: PartitionState = deliveries.log if isinstance(deliveries, KafkaBatch) else deliveries[0].token
            with self.lock:
                log.give_back(len(deliveries), lease, again=not self.ending)
        return deliveries

    def look(self, now: float) -> None:
        """Nothing: assignments do not end with time, the consumer ends them."""

    @property
    def count(self) -> int:
        """How many messages are in hand; takes no lock."""
        found = [log.offsets for log in list(self.logs.values())]
        return sum(offsets.unfinished for offsets in found if offsets is not None)

    def __len__(self) -> int:
        with self.lock:
            return sum(log.offsets.unfinished for log in self.logs.values() if log.offsets is not None)


def in_hand_of(attachment: Attachment) -> KafkaInHand:
    """What the backend has made for this subscription."""
    journal = attachment.in_hand
    assert isinstance(journal, KafkaInHand)
    return journal


def lease_of(batch: Sequence[Delivery]) -> Lease:
    """On what a batch was given. Under the journal's lock."""
    log: PartitionState = batch.log if isinstance(batch, KafkaBatch) else batch[0].token
    return log.lease
