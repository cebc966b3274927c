"""Stop tokens, deadlines and named daemon threads: the only ways in which the library waits."""

from __future__ import annotations

import threading
import time
from _thread import LockType
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty
from typing import Generic, TypeVar

from attrs import frozen

from . import log

logger = log.get(__name__)

_Item = TypeVar("_Item")
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


@frozen
class Pauses:
    """Pauses that grow: `first` seconds, then each `factor` times the one before, `longest` seconds at most."""

    first: float
    factor: float
    longest: float

    def after(self, times: int) -> float:
        """Seconds to pause after so many times, from 1 on."""
        try:
            return min(self.first * self.factor ** (times - 1), self.longest)
        except OverflowError:  # long before anybody waits for it: 2.0**1100
            return self.longest if self.first else 0.0


SIGNAL_LOOK = 1.0
"""Seconds between two looks for signals: one that the system has given to another thread wakes nobody here."""


def taken(lock: LockType, timeout: float) -> bool:
    """Take a lock, within `timeout` seconds; a signal's handler runs meanwhile, whichever thread the signal went to."""
    deadline = Deadline(timeout)
    while not lock.acquire(timeout=min(SIGNAL_LOOK, deadline.remaining())):
        if deadline.over:
            return False
    return True


class Bell:
    """Wakes whoever waits for a change.

    Unlike `threading.Condition` and `threading.Event` it survives an exception at any instruction of a wait, and may
    be rung or waited for in a signal handler: there is no lock that two of its callers need. (Their `__enter__` is
    Python code: interrupted behind its first line it leaves its lock taken for ever.)
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[LockType, bool] = {}

    def ring(self) -> None:
        """Let all that wait look at their condition again."""
        for waiting in list(self._waiting):
            if self._waiting.pop(waiting, False):  # else another one rings, too
                waiting.release()

    def wait_for(self, condition: Callable[[], object], deadline: Deadline) -> bool:
        """Wait until the condition holds or the time is up; whether it holds. The condition takes no lock."""
        while not condition():
            if deadline.over:
                return False
            own = threading.Lock()
            own.acquire()
            self._waiting[own] = True
            try:
                if not condition():  # it may have changed before we were among the waiting
                    taken(own, deadline.remaining())
            finally:
                self._waiting.pop(own, None)
        return True


class Alarm:
    """Wakes the one thread that waits on it; a call that comes before the wait is kept. Safe as a `Bell`."""

    __slots__ = ("_quiet",)

    def __init__(self) -> None:
        self._quiet = threading.Lock()
        """Taken while nobody calls."""
        self._quiet.acquire()

    def set(self) -> None:
        """Wake the thread, now or at its next wait."""
        if self._quiet.locked():  # else it is called already
            with suppress(RuntimeError):  # and now it may be, too
                self._quiet.release()

    def wait(self, timeout: float | None) -> bool:
        """Sleep up to `timeout` seconds; True when it was called. All calls until then count as one. None: no bound."""
        return self._quiet.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class Mailbox(Generic[_Item]):
    """What any thread puts in, in order, for the one thread that takes it out. Safe as a `Bell`.

    Where a wait has no bound, `queue.SimpleQueue` does. With one, its `get` may wait for ever: it waits in two steps,
    and if the time is up between them the second one is without a bound (CPython before 3.13). A short timeout, a busy
    machine or SIGSTOP bring that about.
    """

    __slots__ = ("_alarm", "_items")

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._alarm = Alarm()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: _Item) -> None:
        """Add an item. Never blocks."""
        self._items.append(item)
        self._alarm.set()

    def take(self, timeout: float | None = None) -> _Item:
        """The next item; `queue.Empty` if there is none for `timeout` seconds. None: no bound."""
        items = self._items
        if not items:
            deadline = Deadline(timeout)
            while not items:
                if not self._alarm.wait(deadline.remaining()) and not items:
                    raise Empty
        return items.popleft()


class StopToken:
    """A request to stop that wakes everything waiting on it. Set once, never cleared.

    A child is set with its parent; setting the child leaves the parent alone. Setting one takes no lock: it may
    happen in a signal handler.
    """

    def __init__(self) -> None:
        self._is_set = self._is_told = False
        self._bell = Bell()
        self._callbacks: dict[object, Callable[[], object]] = {}

    def mark(self) -> None:
        """Ask to stop in one single step, on a thread that an exception may interrupt; `set` follows on another one."""
        self._is_set = True

    def set(self) -> None:
        """Ask to stop: ends all waits at once and runs the registered callbacks on this thread."""
        if self._is_told:
            return
        before = self._callbacks.copy()
        self._is_set = self._is_told = True
        self._bell.ring()
        # Whoever registers from here on looks by himself; whoever left since has seen that it is set.
        for callback in (before | self._callbacks).values():
            self._run(callback)

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._is_set

    def wait(self, timeout: float) -> bool:
        """Sleep up to `timeout` seconds; True as soon as a stop is asked for."""
        return self._bell.wait_for(self.is_set, Deadline(timeout))

    def check(self) -> None:
        """Raise `Stopped` if a stop was asked for."""
        if self._is_set:
            raise Stopped

    @contextmanager
    def interrupts(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within the block a stop calls `callback`, which must be quick and may run twice."""
        key = object()
        self._callbacks[key] = callback
        try:
            if self._is_set:
                self._run(callback)
            yield
        finally:
            self._callbacks.pop(key, None)

    def child(self) -> StopToken:
        """A token of its own that this one sets too."""
        token = StopToken()
        self._callbacks[token] = token.set
        if self._is_set:  # after the registration: whoever set it may have looked before
            token.set()
        return token

    def forget(self, child: StopToken) -> None:
        """Forget a child that is no longer needed."""
        self._callbacks.pop(child, None)

    @staticmethod
    def _run(callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:  # whoever asks for a stop must not fail, nor leave the others without it
            logger.exception("a callback of a stop failed")


class OwnThread(threading.Thread):
    """A daemon thread of ours. owner: the one it works for; None for nobody in particular."""

    is_ours = True

    def __init__(self, name: str, call: Callable[[], object], owner: object) -> None:
        super().__init__(target=call, name=name, daemon=True)
        self.owner = owner


def spawn(name: str, target: Callable[..., object], *args: object, owner: object = None) -> threading.Thread:
    """Start a daemon thread called `name`; code that runs on it finds `owner` with `works_for`."""
    thread = OwnThread(name, partial(target, *args), owner)
    thread.start()
    return thread


def works_for(owner: object) -> bool:
    """Whether the calling thread was spawned for this owner."""
    thread = threading.current_thread()
    return isinstance(thread, OwnThread) and thread.owner is owner


def join_all(threads: Iterable[threading.Thread], timeout: float) -> tuple[str, ...]:
    """Wait up to `timeout` seconds in all; return and log the names of those that still run.

    The calling thread is never waited for.
    """
    unfinished = alive_after(threads, timeout)
    if unfinished:
        logger.warning("still running after %.1f s: %s", timeout, ", ".join(unfinished))
    return unfinished


def alive_after(threads: Iterable[threading.Thread], timeout: float) -> tuple[str, ...]:
    """Wait up to `timeout` seconds in all; the names of those that still run, which is nothing to log here.

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
    return tuple(unfinished)


def drained(found: deque[_Result] | None, most: int = 2**62) -> list[_Result]:
    """Take out up to so many, oldest first; each is taken by one thread. Never waits.

    An exception out of a signal handler leaves them in.
    """
    taken: list[_Result] = []
    try:
        while found and len(taken) < most:
            taken.append(found.popleft())
    except IndexError:  # another thread has taken the last one
        pass
    except BaseException:
        if found is not None:
            found.extendleft(reversed(taken))
        raise
    return taken


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
