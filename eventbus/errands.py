"""Calls that run on threads of ours while their callers wait.

An exception can end a call at any instruction: Ctrl-C, a time limit out of a signal handler, SystemExit. Signals reach
the main thread only, so what must not be left half done is done elsewhere, and whoever asks only waits. For the same
reason a signal handler may ask: it meets no lock that the call under it holds.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from . import log
from .threads import Bell, Deadline, StopToken, spawn

logger = log.get(__name__)

_Result = TypeVar("_Result")

START = 5.0
"""Seconds that the dispatcher has to be there; without it each errand starts its own thread."""
GRACE = 0.25
"""Seconds beyond its time that a call has to end by itself, before its caller is told that it did not."""


class NotInTime(Exception):
    """Internal: a call did not end in its time. Not a TimeoutError: those are what signal handlers raise."""


class Errand(Generic[_Result]):
    """One call, its outcome, and a way to ask for its end.

    `call(stop)` runs once. `undo(result)` runs behind it if nobody wants the result any more.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[StopToken], _Result],
        undo: Callable[[_Result], object] | None = None,
        told: Bell | None = None,
    ) -> None:
        """told: rings at its end, and whenever whoever waits for it is to look at something else."""
        self.name = name
        self.stop = StopToken()
        self._call = call
        self._undo = undo
        self._bell = told or Bell()
        self._begun = [False]
        self._over = False
        self._results: list[_Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call, once; what it raises is kept for the caller."""
        try:
            self._begun.pop()
        except IndexError:
            return
        try:
            self._results.append(self._call(self.stop))
        except BaseException as error:
            self._error = error
        self._over = True
        self._bell.ring()
        if self.stop.is_set():
            self.take_back()

    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self._over

    def wait(self, timeout: float, or_else: Callable[[], object] = lambda: False) -> bool:
        """Wait up to `timeout` seconds for the end of the call, or for something else; False when it goes on."""
        self._bell.wait_for(lambda: self._over or or_else(), Deadline(timeout))
        return self._over

    def result(self) -> _Result:
        """What the call returned, or raises what it raised; only once it is over."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def give_up(self) -> None:
        """The caller has gone: end the call, and undo it if it has ended already. Not on the caller's thread."""
        self.stop.set()
        if self._over:
            self.take_back()

    def take_back(self) -> None:
        """Undo the call, once, if it had a result."""
        try:
            result = self._results.pop()
        except IndexError:
            return
        if self._undo is not None:
            self._undo(result)


_Queue = SimpleQueue[tuple[Callable[[], object], "str | None"]]


class Errands:
    """The threads that run the errands of one bus: one dispatches them, and runs the last one itself.

    It exists from `start` to the last errand, for at the end of the interpreter no thread can be started any more.
    """

    def __init__(self, thread_name: str, owner: object) -> None:
        self._name = thread_name
        self._owner = owner
        self._queue: _Queue | None = None
        self._wanted = False
        """Whether a dispatcher is to be there: a thread that is to start one may come late, behind the last errand."""
        self._opened = Bell()
        self._beginning = threading.Lock()
        """Never taken by a caller."""
        self._told = Bell()
        self._fork: Callable[[], Exception] | None = None
        """In a forked child: makes what everybody is told."""

    @property
    def thread_name(self) -> str:
        """Of the dispatcher."""
        return f"{self._name}.errands"

    @property
    def running(self) -> bool:
        """Whether there is a dispatcher."""
        return self._queue is not None

    def start(self) -> None:
        """Have a dispatcher; idempotent."""
        self._wanted = True
        if self._queue is None:
            # Two steps, and the second on a thread that no signal interrupts: `Thread.start` is not safe from them.
            _thread.start_new_thread(self._begin, ())
            self._opened.wait_for(lambda: self._queue or self._fork or not self._wanted, Deadline(START))

    def run(
        self,
        what: str,
        call: Callable[[StopToken], _Result],
        timeout: float,
        undo: Callable[[_Result], object] | None = None,
        asked: list[Errand[_Result]] | None = None,
    ) -> _Result:
        """What the call returns or raises; it bounds itself by `timeout` seconds.

        NotInTime when it does not. A caller that leaves with an exception or with that sets its stop token, and
        has `undo(result)` called once the call has ended all the same. asked: takes the errand, for a caller further
        out to `leave` it: an exception may come at the return from here, too. In a forked child: see `forked`.
        """
        errand, queue = Errand(what, call, undo, self._told), self._queue
        if asked is not None:
            asked.append(errand)
        try:
            if queue is not None:
                queue.put((errand.run, f"{self._name}.{what}"))
            if queue is None or queue is not self._queue:  # the dispatcher may have gone, and not have seen it
                self._start_alone(errand.run, what)
            if not errand.wait(timeout + GRACE, lambda: self._fork):
                if self._fork is not None:
                    raise self._fork()
                raise NotInTime(f"{what}() did not end within {timeout:g} s")
            return errand.result()
        except BaseException:
            self.leave(errand)
            raise

    def leave(self, errand: Errand[_Result]) -> None:
        """Its caller has gone with an exception: end it, and undo it; once more than needed does no harm."""
        if errand.stop.is_set():
            return
        errand.stop.mark()
        queue = self._queue
        if queue is not None:
            queue.put((errand.give_up, f"{self._name}.{errand.name}"))
        if queue is None or queue is not self._queue:
            self._start_alone(errand.give_up, errand.name)

    def leave_all(self, errands: Sequence[Errand[Any]]) -> None:
        """What `run` noted in `asked`: their caller has gone."""
        for errand in errands:
            self.leave(errand)

    def stop(self) -> None:
        """Let the dispatcher go, which may come again."""
        self._wanted = False
        queue, self._queue = self._queue, None
        self._opened.ring()
        if queue is not None:
            queue.put((_nothing, None))

    def run_last(self, call: Callable[[], object]) -> None:
        """Have the dispatcher run this itself and go; at once, and the caller does not wait. It may run twice."""
        self._wanted = False
        queue = self._queue
        self._opened.ring()
        if queue is not None:
            queue.put((call, None))
        if queue is None or queue is not self._queue:  # the dispatcher may have gone, and not have seen it
            self._start_alone(call, "close")

    def forked(self, error: Callable[[], Exception]) -> None:
        """This is a forked child's copy: what was asked for is done in the parent, if anywhere. Takes no lock.

        Whoever waits here, or asks from now on, is told with this error, and nothing runs.
        """
        self._fork = error
        self._queue = None
        self._told.ring()
        self._opened.ring()

    def _start_alone(self, call: Callable[[], object], what: str) -> None:
        """Have a call made where there is no dispatcher: as `start`, in two steps."""
        try:
            _thread.start_new_thread(self._spawn, (call, f"{self._name}.{what}"))
        except RuntimeError:  # the interpreter is ending, and starts no thread any more
            call()

    def _spawn(self, call: Callable[[], object], name: str) -> None:
        if self._fork is None:
            spawn(name, _guarded, call, owner=self._owner)

    def _begin(self) -> None:
        with self._beginning:
            if self._wanted and self._queue is None and self._fork is None:
                queue: _Queue = SimpleQueue()
                spawn(self.thread_name, self._serve, queue, owner=self._owner)
                self._queue = queue
        self._opened.ring()

    def _serve(self, queue: _Queue) -> None:
        while True:
            call, name = queue.get()
            if name is None:
                break
            try:
                spawn(name, _guarded, call, owner=self._owner)
            except RuntimeError:  # the interpreter is ending, and starts no thread any more
                _guarded(call)
            call = _nothing  # what an errand returned is its caller's alone
        _guarded(call)
        if self._queue is queue:
            self._queue = None
        with suppress(Empty):  # whoever asked before he could know that it goes is still served
            while True:
                _guarded(queue.get_nowait()[0])


def _guarded(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        logger.exception("an errand failed")


def _nothing() -> None:
    """The last errand of a dispatcher that is only to go."""
