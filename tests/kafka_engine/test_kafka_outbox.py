"""The outbox with a producer that does what it is told, and the two watchdogs with clocks that do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from eventbus.backends.kafka.clients.errors import ClientErrors
from eventbus.backends.kafka.names import ID_HEADER
from eventbus.backends.kafka.publishing import limits, lines
from eventbus.backends.kafka.publishing import publisher as publisher_module
from eventbus.backends.kafka.publishing.limits import Limits, Topic
from eventbus.backends.kafka.publishing.lines import Line
from eventbus.backends.kafka.publishing.publisher import KafkaPublisher
from eventbus.errors import NotConnectedError, PublishRejectedError, PublishUnknownError
from eventbus.publishing.records import Extras, Record
from eventbus.testing import wait_until

TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
PURGED = KafkaError(KafkaError._PURGE_QUEUE)
TIMED_OUT = KafkaError(KafkaError.REQUEST_TIMED_OUT)
FATAL = KafkaError(KafkaError._FATAL)
INVALID = KafkaError(KafkaError.INVALID_RECORD)
FORBIDDEN = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
UNKNOWN_TOPIC = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
NO_PARTITION = KafkaError(KafkaError._UNKNOWN_PARTITION)
NO_ID = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "it may not", fatal=True)


class FakeProducer:
    """What is produced waits for `answer`; reports are served by `poll` and `flush`, as in librdkafka."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self.queue: list[tuple[int, Any]] = []
        self.seen: list[tuple[int, Any]] = []
        self._reports: list[tuple[Any, Any]] = []
        self.refuses: dict[int, BaseException] = {}
        self.ids: list[str] = []
        self.partition = 0
        """Where everything is stored."""
        self.partitions = 3
        self._fatal: Any = None
        self.between: Callable[[], object] = lambda: None
        """Called after each report."""

    def produce(self, topic: str, value: bytes, key: Any, partition: int, report: Any, *rest: Any) -> None:
        number = int(value)
        if number in self.refuses:
            raise self.refuses.pop(number)
        if partition >= self.partitions:
            raise KafkaException(NO_PARTITION)
        with self._lock:
            self.queue.append((number, report))
            self.seen.append((number, report))
            self.ids.append(dict(rest[-1])[ID_HEADER])

    def answer(self, count: int | None = None, error: Any = None) -> None:
        with self._lock:
            answered, self.queue = self.queue[:count], [] if count is None else self.queue[count:]
            self._reports += [(report, error) for _, report in answered]
        self._ready.set()

    def fails_with(self, error: Any) -> None:
        self._fatal = error
        self._ready.set()

    def purge(self) -> None:
        self.answer(error=PURGED)

    def poll(self, timeout: float) -> int:
        self._ready.wait(timeout)
        with self._lock:
            reports, self._reports = self._reports, []
            self._ready.clear()
        for report, error in reports:
            report(error, SimpleNamespace(partition=lambda: self.partition, offset=lambda: 7))
            self.between()
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise KafkaException(fatal)
        return len(reports)

    def flush(self, timeout: float) -> int:
        self.poll(0.0)
        return len(self)

    def close(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.queue) + len(self._reports)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.seen]


class FakeAnswers:
    origin = "o"

    def __init__(self) -> None:
        self.stored_count = 0
        self.was_confirmed: list[int] = []
        self.was_failed: list[tuple[int, Exception]] = []
        self.was_returned: list[tuple[int, str]] = []
        self.was_delayed: list[tuple[int, str]] = []
        self.taken_back: set[int] = set()

    def stored(self, records: Any) -> None:
        self.stored_count += len(records)

    def all_confirmed(self, confirmations: Any) -> None:
        self.was_confirmed += [record[0] for record, *_ in confirmations]

    def failed(self, record: Any, error: Exception) -> None:
        self.was_failed.append((record[0], error))

    def returned(self, record: Any, cause: str) -> None:
        self.was_returned.append((record[0], cause))

    def delayed(self, record: Any, cause: str) -> None:
        self.was_delayed.append((record[0], cause))

    def given(self, record: Any) -> bool:
        return record[0] not in self.taken_back

    @property
    def failures(self) -> list[tuple[int, type[Exception]]]:
        return [(number, type(error)) for number, error in self.was_failed]


