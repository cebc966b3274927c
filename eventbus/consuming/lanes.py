"""Keyed lanes: handlers run here, never on a session's thread, in order of arrival per key."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from queue import SimpleQueue
from zlib import crc32

from ..message import Delivery
from ..threads import join_all, spawn

logger = logging.getLogger(__name__)

ACKNOWLEDGE_EVERY = 0.05
"""Seconds that a finished delivery waits at most for others to be acknowledged with it."""


_Entry = tuple[int, Sequence[Delivery]]


class Lanes:
    """`concurrency` threads, each with a queue of batches; a key always goes to the same one.

    handler(delivery) does the work; when it raises, failed(delivery, error) handles that, and returns False
    when a stop ended it: then the lane starts nothing more. done(deliveries) and dropped(deliveries) are
    called on the lane's thread with what was handled and with what will not be. has_room() is called when a
    backlog that was at `high` falls to half of that.
    """

    def __init__(
        self,
        name: str,
        concurrency: int,
        handler: Callable[[Delivery], object],
        failed: Callable[[Delivery, BaseException], bool],
        done: Callable[[Sequence[Delivery]], object],
        dropped: Callable[[Sequence[Delivery]], object],
        has_room: Callable[[], object],
        high: int,
    ) -> None:
        self._name = name
        self._handler = handler
        self._failed = failed
        self._done = done
        self._dropped = dropped
        self._has_room = has_room
        self._high = high
        self._queues: list[SimpleQueue[_Entry | None]] = [SimpleQueue() for _ in range(concurrency)]
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._backlog = 0
        self._full = False
        self._next = 0
        self._generation = 0
        """Counts the discards: batches are told by it apart that were put before one and after it."""
        self._all_cut = 0
        self._cuts: dict[Hashable, int] = {}
        """By token: the generation before which all is dropped."""
        self._cuts_behind: list[dict[Hashable, int]] = [{} for _ in range(concurrency)]
        """The same, of one lane alone."""
        self._stopping = False
        self._finishing = False

    @property
    def backlog(self) -> int:
        """Deliveries queued and not finished."""
        return self._backlog

    def put(self, batch: Sequence[Delivery]) -> bool:
        """Queue a batch, in order; never blocks. False: full now, `has_room` will be called.

        After `finish` or `stop` it is dropped.
        """
        if not batch:
            return not self._full
        slices = self._split(batch)
        with self._lock:
            late = self._finishing
            if not late:
                if not self._threads:
                    self._start()
                self._backlog += len(batch)
                if self._backlog >= self._high:
                    self._full = True
                for lane, part in slices:
                    self._queues[lane].put((self._generation, part))
                return not self._full
        self._dropped(batch)  # it crossed with the end: no lane will look at it any more
        return False

    def discard(self, tokens: Collection[Hashable] | None = None) -> None:
        """Drop what is queued and not started, all or the deliveries with one of these tokens.

        The lanes report it as dropped one after another. A lane that has dropped deliveries with a token also
        drops those that were put behind them until then: what is dropped comes again, and nothing overtakes it.
        """
        with self._lock:
            self._generation += 1
            if tokens is None:
                self._all_cut = self._generation
            else:
                self._cuts.update(dict.fromkeys(tokens, self._generation))

    def finish(self, timeout: float) -> tuple[str, ...]:
        """Take the queued deliveries to their end, up to `timeout` seconds; name the lanes still at work."""
        with self._lock:
            first, self._finishing = not self._finishing, True
            threads = list(self._threads)
            if first:
                for queue in self._queues:
                    queue.put(None)
        return join_all(threads, timeout)

    def stop(self, timeout: float) -> tuple[str, ...]:
        """Start no more handlers, wait up to `timeout` seconds for those that run; name the lanes still at work."""
        self._stopping = True
        return self.finish(timeout)

    def _start(self) -> None:
        self._threads = [spawn(f"{self._name}-{lane}", self._run, lane) for lane in range(len(self._queues))]

    def _split(self, batch: Sequence[Delivery]) -> list[tuple[int, Sequence[Delivery]]]:
        lanes = len(self._queues)
        if lanes == 1:
            return [(0, batch)]
        parts: dict[int, list[Delivery]] = {}
        for delivery in batch:
            key = delivery.key
            if key is None:
                self._next = lane = (self._next + 1) % lanes
            else:
                lane = crc32(key.encode()) % lanes
            parts.setdefault(lane, []).append(delivery)
        return list(parts.items())

    def _run(self, lane: int) -> None:
        ended = False
        queue = self._queues[lane]
        while (entry := queue.get()) is not None:
            generation, batch = entry
            try:
                ended = self._handle(lane, generation, batch, ended)
            except Exception:  # ours, not the handler's: the lane has to go on, or its keys hang for ever
                logger.exception("%s: acknowledging failed", threading.current_thread().name)
                self._give_up(batch)
            finally:
                self._leave(len(batch))

    def _handle(self, lane: int, generation: int, batch: Sequence[Delivery], ended: bool) -> bool:
        """Handle a batch but for what was discarded; True when a stop has ended the lane."""
        while batch and not ended:
            if generation != self._generation:
                generation, batch = self._sift(lane, generation, batch)
            batch = batch[self._work(generation, batch) :]
            ended = bool(batch) and generation == self._generation
        if batch:
            self._dropped(batch)
        return ended

    def _sift(self, lane: int, put_in: int, batch: Sequence[Delivery]) -> tuple[int, Sequence[Delivery]]:
        """Drop what was discarded since the batch was put; the rest is as good as put in the generation returned."""
        behind = self._cuts_behind[lane]
        with self._lock:
            generation = self._generation
            cut = {token for cuts in (self._cuts, behind) for token, until in cuts.items() if put_in < until}
            everything = put_in < self._all_cut
        if everything:
            self._dropped(batch)
            return generation, ()
        dropped = [delivery for delivery in batch if cut and delivery.token in cut]
        if not dropped:
            return generation, batch
        self._dropped(dropped)
        with self._lock:  # only now: what was put before the owner learned of it must be cut, too
            self._generation += 1
            behind.update(dict.fromkeys({one.token for one in dropped}, self._generation))
        return generation, [delivery for delivery in batch if delivery.token not in cut]

    def _give_up(self, batch: Sequence[Delivery]) -> None:
        """Keep nothing of a batch in hand that was not acknowledged: kept, it would be renewed and never handled."""
        try:
            self._dropped(batch)
        except Exception:
            logger.exception("%s: giving back failed", threading.current_thread().name)

    def _work(self, generation: int, batch: Sequence[Delivery]) -> int:
        """Handle a batch up to a stop; how many deliveries were handled."""
        handler, clock = self._handler, time.monotonic
        due = clock() + ACKNOWLEDGE_EVERY
        first = 0
        for position, delivery in enumerate(batch):
            if self._stopping or generation != self._generation:
                break
            try:
                handler(delivery)
            except BaseException as error:  # SystemExit too: it would end the lane, and nobody would see
                if first < position:
                    self._done(batch[first:position])
                    first = position
                if not self._failed(delivery, error):
                    return position
            if clock() > due:
                self._done(batch[first : position + 1])
                first = position + 1
                due = clock() + ACKNOWLEDGE_EVERY
        else:
            position = len(batch)
        if first < position:
            self._done(batch[first:position])
        return position

    def _leave(self, count: int) -> None:
        with self._lock:
            self._backlog -= count
            room = self._full and self._backlog <= self._high // 2
            if room:
                self._full = False
        if room:
            self._has_room()
