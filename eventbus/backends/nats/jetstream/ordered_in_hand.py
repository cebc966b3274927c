"""What is in hand of an ordered subscription: each stream has a lease of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ....consuming.in_hand import Admitted, InHandByIdentity
from ....consuming.lease import Lease
from ....message import Delivery
from .in_hand import NatsInHand


class OrderedInHand(NatsInHand):
    """By stream, then by sequence. It outlives terms: what was finished in one is not handled again in the next."""

    def __init__(self) -> None:
        super().__init__()
        self._shelves: dict[str, InHandByIdentity] = {}

    def admit(self, batch: Sequence[Delivery], lease: Lease) -> Admitted:
        """Take what is new of a batch, stream by stream."""
        found = [self._admit(shelf, part, lease) for shelf, part in self._parts(batch)]
        if len(found) == 1:
            return found[0]
        fresh = [one for admitted in found for one in admitted.fresh]
        finished = [one for admitted in found for one in admitted.finished]
        return Admitted(fresh, finished, any(admitted.check for admitted in found))

    def claims(self, delivery: Delivery) -> bool:
        """Whether this one is in hand: what its first copy has finished is not."""
        return any(shelf.claims(delivery) for shelf, _ in self._parts((delivery,)))

    def finish(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Note these as done."""
        return [one for shelf, part in self._parts(deliveries) for one in shelf.finish(part)]

    def drop(self, deliveries: Sequence[Delivery], lease: Lease) -> Sequence[Delivery]:
        """Forget these, and return what is to be given back."""
        return [one for shelf, part in self._parts(deliveries) for one in shelf.drop(part, lease)]

    def count_of(self, incarnation: str) -> int:
        """How many messages of one stream are with the lanes, those of earlier leases included."""
        shelf = self._shelves.get(incarnation)
        return 0 if shelf is None else shelf.count

    def end_lease_of(self, incarnation: str) -> None:
        """What is in hand of one stream is not ours any more."""
        shelf = self._shelves.get(incarnation)
        if shelf is not None:
            shelf.end_lease()

    def forget_finished_of(self, incarnation: str) -> None:
        """Somebody has set its consumer back: what was finished is to be handled again."""
        shelf = self._shelves.get(incarnation)
        if shelf is not None:
            shelf.forget_finished()

    def forget_finished(self) -> None:
        """The broker lost its state, or counts anew: all that was finished is forgotten."""
        for shelf in self._all():
            shelf.forget_finished()

    def end_lease(self) -> None:
        """The lease that all share is over which have no term of their own."""
        super().end_lease()
        for shelf in self._all():
            if shelf.lease.ended:
                shelf.end_lease()

    def snapshot(self) -> list[Delivery]:
        """Everything in hand, oldest first in each stream."""
        return [one for shelf in self._all() for one in shelf.snapshot()]

    def __len__(self) -> int:
        return sum(map(len, self._all()))

    @property
    def count(self) -> int:
        """How many messages are in hand, each once; takes no lock."""
        return sum(shelf.count for shelf in self._all())

    def _admit(self, shelf: InHandByIdentity, batch: Sequence[Delivery], lease: Lease) -> Admitted:
        before = shelf.duplicates
        admitted = shelf.admit(batch, lease)
        self.duplicates += shelf.duplicates - before
        return admitted

    def _all(self) -> list[InHandByIdentity]:
        return list(self._shelves.values())

    def _parts(self, batch: Sequence[Delivery]) -> Iterator[tuple[InHandByIdentity, Sequence[Delivery]]]:
        """What is of which stream, in order."""
        parts: dict[str, list[Delivery]] = {}
        for delivery in batch:
            identity: Any = delivery.identity
            parts.setdefault(identity[0], []).append(delivery)
        for incarnation, part in parts.items():
            yield self._shelves.setdefault(incarnation, InHandByIdentity()), part