class FakeMaker:
    """Makes the one producer."""

    batch_bytes = message_bytes = 1_000_000
    compressed = throttled = False
    ban: str | None = None

    def __init__(self, producer: Any) -> None:
        self.errors = ClientErrors("test")
        self._producer = producer
        self.discarded: list[Any] = []

    def make(self) -> Any:
        return self._producer

    def discard(self, producer: Any) -> None:
        self.discarded.append(producer)

    def allow(self) -> None:
        self.ban = None

    def forbid(self, error: Any) -> None:
        self.ban = error.str()


def known(partitions: int = 3, **limits: Any) -> Topic:
    return Topic(partitions, Limits(**limits), time.monotonic())


class Box:
    """An outbox that knows the topic t."""

    def __init__(self) -> None:
        self.producer: Any = FakeProducer()
        self.maker: Any = FakeMaker(self.producer)
        self.answers: Any = FakeAnswers()
        self.asked: list[tuple[str, bool]] = []
        self.fatal: list[BaseException] = []
        self.outbox = KafkaPublisher(
            self.maker,
            "eventbus.test.reports",
            self.answers,
            lambda topic, stale: self.asked.append((topic, stale)),
            self.fatal.append,
        )

    def know(self, topic: str = "t", **limits: Any) -> None:
        """As if it had been made sure of just now."""
        self.outbox._lines.setdefault(topic, Line(topic))
        self.outbox.topic_ready(topic, known(**limits))

    def publish(self, *numbers: int, topic: str = "t", waiter: Any = None, extras: Any = None) -> int:
        """How many were taken."""
        return self.outbox.publish([Record(number, topic, b"%d" % number, extras, waiter) for number in numbers])

    def is_settled(self) -> bool:
        return self.outbox.in_flight == 0 and not self.outbox._busy

    def sent(self, *numbers: int) -> None:
        """Wait until it has sent these so far, in this order."""
        wait_until(lambda: self.producer.numbers == [*numbers], message=lambda: f"sent: {self.producer.numbers}")


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """One that has published, so that there is a producer."""
    monkeypatch.setattr(lines, "PAUSE", 0.0)
    made = Box()
    made.know()
    made.publish(0)
    made.sent(0)
    made.producer.answer()
    wait_until(lambda: made.answers.stored_count == 1)
    made.producer.seen.clear()
    made.answers.stored_count = 0
    yield made
    assert made.outbox.close(5.0) == ()


def test_every_way_to_an_answer_is_counted_once(box: Box) -> None:
    box.publish(*range(300))
    box.publish(300, waiter=object())
    box.publish(301)
    assert box.outbox.in_flight == 302
    box.producer.answer(301)
    wait_until(lambda: box.answers.stored_count == 300)
    assert box.answers.was_confirmed == [300]
    box.producer.answer(1, TOO_LARGE)
    wait_until(lambda: box.answers.failures == [(301, PublishRejectedError)], message="it was in a batch of its own")
    box.publish(302)
    box.producer.answer(1, TIMED_OUT)
    wait_until(lambda: box.producer.numbers[-2:] == [302, 302], message="it is sent again")
    assert box.producer.ids[-2:] == ["o-000000000302"] * 2
    box.producer.answer()
    wait_until(lambda: box.answers.stored_count == 301)
    box.producer.refuses[401] = KafkaException(TOO_LARGE)
    assert box.publish(400, 401, 402) == 3
    assert box.answers.failures[-1] == (401, PublishRejectedError)
    box.producer.refuses[501] = RuntimeError("closed")
    assert box.publish(500, 501, 502) == 1
    box.producer.answer()
    wait_until(box.is_settled)
    assert box.answers.stored_count == 304


