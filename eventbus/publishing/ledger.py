"""Every record that the sender has taken in and that has no answer: the one truth about what is in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, repeat, starmap

from .inbox import SMALL, Inbox
from .marks import FlushWaiter, Marks
from .records import Batch, Record


class Ledger:
    """Written by threads of ours alone, under a lock that no caller ever needs; anybody may read the figures.

    `on_room()` is called when records were answered, on the thread that brought the answers.
    """

    def __init__(self, inbox: Inbox, max_records: int, max_bytes: int, on_room: Callable[[], object]) -> None:
        self.records: dict[int, Record] = {}
        """By number, in the order of their coming in."""
        self.entered = 0
        """How many ever came in."""
        self.entered_bytes = 0
        """Their payload bytes."""
        self.bytes = 0
        self.moving = 0
        """So many records may be in the inbox and here at this moment."""
        self._inbox = inbox
        self._max_records = max_records
        self._safe_bytes = max_bytes * 3 // 4
        self._on_room = on_room
        self._lock = threading.Lock()
        self._open = False
        self.quick = False
        """Whether publishers may come in without a look at anything but the room. Written by anybody."""
        self._answering: dict[int, Sequence[Record]] = {}
        """What `take` returned and whose waiters are being told, by its identity."""
        self._marks = Marks()

    @property
    def answering(self) -> Iterable[Record]:
        """Records that are out of the map, and whose waiters are being told."""
        return chain.from_iterable(self._answering.values())

    def let_in(self, open: bool) -> None:
        """Whether publishers may come in at all."""
        with self._lock:
            self._open = open
            self._set_room(len(self.records))

    def enter(self, most: int) -> Batch:
        """Move up to so many records out of the inbox. The sender's thread."""
        waiting = self._inbox.records
        batch = Batch(list(islice(waiting, most)))  # a list first: in one step, for publishers go on appending
        count = len(batch)
        with self._lock:
            size = batch.bytes
            self.bytes += size
            self._set_room(len(self.records) + count)
            self.moving = count
            self.records.update(zip(batch.numbers, batch, strict=True))
            self._marks.entered(batch.numbers)
            deque(starmap(waiting.popleft, repeat((), count)), maxlen=0)
            self.entered += count
            self.entered_bytes += size
            self.moving = 0
        return batch

    def take(self, records: Iterable[Record], note: Callable[[Batch], object]) -> Batch:
        """Take records out that get their answer now; those that were not in have one, and are left out.

        `note(taken)` is called under the lock, before anybody who waits can go on. `told` has to follow.
        """
        answered = Batch.of(records)
        with self._lock:
            found = list(filter(None, map(self.records.pop, answered.numbers, repeat(None))))
            taken = answered if len(found) == len(answered) else Batch(found)
            self.bytes -= taken.bytes
            self._answering[id(taken)] = taken
            self._set_room(len(self.records))
            note(taken)
        return taken

    def told(self, taken: Batch) -> None:
        """Whoever waited for these, which `take` returned, has been told."""
        with self._lock:
            self._answering.pop(id(taken), None)
            self._marks.answered(taken.numbers)
        self._on_room()

    def mark(self, waiter: FlushWaiter, number: int) -> None:
        """Release a waiter once everything that is here now is answered. The sender's thread.

        number: drawn now, so that no record of now has a greater one.
        """
        with self._lock:
            unanswered = len(self.records) + sum(map(len, self._answering.values()))
            self._marks.add(waiter, number, unanswered)

    def unmark(self, waiter: FlushWaiter) -> int:
        """Nobody waits any more; how many that he waited for are unanswered. The sender's thread, after `mark`."""
        with self._lock:
            return self._marks.leave(waiter)

    def _set_room(self, unanswered: int) -> None:
        room = self._max_records - unanswered if self._open and self.quick else 0
        room_by_bytes = (self._safe_bytes - self.bytes) // SMALL
        self._inbox.room = max(0, min(room, room_by_bytes))
        if not self.quick:  # it was ended in this moment, and that is what counts
            self._inbox.room = 0
