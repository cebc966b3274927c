"""What is put into a lane, and what a lane tells whom it belongs to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from attrs import frozen

from ..message import Delivery
from .batches import size_of
from .lease import Lease


class Halt(Enum):
    """Why lanes start no handler.

    PAUSED: by the user. HELD: nearly all that is handled would become a dead letter. STOPPING: for good.
    """

    PAUSED = "paused"
    HELD = "held"
    STOPPING = "stopping"


class Owner(Protocol):
    """What the lanes of a subscription have in common.

    halts: why no handler is started now; changed in single steps, by anybody. retrying: what fails is tried again.
    working: a handler may run soon, and what it has done wants to be acknowledged in time.
    """

    halts: set[Halt]
    retrying: bool

    @property
    def is_full(self) -> bool:
        """Whether no more is fetched until something of what is there is done."""

    def working(self) -> None:
        """A lane begins to work."""

    def settle(self, count: int, size: int) -> None:
        """So many deliveries with so many bytes are finished or dropped."""

    def left(self, deliveries: Sequence[Delivery]) -> None:
        """These are finished, or were dropped."""

    def give_up(self, count: int, begun: bool) -> None:
        """So many are about to be dropped under a lease that lasts; whether a handler was started for them."""

    def ask_for_more(self) -> None:
        """A pause is over."""

    def ended(self) -> None:
        """The lane's thread ends."""


@frozen
class Entry:
    """A batch on its way to a handler. size: bytes of its payloads. check: see `Outcomes.claims`."""

    lease: Lease
    batch: Sequence[Delivery]
    size: int
    check: bool
    since: float

    def split(self, stays: Callable[[Delivery], bool]) -> tuple[Entry | None, Entry | None]:
        """What stays and what leaves, with all its bytes between the two of them."""
        staying, leaving = list[Delivery](), list[Delivery]()
        for one in self.batch:
            (staying if stays(one) else leaving).append(one)
        if not leaving:
            return self, None
        if not staying:
            return None, self
        size = min(self.size, size_of(staying))
        return self._with(staying, size), self._with(leaving, self.size - size)

    def cut(self, place: int) -> tuple[Entry, Entry]:
        """What is before a place and what is behind it, with all its bytes between the two of them."""
        before = self.batch[:place]
        size = min(self.size, size_of(before))
        return self._with(before, size), self._with(self.batch[place:], self.size - size)

    def _with(self, part: Sequence[Delivery], size: int) -> Entry:
        return Entry(self.lease, part, size, self.check, self.since)


class Notice(Enum):
    """What a lane is woken for.

    ENTRY: there is one, unless it was given back. NUDGE: look at everything again. ANSWER: of a dead letter. END: end.
    """

    ENTRY = "entry"
    NUDGE = "nudge"
    ANSWER = "answer"
    END = "end"


NOTHING = Entry(Lease(), (), 0, False, 0.0)
"""What a lane works on that has nothing to do."""


def all_of(entries: deque[Entry]) -> list[Entry]:
    """Take everything out."""
    taken = list(entries)
    entries.clear()
    return taken


def split_all(entries: Sequence[Entry], stays: Callable[[Delivery], bool]) -> tuple[list[Entry], list[Entry]]:
    """What stays and what leaves, in order."""
    staying, leaving = list[Entry](), list[Entry]()
    for entry in entries:
        stay, leave = entry.split(stays)
        staying += filter(None, [stay])
        leaving += filter(None, [leave])
    return staying, leaving
