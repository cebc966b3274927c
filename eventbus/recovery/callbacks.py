"""User callbacks: on a thread of their own, in order, each on its own; they change nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from .. import log
from ..callables import check_argument, refuse_unawaited
from ..state import ConnectionState, ErrorEvent, ReconnectEvent
from ..workers import OrderedWorker

logger = log.get(__name__)

ReconnectCallback = Callable[[ReconnectEvent], object]
ErrorCallback = Callable[[ErrorEvent], object]
StateCallback = Callable[[ConnectionState], object]

QUEUED_ERRORS = 10_000
"""Error events that wait at most behind a slow callback; more are counted and logged, not queued."""


class Tally:
    """Counts on any thread, without a lock, and tells one thread how many there were since it asked last."""

    def __init__(self) -> None:
        self._count = count()
        self._taken = 0

    def add(self) -> None:
        """One more."""
        next(self._count)

    def take(self) -> int:
        """How many were added since the last call; one thread calls it."""
        now = next(self._count)
        added, self._taken = now - self._taken, now + 1
        return added


class Callbacks:
    """The registered callbacks of a bus. Registering one twice counts once. Nothing here ever blocks.

    No lock of ours is held while one runs or is logged, and none to register one: a signal handler may.
    """

    def __init__(self, bus: str, like: Callbacks | None = None) -> None:
        """like: those whose registered functions are also these."""
        self._lists: dict[str, list[Callable[[Any], object]]] = (
            {"reconnect": [], "error": [], "state": []} if like is None else like._lists
        )
        self._worker = OrderedWorker(f"eventbus.{bus}.callbacks", self._worker_failed, owner=self)
        self._waiting_errors: deque[None] = deque()
        """One for each that waits: adding and taking one is a single step, counting would be three."""
        self._suppressed = Tally()

    def register(self, kind: str, callback: Callable[[Any], object]) -> None:
        """Add a callback: "reconnect", "error" or "state".

        TypeError for what is no plain function, such as a coroutine function: it would never run.
        """
        check_argument(callback, f"the {kind} callback", takes=1)
        if callback not in self._lists[kind]:
            self._lists[kind].append(callback)  # twice, where two threads cross; `_run` calls it once

    def unregister(self, kind: str, callback: Callable[[Any], object]) -> None:
        """Remove a callback; one that is not there is fine. A run that has begun still calls it."""
        while callback in self._lists[kind]:
            with suppress(ValueError):  # another thread was faster
                self._lists[kind].remove(callback)

    def reconnected(self, event: ReconnectEvent) -> None:
        """Queue the reconnect callbacks."""
        self._queue("reconnect", event)

    def moved(self, state: ConnectionState) -> None:
        """Queue the state callbacks."""
        self._queue("state", state)

    def report(self, event: ErrorEvent) -> None:
        """Queue the error callbacks, unless thousands wait already."""
        if not self._lists["error"]:
            return
        if len(self._waiting_errors) >= QUEUED_ERRORS:
            self._suppressed.add()
            return
        self._waiting_errors.append(None)
        self._worker.submit(self._run_errors, event)

    def close(self, timeout: float) -> tuple[str, ...]:
        """Let the queued callbacks finish, up to `timeout` seconds; name the thread if they do not."""
        return self._worker.close(timeout)

    def _queue(self, kind: str, event: object) -> None:
        if self._lists[kind]:
            self._worker.submit(self._run, kind, event)

    def _run_errors(self, event: ErrorEvent) -> None:
        self._waiting_errors.popleft()
        suppressed = self._suppressed.take()
        if suppressed:
            logger.error("%d error events were dropped behind a slow error callback", suppressed)
        self._run("error", event)

    def _run(self, kind: str, event: object) -> None:
        called: list[Callable[[Any], object]] = []
        for callback in tuple(self._lists[kind]):
            if callback in called:
                continue
            called.append(callback)
            try:
                refuse_unawaited(callback(event))
            except BaseException as error:  # SystemExit too: it would end the thread of all callbacks
                logger.exception("%s callback %r failed", kind, callback)
                if kind != "error":  # else a broken error callback would feed itself for ever
                    self.report(ErrorEvent(source="callback", error=error))

    def _worker_failed(self, error: BaseException) -> None:
        logger.error("the callback thread failed: %r", error)
