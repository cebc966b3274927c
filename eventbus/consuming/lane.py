"""One lane: a thread that runs handlers, one after another."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty

from .. import log
from ..callables import refuse_unawaited
from ..message import Delivery
from ..middleware import Middleware, Wrapped
from . import handling
from .entries import NOTHING, Entry, Halt, Notice, Owner, all_of
from .lane_queue import LaneQueue
from .lease import Lease
from .outcomes import Outcomes
from .parked import LONGEST_NAP, NEVER, ParkedKey, lane_key
from .retries import Next, Tries, Verdict

logger = log.get(__name__)


class Lane(LaneQueue):
    """Runs handlers on the thread that calls `run`. Whoever acknowledges calls `flush`, on any thread."""

    def __init__(
        self,
        owner: Owner,
        handler: Callable[[Delivery], object],
        outcomes: Outcomes,
        middleware: Middleware | None = None,
    ) -> None:
        super().__init__()
        self._owner = owner
        self._handler = Wrapped(handler, middleware or Middleware())
        self._outcomes = outcomes
        self.parked = 0
        """Deliveries that wait for a retry, or behind one."""
        self._answers: deque[tuple[ParkedKey, Delivery, Exception | None]] = deque()
        """Of dead letters: what became of them. From any thread."""
        self._nudged = False
        self._forked = False

    # -- any thread ------------------------------------------------------------------------------

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

    def look(self) -> None:
        """Acknowledge what is done, and see that nothing waits for a retry under an ended lease."""
        self.flush()
        if not self._nudged and self._keys.ended():
            self._nudged = True
            self.nudge()

    # -- the lane's thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Handle what comes until the end; then drop what is left."""
        self._thread_id = threading.get_ident()
        handling.in_child(self.forked)
        self._outcomes.begin()
        try:
            while self._one():
                pass
            self._drop_all_parked(self._keys.take_unsent())
            with self._lock:
                self._ended = True
                rest = self._rest()
            for entry in rest:
                self.drop(entry.batch, entry.lease, entry.size, begun=False)
            self._see_late_answers()
        finally:
            if not self._forked:
                self._owner.ended()

    def forked(self) -> None:
        """This is a child that its handler has forked: nothing is started or told here any more."""
        self._forked = True
        self._owner.halts.add(Halt.STOPPING)

    def _leave_child(self) -> None:
        """End the thread where the handler has come back in a child, which has no other one, and ends with it."""
        if self._forked:
            raise SystemExit

    def _one(self) -> bool:
        """See to one entry, or to what is due; False when the end has come."""
        owner = self._owner
        if self._kept and not owner.halts:
            self._begin(self._kept)
            return True
        if self._keys and owner.retrying and not owner.halts:
            self._retry_due()
        try:
            notice = self._inbox.take(self._patience())
        except Empty:
            return True
        if notice is Notice.ENTRY:
            self._begin(self._entries)
        elif notice is Notice.ANSWER:
            self._see_answers()
        elif notice is Notice.NUDGE:
            self._nudged = False
            self._drop_all_parked(self._keys.take_stale())  # what is not ours any more
            owner.ask_for_more()
        return notice is not Notice.END

    def _patience(self) -> float | None:
        """Seconds until there is something to do though nothing comes; None: for ever."""
        owner, due = self._owner, self._keys.due
        if due == NEVER or owner.halts or not owner.retrying:
            return None
        return min(max(0.0, due - time.monotonic()), LONGEST_NAP)

    def _rest(self) -> Sequence[Entry]:
        """Take out all that no handler was started for. Under the lock."""
        return [*all_of(self._kept), *all_of(self._entries)]

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
            keeps = bool(rest) and not (entry.lease.ended or Halt.STOPPING in self._owner.halts)
            if keeps:
                self._kept.appendleft(Entry(entry.lease, rest, left, entry.check, entry.since))
        if not rest:
            self._owner.settle(0, left)
        elif not keeps:
            self.drop(rest, entry.lease, left, begun=False)

    def _work(self, entry: Entry) -> int:
        """Handle a batch until something ends it; how many of it were seen to."""
        owner, keys, lease, check = self._owner, self._keys.waiting, entry.lease, entry.check
        middleware = self._handler.middleware
        links, handler = middleware.links, self._handler.now()
        position = 0
        for delivery in entry.batch:
            if keys:
                self._retry_due()
            if position >= self._cut or lease.ended or owner.halts or middleware.links is not links:
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
                self._fail(entry, delivery, error)  # first: its key is held at every moment
                self._pass_over(position)
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

    def _fail(self, entry: Entry, delivery: Delivery, error: BaseException, quiet: bool = False) -> None:
        """Park the key of a message whose handler has failed for the first time."""
        if entry.lease.ended:
            self._outcomes.failed(delivery, error, Tries(), quiet)
            self.drop((delivery,), entry.lease, 0)
            return
        parked = self._keys.park(lane_key(delivery), (entry.lease, delivery, False), entry.since)
        self._note_parked(delivery)
        self._failed(parked, error, quiet)
        if parked.messages:
            self._keys.plan(parked)
        else:
            self._keys.forget(parked)

    def _note_parked(self, delivery: Delivery) -> None:
        with self._lock:
            self._left = max(0, self._left - len(delivery.payload))
            self.parked += 1
        self._owner.settle(0, 0)  # it stands in nobody's way any more

    def _retry_due(self) -> None:
        """Try one key again if it is due; one at a time, so that many of them leave room for all else."""
        if self._answers:
            self._see_answers()
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
            else:
                self._keys.forget(parked)

    def _retry(self, parked: ParkedKey) -> None:
        """Try a parked message again, and those behind it if it succeeds."""
        while parked.messages and not self._owner.halts:
            lease, delivery, check = parked.messages[0]
            if lease.ended:
                parked.take_first()
                self._drop_parked(lease, delivery)
            elif parked.leaves_for is not None:
                self._send(parked)
                return
            elif check and not self._outcomes.claims(delivery):
                parked.take_first()
                self._settle_parked(delivery)
            else:
                error = self._try(parked, delivery)
                if error is not None:
                    parked.messages[0] = (lease, delivery, False)
                    self._failed(parked, error)
                    return
                self._take_out(parked, self._outcomes.done)

    def _try(self, parked: ParkedKey, delivery: Delivery) -> BaseException | None:
        """Start the handler on a parked message; what it raises."""
        delivery.starts = parked.tries.starts
        self._trying = delivery
        self._turns += 1
        try:
            result = self._handler.now()(delivery)
            if result is not None:
                refuse_unawaited(result)
        except BaseException as error:
            if self._forked:
                raise
            return error
        self._leave_child()
        return None

    def _failed(self, parked: ParkedKey, error: BaseException, quiet: bool = False) -> None:
        """The handler has failed on the first message of a parked key: see to what is to become of it."""
        (lease, delivery, _), tries = parked.messages[0], parked.tries
        tries.starts += 1
        try:
            verdict = self._outcomes.failed(delivery, error, tries, quiet)
        except Exception:  # of the user's error, say: the lane has to go on, or its keys hang for ever
            logger.exception("%s: judging a failure failed", threading.current_thread().name)
            verdict = Verdict(Next.AGAIN, 1.0)
        tries.failures += verdict.counts
        parked.wait(verdict.pause)
        if not self._owner.retrying:  # a failure while closing decides nothing
            return
        if verdict.next is Next.LEAVE:
            parked.leaves_for = error
            self._send(parked)
        elif verdict.next is Next.DROP:
            self._take_out(parked, self._outcomes.left_behind)
        elif verdict.next is Next.BACK:
            parked.take_first()
            self.parked -= 1
            self._outcomes.given_back((delivery,), lease, verdict.pause)
            self._owner.left((delivery,))
            self._owner.settle(1, len(delivery.payload))

    def _send(self, parked: ParkedKey) -> None:
        """Have the first message of a key stored as a dead letter; it waits for the answer."""
        _, delivery, _ = parked.messages[0]
        error = parked.leaves_for
        assert error is not None
        parked.due = NEVER

        def answered(trouble: Exception | None) -> None:
            self._answers.append((parked, delivery, trouble))
            self._inbox.put(Notice.ANSWER)
            if self._ended:
                self._see_late_answers()

        self._outcomes.leave(delivery, error, parked.tries.starts, answered)

    def _see_answers(self) -> None:
        """Let go of those whose dead letters are stored, try again to store the others."""
        while self._answers:
            parked, delivery, trouble = self._answers.popleft()
            if not self._keys.waits_first(parked, delivery):
                continue  # it was not ours any more
            if trouble is None:
                self._take_out(parked, self._outcomes.left_behind)
                parked.due = 0.0
            else:
                parked.tries.failures += 1
                parked.wait(self._outcomes.pause_after(parked.tries.failures))
            if parked.messages:
                self._keys.plan(parked)
            else:
                self._keys.forget(parked)

    def _see_late_answers(self) -> None:
        """The lane has ended: whoever brings the answer to a dead letter lets go of its message. Any thread."""
        while True:
            with self._lock:
                if not self._answers:
                    return
                parked, delivery, trouble = self._answers.popleft()
                if not self._keys.waits_first(parked, delivery):
                    continue
                lease, _, _ = parked.take_first()
                self._keys.forget(parked)
                self.parked -= 1
            if trouble is None:
                self._finish((delivery,), lease, len(delivery.payload), self._outcomes.left_behind)
            else:
                self.drop((delivery,), lease, len(delivery.payload))

    def _take_out(self, parked: ParkedKey, done: Callable[[Sequence[Delivery]], None]) -> None:
        """The first message of a key is done with, in this way."""
        lease, delivery, _ = parked.take_first()
        self.parked -= 1
        self._finish((delivery,), lease, len(delivery.payload), done)

    def _drop_all_parked(self, deliveries: Sequence[tuple[Lease, Delivery]]) -> None:
        for lease, delivery in deliveries:
            self._drop_parked(lease, delivery)

    def _drop_parked(self, lease: Lease, delivery: Delivery) -> None:
        self.parked -= 1
        self.drop((delivery,), lease, len(delivery.payload))

    def _settle_parked(self, delivery: Delivery) -> None:
        self.parked -= 1
        self._owner.left((delivery,))
        self._owner.settle(1, len(delivery.payload))

    def drop(self, deliveries: Sequence[Delivery], lease: Lease, size: int, *, begun: bool = True) -> None:
        """Give these up; on any thread. begun: a handler was started for one of them, or for one that they wait for."""
        if not lease.ended:
            self._owner.give_up(len(deliveries), begun)
        try:
            self._outcomes.dropped(deliveries, lease)
        except Exception:
            logger.exception("%s: giving back failed", threading.current_thread().name)
        finally:
            self._owner.left(deliveries)
            self._owner.settle(len(deliveries), size)

    def _finish(
        self,
        deliveries: Sequence[Delivery],
        lease: Lease,
        size: int,
        done: Callable[[Sequence[Delivery]], None] | None = None,
    ) -> None:
        try:
            (done or self._outcomes.done)(deliveries)
        except Exception:  # ours, not the handler's: the lane has to go on, or its keys hang for ever
            logger.exception("%s: acknowledging failed", threading.current_thread().name)
            self.drop(deliveries, lease, size)  # kept in hand it would be renewed and never handled
        else:
            self._owner.left(deliveries)
            self._owner.settle(len(deliveries), size)