def test_the_producer_is_made_when_there_is_something_to_publish() -> None:
    box = Box()
    assert box.outbox.producer is None
    box.publish(1, 2)
    assert box.asked == [("t", False)]
    wait_until(lambda: box.outbox.producer is box.producer)
    assert box.producer.numbers == []
    box.know()
    box.sent(1, 2)
    assert box.outbox.close(5.0) == ()


def test_records_wait_for_their_topic_in_order(box: Box) -> None:
    box.publish(1, 2, topic="new")
    box.publish(3)
    box.publish(4, topic="other")
    assert box.asked == [("new", False), ("other", False)]
    box.producer.refuses[2] = KafkaException(TOO_LARGE)
    box.outbox.topic_unready("new", "no leader")
    box.know("new")
    box.sent(3, 1)
    assert box.answers.failures == [(2, PublishRejectedError)]
    assert box.answers.was_returned == [(1, "no leader"), (2, "no leader")]
    box.publish(5, topic="new")
    box.sent(3, 1, 5)
    box.outbox.topic_refused("other", NotConnectedError("no"))
    assert box.answers.failures[-1] == (4, PublishRejectedError)
    box.producer.answer()
    wait_until(box.is_settled)


def test_what_was_taken_back_while_its_topic_was_not_there_is_not_sent(box: Box) -> None:
    box.publish(1, 2, topic="new")
    box.outbox.topic_unready("new", "no leader")
    box.answers.taken_back.add(1)
    box.know("new")
    box.sent(2)
    assert box.answers.was_failed == []


@pytest.mark.parametrize("error", [BufferError(), KafkaException(TIMED_OUT), KafkaException(UNKNOWN_TOPIC)])
def test_what_the_producer_does_not_take_goes_before_what_comes_later(box: Box, error: BaseException) -> None:
    box.producer.refuses[1] = error
    assert box.publish(1, 2) == 2
    if box.asked:
        box.know()
    box.sent(1, 2)
    box.producer.answer()
    wait_until(box.is_settled)
    box.publish(3)
    box.sent(1, 2, 3)


def test_members_of_a_refused_batch_are_tried_alone_and_the_others_wait(box: Box) -> None:
    box.publish(1, 2, 3)
    box.producer.answer(3, INVALID)
    wait_until(lambda: box.producer.numbers == [1, 2, 3, 1])
    box.publish(4, 5)
    box.producer.answer()
    box.sent(1, 2, 3, 1, 2)
    box.producer.answer(1, INVALID)
    box.sent(1, 2, 3, 1, 2, 3)
    assert box.answers.failures == [(2, PublishRejectedError)]
    box.producer.answer()
    box.sent(1, 2, 3, 1, 2, 3, 4, 5)
    box.producer.answer()
    wait_until(box.is_settled)
    assert box.answers.stored_count == 4


def test_a_part_of_a_refused_batch_is_not_judged_as_all_of_it(box: Box) -> None:
    """The sender, who serves reports while it has much to send, comes in the middle of the reports thread's."""
    begun, go_on = threading.Event(), threading.Event()

    def stop_once() -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(5.0)

    box.producer.between = stop_once
    box.publish(1, 2)
    box.producer.answer(2, INVALID)
    assert begun.wait(5.0)
    later = range(10, 10 + 3 * publisher_module._MANY)
    assert box.publish(*later) == len(later)
    go_on.set()

    def is_settled() -> bool:
        box.producer.answer()
        return box.is_settled()

    wait_until(is_settled)
    assert box.answers.was_failed == []
    assert box.answers.stored_count == 2 + len(later)


