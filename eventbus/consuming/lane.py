"""One lane: a thread that runs handlers, one after another."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Protocol

from attrs import frozen

from .. import log
from ..callables import refuse_unawaited
from ..message import Delivery
from ..threads import Pauses
from .batches import size_of
from .lease import Lease
from .outcomes import Outcomes
from .parked import ParkedKey, ParkedKeys, lane_key

logger = log.get(__name__)


class Owner(Protocol):
    """What the lanes of a subscription have in common.

    halted: no handler is started now. stopping: none will be any more. retrying: what fails is tried again.
    working: a handler may run soon, and what it has done wants to be acknowledged in time.
    """

    halted: bool
    stopping: bool
    retrying: bool

    def working(self) -> None:
        """A lane begins to work."""

    def settle(self, count: int, size: int) -> None:
        """So many deliveries with so many bytes are finished or dropped."""

    def give_up(self, count: int) -> None:
        """So many are about to be dropped under a lease that lasts."""

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

    def of(self, part: Sequence[Delivery]) -> Entry:
        """The same with a part of the batch."""
        return Entry(self.lease, part, size_of(part), self.check, self.since)


class Notice(Enum):
    """What an inbox says: there is an entry, unless it was given back; look at everything again; the end."""

    ENTRY = "entry"
    NUDGE = "nudge"
    END = "end"


STANDS_AFTER = 1.0
"""Seconds that one handler runs until its lane stands still."""
WAITING = 64
"""Messages that may wait for a lane that stands still, where a broker takes more of them back."""
STAYS_AWAY = Pauses(first=1.0, factor=2.0, longest=30.0)
"""How long what such a lane gives back is to stay away."""
_NOTHING = Entry(Lease(), (), 0, False, 0.0)


class Lane:
    """Runs handlers on the thread that calls `run`. Whoever acknowledges calls `flush`, on any thread."""

    def __init__(self, owner: Owner, handler: Callable[[Delivery], object], outcomes: Outcomes) -> None:
        self._owner = owner
        self._handler = handler
        self._outcomes = outcomes
        self._inbox: SimpleQueue[Notice] = SimpleQueue()
        self._entries: deque[Entry] = deque()
        """Put and not begun. The lane takes from the left, who gives back from the right, under the owner's lock."""
        self._stands_since = 0.0
        self._stands_at: tuple[int, int] | None = None
        self._returns = 0
        self.parked = 0
        """Deliveries that wait for a retry, or behind one."""
        self._keys = ParkedKeys()
        self._kept: deque[Entry] = deque()
        """Not started because of a pause."""
        self._nudged = False
        self._lock = threading.Lock()
        self._entry = _NOTHING
        self._first = self._position = self._left = 0
        """Of the entry: what is acknowledged, what is handled, and the bytes of the rest."""

    # -- any thread ------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Deliveries that are handled and not yet settled."""
        return max(0, self._position - self._first)

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery in hand came, about; None without one."""
        kept = next(iter(self._kept), _NOTHING)
        known = [one.since for one in (self._entry, kept) if one is not _NOTHING]
        return min([*known, *self._keys.since()], default=None)

    def flush(self) -> None:
        """Acknowledge what is done so far."""
        with self._lock:
            first, end = self._first, self._position
            if first >= end:
                return
            entry, self._first = self._entry, end
            size = min(self._left, (end - first) * entry.size // len(entry.batch))
            self._left -= size
        self._finish(entry.batch[first:end] if end - first < len(entry.batch) else entry.batch, entry.lease, size)

    def put(self, entry: Entry) -> None:
        """Queue a batch; one caller at a time."""
        self._entries.append(entry)
        self._inbox.put(Notice.ENTRY)

    def end(self) -> None:
        """End the lane behind what is queued."""
        self._inbox.put(Notice.END)

    def nudge(self) -> None:
        """Have the lane look at everything again."""
        self._inbox.put(Notice.NUDGE)

    def stands(self, now: float) -> bool:
        """Whether one handler has run for so long that the lane stands still. One caller at a time."""
        at = (id(self._entry), self._position)
        if self._entry is _NOTHING or at != self._stands_at:
            self._stands_at, self._stands_since, self._returns = at, now, 0
        return self._entry is not _NOTHING and now - self._stands_since >= STANDS_AFTER

    @property
    def waits_too_much(self) -> bool:
        """Whether more waits than may wait for a lane that stands still."""
        begun = len(self._entry.batch) - self._position - 1
        return begun + sum(len(entry.batch) for entry in list(self._entries)) > WAITING

    def take_out(self) -> list[Entry]:
        """What is too much for a lane that stands still, but for keys that wait already. Under the owner's lock."""
        entries: deque[Entry] = deque()
        while self._entries:
            entries.appendleft(self._entries.pop())
        begun = self._entry.batch[self._position :]
        keys: set[str | bytes | None] = {lane_key(one) for one in begun}
        taken, count = list[Entry](), max(0, len(begun) - 1)
        for entry in entries:
            staying, leaving = list[Delivery](), list[Delivery]()
            for one in entry.batch:
                key = lane_key(one)
                stays = count < WAITING or (key is not None and key in keys)
                count += stays
                (staying if stays else leaving).append(one)
                if stays:
                    keys.add(key)
            if staying:
                self.put(entry.of(staying))
            if leaving:
                taken.append(entry.of(leaving))
        return taken

    def next_delay(self) -> float:
        """Seconds that what is given back stays away: more each time, until the lane gets on."""
        self._returns += 1
        return STAYS_AWAY.after(self._returns)

    def look(self) -> None:
        """Acknowledge what is done, and see that nothing waits for a retry under an ended lease."""
        self.flush()
        if not self._nudged and self._keys.ended():
            self._nudged = True
            self.nudge()

    # -- the lane's thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Handle what comes until the end; then drop what is left."""
        self._outcomes.begin()
        try:
            while self._one():
                pass
            for entry in self._kept:
                self._drop(entry.batch, entry.lease, entry.size)
            for lease, delivery in self._keys.empty():
                self._drop_parked(lease, delivery)
        finally:
            self._owner.ended()

    def _one(self) -> bool:
        """See to one entry, or to what is due; False when the end has come."""
        owner = self._owner
        if self._kept and not owner.halted:
            self._handle(self._kept.popleft())
            return True
        wait = None
        if self._keys and owner.retrying and not owner.halted:
            wait = self._keys.due - time.monotonic()
            if wait <= 0:
                self._retry_due()
                return True
        try:
            notice = self._inbox.get(timeout=wait)
        except Empty:
            return True
        if notice is Notice.ENTRY:
            self._begin()
        elif notice is Notice.NUDGE:
            self._nudged = False
            self._drop_stale()
            owner.ask_for_more()
        return notice is not Notice.END

    def _begin(self) -> None:
        try:
            entry = self._entries.popleft()
        except IndexError:  # it was given back
            return
        if self._kept:
            self._kept.append(entry)
        else:
            self._handle(entry)

    def _handle(self, entry: Entry) -> None:
        with self._lock:
            self._entry, self._first, self._position, self._left = entry, 0, 0, entry.size
        self._owner.working()
        seen = self._work(entry)
        self.flush()
        with self._lock:
            left, self._entry, self._first, self._position = self._left, _NOTHING, 0, 0
        rest = entry.batch[seen:]
        if not rest:
            self._owner.settle(0, left)
        elif entry.lease.ended or self._owner.stopping:
            self._drop(rest, entry.lease, left)
        else:
            self._kept.appendleft(Entry(entry.lease, rest, left, entry.check, entry.since))

    def _work(self, entry: Entry) -> int:
        """Handle a batch until something ends it; how many of it were seen to."""
        owner, handler, keys, lease, check = self._owner, self._handler, self._keys.waiting, entry.lease, entry.check
        position = 0
        for delivery in entry.batch:
            if lease.ended or owner.halted:
                break
            if (keys or check) and not self._lets(entry, delivery):
                position += 1
                self._pass_over(position)
                continue
            try:
                result = handler(delivery)
                if result is not None:
                    refuse_unawaited(result)
            except BaseException as error:  # SystemExit too: it would end the lane, and nobody would see
                position += 1
                self._pass_over(position)
                self._fail(entry, delivery, error)
            else:
                position += 1
                self._position = position
        return position

    def _lets(self, entry: Entry, delivery: Delivery) -> bool:
        """Whether a handler may be started: its key is not parked, and it was not finished before it came again."""
        if self._keys:
            if self._owner.retrying and self._keys.due <= time.monotonic():
                self._retry_due()
            if self._keys.behind(lane_key(delivery), (entry.lease, delivery, entry.check)):
                self._note_parked(delivery)
                return False
        if entry.check and not self._outcomes.claims(delivery):
            self._owner.settle(1, 0)
            return False
        return True

    def _pass_over(self, position: int) -> None:
        """Acknowledge what is before a delivery that goes another way."""
        self.flush()
        with self._lock:
            self._first = self._position = position

    def _fail(self, entry: Entry, delivery: Delivery, error: BaseException) -> None:
        """Park the key of a message whose handler has failed for the first time."""
        if entry.lease.ended:
            self._outcomes.failed(delivery, error, 0.0)
            self._drop((delivery,), entry.lease, 0)
            return
        parked = self._keys.park(lane_key(delivery), (entry.lease, delivery, False), entry.since)
        pause = parked.fail(again=False)
        self._keys.plan()
        self._note_parked(delivery)
        self._outcomes.failed(delivery, error, pause)

    def _note_parked(self, delivery: Delivery) -> None:
        with self._lock:
            self._left = max(0, self._left - len(delivery.payload))
            self.parked += 1
        self._owner.settle(0, 0)  # it stands in nobody's way any more

    def _retry_due(self) -> None:
        now = time.monotonic()
        self._owner.working()
        for key, parked in self._keys.take_due(now):
            self._retry(key, parked)
        self._keys.plan()

    def _retry(self, key: Hashable, parked: ParkedKey) -> None:
        """Try a parked message again, and those behind it if it succeeds."""
        again = True
        while parked.messages:
            lease, delivery, check = parked.messages[0]
            if self._owner.halted:
                return
            if not lease.ended and not (check and not self._outcomes.claims(delivery)):
                try:
                    result = self._handler(delivery)
                    if result is not None:
                        refuse_unawaited(result)
                except BaseException as error:
                    parked.messages[0] = (lease, delivery, False)
                    self._outcomes.failed(delivery, error, parked.fail(again=again))
                    return
                self.parked -= 1
                parked.messages.popleft()
                self._finish((delivery,), lease, len(delivery.payload))
            else:
                parked.messages.popleft()
                if lease.ended:
                    self._drop_parked(lease, delivery)
                else:
                    self._settle_parked(delivery)
            again = False
        self._keys.forget(key)

    def _drop_stale(self) -> None:
        """What waits for a retry and is not ours any more goes at once."""
        for lease, delivery in self._keys.take_stale():
            self._drop_parked(lease, delivery)

    def _drop_parked(self, lease: Lease, delivery: Delivery) -> None:
        self.parked -= 1
        self._drop((delivery,), lease, len(delivery.payload))

    def _settle_parked(self, delivery: Delivery) -> None:
        self.parked -= 1
        self._owner.settle(1, len(delivery.payload))

    def _drop(self, deliveries: Sequence[Delivery], lease: Lease, size: int) -> None:
        if not lease.ended:
            self._owner.give_up(len(deliveries))
        try:
            self._outcomes.dropped(deliveries, lease)
        except Exception:
            logger.exception("%s: giving back failed", threading.current_thread().name)
        finally:
            self._owner.settle(len(deliveries), size)

    def _finish(self, deliveries: Sequence[Delivery], lease: Lease, size: int) -> None:
        try:
            self._outcomes.done(deliveries)
        except Exception:  # ours, not the handler's: the lane has to go on, or its keys hang for ever
            logger.exception("%s: acknowledging failed", threading.current_thread().name)
            self._drop(deliveries, lease, size)  # kept in hand it would be renewed and never handled
        else:
            self._owner.settle(len(deliveries), size)
