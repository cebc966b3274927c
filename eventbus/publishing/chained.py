"""The four verbs of publishing where there is publish middleware: each message goes its way alone."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from ..errors import (
    EventBusError,
    ForkedError,
    PublishError,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    UnsupportedError,
)
from ..message import Message, Receipt, Received, parts_of, place_of
from ..middleware import Middleware, through
from ..state import FlushReport
from ..threads import Deadline
from .futures import ReceiptFuture
from .publisher import Publisher
from .records import NO_EXTRAS, Given, Record, Result


class ChainedPublisher:
    """A `Publisher` behind publish middleware.

    A message is checked before a middleware sees it, and, as it may be another one then, when it is accepted. It has
    its id from the start: whoever passes it on twice publishes one message twice.
    """

    def __init__(self, publisher: Publisher, middleware: Middleware) -> None:
        self._publisher = publisher
        self._middleware = middleware

    def publish(self, given: Given, timeout: float) -> Receipt:
        """Publish and wait up to `timeout` seconds for the answer; raises a PublishError without one."""
        message = self._message(given)
        call = _Call(self._publisher, message, timeout)
        return call.result_of(self._pass(call))

    def publish_async(self, given: Given, timeout: float) -> Future[Receipt]:
        """Publish and return the Future that the outermost middleware has returned."""
        message = self._message(given)
        return self._pass(_Call(self._publisher, message, timeout))

    def publish_nowait(self, given: Given) -> None:
        """Publish without waiting for anything; failures go to the error callbacks and to `flush`."""
        message = self._message(given)
        self._pass(_Call(self._publisher, message, 0.0, unwatched=True))

    def publish_many(self, messages: Iterable[Message], timeout: float) -> list[Receipt]:
        """Publish all, pipelined, and wait up to `timeout` seconds for all answers; PublishManyError."""
        deadline = Deadline(timeout)
        given = [(message, self._publisher.checked_message(message)) for message in messages]
        waiting: list[tuple[_Call, Future[Receipt] | PublishError]] = []
        for message, parts in given:
            call = _Call(self._publisher, self._with_id(message), timeout, deadline)
            waiting.append((call, parts if isinstance(parts, PublishRejectedError) else self._try_to_pass(call)))
        results = [one if isinstance(one, PublishError) else call.outcome_of(one) for call, one in waiting]
        receipts = [result for result in results if isinstance(result, Receipt)]
        if len(receipts) < len(results):
            failed = len(results) - len(receipts)
            raise PublishManyError(f"{failed} of {len(results)} messages were not confirmed", results)
        return receipts

    def flush(self, timeout: float) -> FlushReport:
        """Wait up to `timeout` seconds until everything accepted so far is answered."""
        return self._publisher.flush(timeout)

    def _message(self, given: Given) -> Message:
        topic, data, extras = self._publisher.checked(*given)
        key, headers, id, _ = extras or NO_EXTRAS
        made = Message(topic, data, key=key, headers=headers, id=id, partition=given[5], timestamp=given[6])
        return self._with_id(made)

    def _with_id(self, message: Message) -> Message:
        return message if message.id else message.replace(id=self._publisher.pending.new_id())

    def _pass(self, call: _Call) -> Future[Receipt]:
        return through(self._middleware.links, call.accept)(call.message)

    def _try_to_pass(self, call: _Call) -> Future[Receipt] | PublishError:
        try:
            return self._pass(call)
        except Exception as error:  # it is told as this message's result
            if isinstance(error, ForkedError) or error is call.interrupt:
                raise
            return call.verdict_on(error)


class _Call:
    """One message on its way through the middleware, which may pass on none, or several.

    timeout: seconds until `deadline`, 0 never blocks. unwatched: nobody looks at the futures, so failures are reported.
    """

    def __init__(
        self,
        publisher: Publisher,
        message: Message,
        timeout: float,
        deadline: Deadline | None = None,
        unwatched: bool = False,
    ) -> None:
        self.message = message
        self._publisher = publisher
        self._timeout = timeout
        self._deadline = deadline or Deadline(timeout)
        self._unwatched = unwatched
        self._accepted: list[tuple[Record, ReceiptFuture]] = []
        self.interrupt: BaseException | None = None
        """What has ended a wait for room: it is no verdict on the message."""

    def accept(self, message: Message) -> Future[Receipt]:
        """The end of the chain: take a message, or raise; then nothing of it is left."""
        if not isinstance(message, Message):
            raise TypeError(f"call_next() takes a Message, not a {type(message).__name__}")
        publisher, pending = self._publisher, self._publisher.pending
        parts = publisher.checked(*parts_of(message), *place_of(message), received=isinstance(message, Received))
        if self._unwatched:
            future: ReceiptFuture = _UnwatchedFuture(publisher, next(pending.numbers), message.topic)
        else:
            future = ReceiptFuture(next(pending.numbers), publisher.answers, pending.withdraw)
        record = Record(future.number, *parts, future)
        try:
            pending.accept(record, 0.0 if self._unwatched else self._deadline.remaining())
        except EventBusError:
            raise
        except BaseException as error:  # a time limit out of a signal handler, say
            self.interrupt = error
            raise
        self._accepted.append((record, future))
        return future

    def result_of(self, future: Future[Receipt]) -> Receipt:
        """The receipt of what the chain has returned, in time; else a PublishError."""
        try:
            return future.result(self._deadline.remaining())
        except CancelledError as error:
            raise PublishNotSentError(f"{self.message.topic}: a middleware took it back", self._id) from error
        except FutureTimeoutError:
            # Else it is what the middleware's own future has come to, or a signal handler's time limit.
            if future.done() or not self._deadline.over:
                raise
        overdue = self._overdue()
        if overdue is None:
            return future.result(0.0)  # the answer has come in this moment
        raise overdue

    def outcome_of(self, future: Future[Receipt]) -> Result:
        """What `result_of` returns, or raises; what interrupts the wait for it is raised."""
        try:
            return self.result_of(future)
        except PublishError as error:
            return error
        except Exception as error:
            if isinstance(error, ForkedError) or not future.done() or future.exception(0.0) is not error:
                raise
            return self.verdict_on(error)

    def verdict_on(self, error: Exception) -> PublishError:
        """What an error out of the chain says about the message."""
        if isinstance(error, PublishError):
            return error
        refused = PublishRejectedError if isinstance(error, UnsupportedError) else PublishNotSentError
        kind = PublishUnknownError if self._accepted else refused
        made = kind(f"{self.message.topic}: {error!r}", self._id)
        made.__cause__ = error
        return made

    @property
    def _id(self) -> str:
        return self.message.id or ""

    def _overdue(self) -> PublishError | None:
        """Take back what can be taken back; the worst of what is to be said of the rest, None if all is answered."""
        late = [(record, future) for record, future in self._accepted if not future.done()]
        errors: list[PublishError] = []
        for record, future in late:
            error = self._publisher.overdue(record, future, self._timeout)
            if isinstance(error, PublishNotSentError):
                future.answer(error)  # whoever else looks at it is told, too
            errors.append(error)
        if not errors and not self._accepted:
            return PublishNotSentError(f"{self.message.topic}: middleware kept it for {self._timeout:g} s", self._id)
        return next((one for one in errors if isinstance(one, PublishUnknownError)), errors[0] if errors else None)


class _UnwatchedFuture(ReceiptFuture):
    """The future of a `publish_nowait`: only the middleware looks at it, so a failure is reported."""

    def __init__(self, publisher: Publisher, number: int, topic: str) -> None:
        super().__init__(number, publisher.answers, publisher.pending.withdraw)
        self._publisher = publisher
        self._topic = topic

    def answer(self, result: Result, number: int = 0) -> None:
        """Complete it, and report what went wrong."""
        super().answer(result)
        if isinstance(result, PublishError):
            self._publisher.pending.failures.add(result)
            self._publisher.report_failure(self._topic, result)