def test_what_is_behind_a_refused_batch_is_waited_for(box: Box) -> None:
    box.publish(1, 2, 3, 4)
    box.producer.answer(2, INVALID)
    wait_until(lambda: len(box.answers.was_returned) == 2)
    assert box.producer.numbers == [1, 2, 3, 4]
    box.producer.answer(1)
    box.producer.answer(1, TIMED_OUT)
    for number in (1, 2, 4):
        wait_until(lambda number=number: box.producer.numbers[-1] == number)  # type: ignore[misc]
        box.producer.answer()
    wait_until(box.is_settled)
    assert box.producer.numbers == [1, 2, 3, 4, 1, 2, 4]


def test_a_key_that_was_overtaken_is_counted(box: Box) -> None:
    key = Extras(key="k")
    box.publish(1, 2, 3, extras=key)
    box.producer.answer(2, INVALID)
    box.producer.answer(1)
    for number in (1, 2):
        wait_until(lambda number=number: box.producer.numbers[-1] == number)  # type: ignore[misc]
        box.producer.answer()
    wait_until(box.is_settled)
    assert box.outbox.overtaken_count == 2


def test_where_the_topic_is_forbidden_one_is_tried_for_all(box: Box) -> None:
    box.publish(1, 2, 3)
    box.producer.answer(3, FORBIDDEN)
    wait_until(lambda: box.asked == [("t", True)])
    box.know()
    box.sent(1, 2, 3, 1)
    box.producer.answer(1, FORBIDDEN)
    wait_until(lambda: len(box.answers.was_failed) == 3)
    assert box.answers.failures == [(number, PublishRejectedError) for number in (1, 2, 3)]
    box.publish(4)
    box.know()
    box.sent(1, 2, 3, 1, 4)


def test_a_topic_that_is_gone_is_made_sure_of_and_what_it_had_is_sent_again(box: Box) -> None:
    box.publish(1, 2)
    box.producer.answer(2, UNKNOWN_TOPIC)
    wait_until(lambda: box.asked == [("t", True)])
    box.publish(3)
    box.know()
    box.sent(1, 2, 1, 2, 3)
    box.producer.answer()
    wait_until(box.is_settled)


def test_what_goes_alone_to_a_partition_that_is_gone_goes_to_another(box: Box) -> None:
    """The topic was made anew with fewer of them: else it would be tried there for ever, and all behind it wait."""
    box.producer.partition = 2
    box.publish(1, 2)
    box.producer.partitions = 1
    box.producer.answer(2, INVALID)
    wait_until(lambda: ("t", True) in box.asked)
    box.producer.partition = 0
    box.publish(3)
    box.outbox.topic_ready("t", known(partitions=1))
    for number in (1, 2, 3):
        wait_until(lambda number=number: box.producer.numbers[-1] == number)  # type: ignore[misc]
        box.producer.answer()
    wait_until(box.is_settled)
    assert (box.producer.numbers, box.answers.was_failed) == ([1, 2, 1, 2, 3], [])


def test_what_the_configuration_tells_is_refused_before_it_is_sent(box: Box) -> None:
    box.know(needs_key=True)
    box.publish(1, extras=Extras(key="k"))
    box.publish(2)
    box.publish(3, extras=Extras(key="k"))
    box.sent(1, 3)
    assert box.answers.failures == [(2, PublishRejectedError)]


