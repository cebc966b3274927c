"""Keyed lanes: handlers run here, never on a session's thread, in order of arrival per key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from .. import log
from ..message import Delivery
from ..middleware import Middleware
from ..threads import alive_after, join_all, spawn
from .acknowledgements import Acknowledgements
from .batch_lane import BatchLane, BatchLimits
from .batches import size_of
from .budget import Budget
from .entries import Entry, Halt
from .lane import Lane
from .lease import Lease
from .outcomes import Outcomes
from .routing import NOWHERE, Routing
from .sharing import Shares, Sharing, Ways

logger = log.get(__name__)

LEAST = 1 / 8
"""Of the bytes that may be in hand: it is not worth while to ask for less."""
MOVES_AFTER = 0.1
"""Seconds that one handler runs until what waits for its lane goes to the others."""
GIVES_BACK_AFTER = 1.0
"""Seconds for which that is so of all lanes until the broker gets back what is too much."""
START_AGAIN = 1.0
"""Seconds until messages are asked for again after a thread could not be started for them."""


class Lanes:
    """`concurrency` threads, each with a queue of batches; which key goes to which one says `Routing`.

    handler(delivery), with `batch` handler(batch), does the work; a message whose handler fails waits for its next try
    with its key, all others go on. What waits for a lane that stands still goes to the others, and those with nothing
    to do take over what waits behind another key (`Sharing`). high, high_bytes, budget: what may be in hand until `put`
    says that it is full; what waits behind a failing message counts with its bytes only. takes_back: where all lanes
    stand still, what is too much may be given back. middleware: around each call of the handler.
    """

    def __init__(
        self,
        name: str,
        concurrency: int,
        handler: Callable[[Any], object],
        outcomes: Outcomes,
        acknowledgements: Acknowledgements,
        high: int,
        high_bytes: int,
        budget: Budget,
        takes_back: bool = False,
        handler_timeout: float | None = None,
        batch: BatchLimits | None = None,
        middleware: Middleware | None = None,
    ) -> None:
        self._name, self._outcomes, self._handler_timeout = name, outcomes, handler_timeout
        self._acknowledgements = acknowledgements
        self._high, self._high_bytes = high, high_bytes
        self._budget, self._takes_back = budget, takes_back
        self._lanes = [
            Lane(self, handler, outcomes, middleware)
            if batch is None
            else BatchLane(self, handler, outcomes, batch, middleware)
            for _ in range(concurrency)
        ]
        self._routing, self._sharing = Routing(concurrency), Sharing(self._lanes if batch is None else ())
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._count = self._size = self._running = 0
        self.given_up = self.handed_over = 0
        """Deliveries that were given up because of the end; those of them that no handler was started for."""
        self._latest: float | None = None
        self._full = self._is_watched = self._stands_still = False
        self._start_again: float | None = None
        """When to ask for messages again after a thread could not be started."""
        self._finishing = self._closing = False
        self.halts: set[Halt] = set()
        """Why no handler is started now: this alone is what `pause` and `resume` change, in one step."""
        self.retrying = True
        """Whether what fails is tried again."""

    @property
    def paused(self) -> bool:
        """Whether the user has paused it."""
        return Halt.PAUSED in self.halts

    @property
    def backlog(self) -> int:
        """Deliveries that are queued, parked or in a handler."""
        return self._count - sum(lane.unsettled for lane in self._lanes)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand, handled and not yet acknowledged deliveries included."""
        return not self._count

    @property
    def room(self) -> int:
        """How many more may come until it is full, one at least; what is parked does not count."""
        if self._budget.is_over(1):
            return 1
        return max(1, self._high - self._count + sum(lane.parked for lane in self._lanes))

    @property
    def room_bytes(self) -> int:
        """So many bytes of payload may be asked for now; half of what is free, for something may be on its way."""
        free = self._high_bytes - self._size
        return min(free // 2, self._budget.share) if free >= self._high_bytes * LEAST else 0

    @property
    def is_full(self) -> bool:
        """Whether no more is fetched until something of what is there is done."""
        return self._full

    @property
    def is_stuck(self) -> bool:
        """Whether nothing more is fetched because of messages that wait for their retry."""
        return self._full and 0 < self._count <= sum(lane.parked for lane in self._lanes)

    @property
    def unhandled(self) -> int:
        """Deliveries in hand and not finished; those that were given up because of the end included."""
        return self.backlog + self.given_up

    @property
    def size(self) -> int:
        """Bytes of payload in hand, about."""
        return self._size

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery in hand came, by `time.monotonic`, about; None without one."""
        known = min((since for lane in self._lanes if (since := lane.oldest) is not None), default=None)
        return self._latest if known is None and self.backlog else known  # else no lane has taken it up yet

    def put(self, batch: Sequence[Delivery], lease: Lease, check: bool = False) -> bool:
        """Queue a batch, in order; never blocks. False: full now, `has_room` will be called.

        check: some of it may be finished already, see `Outcomes.claims`. After `finish` or `stop` it is dropped.
        """
        if not batch:
            return not (self._full or self.halts)
        now = time.monotonic()
        parts = self._routing.split(batch)
        with self._lock:
            late = self._finishing
            if not late and (self._running == len(self._lanes) or self._start()):
                if not self._routing.is_plain:
                    parts = self._routing.split_around(batch)
                entries = [(lane, Entry(lease, part, size_of(part), check, now)) for lane, part in parts]
                self._count += len(batch)
                self._latest = now
                size = sum(entry.size for _, entry in entries)
                self._size += size
                self._budget.add(size)
                if self._is_over(1):
                    self._full = True
                for lane, entry in entries:
                    self._lanes[lane].put(entry)
                return not (self._full or self.halts)
        if late:  # it crossed with the end: no lane will look at it any more
            self._outcomes.dropped(batch, lease)
            return False
        logger.error("%s: the system starts no more threads; messages are given back", self._name)
        self._outcomes.given_back(batch, lease, START_AGAIN)
        return not self._is_watched  # if nobody is there to ask for more later, it has to come by itself

    def wait_for_room(self) -> bool:
        """Whoever fetches wants to wait until there is room: `has_room` is called then. False: nothing is in hand."""
        with self._lock:
            self._full = self._full or self._count > 0
            return self._full

    def flush(self) -> None:
        """Acknowledge what is done so far."""
        for lane in self._lanes:
            lane.flush()

    @property
    def held(self) -> bool:
        """Whether no handler is started whatever the user wants."""
        return Halt.HELD in self.halts

    def pause(self) -> None:
        """Start no handler until `resume`; what is queued is kept. Never blocks, and may be called by any thread."""
        self.halts.add(Halt.PAUSED)

    def resume(self) -> None:
        """Go on. Never blocks, and may be called by any thread."""
        self._go_on(Halt.PAUSED)

    def hold(self) -> None:
        """Start no handler until `let_go`, whatever the user wants; any thread."""
        self.halts.add(Halt.HELD)

    def let_go(self) -> None:
        """Go on after `hold`."""
        self._go_on(Halt.HELD)

    def _go_on(self, halt: Halt) -> None:
        self.halts.discard(halt)
        for lane in self._lanes:
            lane.nudge()

    def begin_finish(self) -> None:
        """From now on what fails is not tried again, and what is dropped counts as unhandled."""
        self._closing = True
        self._end()

    def finish(self, timeout: float) -> tuple[str, ...]:
        """Take the queued deliveries to their end, up to `timeout` seconds; name the lanes still at work.

        Those that are parked, or fail now, are dropped at the end of it.
        """
        return alive_after(self._end(), timeout)

    def start_no_more(self) -> None:
        """Drop at once what no handler was started for, but for keys that wait behind one that was."""
        self.halts.add(Halt.STOPPING)
        with self._lock:
            taken = [(lane, entry) for lane in self._lanes for entry in lane.take_back()]
        for lane, entry in taken:
            lane.drop(entry.batch, entry.lease, entry.size, begun=False)

    def stop(self, timeout: float) -> tuple[str, ...]:
        """Start no more handlers, wait up to `timeout` seconds for those that run; log and name the lanes at work."""
        self.start_no_more()
        return join_all(self._end(), timeout)

    def _end(self) -> list[threading.Thread]:
        self.retrying = False
        with self._lock:
            first, self._finishing = not self._finishing, True
            if first:
                for lane in self._lanes:
                    lane.end()
                if not self._running:
                    self._acknowledgements.remove(self)
            return list(self._threads)

    @property
    def at_work(self) -> tuple[str, ...]:
        """Names of the threads whose lane has something in hand."""
        return tuple(
            thread.name
            for thread, lane in zip(tuple(self._threads), self._lanes, strict=False)
            if lane.oldest is not None
        )

    def settle(self, count: int, size: int) -> None:
        """So many are finished, or were dropped. Called by lanes."""
        with self._lock:
            self._count -= count
            # Bytes are counted about, as parts of their batches: with nothing in hand they are none.
            size = size if self._count else self._size
            self._size -= size
            self._budget.add(-size)
            room = self._full and not self._is_over(0.5)
            if room:
                self._full = False
        if room and not self.halts:
            self._outcomes.has_room()

    def left(self, deliveries: Sequence[Delivery]) -> None:
        """These are finished, or were dropped. Called by lanes."""
        if not self._routing.is_plain:
            with self._lock:
                self._routing.left(deliveries)

    def give_up(self, count: int, begun: bool) -> None:
        """So many are about to be dropped under a lease that lasts. Called by lanes."""
        if self._closing:
            with self._lock:
                self.given_up += count
                self.handed_over += 0 if begun else count

    def ask_for_more(self) -> None:
        """A pause is over. Called by a lane."""
        if not (self._full or self.halts):
            self._outcomes.has_room()

    def working(self) -> None:
        """A lane begins to work. Called by lanes."""
        if self._acknowledgements.asleep:
            self._acknowledgements.wake()

    def ended(self) -> None:
        """A lane's thread ends. Called by lanes."""
        with self._lock:
            self._running -= 1
            last = not self._running
        if last:
            self._acknowledgements.remove(self)

    def look(self, now: float) -> bool:
        """See to what is done, what is not ours any more, and lanes that stand still; True while there is more."""
        self._outcomes.look(now)
        for lane in self._lanes:
            lane.look()
        self._relieve(now)
        if self._full:
            self.settle(0, 0)  # others may have made room
        if self._start_again is not None and now >= self._start_again:
            self._start_again = None
            self.ask_for_more()
        return self._count > 0 or self._start_again is not None or not self._routing.is_plain

    def _is_over(self, part: float) -> bool:
        waiting = self._count - sum(lane.parked for lane in self._lanes)
        return (
            waiting >= max(1, self._high * part)
            or self._size >= max(1, self._high_bytes * part)
            or (self._count > 0 and self._budget.is_over(part))  # one message each is always due
            or self._stands_still
        )

    def _relieve(self, now: float) -> None:
        """What waits for lanes that stand still goes to the others; if all do, what is too much is given back.

        While all stand still no more is fetched, where what comes could be somebody else's.
        """
        stood = [lane.stands_for(now) for lane in self._lanes]
        if self._handler_timeout is not None and max(stood) >= self._handler_timeout:
            for lane, seconds in zip(self._lanes, stood, strict=True):
                if seconds >= self._handler_timeout and (found := lane.standing()) is not None:
                    self._outcomes.overdue(found[0], seconds, found[1])
        self._stands_still = self._takes_back and min(stood) >= GIVES_BACK_AFTER
        if self._stands_still:
            for lane in self._lanes:
                self._give_back(lane)
        elif min(stood) < MOVES_AFTER:
            standing = {place: self._lanes[place] for place, time in enumerate(stood) if time >= MOVES_AFTER}
            self._move(standing, *(({}, {}) if self.halts else self._sharing.look(now)))

    def _move(self, standing: Mapping[int, Lane], shared: Shares, ways: Ways) -> None:
        """Have other lanes take what waits for lanes that stand still, and what lanes share with idle ones."""
        if not (standing or shared or ways) and self._routing.is_plain:
            return
        with self._lock:
            if self._finishing:  # a lane that has ended looks at nothing any more
                return
            taken = [(entry, NOWHERE) for lane in standing.values() for entry in lane.take_back()]
            taken += [(entry, to) for place, to in shared.items() for entry in self._lanes[place].take_keys(to)]
            for entry, _ in taken:
                self._routing.left(entry.batch)
            self._routing.stand({place: lane.held for place, lane in standing.items()})
            for entry, to in taken:
                self._put_around(entry, to)
            for place, key in ways.items():
                self._lanes[place].make_way(key)

    def _put_around(self, entry: Entry, to: Mapping[Hashable, int]) -> None:
        """Queue what was taken out of a lane, with all its bytes. Under the lock."""
        left = entry.size
        for place, part in self._routing.split_around(entry.batch, to):
            size = min(left, size_of(part))
            left -= size
            self._lanes[place].put(Entry(entry.lease, part, size, entry.check, entry.since))
        self._size -= left
        self._budget.add(-left)

    def _give_back(self, lane: Lane) -> None:
        """What is too much for a lane goes to whoever may have it."""
        if not lane.waits_too_much:
            return
        with self._lock:
            if self._finishing:
                return
            self._routing.stand({})
            entries = lane.take_too_much()
            self._full = True
        delay = lane.next_delay() if entries else 0.0
        for entry in entries:
            self._outcomes.given_back(entry.batch, entry.lease, delay)
            self.left(entry.batch)
            self.settle(len(entry.batch), entry.size)

    def _start(self) -> bool:
        """Start the threads that are missing; whether all of them run. Under the lock."""
        try:
            if not self._is_watched:
                self._acknowledgements.add(self)
                self._is_watched = True
            while self._running < len(self._lanes):
                thread = spawn(f"{self._name}-{self._running}", self._lanes[self._running].run)
                self._threads.append(thread)
                self._running += 1
        except RuntimeError:  # the system has no more of them; those that run wait for the others
            self._start_again = time.monotonic() + START_AGAIN
            return False
        return True
