"""Threads of ours that make calls for others: one after another, or side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from . import log
from .threads import Deadline, join_all, spawn

logger = log.get(__name__)


class OrderedWorker:
    """Runs submitted calls one after another on a daemon thread of its own, started by the first one.

    An error in a call goes to `on_error` (on the same thread) and changes nothing else.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], object], owner: object = None) -> None:
        self._name = name
        self._on_error = on_error
        self._owner = owner
        self._lock = threading.Lock()
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, call: Callable[..., object], *args: object) -> bool:
        """Queue a call; False once closed. Never blocks, and never fails: without a thread `close` makes the calls."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                with suppress(RuntimeError):  # the interpreter is ending, or has as many threads as it may have
                    self._thread = spawn(self._name, self._run, owner=self._owner)
            self._calls.put((call, args))
            return True

    def close(self, timeout: float) -> tuple[str, ...]:
        """Take no more calls, wait up to `timeout` seconds for the queued ones; name what still runs."""
        with self._lock:
            closed, self._closed = self._closed, True
            thread = self._thread
        if not closed:
            self._calls.put(None)
        if thread is not None:
            return join_all([thread], timeout)
        if not closed:
            self._run()
        return ()

    def _run(self) -> None:
        process = os.getpid()
        while (entry := self._calls.get()) is not None:
            call, args = entry
            try:
                call(*args)
            except BaseException as error:  # a SystemExit in a user's code may not end this thread
                if os.getpid() == process:
                    logger.exception("%s: a call failed", self._name)
                    self._report(error)
            if os.getpid() != process:
                return  # a child that the call has forked: what is queued is its parent's, and it ends with this thread

    def _report(self, error: BaseException) -> None:
        try:
            self._on_error(error)
        except BaseException:
            logger.exception("%s: reporting an error failed", self._name)


class Helpers:
    """Runs submitted calls side by side on daemon threads of its own, as many as that takes, up to `MOST`.

    An error in a call goes to `on_error`, as in `OrderedWorker`.
    """

    MOST = 4

    def __init__(self, name: str, on_error: Callable[[BaseException], object], owner: object = None) -> None:
        self._workers = [OrderedWorker(f"{name}-{number}", on_error, owner) for number in range(self.MOST)]
        self._busy = [0] * self.MOST
        self._lock = threading.Lock()

    def submit(self, call: Callable[..., object], *args: object) -> bool:
        """Have a call made by the helper that has the least to do; False once closed. Never blocks."""
        with self._lock:
            chosen = min(range(self.MOST), key=lambda number: self._busy[number])
            self._busy[chosen] += 1
        return self._workers[chosen].submit(self._run, chosen, call, args)

    def close(self, timeout: float) -> tuple[str, ...]:
        """Take no more calls, wait up to `timeout` seconds for the queued ones; name what still runs."""
        deadline = Deadline(timeout)
        return tuple(name for worker in self._workers for name in worker.close(deadline.remaining()))

    def _run(self, number: int, call: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            call(*args)
        finally:
            with self._lock:
                self._busy[number] -= 1
