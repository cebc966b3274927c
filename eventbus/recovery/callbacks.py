"""User callbacks: on a thread of their own, in order, each on its own; they change nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ..state import ConnectionState, ErrorEvent, ReconnectEvent
from ..threads import OrderedWorker

logger = logging.getLogger(__name__)

ReconnectCallback = Callable[[ReconnectEvent], object]
ErrorCallback = Callable[[ErrorEvent], object]
StateCallback = Callable[[ConnectionState], object]

QUEUED_ERRORS = 10_000
"""Error events that wait at most behind a slow callback; more are counted and logged, not queued."""


class Callbacks:
    """The registered callbacks of a bus. Registering one twice counts once. Nothing here ever blocks."""

    def __init__(self, bus: str) -> None:
        self._lock = threading.Lock()
        self._lists: dict[str, list[Callable[[Any], object]]] = {"reconnect": [], "error": [], "state": []}
        self._worker = OrderedWorker(f"eventbus.{bus}.callbacks", self._worker_failed)
        self._waiting_errors = 0
        self._suppressed = 0

    def register(self, kind: str, callback: Callable[[Any], object]) -> None:
        """Add a callback: "reconnect", "error" or "state"."""
        if not callable(callback):
            raise TypeError(f"a {kind} callback must be callable, not {type(callback).__name__}")
        with self._lock:
            if callback not in self._lists[kind]:
                self._lists[kind].append(callback)

    def unregister(self, kind: str, callback: Callable[[Any], object]) -> None:
        """Remove a callback; one that is not there is fine."""
        with self._lock:
            if callback in self._lists[kind]:
                self._lists[kind].remove(callback)

    def reconnected(self, event: ReconnectEvent) -> None:
        """Queue the reconnect callbacks."""
        self._queue("reconnect", event)

    def moved(self, state: ConnectionState) -> None:
        """Queue the state callbacks."""
        self._queue("state", state)

    def report(self, event: ErrorEvent) -> None:
        """Queue the error callbacks, unless thousands wait already."""
        with self._lock:
            if not self._lists["error"]:
                return
            if self._waiting_errors >= QUEUED_ERRORS:
                self._suppressed += 1
                return
            self._waiting_errors += 1
        self._worker.submit(self._run_errors, event)

    def close(self, timeout: float) -> tuple[str, ...]:
        """Let the queued callbacks finish, up to `timeout` seconds; name the thread if they do not."""
        return self._worker.close(timeout)

    def _queue(self, kind: str, event: object) -> None:
        with self._lock:
            wanted = bool(self._lists[kind])
        if wanted:
            self._worker.submit(self._run, kind, event)

    def _run_errors(self, event: ErrorEvent) -> None:
        with self._lock:
            self._waiting_errors -= 1
            suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            logger.error("%d error events were dropped behind a slow error callback", suppressed)
        self._run("error", event)

    def _run(self, kind: str, event: object) -> None:
        with self._lock:
            callbacks = list(self._lists[kind])
        for callback in callbacks:
            try:
                callback(event)
            except BaseException as error:  # SystemExit too: it would end the thread of all callbacks
                logger.exception("%s callback %r failed", kind, callback)
                if kind != "error":  # else a broken error callback would feed itself for ever
                    self.report(ErrorEvent(source="callback", error=error))

    def _worker_failed(self, error: BaseException) -> None:
        logger.error("the callback thread failed: %r", error)
