"""The outbox with a producer that does what it is told, and the two watchdogs with clocks that do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from eventbus.backends.kafka.clients.errors import ClientErrors
from eventbus.backends.kafka.publishing import publisher as publisher_module
from eventbus.backends.kafka.publishing.publisher import ID_HEADER, KafkaPublisher
from eventbus.errors import NotConnectedError, PublishNotSentError, PublishRejectedError
from eventbus.publishing.records import Record
from eventbus.testing import wait_until

TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
PURGED = KafkaError(KafkaError._PURGE_QUEUE)
TIMED_OUT = KafkaError(KafkaError.REQUEST_TIMED_OUT)
FATAL = KafkaError(KafkaError._FATAL)


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

    def produce(self, topic: str, value: bytes, key: Any, partition: int, report: Any, *rest: Any) -> None:
        number = int(value)
        if number in self.refuses:
            raise self.refuses.pop(number)
        with self._lock:
            self.queue.append((number, report))
            self.seen.append((number, report))
            self.ids.append(dict(rest[-1])[ID_HEADER])

    def answer(self, count: int | None = None, error: Any = None) -> None:
        with self._lock:
            answered, self.queue = self.queue[:count], [] if count is None else self.queue[count:]
            self._reports += [(report, error) for _, report in answered]
        self._ready.set()

    def purge(self) -> None:
        self.answer(error=PURGED)

    def poll(self, timeout: float) -> int:
        self._ready.wait(timeout)
        with self._lock:
            reports, self._reports = self._reports, []
            self._ready.clear()
        for report, error in reports:
            report(error, SimpleNamespace(partition=lambda: 0, offset=lambda: 7))
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

    def stored(self, records: Any) -> None:
        self.stored_count += len(records)

    def confirmed(self, record: Any, partition: int, offset: int) -> None:
        self.was_confirmed.append(record[0])

    def failed(self, record: Any, error: Exception) -> None:
        self.was_failed.append((record[0], error))


class Box:
    """An outbox that knows the topic t."""

    def __init__(self) -> None:
        self.producer: Any = FakeProducer()
        self.answers: Any = FakeAnswers()
        self.asked: list[str] = []
        self.fatal: list[BaseException] = []
        self.errors = ClientErrors("test")
        self.outbox = KafkaPublisher(
            self.producer, self.errors, "eventbus.test.reports", self.answers, self.asked.append, self.fatal.append
        )
        self.outbox.ready.add("t")

    def publish(self, *numbers: int, topic: str = "t", waiter: Any = None) -> int:
        """How many were taken."""
        return self.outbox.publish([Record(number, topic, b"%d" % number, None, waiter) for number in numbers])

    def is_settled(self) -> bool:
        return self.outbox.in_flight == 0 and self.outbox.answered == self.outbox._taken


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    assert made.outbox.close(5.0) == ()


def test_every_way_to_an_answer_is_counted_once(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "RESEND_EVERY", 0.0)
    box.publish(*range(300))
    box.publish(300, waiter=object())
    box.publish(301, 302)
    assert box.outbox.in_flight == 303
    box.producer.answer(301)
    wait_until(lambda: box.answers.stored_count == 300)
    assert box.answers.was_confirmed == [300]
    box.producer.answer(1, TOO_LARGE)
    wait_until(lambda: box.answers.was_failed)
    assert isinstance(box.answers.was_failed[0][1], PublishRejectedError)
    box.producer.answer(1, TIMED_OUT)
    wait_until(lambda: box.producer.numbers[-2:] == [302, 302], message="it is sent again")
    assert box.producer.ids[-2:] == ["o-000000000302"] * 2
    box.producer.answer()
    wait_until(lambda: box.answers.stored_count == 301)
    for error, kind in (
        (KafkaException(TOO_LARGE), PublishRejectedError),
        (KafkaException(TIMED_OUT), PublishNotSentError),
        (BufferError(), PublishNotSentError),
    ):
        box.producer.refuses[401] = error
        assert box.publish(400, 401, 402) == 3
        assert (box.answers.was_failed[-1][0], type(box.answers.was_failed[-1][1])) == (401, kind)
    box.producer.refuses[501] = RuntimeError("closed")
    assert box.publish(500, 501, 502) == 1
    box.producer.answer()
    wait_until(box.is_settled)
    assert box.answers.stored_count == 308


def test_records_wait_for_their_topic_in_order(box: Box) -> None:
    box.publish(1, 2, topic="new")
    box.publish(3)
    box.publish(4, topic="other")
    assert box.asked == ["new", "other"]
    assert box.producer.numbers == [3]
    box.producer.refuses[2] = KafkaException(TOO_LARGE)
    box.outbox.topic_ready("new")
    assert box.producer.numbers == [3, 1]
    assert [number for number, _ in box.answers.was_failed] == [2]
    box.publish(5, topic="new")
    assert box.producer.numbers == [3, 1, 5]
    box.outbox.topic_refused("other", NotConnectedError("no"))
    assert isinstance(box.answers.was_failed[-1][1], PublishRejectedError)
    box.producer.answer()
    wait_until(box.is_settled)


@pytest.mark.parametrize("error", [BufferError(), KafkaException(TIMED_OUT)])
def test_a_topic_stays_held_while_the_producer_takes_nothing(box: Box, error: BaseException) -> None:
    box.publish(1, 2, topic="new")
    box.producer.refuses[1] = error
    box.outbox.topic_ready("new")
    assert (box.producer.numbers, box.outbox.held_topics) == ([], ["new"])
    box.publish(3, topic="new")
    box.outbox.topic_ready("new")
    assert (box.producer.numbers, box.outbox.held_topics) == ([1, 2, 3], [])


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
    monkeypatch.setattr(publisher_module, "RESEND_EVERY", 60.0)
    box.publish(1, 2)
    box.publish(3, topic="new")
    box.publish(4, 5)
    box.producer.answer(1)
    box.outbox._resend_at = float("inf")
    box.producer.answer(1, TIMED_OUT)
    wait_until(lambda: box.outbox._returned)
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
    box.errors.note(FATAL)
    assert box.publish(2) == 0
    assert len(box.fatal) == 1
    box.outbox.retire()
    assert box.answers.was_failed == []


# -- watchdogs -----------------------------------------------------------------------------------
