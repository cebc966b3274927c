"""What a subscription holds: deliveries not yet done, and what it finished lately.

It outlives attachments and sessions. A broker that saw a session end delivers again whatever it has no
acknowledgement for. What is still in hand is then not started twice: only its token is renewed. What was just
finished is acknowledged at once.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from ..message import Delivery

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

REMEMBERED = 10_000
"""Finished deliveries that are known at least; at most twice as many."""


def newest(notes: dict[_Key, _Value], count: int) -> dict[_Key, _Value]:
    """The last notes. Many at a time: the first key of a dict is found by a walk over all that were deleted."""
    return dict(islice(notes.items(), len(notes) - count, None))


class InHand(Protocol):
    """The record of what a subscription was given and has not finished; each backend brings its own.

    duplicates: deliveries that came again and were not handed on. All methods are thread-safe and never block.
    """

    duplicates: int

    def admit(self, batch: Sequence[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Split a batch into what is new (now in hand) and what was finished already."""

    def finish(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        """These are done: return them with their newest tokens, to be acknowledged."""

    def drop(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """These will not be handled here: return them with their newest tokens, to be given back."""

    def __len__(self) -> int:
        """How many deliveries are in hand."""


class InHandByIdentity:
    """What is in hand where a redelivery is known by its `Delivery.identity`; see `InHand`."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._lock = threading.Lock()
        self._held: dict[Hashable, Delivery] = {}
        self._finished: dict[Hashable, None] = {}
        self._remembered = remembered
        self.duplicates = 0

    def admit(self, batch: Sequence[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Split a batch into what is new (now in hand) and what was finished already."""
        fresh: list[Delivery] = []
        again: list[Delivery] = []
        identities = [delivery.identity for delivery in batch]
        with self._lock:
            held, finished = self._held, self._finished
            if held.keys().isdisjoint(identities) and finished.keys().isdisjoint(identities):
                both = len(held) + len(batch)
                held.update(zip(identities, batch, strict=True))
                if len(held) == both:  # all new, and each there once
                    return list(batch), again
                for identity in identities:
                    held.pop(identity, None)
            for delivery in batch:
                identity = delivery.identity
                if identity in held:
                    held[identity] = delivery
                    self.duplicates += 1
                elif identity in finished:
                    again.append(delivery)
                    self.duplicates += 1
                else:
                    held[identity] = delivery
                    fresh.append(delivery)
        return fresh, again

    def finish(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        """These are done: return them with their newest tokens, to be acknowledged."""
        done: list[Delivery] = []
        with self._lock:
            held, finished = self._held, self._finished
            take = held.pop
            for delivery in deliveries:
                identity = delivery.identity
                latest = take(identity, None)
                if latest is not None:
                    done.append(latest)
                    finished[identity] = None
            if len(finished) > 2 * self._remembered:
                self._finished = newest(finished, self._remembered)
        return done

    def drop(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """These will not be handled here: return them with their newest tokens, to be given back."""
        with self._lock:
            held = self._held
            return [held.pop(one.identity) for one in deliveries if one.identity in held]

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
