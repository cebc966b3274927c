"""One thread that does small things when they are due."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count

Task = Callable[[], object]


class Timer:
    """Runs tasks at their time, one after another, on the thread that calls `run`. Tasks never block."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Task]] = []
        self._serial = count().__next__
        self._stopped = False

    def after(self, delay: float, task: Task) -> None:
        """Run a task once, `delay` seconds from now. Any thread; once stopped nothing happens."""
        at = time.monotonic() + delay
        with self._changed:
            heapq.heappush(self._due, (at, self._serial(), task))
            if self._due[0][0] == at:
                self._changed.notify()

    def every(self, interval: float, task: Task) -> None:
        """Run a task each `interval` seconds, the first time after one."""

        def again() -> None:
            task()
            self.after(interval, again)

        self.after(interval, again)

    def stop(self) -> None:
        """Run nothing more and let the thread end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """The timer thread."""
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Task | None:
        with self._changed:
            while not self._stopped:
                if self._due:
                    wait = self._due[0][0] - time.monotonic()
                    if wait <= 0:
                        return heapq.heappop(self._due)[2]
                    self._changed.wait(wait)
                else:
                    self._changed.wait()
            return None
