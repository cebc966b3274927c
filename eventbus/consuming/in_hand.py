"""What a subscription holds: deliveries not yet done, and what it finished lately.

It outlives attachments and sessions. A broker that saw a session end delivers again whatever it has no
acknowledgement for. What is still in hand is then not started twice: only its token is renewed. What was just
finished is acknowledged at once.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from itertools import compress, islice, repeat
from typing import Protocol, TypeVar

from attrs import frozen

from ..message import Delivery
from .lease import Lease

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

REMEMBERED = 10_000
"""Finished deliveries that are known at least; at most twice as many."""


def newest(notes: dict[_Key, _Value], count: int) -> dict[_Key, _Value]:
    """The last notes. Many at a time: the first key of a dict is found by a walk over all that were deleted."""
    return dict(islice(notes.items(), len(notes) - count, None))


@frozen
class Admitted:
    """What became of a batch. check: some of `fresh` came before, see `InHand.claims`."""

    fresh: Sequence[Delivery]
    finished: Sequence[Delivery] = ()
    check: bool = False


class InHand(Protocol):
    """The record of what a subscription was given and has not finished; each backend brings its own.

    duplicates: deliveries that came again and were not handed on. All methods are thread-safe and never block.
    """

    duplicates: int

    def admit(self, batch: Sequence[Delivery], lease: Lease) -> Admitted:
        """Split a batch into what is to be handled (now in hand) and what was finished already.

        What was given under a lease that has ended is to be handled again, unless `claims` says that it was
        finished meanwhile.
        """

    def claims(self, delivery: Delivery) -> bool:
        """Whether a delivery that came again is still to be handled; if not, it is forgotten."""

    def finish(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """These are done: return them with their newest tokens, to be acknowledged."""

    def drop(self, deliveries: Sequence[Delivery], lease: Lease) -> Sequence[Delivery]:
        """These will not be handled here: return what is to be given back, with the newest tokens."""

    def look(self, now: float) -> None:
        """End a lease whose time is over. now: by `time.monotonic`."""

    def __len__(self) -> int:
        """How many deliveries are in hand."""

    @property
    def count(self) -> int:
        """How many messages are, each once, those of an earlier lease that are still with the lanes included.

        Takes no lock.
        """


class InHandByIdentity:
    """What is in hand where a redelivery is known by its `Delivery.identity`; see `InHand`.

    There is one lease at a time.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._lock = threading.Lock()
        self._lease = Lease()
        self._held: dict[Hashable, Delivery] = {}
        self._stale: dict[Hashable, Delivery] = {}
        """Given under an earlier lease, and still with the lanes."""
        self._finished: dict[Hashable, int] = {}
        self._remembered = remembered
        self.duplicates = 0
        self._era = 0
        self._older: set[Hashable] = set()
        """What was in hand when the era began."""

    @property
    def lease(self) -> Lease:
        """The one of now."""
        return self._lease

    def admit(self, batch: Sequence[Delivery], lease: Lease) -> Admitted:
        """Take what is new of a batch; what is in hand under the same lease only gets its newer token."""
        identities = [delivery.identity for delivery in batch]
        with self._lock:
            if lease is not self._lease:
                self._change(lease)
            held, finished = self._held, self._finished
            if (
                not self._stale
                and held.keys().isdisjoint(identities)
                and (not finished or finished.keys().isdisjoint(identities))
            ):
                both = len(held) + len(batch)
                held.update(zip(identities, batch, strict=True))
                if len(held) == both:  # all new, and each there once
                    return Admitted(batch)
                for identity in identities:
                    held.pop(identity, None)
            return self._sort(batch)

    def claims(self, delivery: Delivery) -> bool:
        """Whether this one is in hand: what its first copy has finished is not."""
        return delivery.identity in self._held

    def finish(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Note these as done; those that were in hand, each with its newest token."""
        identities = [delivery.identity for delivery in deliveries]
        with self._lock:
            finished, stale = self._finished, self._stale
            latest = list(map(self._held.pop, identities, repeat(None)))
            if stale:
                latest = [one or stale.pop(of, None) for one, of in zip(latest, identities, strict=True)]
            done = list(filter(None, latest))
            if len(done) < len(latest):
                identities = list(compress(identities, latest))
            finished.update(zip(identities, repeat(self._era)))
            if self._older:
                finished.update(zip(self._older.intersection(identities), repeat(self._era - 1)))
            if len(finished) > 2 * self._remembered:
                self._finished = newest(finished, self._remembered)
        return done

    def drop(self, deliveries: Sequence[Delivery], lease: Lease) -> Sequence[Delivery]:
        """Forget these, and return what is to be given back: nothing under a lease that is over, it comes again."""
        with self._lock:
            held = self._held if lease is self._lease else self._stale
            dropped = [held.pop(one.identity) for one in deliveries if one.identity in held]
            return () if lease.ended else dropped

    def look(self, now: float) -> None:
        """Nothing: what is in hand here does not end with time."""

    def begin_era(self) -> None:
        """From now on the broker may have forgotten what it gave before: what comes again of that is no new message."""
        with self._lock:
            self._era += 1
            self._older = {*self._held, *self._stale}

    def end_lease(self) -> None:
        """What is in hand is not ours any more."""
        with self._lock:
            self._change(Lease())

    def forget_finished(self) -> None:
        """The broker lost its state, or counts anew: identities mean something else from now on."""
        with self._lock:
            self._finished.clear()

    def snapshot(self) -> list[Delivery]:
        """Everything in hand, with its newest token, oldest first."""
        with self._lock:
            return list(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    @property
    def count(self) -> int:
        """How many messages are in hand, each once; takes no lock."""
        return len(self._held) + len(self._stale)

    def _is_repeat(self, delivery: Delivery, era: int) -> bool:
        """Whether a delivery of what came in that era, and is finished, is the same again, and nobody's wish."""
        return True

    def _change(self, lease: Lease) -> None:
        self._lease.end()
        self._lease = lease
        self._stale.update(self._held)
        self._held = {}

    def _sort(self, batch: Sequence[Delivery]) -> Admitted:
        fresh: list[Delivery] = []
        again: list[Delivery] = []
        held, check = self._held, False
        for delivery in batch:
            identity = delivery.identity
            if identity in held:
                held[identity] = delivery
                self.duplicates += 1
            elif identity in self._finished and self._is_repeat(delivery, self._finished[identity]):
                again.append(delivery)
                self.duplicates += 1
            else:
                check |= self._stale.pop(identity, None) is not None
                held[identity] = delivery
                fresh.append(delivery)
        return Admitted(fresh, again, check)