def test_nothing_is_refused_by_a_configuration_that_may_be_out_of_date(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.know(needs_key=True)
    monkeypatch.setattr(limits, "FRESH", 0.0)
    box.publish(1, extras=Extras(key="k"))
    box.publish(2, 3)
    assert (box.asked, box.producer.numbers, box.answers.was_failed) == ([("t", False)], [1], [])
    box.know()
    box.sent(1, 2, 3)


def test_no_batch_can_become_larger_than_the_topic_takes(box: Box) -> None:
    box.know(largest=3 * 120)
    box.publish(*range(1, 9))
    box.sent(1, 2, 3)
    box.producer.answer(1)
    box.sent(1, 2, 3, 4)
    box.producer.answer(3)
    box.sent(*range(1, 8))
    box.producer.answer()
    box.sent(*range(1, 9))


def test_what_may_be_stored_is_not_rejected(box: Box) -> None:
    box.publish(1)
    box.producer.answer(1, TIMED_OUT)
    box.sent(1, 1)
    assert [number for number, _ in box.answers.was_delayed] == [1]
    box.producer.answer(1, INVALID)
    wait_until(lambda: box.answers.failures == [(1, PublishUnknownError)])


def test_an_account_that_may_have_no_producer_is_told_so_and_tried_again_later(box: Box) -> None:
    box.publish(1, 2)
    box.producer.fails_with(NO_ID)
    wait_until(lambda: len(box.answers.was_failed) == 2)
    box.publish(3)
    wait_until(lambda: len(box.answers.was_failed) == 3)
    assert box.answers.failures == [(number, PublishRejectedError) for number in (1, 2, 3)]
    assert "may not" in str(box.answers.was_failed[2][1])
    assert (box.maker.discarded, box.fatal) == ([box.producer], [])
    box.maker.ban = None
    assert box.publish(4) == 1
    box.know()
    wait_until(lambda: box.producer.numbers[-1] == 4)


@pytest.mark.parametrize(("patience", "answered"), [(0.0, [1]), (10.0, [1, 2, 3])])
def test_a_broker_at_work_may_go_on_answering_before_the_end(
    box: Box, monkeypatch: pytest.MonkeyPatch, patience: float, answered: list[int]
) -> None:
    answers = iter([1, 1, 1, 0, 3])

    def flush(timeout: float) -> int:
        box.publish(6)  # not taken from the second time on
        box.producer.answer(next(answers, 0))
        return FakeProducer.flush(box.producer, timeout)

    monkeypatch.setattr(box.producer, "flush", flush)
    assert box.publish(*range(1, 6)) == 5
    box.outbox.retire(patience)
    assert box.answers.stored_count == len(answered)
    assert box.answers.was_failed == []
    assert len(box.producer) == 0


def test_after_the_end_it_takes_nothing_and_says_nothing_of_failures(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PAUSE", 60.0)
    box.publish(1, 2)
    box.publish(3, topic="new")
    box.publish(4, 5)
    box.producer.answer(1)
    box.producer.answer(1, TIMED_OUT)
    wait_until(lambda: box.outbox._busy)
    box.outbox.retire()
    assert box.answers.stored_count == 1
    for topic in ("t", "new", "newer"):
        assert box.publish(6, topic=topic) == 0
    box.outbox.topic_refused("new", NotConnectedError("no"))
    assert box.answers.was_failed == []
    box.outbox.retire()


@pytest.mark.parametrize(("error", "confirmed"), [(PURGED, []), (TOO_LARGE, []), (None, [1])])
def test_of_reports_that_come_after_the_end_only_good_ones_are_told(
    box: Box, monkeypatch: pytest.MonkeyPatch, error: Any, confirmed: list[int]
) -> None:
    monkeypatch.setattr(publisher_module, "_EMPTY_WITHIN", 0.05)
    monkeypatch.setattr(FakeProducer, "purge", lambda self: None)
    box.publish(1, waiter=object())
    box.outbox.retire()
    box.producer.answer(error=error)
    box.outbox.look_for_reports()
    assert (box.answers.was_confirmed, box.answers.was_failed) == (confirmed, [])


def test_a_fatal_error_is_told_once_and_shuts_the_door(box: Box) -> None:
    box.publish(1)
    box.producer.answer(error=FATAL)
    wait_until(lambda: box.fatal)
    box.maker.errors.note(FATAL)
    assert box.publish(2) == 0
    assert len(box.fatal) == 1
    box.outbox.retire()
    assert box.answers.was_failed == []


# -- watchdogs -----------------------------------------------------------------------------------
