"""The Future that `publish_async` returns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

from .. import log
from ..errors import EventBusError
from ..message import Receipt
from ..threads import drained, taken
from ..workers import OrderedWorker
from .records import Claim, Outcome, Result, Waiter

logger = log.get(__name__)

_DoneCallback = Callable[["Future[Receipt]"], object]


class _Cancelled:
    """The outcome of a future whose message was taken back."""


_CANCELLED = _Cancelled()


class ReceiptFuture(Claim, Future[Receipt]):
    """A Future without a lock: it is completed in one step, and each one who waits has a lock of his own.

    The base class makes a Condition for each future, ten objects; making them, and the garbage collector's
    walks through them, take more than half of a pipelined publish. And a thread of ours would wait for it
    while a signal handler runs in the thread that holds it.
    withdraw(waiter, number): have its record taken back, True when that succeeded.
    """

    _outcome: Outcome | _Cancelled | None = None
    _waits: deque[threading.Lock] | None = None
    _calls: deque[_DoneCallback] | None = None
    _listeners: list[Any] | None = None

    def __init__(self, number: int, worker: OrderedWorker, withdraw: Callable[[Waiter, int], bool]) -> None:
        Claim.__init__(self, number)  # and not the future's, see above
        self._worker = worker
        self._withdraw = withdraw

    # -- the Waiter of a record ------------------------------------------------------------------

    def answer(self, result: Result, number: int = 0) -> None:
        """Complete it at once; its done-callbacks follow on the answer thread."""
        self._outcome = result
        if self._waits is not None:
            self._release()
        if self._calls is not None:
            for call in drained(self._calls):
                self._worker.submit(call, self)
        if self._listeners is not None:
            self._worker.submit(self._tell_listeners)

    def forked(self, error: EventBusError) -> None:
        """Complete it in a forked child; the callbacks that it has are the parent's."""
        if self._outcome is None:
            self._outcome = error
        for name in ("_calls", "_listeners", "_made"):  # a thread that is not here may hold the lock of the last one
            self.__dict__.pop(name, None)
        self._release()

    # -- what users call -------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Take the message back; True: it is certainly never sent. False: a client has it, or it is answered."""
        if self._outcome is None and self._withdraw(self, self.number):
            self._outcome = _CANCELLED
            self._release()
            self._call_back()
            if self._listeners is not None:
                self._tell_listeners()
        return self.cancelled()

    def cancelled(self) -> bool:
        """Whether `cancel` took it back."""
        return self._outcome is _CANCELLED

    def running(self) -> bool:
        """Whether a client has the message, and no answer is there."""
        return self._outcome is None and not self._free

    def done(self) -> bool:
        """Whether it is answered or cancelled."""
        return self._outcome is not None

    def result(self, timeout: float | None = None) -> Receipt:
        """The receipt; raises the PublishError, CancelledError, or TimeoutError after `timeout` seconds.

        ForkedError in a forked child: the message is the parent's, who sends it and gets the answer.
        """
        outcome = self._outcome_within(timeout)
        if isinstance(outcome, Receipt):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The PublishError, None for a receipt; raises CancelledError, or TimeoutError after `timeout` seconds."""
        outcome = self._outcome_within(timeout)
        return None if isinstance(outcome, Receipt) else outcome

    def add_done_callback(self, fn: _DoneCallback) -> None:
        """Call `fn(future)` on the answer thread once it is answered; at once and here when it is done already."""
        calls: deque[_DoneCallback] = self.__dict__.setdefault("_calls", deque())
        calls.append(fn)
        if self._outcome is not None:
            self._call_back()

    def set_running_or_notify_cancel(self) -> bool:
        """InvalidStateError: the bus alone completes it."""
        raise InvalidStateError("the bus completes this future")

    def set_result(self, result: Receipt) -> None:
        """InvalidStateError: the bus alone completes it."""
        raise InvalidStateError("the bus completes this future")

    def set_exception(self, exception: BaseException | None) -> None:
        """InvalidStateError: the bus alone completes it."""
        raise InvalidStateError("the bus completes this future")

    def __repr__(self) -> str:
        return f"<ReceiptFuture at {id(self):#x} {self._state.lower()}>"

    # -- what `concurrent.futures.wait` and `as_completed` look at ---------------------------------

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        # Taken before `_state` is looked at: whoever completes it later finds listeners to tell.
        self.__dict__.setdefault("_listeners", [])
        made: threading.Condition = self.__dict__.setdefault("_made", threading.Condition())
        return made

    @property
    def _state(self) -> str:  # type: ignore[override]
        if self._outcome is None:
            return "PENDING"
        return "CANCELLED_AND_NOTIFIED" if self._outcome is _CANCELLED else "FINISHED"

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        listeners: list[Any] = self.__dict__.setdefault("_listeners", [])
        return listeners

    def _tell_listeners(self) -> None:
        with self._condition:
            for listener in self._waiters:
                if self._outcome is _CANCELLED:
                    listener.add_cancelled(self)
                elif isinstance(self._outcome, Receipt):
                    listener.add_result(self)
                else:
                    listener.add_exception(self)

    # -- inside ----------------------------------------------------------------------------------

    def _release(self) -> None:
        for lock in drained(self._waits):
            lock.release()

    def _call_back(self) -> None:
        for call in drained(self._calls):
            try:
                call(self)
            except Exception:  # as the base class does: a callback is not its caller's affair
                logger.exception("a done-callback of %r failed", self)

    def _outcome_within(self, timeout: float | None) -> Receipt | EventBusError:
        if self._outcome is None:
            self._wait(threading.TIMEOUT_MAX if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        outcome = self._outcome
        if outcome is None:
            raise FutureTimeoutError
        if isinstance(outcome, _Cancelled):
            raise CancelledError
        return outcome

    def _wait(self, timeout: float) -> None:
        waits: deque[threading.Lock] = self.__dict__.setdefault("_waits", deque())
        lock = threading.Lock()
        lock.acquire()
        waits.append(lock)
        try:
            if self._outcome is None:
                taken(lock, timeout)
        finally:
            _remove(waits, lock)


def _remove(waits: deque[threading.Lock], lock: threading.Lock) -> None:
    with suppress(ValueError):  # it was released
        waits.remove(lock)
