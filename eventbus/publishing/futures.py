"""The Future that `publish_async` returns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from ..errors import PublishError
from ..message import Receipt
from ..threads import OrderedWorker
from .records import Result


class ReceiptFuture(Future[Receipt]):
    """A Future that shares its Condition with all others of the bus.

    A Condition of its own is ten objects for each message in flight; making them, and the garbage collector's
    walks through them, take more than half of a pipelined publish. Whoever waits on a shared one may be woken
    for somebody else, so the waits here look again, which those of the base class do not.
    """

    def __init__(self, condition: threading.Condition, worker: OrderedWorker) -> None:
        # Everything that the base class sets, but the Condition; its other methods work on these.
        self._condition = condition
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[Receipt]], object]] = []
        self._worker = worker

    def answer(self, result: Result) -> None:
        """Hand the result to the answer thread, where a user's done-callback may do what it likes."""
        self._worker.submit(self._complete, result)

    def result(self, timeout: float | None = None) -> Receipt:
        """As the base class: the receipt, or raises the PublishError, TimeoutError or CancelledError."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the base class."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        with self._condition:
            self._condition.wait_for(self.done, timeout)

    def _complete(self, result: Result) -> None:
        try:
            if isinstance(result, PublishError):
                self.set_exception(result)
            else:
                self.set_result(result)
        except InvalidStateError:
            pass  # the user cancelled it: the message is sent all the same, the answer goes nowhere
