"""What this process knows of one partition: what it was handed out, what of that is done, who has it now."""

from __future__ import annotations

from collections.abc import Sequence

from ....consuming.lease import Lease
from ....consuming.subscriptions import PartitionStatus
from ..names import TopicPartition
from .offsets import Offsets


class PartitionState:
    """A partition as this process sees it, and the token of its deliveries. Locked by its `KafkaInHand`.

    base: added to an offset to make an identity. owner: the consumer that has the partition now, if one does.
    lease: on what it has of it; ended with the assignment, and where something has to be fetched again.
    offsets: None before the first delivery. acked: what the broker has confirmed as committed. requested: the
    last commit of the present owner. known: offsets below it were handed out before, see `admit`. low, end: where the
    partition began and ended when that was last heard of, -1 before.
    topic_id: tells its topic from another one of that name; None where it is not known.
    """

    __slots__ = (
        *(
            "acked",
            "base",
            "copies",
            "end",
            "known",
            "lease",
            "low",
            "offsets",
            "owner",
            "requested",
            "rewind",
            "topic_id",
            "where",
        ),
        *("_again", "_begun", "_fetched", "_floor"),
    )

    def __init__(self, where: TopicPartition, base: int, topic_id: str | None = None) -> None:
        self.where = where
        self.topic_id = topic_id
        self.base = base
        self.offsets: Offsets | None = None
        self.owner: object = None
        self.acked = self.requested = self.known = self.low = self.end = -1
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

    def advance(self, offset: int) -> bool:
        """All below was looked at, and none of it is in hand: what lies between was no message. Whether that is new."""
        if self.offsets is None or not self._begun or self.rewind or self.offsets.committed < self.offsets.position:
            return False
        if offset <= self.offsets.position:
            return False
        self.offsets.forget_below(offset)
        self._fetched = offset
        return True

    @property
    def lag(self) -> int | None:
        """What is in hand and what was not handed out yet; None where the end, or the beginning, is not known yet."""
        if self.end < 0:
            return None
        if self.offsets is None or not self._begun:  # its first message waits for room
            return None if self.low < 0 else max(0, self.end - max(self.low, self.acked))
        return max(0, self.end - self.offsets.position) + self.offsets.unfinished

    @property
    def status(self) -> PartitionStatus:
        """How it stands. Takes no lock."""
        offsets = self.offsets
        return PartitionStatus(
            topic=self.where[0],
            partition=self.where[1],
            committed=self.acked if self.acked >= 0 else None,
            position=None if offsets is None else offsets.position,
            in_hand=0 if offsets is None else offsets.unfinished,
            end=None if self.end < 0 else max(self.end, 0 if offsets is None else offsets.position),
        )

    def go_back(self) -> int:
        """Where to fetch from to get all that is not done, under a new lease."""
        self._new_lease()
        assert self.offsets is not None
        self.known = self.offsets.position
        self._fetched = self.offsets.committed
        return self._fetched

    @property
    def ahead(self) -> int:
        """How many were handed out from the oldest that is not done on."""
        return 0 if self.offsets is None else self.offsets.ahead

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

    def finish_each(self, identities: Sequence[int]) -> None:
        """These are done, in whatever order."""
        self.copies -= len(identities)
        if self.offsets is not None:
            self.offsets.finish_each([identity - self.base for identity in identities])

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
