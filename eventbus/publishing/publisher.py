"""The four verbs of publishing, and flush: one path from a call to a record to the session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from ..errors import (
    ClosedError,
    PublishError,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    SessionRetired,
    UnsupportedError,
)
from ..fields import Headers, RawHeaders, check_headers, check_key
from ..message import TOMBSTONE, Delivery, Message, Receipt, check_id, check_topic, encode_payload, parts_of
from ..state import ErrorEvent, FlushReport
from ..threads import Deadline, OrderedWorker
from .futures import ReceiptFuture
from .pending import Pending
from .records import BatchWaiter, Record, SyncWaiter, Waiter
from .sink import PublishNowait, Sink

KEPT_FAILURES = 1000
KNOWN_TOPICS = 10_000

_Parts = tuple[str, bytes, "str | bytes | None", "RawHeaders | None", "str | None"]


class Publisher:
    """Checks what users pass, makes records of it and waits for their answers."""

    def __init__(
        self,
        max_records: int,
        max_bytes: int,
        answer_thread: str,
        report: Callable[[ErrorEvent], object],
        suspect: Callable[[], object],
    ) -> None:
        self.pending = Pending(max_records, max_bytes, self._nowait_failed)
        self.pending.on_session = self._session_changed
        self.expose: Callable[[PublishNowait], object] = lambda publish_nowait: None
        """Told the quickest `publish_nowait` of now, whenever it changes."""
        self.answers = OrderedWorker(answer_thread, self._callback_failed)
        self.tombstones = False
        """Whether the backend has them."""
        self._report = report
        self._suspect = suspect
        self._topics: set[str] = set()
        self._failures: deque[PublishError] = deque(maxlen=KEPT_FAILURES)

    def publish(
        self,
        topic: str,
        payload: object,
        key: str | bytes | None,
        headers: Headers | None,
        id: str | None,
        timeout: float,
    ) -> Receipt:
        """Publish and wait up to `timeout` seconds for the answer; raises a PublishError without one."""
        deadline = Deadline(timeout)
        waiter = SyncWaiter()
        record = self._record(self._checked(topic, payload, key, headers, id), waiter)
        self.pending.submit(record, deadline.remaining())
        result = waiter.wait(deadline.remaining())
        if result is None:
            overdue = self._overdue(record, timeout)
            result = waiter.result or overdue  # the answer may have come in this moment
        if isinstance(result, PublishError):
            raise result
        return result

    def publish_async(
        self,
        topic: str,
        payload: object,
        key: str | bytes | None,
        headers: Headers | None,
        id: str | None,
        timeout: float,
    ) -> Future[Receipt]:
        """Publish and return a Future of the answer; waits up to `timeout` seconds for room only."""
        future = ReceiptFuture(self.answers)
        record = self._record(self._checked(topic, payload, key, headers, id), future)
        self.pending.submit(record, timeout)
        return future

    def publish_nowait(
        self,
        topic: str,
        payload: object,
        *,
        key: str | bytes | None = None,
        headers: Headers | None = None,
        id: str | None = None,
    ) -> None:
        """Publish without waiting for anything; failures go to the error callbacks and to `flush`."""
        try:
            plain = topic in self._topics and type(payload) is bytes and key is None and headers is None and id is None
        except TypeError:  # a topic of a kind that no set takes
            plain = False
        if not plain:
            topic, payload, key, headers, id = self._checked(topic, payload, key, headers, id)
        pending = self.pending
        number = pending.next_number()
        session = pending.session
        if session is not None and number <= pending.ceiling:
            try:
                # A plain tuple of Record's shape: a named one costs a quarter of the whole call.
                session.publish((number, topic, payload, key, headers, id, None))  # type: ignore[arg-type]
            except SessionRetired:
                pass
            except PublishRejectedError:
                pending.refused()
                raise
            else:
                return
        pending.submit(Record(number, topic, payload, key, headers, id, None), 0.0)  # type: ignore[arg-type]

    def publish_many(self, messages: Iterable[Message], timeout: float) -> list[Receipt]:
        """Publish all, pipelined, and wait up to `timeout` seconds for all answers.

        Everything is checked before anything is sent. PublishManyError carries each result, in order.
        """
        deadline = Deadline(timeout)
        parts = [self._checked_message(message) for message in messages]
        batch = BatchWaiter(len(parts))
        records: list[Record] = []
        for index, part in enumerate(parts):
            record = self._record(part, batch.place(index))
            records.append(record)
            try:
                self.pending.submit(record, deadline.remaining())
            except PublishError as error:
                batch.put(index, error)
            except ClosedError as error:  # the ones before it have their answers: they are told
                batch.put(index, PublishNotSentError(str(error), self.pending.id_of(record)))
        if not batch.wait(deadline.remaining()):
            for index in batch.missing():
                batch.put(index, self._overdue(records[index], timeout))
        results = [result for result in batch.results if result is not None]
        receipts = [result for result in results if isinstance(result, Receipt)]
        if len(receipts) < len(results):
            failed = len(results) - len(receipts)
            raise PublishManyError(f"{failed} of {len(results)} messages were not confirmed", results)
        return receipts

    def flush(self, timeout: float) -> FlushReport:
        """Wait up to `timeout` seconds until everything accepted so far is answered."""
        unanswered = self.pending.wait_settled(timeout)
        failed = []
        while self._failures:
            failed.append(self._failures.popleft())
        return FlushReport(unanswered=unanswered, failed=tuple(failed))

    def _session_changed(self, session: Sink | None) -> None:
        shortcut = None if session is None else session.shortcut(self.pending, self.publish_nowait)
        self.expose(shortcut or self.publish_nowait)

    def _record(self, parts: _Parts, waiter: Waiter) -> Record:
        return Record(self.pending.next_number(), *parts, waiter)

    def _checked(
        self,
        topic: object,
        payload: object,
        key: object,
        headers: object,
        id: object,
        received: bool = False,
    ) -> _Parts:
        given_id = id if isinstance(id, str) else ""
        try:
            if not isinstance(topic, str) or topic not in self._topics:
                topic = self._new_topic(topic)
            data = payload if type(payload) is bytes else encode_payload(payload)
            if data is TOMBSTONE and not self.tombstones:
                raise UnsupportedError(
                    "TOMBSTONE: only Kafka has messages without a value; publish b'' for an empty one"
                )
            return (
                topic,
                data,
                None if key is None else check_key(key),
                None if headers is None else check_headers(headers) or None,
                None if id is None else check_id(id, received),
            )
        except ValueError as error:
            raise PublishRejectedError(str(error), given_id) from error
        except TypeError as error:
            if payload is None:
                raise
            raise PublishRejectedError(f"payload cannot be carried: {error}", given_id) from error

    def _checked_message(self, message: object) -> _Parts:
        if not isinstance(message, Message):
            raise TypeError(f"publish_many takes Message objects, not {type(message).__name__}")
        return self._checked(*parts_of(message), received=isinstance(message, Delivery))

    def _new_topic(self, topic: object) -> str:
        checked = check_topic(topic)
        if len(self._topics) >= KNOWN_TOPICS:
            self._topics = set()
        self._topics.add(checked)
        return checked

    def _overdue(self, record: Record, timeout: float) -> PublishError:
        if self.pending.withdraw(record):
            text = f"{record.topic}: no connection within {timeout:g} s"
            return PublishNotSentError(text, self.pending.id_of(record))
        self._suspect()
        text = f"{record.topic}: no answer within {timeout:g} s"
        return PublishUnknownError(text, self.pending.id_of(record))

    def _nowait_failed(self, record: Record, error: PublishError) -> None:
        self._failures.append(error)
        self._report(ErrorEvent(source="publish", error=error, topic=record.topic))

    def _callback_failed(self, error: BaseException) -> None:
        self._report(ErrorEvent(source="callback", error=error))
