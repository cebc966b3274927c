"""The Future that `publish_async` returns."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError

from ..errors import PublishError
from ..message import Receipt
from ..threads import OrderedWorker
from .records import Result

_PENDING, _FINISHED = "PENDING", "FINISHED"

_making = threading.Lock()


class ReceiptFuture(Future[Receipt]):
    """A Future that makes its Condition only for somebody who waits, cancels or adds a callback.

    A Condition is ten objects; making them for each message, and the garbage collector's walks through them,
    take more than half of a pipelined publish. One that was never asked for is completed without.
    """

    def __init__(self, worker: OrderedWorker) -> None:
        # Not the base class's, which makes a Condition. `_waiters` and `_done_callbacks` come with it.
        self._made: threading.Condition | None = None
        self._state = _PENDING
        self._result: Receipt | None = None
        self._exception: BaseException | None = None
        self._worker = worker

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        """What the base class does everything under; under it the state is looked at again."""
        with _making:
            if self._made is None:
                self._waiters = []
                self._done_callbacks = []  # type: ignore[var-annotated]
                self._made = threading.Condition()
            return self._made

    def answer(self, result: Result) -> None:
        """Hand the result to the answer thread, where a user's done-callback may do what it likes."""
        self._worker.submit(self._complete, result)

    def done(self) -> bool:
        """As the base class."""
        return self._state == _FINISHED or super().done()

    def result(self, timeout: float | None = None) -> Receipt:
        """As the base class: the receipt, or raises the PublishError, TimeoutError or CancelledError."""
        if self._state == _FINISHED and self._result is not None:
            return self._result
        return super().result(timeout)

    def _complete(self, result: Result) -> None:
        with _making:
            if self._made is None:  # nobody waits, and who comes now finds it finished
                if isinstance(result, PublishError):
                    self._exception = result
                else:
                    self._result = result
                self._state = _FINISHED
                return
        try:
            if isinstance(result, PublishError):
                self.set_exception(result)
            else:
                self.set_result(result)
        except InvalidStateError:
            pass  # the user cancelled it: the message is sent all the same, the answer goes nowhere
