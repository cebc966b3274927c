"""One lane: a thread that runs handlers, one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from attrs import frozen

from ..callables import refuse_unawaited
from ..message import Delivery
from .lease import Lease
from .parked import ParkedKey, ParkedKeys, lane_key

logger = logging.getLogger(__name__)


class Outcomes(Protocol):
    """Where lanes tell what became of deliveries: on the lane's thread, or on the one that acknowledges."""

    def begin(self) -> None:
        """A lane's thread has started: handlers will run on it."""

    def claims(self, delivery: Delivery) -> bool:
        """Whether a delivery that came again is still to be handled; if not, it is done with."""

    def failed(self, delivery: Delivery, error: BaseException, pause: float) -> None:
        """The handler has failed; the next try is after so many seconds."""

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are handled."""

    def dropped(self, deliveries: Sequence[Delivery], lease: Lease) -> None:
        """These will not be handled here."""

    def has_room(self) -> None:
        """More may be fetched."""

    def look(self, now: float) -> None:
        """See to leases that end with time."""


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


class Nudge:
    """In an inbox: look at everything again."""


_NUDGE: Final = Nudge()
_NOTHING = Entry(Lease(), (), 0, False, 0.0)


class Lane:
    """Runs handlers on the thread that calls `run`. Whoever acknowledges calls `flush`, on any thread.

    inbox: entries; None ends the lane.
    """

    def __init__(self, owner: Owner, handler: Callable[[Delivery], object], outcomes: Outcomes) -> None:
        self._owner = owner
        self._handler = handler
        self._outcomes = outcomes
        self.inbox: SimpleQueue[Entry | Nudge | None] = SimpleQueue()
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

    def nudge(self) -> None:
        """Have the lane look at everything again."""
        self.inbox.put(_NUDGE)

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
            item = self.inbox.get(timeout=wait)
        except Empty:
            return True
        if isinstance(item, Entry):
            if self._kept:
                self._kept.append(item)
            else:
                self._handle(item)
        elif item is _NUDGE:
            self._nudged = False
            self._drop_stale()
            owner.ask_for_more()
        return item is not None

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
