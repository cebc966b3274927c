"""Several ways to the same end, started one after another: the first that gets there wins."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Generic, TypeVar

from ....threads import Deadline, Mailbox, StopToken, spawn

STAGGER = 0.25
"""Seconds that one has alone before the next one starts beside it; it goes on all the same."""
_LOOK_EVERY = 0.05

_Prize = TypeVar("_Prize")
Way = Callable[[StopToken], _Prize]
"""`way(stop)` returns the prize or raises; once `stop` is set it ends soon, whatever it waits for."""


class Race(Generic[_Prize]):
    """Runs ways on threads called `name`. give_back(prize): of one that came too late."""

    def __init__(self, name: str, give_back: Callable[[_Prize], object]) -> None:
        self._name = name
        self._give_back = give_back
        self._waiting: deque[Way[_Prize]] = deque()
        self._news: Mailbox[tuple[_Prize | None, BaseException | None]] = Mailbox()
        self._lock = threading.Lock()
        self._over = False
        self._running = 0

    def add(self, ways: Sequence[Way[_Prize]]) -> None:
        """These may be tried, too, in front of those that wait. On a way's thread, before it ends, or before `run`."""
        with self._lock:
            self._waiting.extendleft(reversed(ways))

    def run(self, deadline: Deadline, stop: StopToken) -> tuple[_Prize | None, list[BaseException]]:
        """The prize of the first that gets there in time, None without one, and what became of those that failed.

        Stopped. Those that are under way when it is over are stopped, and what they bring is given back.
        """
        failures: list[BaseException] = []
        own, start_at = stop.child(), 0.0
        try:
            while not deadline.over:
                stop.check()
                if self._waiting and (not self._running or time.monotonic() >= start_at):
                    self._start(own)
                    start_at = time.monotonic() + STAGGER
                if not self._running:
                    break
                try:
                    prize, failure = self._news.take(min(_LOOK_EVERY, deadline.remaining()))
                except Empty:
                    continue
                self._running -= 1
                if prize is not None:
                    return prize, failures
                if failure is not None:
                    failures.append(failure)
                start_at = 0.0
            return None, failures
        finally:
            self._end()
            own.set()
            stop.forget(own)

    def _start(self, stop: StopToken) -> None:
        with self._lock:
            way = self._waiting.popleft()
        self._running += 1
        spawn(self._name, self._try, way, stop)

    def _try(self, way: Way[_Prize], stop: StopToken) -> None:
        prize: _Prize | None = None
        failure: BaseException | None = None
        try:
            prize = way(stop)
        except BaseException as error:
            failure = error
        with self._lock:
            over = self._over
            if not over:
                self._news.put((prize, failure))
        if over and prize is not None:
            self._give_back(prize)

    def _end(self) -> None:
        with self._lock:
            self._over = True
        while True:
            try:
                prize, _ = self._news.take(0.0)
            except Empty:
                return
            if prize is not None:
                self._give_back(prize)
