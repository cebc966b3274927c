"""Stop tokens, deadlines and named daemon threads: the only ways in which the library waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Stopped(Exception):
    """Internal: a wait ended because its stop token was set."""


def seconds(timeout: float | None, default: float) -> float:
    """The timeout that a user passed, or the default for None; ValueError unless it is a number >= 0."""
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds >= 0 or None, not {timeout!r}")
    return min(timeout, threading.TIMEOUT_MAX)


def yes_or_no(value: bool, name: str) -> bool:
    """The flag that a user passed; TypeError unless it is a bool: the text "no" is true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


class Deadline:
    """A point in time that bounds several waits. `None` seconds means no bound."""

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds left, never negative; a very long time when there is no bound."""
        if self._at is None:
            return threading.TIMEOUT_MAX
        return max(0.0, self._at - time.monotonic())

    def share(self, part: float) -> float:
        """That part of the seconds left."""
        return self.remaining() * part

    @property
    def over(self) -> bool:
        """True once the time is up."""
        return self._at is not None and time.monotonic() >= self._at


class StopToken:
    """A request to stop that wakes everything waiting on it. Set once, never cleared.

    A child is set with its parent; setting the child leaves the parent alone.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Ask to stop: ends all waits at once and runs the registered callbacks on this thread."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            self._run(callback)

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def wait(self, timeout: float) -> bool:
        """Sleep up to `timeout` seconds; True as soon as a stop is asked for."""
        return self._event.wait(min(timeout, threading.TIMEOUT_MAX))

    def check(self) -> None:
        """Raise `Stopped` if a stop was asked for."""
        if self._event.is_set():
            raise Stopped

    @contextmanager
    def interrupts(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within the block a stop calls `callback`, which must be quick and may run twice."""
        key = object()
        with self._lock:
            self._callbacks[key] = callback
        try:
            if self._event.is_set():
                self._run(callback)
            yield
        finally:
            with self._lock:
                self._callbacks.pop(key, None)

    def child(self) -> StopToken:
        """A token of its own that this one sets too."""
        token = StopToken()
        with self._lock:
            self._callbacks[token] = token.set
            late = self._event.is_set()
        if late:
            token.set()
        return token

    def release(self, child: StopToken) -> None:
        """Forget a child that is no longer needed."""
        with self._lock:
            self._callbacks.pop(child, None)

    @staticmethod
    def _run(callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:  # whoever asks for a stop must not fail, nor leave the others without it
            logger.exception("a callback of a stop failed")


def spawn(name: str, target: Callable[..., object], *args: object) -> threading.Thread:
    """Start a daemon thread called `name`."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


def join_all(threads: Iterable[threading.Thread], timeout: float) -> tuple[str, ...]:
    """Wait up to `timeout` seconds in all; return and log the names of those that still run.

    The calling thread is never waited for.
    """
    deadline = Deadline(timeout)
    unfinished = []
    for thread in threads:
        if thread is threading.current_thread():
            continue
        thread.join(deadline.remaining())
        if thread.is_alive():
            unfinished.append(thread.name)
    if unfinished:
        logger.warning("still running after %.1f s: %s", timeout, ", ".join(unfinished))
    return tuple(unfinished)


class OrderedWorker:
    """Runs submitted calls one after another on a daemon thread of its own, started by the first one.

    An error in a call goes to `on_error` (on the same thread) and changes nothing else.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], object]) -> None:
        self._name = name
        self._on_error = on_error
        self._lock = threading.Lock()
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, call: Callable[..., object], *args: object) -> bool:
        """Queue a call; False once closed. Never blocks."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                self._thread = spawn(self._name, self._run)
            self._calls.put((call, args))
            return True

    def close(self, timeout: float) -> tuple[str, ...]:
        """Take no more calls, wait up to `timeout` seconds for the queued ones; name what still runs."""
        with self._lock:
            closed, self._closed = self._closed, True
            thread = self._thread
        if thread is None:
            return ()
        if not closed:
            self._calls.put(None)
        return join_all([thread], timeout)

    def _run(self) -> None:
        while (entry := self._calls.get()) is not None:
            call, args = entry
            try:
                call(*args)
            except BaseException as error:  # a SystemExit in a user's code may not end this thread
                logger.exception("%s: a call failed", self._name)
                self._report(error)

    def _report(self, error: BaseException) -> None:
        try:
            self._on_error(error)
        except BaseException:
            logger.exception("%s: reporting an error failed", self._name)


def interruptibly(name: str, call: Callable[[], _Result], timeout: float, stop: StopToken) -> _Result:
    """What a call returns or raises that cannot be interrupted itself: it runs on a daemon thread called `name`.

    `Stopped` as soon as a stop is asked for, TimeoutError after `timeout` seconds: the call then goes on unheard.
    """
    done, unheard = threading.Event(), threading.Event()
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()
            if unheard.is_set():
                errors.clear()  # its traceback and what was called hold each other until the collector comes

    stop.check()
    spawn(name, run)
    with stop.interrupts(done.set):
        in_time = done.wait(min(timeout, threading.TIMEOUT_MAX))
    if errors:
        raise errors.pop()
    if results:
        return results[0]
    unheard.set()
    errors.clear()
    stop.check()
    raise TimeoutError(f"no result within {timeout:g} s" if not in_time else "the call ended without a result")
