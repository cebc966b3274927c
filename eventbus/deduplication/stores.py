"""What keeps the marks of handled messages, and the one that keeps them in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from enum import Enum
from typing import Protocol, runtime_checkable

from .renewed import Renewed

KEPT = 100_000
"""Marks that a `MemoryStore` keeps: as many as messages may be in flight."""


class Claim(Enum):
    """What came of a claim.

    CLAIMED: it is the caller's, who handles the message now. BUSY: somebody else handles it at this moment, and it is
    not to be acknowledged before that one has succeeded. DONE: it was handled.
    """

    CLAIMED = "claimed"
    BUSY = "busy"
    DONE = "done"


class Store(Protocol):
    """Where marks are kept. Any thread calls it, one at a time for each claim.

    key: ASCII text of any length, one message's in one group. owner: a token of 32 characters, one attempt's: whoever
    has lost a claim to another owner neither completes nor takes back the other's.
    What it raises is the failure of the handling: the message comes again. RetryLater is none: while what it keeps its
    marks in is away, `claim` raises that, or it is a `RemoteStore`.
    """

    def claim(self, key: str, owner: str) -> Claim:
        """Claim a message for an owner, in one step: of two at once one gets it.

        A claim whose owner has died must come to be free again.
        """

    def done(self, key: str, owner: str) -> None:
        """The owner has handled it: from now on it is DONE."""

    def forget(self, key: str, owner: str) -> None:
        """The owner has failed: it may be claimed again, at once."""


@runtime_checkable
class RemoteStore(Store, Protocol):
    """A store that may be away, and says so: messages wait for as long as that lasts, and have not failed.

    outages: what is raised then, by its own methods, or by a handler that has its work there, too.
    """

    outages: tuple[type[Exception], ...]

    def what_is_away(self) -> str:
        """After one of `outages`: says what cannot be reached at this moment, "" where it can."""


class MemoryStore(Renewed):
    """Marks in the memory of this process: what another process has handled, or this one before its start, is unknown.

    size: marks kept; of more than that those go that were not asked for the longest. Thread-safe. A forked child has
    the marks of its parent, and none of its claims.
    """

    def __init__(self, size: int = KEPT) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be an int from 1 on, not {size!r}")
        super().__init__()
        self._size = size
        self._done: OrderedDict[str, None] = OrderedDict()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}

    def claim(self, key: str, owner: str) -> Claim:
        """Claim a message, until `done` or `forget`: an owner dies with its process only, and so does the claim."""
        with self._lock:
            if key in self._done:
                self._done.move_to_end(key)
                return Claim.DONE
            return Claim.CLAIMED if self._owners.setdefault(key, owner) == owner else Claim.BUSY

    def done(self, key: str, owner: str) -> None:
        """Mark it as handled."""
        with self._lock:
            if self._owners.get(key) == owner:
                del self._owners[key]
                self._done[key] = None
                while len(self._done) > self._size:
                    self._done.popitem(last=False)

    def forget(self, key: str, owner: str) -> None:
        """Give up the claim."""
        with self._lock:
            if self._owners.get(key) == owner:
                del self._owners[key]

    def __len__(self) -> int:
        """Marks kept now."""
        return len(self._done)
