"""What waits for a lane, and what may be taken back of it; any thread."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Container, Hashable

from ..message import Delivery
from ..threads import Mailbox, Pauses
from .batches import size_of
from .entries import NOTHING, Entry, Notice, all_of, split_all
from .parked import ParkedKeys, lane_key
from .routing import order_of

WAITING = 64
"""Messages that may wait for a lane that stands still, where a broker takes more of them back."""
STAYS_AWAY = Pauses(first=1.0, factor=2.0, longest=30.0)
"""How long what such a lane gives back is to stay away."""


class LaneQueue:
    """The batches of a lane: put and not begun, kept because of a pause, and the one that it works on."""

    def __init__(self) -> None:
        self._inbox: Mailbox[Notice] = Mailbox()
        self._entries: deque[Entry] = deque()
        """Put and not begun. Taken out under the lock, put under the owner's."""
        self._kept: deque[Entry] = deque()
        """Not started because of a pause."""
        self._lock = threading.Lock()
        self._entry = NOTHING
        self._first = self._position = self._cut = self._left = 0
        """Of the entry: what is acknowledged, what is handled, where it ends now, and the bytes of the rest."""
        self._keys = ParkedKeys()
        self._trying: Delivery | None = None
        """What is tried again at this moment."""
        self._ended = False
        """Whether the lane looks at nothing any more."""
        self.held: set[Hashable] = set()
        """Keys that only this lane may handle: of the message that it ran when that was asked, and the parked ones."""
        self._turns = self._puts = 0
        """Batches and retries that were begun, and batches that were put."""
        self._seen: tuple[int, int, int] | None = None
        """The state when all that could be was taken back."""
        self._stands_since = 0.0
        self._stands_at: tuple[int, int] | None = None
        self._returns = 0
        self._thread_id = 0
        """Of the thread that runs handlers."""
        self._told_at: tuple[int, int] | None = None
        """Where a handler was told to run for too long."""

    @property
    def unsettled(self) -> int:
        """Deliveries that are handled and not yet settled."""
        return max(0, self._position - self._first)

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery in hand came, about; None without one."""
        known = [one.since for one in (self._entry, *list(self._kept)[:1]) if one is not NOTHING]
        return min([*known, *self._keys.since()], default=None)

    def put(self, entry: Entry) -> None:
        """Queue a batch; one caller at a time."""
        self._puts += 1
        self._entries.append(entry)
        self._inbox.put(Notice.ENTRY)

    def _again(self) -> None:
        """There is still something in the queue."""
        self._inbox.put(Notice.ENTRY)

    def end(self) -> None:
        """End the lane behind what is queued."""
        self._inbox.put(Notice.END)

    def nudge(self) -> None:
        """Have the lane look at everything again."""
        self._inbox.put(Notice.NUDGE)

    def stands_for(self, now: float) -> float:
        """Seconds that one handler runs, as far as was seen; 0 for none. One caller at a time."""
        at = (self._turns, self._position)
        idle = self._entry is NOTHING and self._trying is None
        if idle or at != self._stands_at:
            self._stands_at, self._stands_since, self._returns = at, now, 0
        return 0.0 if idle else now - self._stands_since

    @property
    def waits_too_much(self) -> bool:
        """Whether more waits than may wait for a lane that stands still."""
        begun = self._cut - self._position - 1
        return begun + sum(len(entry.batch) for entry in list(self._entries)) > WAITING

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do, but for what is parked."""
        return self._entry is NOTHING and self._trying is None and not (self._entries or self._kept)

    def waiting(self, before: float) -> list[Delivery]:
        """What no handler was started for, as it was a moment ago; nothing if all of it came later than that."""
        entry, begun, cut = self._entry, self._position + 1, self._cut
        rest, queued = entry.batch[begun:cut], [*list(self._kept), *list(self._entries)]
        if (entry if rest or not queued else queued[0]).since > before:
            return []
        return [one for batch in (rest, *(one.batch for one in queued)) for one in batch]

    @property
    def staying(self) -> set[Hashable]:
        """Keys that only this lane may handle, as it was a moment ago."""
        position = self._position
        return {*map(lane_key, self._entry.batch[position : position + 1]), *list(self._keys.waiting)}

    def take_back(self) -> list[Entry]:
        """What no handler was started for, but for the keys in `held`. Under the owner's lock.

        Nothing of a lane that gets on meanwhile: what comes next there may be of any key.
        """
        with self._lock:
            taken = None if self._seen == self._state else self._take(lambda one: not self._may_leave(one))
            if taken is not None:
                self._seen = self._state
        return taken or []

    def take_keys(self, keys: Container[Hashable]) -> list[Entry]:
        """What keeps one of these orders (see `order_of`), just so: a key comes whole or not at all."""
        with self._lock:
            return self._take(lambda one: order_of(one) not in keys or not self._may_leave(one)) or []

    def make_way(self, key: Hashable) -> None:
        """What keeps this order goes behind all else that waits. Under the owner's lock."""
        with self._lock:
            begun = self._cut_off()
            if begun is not None:
                known, waiting = len(self._entries), [*begun, *all_of(self._kept), *all_of(self._entries)]
                ahead, behind = split_all(waiting, lambda one: order_of(one) != key)
                self._entries.extend([*ahead, *behind])
                for _ in range(len(self._entries) - known):
                    self._inbox.put(Notice.ENTRY)

    def _may_leave(self, one: Delivery) -> bool:
        return self._ended or lane_key(one) not in self.held

    def _take(self, stays: Callable[[Delivery], bool]) -> list[Entry] | None:
        """None: it got on meanwhile. Under the lock."""
        begun = self._cut_off()
        if begun is None:
            return None
        back, taken = split_all([*begun, *all_of(self._kept)], stays)
        waiting, more = split_all(all_of(self._entries), stays)
        self._entries.extend([*back, *waiting])
        for _ in back:  # of the others the inbox knows
            self._inbox.put(Notice.ENTRY)
        return [*taken, *more]

    def take_too_much(self) -> list[Entry]:
        """Of that, what is too much for a lane that stands still, but for keys that wait already."""
        entries, keys = self.take_back(), set[Hashable]()
        count = sum(len(entry.batch) for entry in list(self._entries))

        def stays(one: Delivery) -> bool:
            nonlocal count
            key = lane_key(one)
            if count >= WAITING and (key is None or key not in keys):
                return False
            count += 1
            keys.add(key)
            return True

        staying, leaving = split_all(entries, stays)
        for entry in staying:
            self.put(entry)
        self._seen = self._state
        return leaving

    @property
    def _state(self) -> tuple[int, int, int]:
        """What is another one when there may be something to take back."""
        return self._turns, self._position, self._puts

    def _cut_off(self) -> list[Entry] | None:
        """The rest of what the lane works on; None if it got on meanwhile. Under the lock.

        The lane notes its position before it looks at the cut, and this the other way round: one sees the other.
        """
        entry, end, position = self._entry, self._cut, self._position
        cut = position + 1
        if cut < end:
            self._cut = cut
        if self._position != position:
            self._cut = end
            return None
        running = {lane_key(one) for one in entry.batch[position:cut]}
        self.held = {*running, *list(self._keys.waiting)} - {None}
        rest = entry.batch[cut:end]
        if not rest:
            return []
        size = min(self._left, size_of(rest))
        self._left -= size
        return [Entry(entry.lease, rest, size, entry.check, entry.since)]

    def standing(self) -> tuple[Delivery, str] | None:
        """The message whose handler runs, and where that stands; once for each. One caller at a time."""
        at, entry, position = (self._turns, self._position), self._entry, self._position
        delivery = self._trying or (entry.batch[position] if position < len(entry.batch) else None)
        frame = sys._current_frames().get(self._thread_id)
        if at == self._told_at or delivery is None or frame is None:
            return None
        self._told_at = at
        return delivery, "".join(traceback.format_stack(frame))

    def next_delay(self) -> float:
        """Seconds that what is given back stays away: more each time, until the lane gets on."""
        self._returns += 1
        return STAYS_AWAY.after(self._returns)
