"""One lane: a thread that runs handlers, one after another."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from queue import Empty, SimpleQueue

from .. import log
from ..callables import refuse_unawaited
from ..message import Delivery
from ..threads import Pauses
from . import handling
from .batches import size_of
from .entries import NOTHING, Entry, Notice, Owner, all_of
from .lease import Lease
from .outcomes import Outcomes
from .parked import ParkedKey, ParkedKeys, lane_key

logger = log.get(__name__)


WAITING = 64
"""Messages that may wait for a lane that stands still, where a broker takes more of them back."""
STAYS_AWAY = Pauses(first=1.0, factor=2.0, longest=30.0)
"""How long what such a lane gives back is to stay away."""


class Lane:
    """Runs handlers on the thread that calls `run`. Whoever acknowledges calls `flush`, on any thread."""

    def __init__(self, owner: Owner, handler: Callable[[Delivery], object], outcomes: Outcomes) -> None:
        self._owner = owner
        self._handler = handler
        self._outcomes = outcomes
        self._inbox: SimpleQueue[Notice] = SimpleQueue()
        self._entries: deque[Entry] = deque()
        """Put and not begun. Taken out under the lock, put under the owner's."""
        self._stands_since = 0.0
        self._stands_at: tuple[int, int] | None = None
        self._turns = 0  # batches and retries that were begun
        self._returns = 0
        self.parked = 0
        """Deliveries that wait for a retry, or behind one."""
        self._keys = ParkedKeys()
        self._kept: deque[Entry] = deque()
        """Not started because of a pause."""
        self._nudged = False
        self._lock = threading.Lock()
        self._entry = NOTHING
        self._first = self._position = self._cut = self._left = 0
        """Of the entry: what is acknowledged, what is handled, where it ends now, and the bytes of the rest."""
        self._trying: Delivery | None = None  # again, at this moment
        self._forked = False

    # -- any thread ------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Deliveries that are handled and not yet settled."""
        return max(0, self._position - self._first)

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery in hand came, about; None without one."""
        known = [one.since for one in (self._entry, *list(self._kept)[:1]) if one is not NOTHING]
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

    def held_keys(self) -> set[Hashable]:
        """Keys that only this lane may handle now: that of the message that it runs, and those that are parked."""
        entry, position = self._entry, self._position
        running = {lane_key(one) for one in entry.batch[position : position + 1]}
        return {*running, *list(self._keys.waiting)} - {None}

    def take_back(self) -> list[Entry]:
        """What no handler was started for, but for its `held_keys`. Under the owner's lock."""
        with self._lock:
            entries = [*self._cut_off(), *all_of(self._kept), *all_of(self._entries)]
        held = self.held_keys()
        return self._take(entries, lambda one: lane_key(one) in held)

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

        return self._take(entries, stays)

    def _cut_off(self) -> list[Entry]:
        """The rest of what the lane works on; nothing if it got on meanwhile. Under the lock.

        The lane notes its position before it looks at the cut, and this the other way round: one sees the other.
        """
        entry, end, cut = self._entry, self._cut, self._position + 1
        if cut >= end:
            return []
        self._cut = cut
        if self._position + 1 != cut:
            self._cut = end
            return []
        rest = entry.batch[cut:end]
        size = min(self._left, size_of(rest))
        self._left -= size
        return [Entry(entry.lease, rest, size, entry.check, entry.since)]

    def _take(self, entries: Sequence[Entry], stays: Callable[[Delivery], bool]) -> list[Entry]:
        taken = list[Entry]()
        for entry in entries:
            staying, leaving = entry.split(stays)
            if staying is not None:
                self.put(staying)
            if leaving is not None:
                taken.append(leaving)
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
        handling.in_child(self.forked)
        self._outcomes.begin()
        try:
            while self._one():
                pass
            with self._lock:
                rest = [*all_of(self._kept), *all_of(self._entries)]
            for entry in rest:
                self.drop(entry.batch, entry.lease, entry.size)
            for lease, delivery in self._keys.empty():
                self._drop_parked(lease, delivery)
        finally:
            if not self._forked:
                self._owner.ended()

    def forked(self) -> None:
        """This is a child that its handler has forked: nothing is started or told here any more."""
        self._forked = self._owner.stopping = True

    def _leave_child(self) -> None:
        """End the thread where the handler has come back in a child, which has no other one, and ends with it."""
        if self._forked:
            raise SystemExit

    def _one(self) -> bool:
        """See to one entry, or to what is due; False when the end has come."""
        owner = self._owner
        if self._kept and not owner.halted:
            self._begin(self._kept)
            return True
        wait = None
        if self._keys and owner.retrying and not owner.halted:
            self._retry_due()
            if self._keys:
                wait = max(0.0, self._keys.due - time.monotonic())
        try:
            notice = self._inbox.get(timeout=wait)
        except Empty:
            return True
        if notice is Notice.ENTRY:
            self._begin(self._entries)
        elif notice is Notice.NUDGE:
            self._nudged = False
            self._drop_stale()
            owner.ask_for_more()
        return notice is not Notice.END

    def _begin(self, entries: deque[Entry]) -> None:
        with self._lock:
            if not entries:  # it was given back
                return
            entry = entries.popleft()
            if self._kept and entries is self._entries:
                self._kept.append(entry)
                return
            self._entry, self._first, self._position, self._left = entry, 0, 0, entry.size
            self._cut = len(entry.batch)
            self._turns += 1
        self._owner.working()
        self._handle(entry)

    def _handle(self, entry: Entry) -> None:
        seen = self._work(entry)
        self._leave_child()
        self.flush()
        with self._lock:
            rest, left, self._entry = entry.batch[seen : self._cut], self._left, NOTHING
            self._first = self._position = self._cut = 0
            keeps = bool(rest) and not (entry.lease.ended or self._owner.stopping)
            if keeps:
                self._kept.appendleft(Entry(entry.lease, rest, left, entry.check, entry.since))
        if not rest:
            self._owner.settle(0, left)
        elif not keeps:
            self.drop(rest, entry.lease, left)

    def _work(self, entry: Entry) -> int:
        """Handle a batch until something ends it; how many of it were seen to."""
        owner, handler, keys, lease, check = self._owner, self._handler, self._keys.waiting, entry.lease, entry.check
        position = 0
        for delivery in entry.batch:
            if keys:
                self._retry_due()
            if position >= self._cut or lease.ended or owner.paused or owner.stopping:
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
                if self._forked:
                    raise
                position += 1
                self._pass_over(position)
                self._fail(entry, delivery, error)
            else:
                position += 1
                self._position = position
        return position

    def _lets(self, entry: Entry, delivery: Delivery) -> bool:
        """Whether a handler may be started: its key is not parked, and it was not finished before it came again."""
        if self._keys and self._keys.behind(lane_key(delivery), (entry.lease, delivery, entry.check)):
            self._note_parked(delivery)
            return False
        if entry.check and not self._outcomes.claims(delivery):
            self._owner.left((delivery,))
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
            self.drop((delivery,), entry.lease, 0)
            return
        parked = self._keys.park(lane_key(delivery), (entry.lease, delivery, False), entry.since)
        pause = parked.fail(again=False)
        self._keys.plan(parked)
        self._note_parked(delivery)
        self._outcomes.failed(delivery, error, pause)

    def _note_parked(self, delivery: Delivery) -> None:
        with self._lock:
            self._left = max(0, self._left - len(delivery.payload))
            self.parked += 1
        self._owner.settle(0, 0)  # it stands in nobody's way any more

    def _retry_due(self) -> None:
        """Try one key again if it is due; one at a time, so that many of them leave room for all else."""
        now = time.monotonic()
        if self._keys.due > now or not self._owner.retrying:
            return
        parked = self._keys.take_due(now)
        if parked is not None:
            self._owner.working()
            self._retry(parked)
            self._trying = None
            if parked.messages:
                self._keys.plan(parked)

    def _retry(self, parked: ParkedKey) -> None:
        """Try a parked message again, and those behind it if it succeeds."""
        again = True
        while parked.messages:
            lease, delivery, check = parked.messages[0]
            if self._owner.halted:
                return
            if not lease.ended and not (check and not self._outcomes.claims(delivery)):
                self._trying = delivery
                self._turns += 1
                try:
                    result = self._handler(delivery)
                    if result is not None:
                        refuse_unawaited(result)
                except BaseException as error:
                    if self._forked:
                        raise
                    parked.messages[0] = (lease, delivery, False)
                    self._outcomes.failed(delivery, error, parked.fail(again=again))
                    return
                self._leave_child()
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
        self._keys.forget(parked)

    def _drop_stale(self) -> None:
        """What waits for a retry and is not ours any more goes at once."""
        for lease, delivery in self._keys.take_stale():
            self._drop_parked(lease, delivery)

    def _drop_parked(self, lease: Lease, delivery: Delivery) -> None:
        self.parked -= 1
        self.drop((delivery,), lease, len(delivery.payload))

    def _settle_parked(self, delivery: Delivery) -> None:
        self.parked -= 1
        self._owner.left((delivery,))
        self._owner.settle(1, len(delivery.payload))

    def drop(self, deliveries: Sequence[Delivery], lease: Lease, size: int) -> None:
        """Give these up; on any thread."""
        if not lease.ended:
            self._owner.give_up(len(deliveries))
        try:
            self._outcomes.dropped(deliveries, lease)
        except Exception:
            logger.exception("%s: giving back failed", threading.current_thread().name)
        finally:
            self._owner.left(deliveries)
            self._owner.settle(len(deliveries), size)

    def _finish(self, deliveries: Sequence[Delivery], lease: Lease, size: int) -> None:
        try:
            self._outcomes.done(deliveries)
        except Exception:  # ours, not the handler's: the lane has to go on, or its keys hang for ever
            logger.exception("%s: acknowledging failed", threading.current_thread().name)
            self.drop(deliveries, lease, size)  # kept in hand it would be renewed and never handled
        else:
            self._owner.left(deliveries)
            self._owner.settle(len(deliveries), size)
