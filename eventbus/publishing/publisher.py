"""The four verbs of publishing, and flush: one path from a call to a record to the sender."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

from ..copies import Copy, CopyId
from ..errors import (
    ClosedError,
    EventBusError,
    PublishError,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    UnsupportedError,
)
from ..fields import BadType, BadValue, check_headers, check_key
from ..message import (
    TOMBSTONE,
    Message,
    Receipt,
    Received,
    check_id,
    encode_payload,
    parts_of,
    place_of,
    plain_parts_of,
)
from ..names import OUR_NAMES, NameRules
from ..state import ErrorEvent, FlushReport
from ..threads import Deadline
from ..workers import OrderedWorker
from .futures import ReceiptFuture
from .pending import Pending
from .places import check_place
from .records import (
    NO_EXTRAS,
    BatchWaiter,
    CallWaiter,
    Extras,
    Given,
    Record,
    Result,
    SyncWaiter,
    Waiter,
    number_of,
    topic_of,
)

KNOWN_TOPICS = KNOWN_KEYS = 10_000
_LONGEST_KEY = 128
"""Characters of a key that is worth remembering."""

Parts = tuple[str, bytes, "Extras | None"]


class Publisher:
    """Checks what users pass, makes records of it and waits for their answers.

    name: of the bus, for the names of its threads. report(event): something failed that nobody waits for.
    suspect(): a publish was not answered in time. owner: whom its threads work for. tombstones, places: whether
    the backend has tombstones, and takes a partition and a timestamp. names: what topics may be called.
    """

    def __init__(
        self,
        name: str,
        max_records: int,
        max_bytes: int,
        report: Callable[[ErrorEvent], object],
        suspect: Callable[[], object],
        owner: object = None,
        tombstones: bool = False,
        places: bool = False,
        names: NameRules = OUR_NAMES,
    ) -> None:
        self.pending = Pending(max_records, max_bytes, self._nowait_failed)
        self._tombstones = tombstones
        self._places = places
        self._names = names
        self.answers = OrderedWorker(f"eventbus.{name}.answers", self._callback_failed, owner)
        self._sender_name = f"eventbus.{name}.sender"
        self._report = report
        self._suspect = suspect

    def start(self) -> None:
        """Start the sender thread; where it runs already nothing happens."""
        self.pending.sender.start(self._sender_name)
        self.pending.quicken(True)

    def stop(self, timeout: float) -> tuple[str, ...]:
        """End the sender thread, as after an `open` that failed: `start` begins anew. Its name if it goes on."""
        self.pending.quicken(False)
        return self.pending.sender.close(timeout)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the sender and the answer thread, within `timeout` seconds; names those that still run.

        Only after `Pending.fail_all`.
        """
        deadline = Deadline(timeout)
        unfinished = self.stop(deadline.share(0.5))
        return unfinished + self.answers.close(deadline.remaining())

    # -- on the caller's thread: no lock, single steps -------------------------------------------

    def publish(self, given: Given, timeout: float) -> Receipt:
        """Publish and wait up to `timeout` seconds for the answer; raises a PublishError without one."""
        deadline = Deadline(timeout)
        parts = self.checked(*given)
        waiter = SyncWaiter(next(self.pending.numbers))
        record = Record(waiter.number, *parts, waiter)
        self.pending.accept(record, timeout)
        result = waiter.wait(deadline.remaining())
        if result is None:
            overdue = self.overdue(record, waiter, timeout)
            result = waiter.result or overdue  # the answer may have come in this moment
        if isinstance(result, EventBusError):
            raise result
        return result

    def publish_async(self, given: Given, timeout: float) -> Future[Receipt]:
        """Publish and return a Future of the answer; waits up to `timeout` seconds for room only."""
        parts = self.checked(*given)
        future = ReceiptFuture(next(self.pending.numbers), self.answers, self.pending.withdraw)
        self.pending.accept((future.number, *parts, future), timeout)  # type: ignore[arg-type]
        return future

    def publish_nowait(self, given: Given) -> None:
        """Publish without waiting for anything; failures go to the error callbacks and to `flush`."""
        parts = self.checked(*given)
        self.pending.accept(Record(next(self.pending.numbers), *parts, None), 0.0)

    def publish_copy(self, copy: Copy, answered: Callable[[Exception | None], object]) -> Callable[[], str]:
        """Publish a dead letter; never blocks.

        answered(None): it is confirmed; else why it may not be stored. Called on a thread of ours. Returns what says
        why the broker takes it not for now, "" where it said no such thing. PublishError, ClosedError: it was not
        accepted.
        """

        def answer(result: Result) -> None:
            answered(result if isinstance(result, PublishError) else None)

        record = self.publish_again(copy, answer)
        return lambda: self.pending.cause_of(record)

    def publish_again(self, copy: Copy, answered: Callable[[Result], object]) -> Record:
        """Publish a copy as `publish_copy` does, with the receipt or the PublishError for `answered`."""
        topic, data, extras = self.checked(*copy[:5], received=True)
        extras = (extras or NO_EXTRAS)._replace(id=CopyId.of(copy.id, copy.stored_as))
        waiter = CallWaiter(next(self.pending.numbers), answered)
        record = Record(waiter.number, topic, data, extras, waiter)
        self.pending.accept(record, 0.0)
        return record

    def publish_replay(self, copy: Copy, answered: Callable[[Result], object]) -> Callable[[], bool]:
        """Publish a copy as `publish_again` does; what takes it back: True, it is certainly never sent."""
        record = self.publish_again(copy, answered)
        return lambda: record.waiter is not None and self.pending.withdraw(record.waiter, record.number)

    def publish_many(self, messages: Iterable[Message], timeout: float) -> list[Receipt]:
        """Publish all, pipelined, and wait up to `timeout` seconds for all answers.

        PublishManyError carries each result, in order: what one that is refused has done, it has done to itself alone.
        """
        deadline = Deadline(timeout)
        given = [self.checked_message(message) for message in messages]
        batch = BatchWaiter()
        taken = self._accept_all(given, batch, deadline)
        records = [one for one in taken if not isinstance(one, PublishError)]
        batch.wait(len(records), deadline.remaining())
        if batch.fork is not None:
            raise batch.fork
        found = batch.results(self.pending.receipt_of)
        if len(found) < len(records):
            missing = [record for record in records if number_of(record) not in found]
            overdue: dict[int, Result] = {number_of(record): self.overdue(record, batch, timeout) for record in missing}
            found = overdue | batch.results(self.pending.receipt_of)  # an answer may have come in this moment
        results = [one if isinstance(one, PublishError) else found[number_of(one)] for one in taken]
        receipts = [result for result in results if isinstance(result, Receipt)]
        if len(receipts) < len(results):
            failed = len(results) - len(receipts)
            raise PublishManyError(f"{failed} of {len(results)} messages were not confirmed", results)
        return receipts

    def _accept_all(
        self, given: Iterable[Parts | PublishRejectedError], batch: BatchWaiter, deadline: Deadline
    ) -> list[Record | PublishError]:
        """The records that were accepted, and why others were not."""
        taken: list[Record | PublishError] = []
        for parts in given:
            if isinstance(parts, PublishRejectedError):
                taken.append(parts)
                continue
            number = next(self.pending.numbers)
            record: Record = (number, *parts, batch)  # type: ignore[assignment]
            batch.expect(number)
            try:
                if not self.pending.accept_at_once(record):
                    self.pending.accept(record, deadline.remaining())
            except PublishError as error:
                taken.append(error)
            except ClosedError as error:  # the ones before it have their answers: they are told
                taken.append(PublishNotSentError(str(error), self.pending.id_of(record)))
            else:
                taken.append(record)
        return taken

    def flush(self, timeout: float) -> FlushReport:
        """Wait up to `timeout` seconds until everything accepted so far is answered."""
        unanswered = self.pending.wait_settled(timeout)
        failed: tuple[PublishError, ...] = ()
        left_out = 0
        try:
            failed, left_out = self.pending.failures.take()
            return FlushReport(unanswered=unanswered, failed=failed, left_out=left_out)
        except BaseException:
            self.pending.failures.put_back(failed, left_out)
            raise

    # -- inside ----------------------------------------------------------------------------------

    def checked(
        self,
        topic: object,
        payload: object,
        key: object,
        headers: object,
        id: object,
        partition: object = None,
        timestamp: object = None,
        received: bool = False,
    ) -> Parts:
        """What it takes to publish this, in the form that a record has; raises what is wrong with it."""
        try:
            if type(topic) is not str or topic not in self.pending.inbox.topics:
                topic = self._new_topic(topic)
            data = payload if type(payload) is bytes else encode_payload(payload)
            if data is TOMBSTONE and not self._tombstones:
                raise UnsupportedError(
                    "TOMBSTONE: only Kafka has messages without a value; publish b'' for an empty one"
                )
            place = None if partition is None and timestamp is None else check_place(partition, timestamp)
            if place is not None and not self._places:
                raise UnsupportedError("partition and timestamp: only Kafka stores messages where and when it is told")
            if headers is None and id is None and place is None:
                if key is None:
                    return topic, data, None
                known = self.pending.inbox.keys.get(key) if type(key) is str else None
                return topic, data, known or self._only_key(key)
            extras = Extras(
                None if key is None else check_key(key),
                None if headers is None else check_headers(headers) or None,
                None if id is None else check_id(id, received),
                place,
            )
            return topic, data, None if extras == NO_EXTRAS else extras
        except BadValue as error:
            raise PublishRejectedError(str(error), self._id_for(id)) from error
        except BadType as error:
            raise PublishRejectedError(f"payload cannot be carried: {error}", self._id_for(id)) from error

    def _only_key(self, key: object) -> Extras:
        extras = Extras(check_key(key))
        if isinstance(extras.key, str) and len(extras.key) <= _LONGEST_KEY:
            keys = self.pending.inbox.keys
            if len(keys) >= KNOWN_KEYS:
                self.pending.inbox.keys = keys = {}
            keys[extras.key] = extras
        return extras

    def _id_for(self, given: object) -> str:
        """The id of a message that is refused at the door."""
        return given if isinstance(given, str) and given else self.pending.new_id()

    def checked_message(self, message: object) -> Parts | PublishRejectedError:
        """What it takes to publish a message, or why nobody can carry it; TypeError."""
        if not isinstance(message, Message):
            raise TypeError(f"publish_many takes Message objects, not {type(message).__name__}")
        try:
            plain = plain_parts_of(message)
            if plain is not None:
                return self.checked(*plain, None, None)
            return self.checked(*parts_of(message), *place_of(message), received=isinstance(message, Received))
        except PublishRejectedError as error:
            return error
        except UnsupportedError as error:
            refused = PublishRejectedError(str(error), self._id_for(message.id))
            refused.__cause__ = error
            return refused

    def _new_topic(self, topic: object) -> str:
        checked = self._names.topic(topic)
        topics = self.pending.inbox.topics
        if len(topics) >= KNOWN_TOPICS:
            self.pending.inbox.topics = topics = set()
        topics.add(checked)
        return checked

    def overdue(self, record: Record, waiter: Waiter, timeout: float) -> PublishError:
        """What to tell whoever has waited in vain: *not sent* if the record could be taken back, else *unknown*."""
        cause = self.pending.cause_of(record)
        if self.pending.withdraw(waiter, number_of(record)):
            text = f"{topic_of(record)}: {cause or 'no client could be given it'} within {timeout:g} s"
            return PublishNotSentError(text, self.pending.id_of(record))
        self._suspect()
        text = f"{topic_of(record)}: no answer within {timeout:g} s" + (f": {cause}" if cause else "")
        return PublishUnknownError(text, self.pending.id_of(record))

    def report_failure(self, topic: str, error: PublishError) -> None:
        """Tell the error callbacks of a failure that nobody waits for."""
        self._report(ErrorEvent(source="publish", error=error, topic=topic))

    def _nowait_failed(self, record: Record, error: PublishError) -> None:
        self.report_failure(topic_of(record), error)

    def _callback_failed(self, error: BaseException) -> None:
        self._report(ErrorEvent(source="callback", error=error))
