"""A lane whose handler takes many messages at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence

from attrs import evolve, frozen

from ..callables import refuse_unawaited
from ..errors import BatchError
from ..message import Delivery
from ..middleware import Middleware, Wrapped
from .batches import Batch, size_of
from .entries import Entry, Owner
from .lane import Lane
from .outcomes import Outcomes
from .parked import LONGEST_NAP, NEVER, lane_key
from .retries import Tries


@frozen
class BatchLimits:
    """A handler gets so many messages, or what has come so many seconds after the first of them."""

    size: int
    seconds: float


class BatchLane(Lane):
    """Gathers what comes, in order, and runs the handler on all of it; what fails is tried again one by one."""

    def __init__(
        self,
        owner: Owner,
        handler: Callable[[Batch], object],
        outcomes: Outcomes,
        limits: BatchLimits,
        middleware: Middleware | None = None,
    ) -> None:
        super().__init__(owner, self._handle_alone, outcomes)
        self._batch_handler = Wrapped(handler, middleware or Middleware())
        self._limits = limits
        self._gathered: list[Entry] = []
        """Of the next batch."""
        self._running: list[Entry] = []
        """Of the batch that the handler has."""
        self._deadline = NEVER
        self._told: BaseException | None = None
        """What was told of this batch last."""

    # -- any thread ------------------------------------------------------------------------------

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery in hand came, about; None without one."""
        known = [entry.since for entry in (*list(self._running)[:1], *list(self._gathered)[:1])]
        return min([*known, *self._keys.since()], default=None)

    def _cut_off(self) -> list[Entry] | None:
        """Nothing of what it has gathered leaves it any more; the keys of that stay with it.

        Gathered, running, parked: the lane notes each before it ends the last, and this looks in the same order.
        """
        at = self._state
        inside = [*self._gathered, *self._running]
        held: set[Hashable] = {lane_key(one) for entry in inside for one in entry.batch}
        self.held = (held | set(self._keys.waiting)) - {None}
        return [] if at == self._state else None

    # -- the lane's thread -----------------------------------------------------------------------

    def _one(self) -> bool:
        if self._gathered and not self._owner.halts and self._is_due():
            self._run_handler()
            return True
        if super()._one():
            return True
        while (self._entries or self._gathered) and not self._owner.halts:  # the end: what is there is handled still
            self._begin(self._entries)
            if self._gathered and (not self._entries or self._missing <= 0):
                self._run_handler()
        return False

    def _patience(self) -> float | None:
        wait = super()._patience()
        if not self._gathered or self._owner.halts:
            return wait
        left = min(max(0.0, self._deadline - time.monotonic()), LONGEST_NAP)
        return left if wait is None else min(wait, left)

    @property
    def _missing(self) -> int:
        return self._limits.size - sum(len(entry.batch) for entry in self._gathered)

    def _is_due(self) -> bool:
        """Whether the handler is to have what was gathered: no more comes, or not in time."""
        if self._missing <= 0 or time.monotonic() >= self._deadline:
            return True
        return self._owner.is_full and not (self._entries or self._kept)

    def _begin(self, entries: deque[Entry]) -> None:
        """Gather what still fits into the batch; the rest stays in the queue, in front."""
        missing = self._missing
        with self._lock:
            if not entries or missing <= 0:
                if entries:
                    self._again()
                return
            entry = entries.popleft()
            if len(entry.batch) > missing:
                entry, rest = entry.cut(missing)
                entries.appendleft(rest)
                self._again()
            if not self._gathered:
                self._deadline = time.monotonic() + self._limits.seconds
            self._gathered.append(entry)
            self._turns += 1
        self._owner.working()

    def _run_handler(self) -> None:
        """Let the handler have what was gathered and is still to be handled."""
        self._running = self._gathered
        self._gathered = []
        self._running = [entry for one in self._running for entry in self._let_in(one)]
        if not self._running:
            return
        failed = self._call(Batch([entry.batch for entry in self._running]))
        self._told = None
        first = 0
        for entry in self._running:
            self._settle_entry(entry, first, failed)
            first += len(entry.batch)
        self._running = []
        if self._keys:
            self._retry_due()

    def _let_in(self, entry: Entry) -> list[Entry]:
        """What a handler may be started for: it is ours, its key is not parked, it was not finished before."""
        if entry.lease.ended:
            self.drop(entry.batch, entry.lease, entry.size)
            return []
        if not (self._keys or entry.check):
            return [entry]
        left, gone = list[Delivery](), entry.size
        for one in entry.batch:
            parked = self.parked
            if self._lets(entry, one):
                left.append(one)
            elif self.parked > parked:
                gone -= len(one.payload)
        size = size_of(left)
        self._owner.settle(0, max(0, gone - size))  # what was finished already
        return [evolve(entry, batch=left, size=size, check=False)] if left else []

    def _call(self, batch: Batch) -> Mapping[int, BaseException]:
        """Start the handler; the errors of those that failed, by their places."""
        self._trying = batch[0]
        self._turns += 1
        try:
            result = self._batch_handler.now()(batch)
            if result is not None:
                refuse_unawaited(result)
        except BatchError as error:
            return _failed_of(error, len(batch))
        except BaseException as error:  # SystemExit too: it would end the lane, and nobody would see
            if self._forked:
                raise
            return dict.fromkeys(range(len(batch)), error)
        finally:
            self._trying = None
        self._leave_child()
        return {}

    def _settle_entry(self, entry: Entry, first: int, failed: Mapping[int, BaseException]) -> None:
        """Acknowledge what is done of an entry, park what has failed. first: its place in the batch."""
        end = len(entry.batch)
        places = sorted(place - first for place in failed if 0 <= place - first < end) if failed else []
        if not places:
            self._finish(entry.batch, entry.lease, entry.size)
            return
        done = 0
        for place in [*places, end]:
            good = entry.batch[done:place]
            if good:
                self._finish(good, entry.lease, size_of(good))
            if place < end:
                self._fail_one(entry, entry.batch[place], failed[first + place])
            done = place + 1

    def _fail_one(self, entry: Entry, delivery: Delivery, error: BaseException) -> None:
        if entry.lease.ended:
            self._outcomes.failed(delivery, error, Tries(), error is self._told)
            self.drop((delivery,), entry.lease, len(delivery.payload))
        elif self._keys and self._keys.behind(lane_key(delivery), (entry.lease, delivery, False)):
            self._note_parked(delivery)
        else:
            self._fail(entry, delivery, error, quiet=error is self._told)
            self._told = error

    def _handle_alone(self, delivery: Delivery) -> object:
        """A message that is tried again is a batch of its own."""
        try:
            return self._batch_handler.now()(Batch([(delivery,)]))
        except BatchError as error:
            failed = _failed_of(error, 1)
            if failed:
                raise failed[0] from error
            return None

    def _rest(self) -> Sequence[Entry]:
        gathered, self._gathered = self._gathered, []
        return [*gathered, *super()._rest()]


def _failed_of(error: BatchError, size: int) -> Mapping[int, BaseException]:
    """What has failed of a batch of that size, by places; all of it where the handler names what is not there."""
    named = dict(error.errors)
    if all(type(place) is int and 0 <= place < size and isinstance(one, BaseException) for place, one in named.items()):
        return named
    return dict.fromkeys(range(size), ValueError(f"the batch has {size} messages: {named!r:.200}"))
