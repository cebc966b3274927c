"""The one thread that gives records to a session, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from .. import log
from ..errors import SessionRetired
from ..threads import Deadline, join_all, spawn
from .inbox import SMALL, Inbox
from .ledger import Ledger
from .port import PublishingPort
from .records import Record, number_of, payload_of, waiter_of

logger = log.get(__name__)

SLICE = 8192
"""Records given to a port at a time."""
MOST = SLICE
"""Records taken in at a time: so long an urgent request has to wait."""
NAP = 0.5
"""Seconds after which a sender that nobody woke looks again: whoever appends may be interrupted before he wakes it."""
LOOK = 0.1
"""Seconds between two looks whether the sender that was asked for something is still there."""


class Sender:
    """Moves records from the inbox to the ledger and on to the port of the current session.

    Everything that is not marked otherwise runs on its thread, or, before `start`, on the thread of whoever
    asks for it. withdrawn(records): these are taken back. failed(record, error): a port broke its contract.
    unwanted(records): no port took these, nor did any before.
    """

    def __init__(
        self,
        inbox: Inbox,
        ledger: Ledger,
        withdrawn: Callable[[Sequence[Record]], object],
        failed: Callable[[Record, Exception], object],
        unwanted: Callable[[Sequence[Record]], object],
    ) -> None:
        self._inbox = inbox
        self._ledger = ledger
        self._withdrawn = withdrawn
        self._failed = failed
        self._unwanted = unwanted
        self.port: PublishingPort | None = None
        """Where new records go; None: they stay in the ledger."""
        self._again: deque[Record] = deque()
        """Records in the ledger that the port of now is still to be given."""
        self.ungiven: set[int] = set()
        """Numbers of records in the ledger that were never given to a client."""
        self.carried: set[int] = set()
        """Numbers of records that an earlier session had and did not answer: they may be stored."""
        self.ended = False
        """Nothing is taken out of the inbox any more."""
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- any thread ------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, name: str) -> None:
        """Run on a thread called `name` from now on; once it runs nothing happens."""
        if self._thread is None or not self._thread.is_alive():
            self.ended = self._stopping = False
            self._thread = spawn(name, self._run)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the thread, within `timeout` seconds; its name if it goes on. `start` begins anew."""
        thread = self._thread
        if thread is None:
            self.ended = True
            self._inbox.idle = True
            self.work()
            return ()
        self._stopping = True
        self._inbox.wake()
        return join_all([thread], timeout)

    def call(self, work: Callable[[], object], timeout: float, *, at_once: bool = False) -> None:
        """Have `work` done by the sender and wait for it, up to `timeout` seconds; raises what it raises.

        After all that was accepted before was taken in; with `at_once` before that: what publishers have left by
        then may take longer than a change of sessions. On threads of ours only. TimeoutError: it is done later.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._do_here(work)
            return
        done = threading.Lock()
        done.acquire()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
            finally:
                done.release()

        queue, deadline = self._inbox.urgent if at_once else self._inbox.requests, Deadline(timeout)
        (self._inbox.ask_at_once if at_once else self._inbox.ask)(run)
        while not done.acquire(timeout=min(LOOK, deadline.remaining())):
            if not thread.is_alive() and run in queue:  # it ended in this moment
                queue.remove(run)
                self._do_here(work)
                return
            if deadline.over:
                raise TimeoutError("the sender thread is busy")
        if errors:
            raise errors.pop()

    def _do_here(self, work: Callable[[], object]) -> None:
        self._take_in()
        work()
        self._resend()

    # -- the sender's thread ---------------------------------------------------------------------

    def work(self) -> None:
        """Do what there is to do now."""
        inbox = self._inbox
        while self._again or not inbox.is_empty:
            if inbox.urgent:
                self._do_urgent()
            if inbox.requests:
                self._take_in()
                inbox.requests.popleft()()
            if inbox.withdrawn:
                self._take_back()
            if self._again or inbox.records:
                self._pass_on()

    def switch(self, port: PublishingPort) -> None:
        """Give everything unanswered to a new port, in order, then what comes new.

        It begins with the first of them, and the rest follows as the sender's next work: so this ends soon, however
        much is unanswered, and whatever publishers do. SessionRetired: the port died; all is for the next one.
        """
        self.let_go()
        self.carried = self._ledger.records.keys() - self.ungiven
        self._again.extend(self._ledger.records.values())
        self._give_again(port)
        self.port = port

    def let_go(self) -> None:
        """Give nothing to the port of now any more."""
        self.port = None
        self._again.clear()

    def _run(self) -> None:
        while not self._stopping:
            self._inbox.wait(NAP)
            self._work_on()
        self.ended = True
        self._inbox.idle = True  # whoever appends from now on looks at `ended`
        self._work_on()  # whoever appended before he could see that

    def _work_on(self) -> None:
        try:
            self.work()
        except Exception:  # a bug of ours may cost one step, never the thread that all publishing rests on
            logger.exception("the sender thread goes on after an error")

    def _take_in(self) -> None:
        """Take in all that was accepted so far, and give it away."""
        for _ in range(len(self._inbox.records) // MOST + 1):
            self._pass_on()
            self._do_urgent()

    def _do_urgent(self) -> None:
        urgent = self._inbox.urgent
        while urgent:
            urgent.popleft()()

    def _give_again(self, port: PublishingPort) -> None:
        """The next records that a session before this one had, or that waited for one; SessionRetired: it is over."""
        records, ungiven, again = self._ledger.records, self.ungiven, self._again
        piece: list[Record] = []
        while again and len(piece) < SLICE:
            record = again.popleft()
            if number_of(record) in records:  # else it was answered meanwhile
                piece.append(record)
        took, going = self._give(port, piece, [record for record in piece if number_of(record) in ungiven])
        if took < len(going):
            self.let_go()
            raise SessionRetired("the session takes nothing more")

    def _resend(self) -> None:
        while self._again and self.port is not None:
            with suppress(SessionRetired):  # it is let go then, and what it did not take waits for the next one
                self._give_again(self.port)
            self._do_urgent()

    def _pass_on(self) -> None:
        """Give the next records, those that are to be given again first."""
        self._resend()
        inbox = self._inbox
        batch = self._ledger.enter(MOST)
        if inbox.largest > SMALL:
            inbox.largest = max([SMALL, *map(len, map(payload_of, inbox.records.copy()))])
        if not batch:
            return
        if self.port is None:
            self._keep(batch)
            return
        took, going = self._give(self.port, batch, batch)
        if took < len(going):
            self.let_go()
            self._keep(going[took:])

    def _keep(self, records: Sequence[Record]) -> None:
        """No client was given these: they wait for the next one, unless they are not wanted."""
        self.ungiven.update(map(number_of, records))
        self._unwanted(records)

    def _give(
        self, port: PublishingPort, records: Sequence[Record], fresh: Sequence[Record]
    ) -> tuple[int, Sequence[Record]]:
        """How many the port took, and of which. fresh: those of the records that no client was given before."""
        going = records
        if any(map(waiter_of, fresh)):
            without = {number for number, _, _, _, waiter in fresh if waiter is not None and not waiter.claim(number)}
            if without:
                self._withdrawn([record for record in fresh if number_of(record) in without])
                going = [record for record in records if number_of(record) not in without]
        if not going:
            return 0, going
        if self.ungiven:  # before: what the port gives back is added again
            self.ungiven.difference_update(map(number_of, going))
        try:
            took = port.publish(going)
        except Exception as error:
            logger.exception("a publisher failed, instead of saying how many it took")
            for record in going:
                self._failed(record, error)
            return len(going), going
        if took < len(going):
            self._untaken(going[took:], fresh)
        return took, going

    def _untaken(self, records: Sequence[Record], fresh: Sequence[Record]) -> None:
        """A port did not take these: of those that no client had before each may be withdrawn again."""
        claimed = set(map(number_of, fresh))
        for record in records:
            if number_of(record) in claimed:
                self.ungiven.add(number_of(record))
                waiter = waiter_of(record)
                if waiter is not None:
                    waiter.give_back(number_of(record))

    def _take_back(self) -> None:
        withdrawn = self._inbox.withdrawn
        while withdrawn:
            record = self._ledger.records.get(withdrawn[0])
            if record is None and self._inbox.records:
                self._take_in()
                record = self._ledger.records.get(withdrawn[0])
            if record is not None:
                self._withdrawn([record])
            withdrawn.popleft()
