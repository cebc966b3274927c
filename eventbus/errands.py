"""Calls that run on threads of ours while their callers wait.

An exception can end a call at any instruction: Ctrl-C, a time limit out of a signal handler, SystemExit. Signals reach
the main thread only, so what must not be left half done is done elsewhere, and whoever asks only waits. For the same
reason a signal handler may ask: it meets no lock that the call under it holds.
"""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from .threads import Bell, Deadline, StopToken, spawn

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

GRACE = 0.25
"""Seconds beyond its time that a call has to end by itself, before its caller is told that it did not."""


class Errand(Generic[_Result]):
    """One call, its outcome, and a way to ask for its end.

    `call(stop)` runs once. `undo(result)` runs behind it if nobody wants the result any more.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[StopToken], _Result],
        undo: Callable[[_Result], object] | None = None,
    ) -> None:
        self.name = name
        self.stop = StopToken()
        self._call = call
        self._undo = undo
        self._bell = Bell()
        self._over = False
        self._results: list[_Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call; what it raises is kept for the caller."""
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

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end of the call; False when it goes on."""
        return self._bell.wait_for(self.is_over, Deadline(timeout))

    def result(self) -> _Result:
        """What the call returned, or raises what it raised; only once it is over."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def give_up(self) -> bool:
        """The caller goes; True when the call has ended already, and somebody has to `take_back` its result."""
        self.stop.set()
        return self._over

    def take_back(self) -> None:
        """Undo the call, once, if it had a result."""
        try:
            result = self._results.pop()
        except IndexError:
            return
        if self._undo is not None:
            self._undo(result)


class Errands:
    """The threads that run the errands of one bus: a doorman, who starts one for each, and runs the last one himself.

    He exists from `start` to the last errand, for at the end of the interpreter no thread can be started any more.
    """

    def __init__(self, thread_name: str, owner: object) -> None:
        self._name = thread_name
        self._owner = owner
        self._asked: SimpleQueue[tuple[Callable[[], object], str | None]] = SimpleQueue()
        self._started = False
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether there is a doorman; without one errands run on the thread that asks."""
        return self._started

    def start(self) -> None:
        """Have a doorman; idempotent."""
        if not self._started:
            # Two steps, and the second on a thread that no signal interrupts: `Thread.start` is not safe from them.
            _thread.start_new_thread(self._begin, ())
            self._started = True

    def run(
        self,
        what: str,
        call: Callable[[StopToken], _Result],
        timeout: float,
        undo: Callable[[_Result], object] | None = None,
    ) -> _Result:
        """What the call returns or raises; it bounds itself by `timeout` seconds.

        TimeoutError when it does not. A caller that leaves with an exception or with that sets its stop token, and
        has `undo(result)` called once the call has ended all the same.
        """
        errand = Errand(what, call, undo)
        try:
            if self._started:
                self._asked.put((errand.run, f"{self._name}.{what}"))
                if not errand.wait(timeout + GRACE):
                    raise TimeoutError(f"{what}() did not end within {timeout:g} s")
            else:
                errand.run()
            return errand.result()
        except BaseException:
            if errand.give_up():
                self._asked.put((errand.take_back, f"{self._name}.{what}"))
            raise

    def stop(self) -> None:
        """Let the doorman go, who may come again: what is asked for now runs on the thread that asks."""
        self._started = False
        self.run_last(lambda: None)

    def run_last(self, call: Callable[[], object]) -> None:
        """Have the doorman run this himself and end; at once, and the caller does not wait."""
        self._asked.put((call, None))

    def _begin(self) -> None:
        spawn(f"{self._name}.errands", self._serve, owner=self._owner)

    def _serve(self) -> None:
        while True:
            call, name = self._asked.get()
            if name is None:
                self._guarded(call)
                return
            try:
                spawn(name, self._guarded, call, owner=self._owner)
            except RuntimeError:  # the interpreter is ending, and starts no thread any more
                self._guarded(call)

    @staticmethod
    def _guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:
            logger.exception("an errand failed")
