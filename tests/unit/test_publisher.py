"""The four verbs and flush, against a session that the test controls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from enum import Enum

import pytest
from attrs import evolve
from fakes import FakeSink, given

from eventbus import (
    TOMBSTONE,
    ErrorEvent,
    EventBus,
    Message,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    Receipt,
)
from eventbus.errors import ClosedError
from eventbus.names import OUR_NAMES
from eventbus.publishing.failures import Failures
from eventbus.publishing.publisher import Publisher
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages


class Rig:
    def __init__(self) -> None:
        self.events: list[ErrorEvent] = []
        self.suspected: list[int] = []
        self.session = FakeSink()
        self.publisher = Publisher("test", 10, 10_000, self.events.append, lambda: self.suspected.append(1))
        self.publisher.start()
        self.pending = self.publisher.pending

    def confirm(self, count: int) -> None:
        wait_until(lambda: len(self.session.taken) >= count)
        for record in self.session.take(count):
            self.pending.confirmed(record, 0, record[0])


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.pending.fail_all(lambda id: ClosedError("closed"))
    assert made.publisher.close(5.0) == ()


def publish(rig: Rig, timeout: float = 5.0, **extra: object) -> Receipt:
    return rig.publisher.publish(given("t", b"x", **extra), timeout)


def test_publish_waits_for_the_answer(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    receipts: list[Receipt] = []
    thread = threading.Thread(target=lambda: receipts.append(publish(rig, id="mine")))
    thread.start()
    wait_until(lambda: rig.session.taken)
    assert receipts == []
    rig.confirm(1)
    thread.join(5.0)
    assert receipts == [Receipt(topic="t", id="mine", confirmed=True, partition=0, offset=1)]
    assert rig.suspected == []


def test_without_a_session_it_is_not_sent_and_without_an_answer_unknown(rig: Rig) -> None:
    with pytest.raises(PublishNotSentError, match=r"no client could be given it within 0\.01 s") as caught:
        publish(rig, 0.01)
    assert caught.value.id == f"{rig.pending.origin}-{1:012d}"
    assert rig.pending.in_flight == 0
    assert rig.suspected == []
    rig.pending.swap(rig.session)
    with pytest.raises(PublishUnknownError, match=r"no answer within 0\.01 s"):
        publish(rig, 0.01)
    assert rig.pending.in_flight == 1
    assert rig.suspected == [1], "the health check looks at once"


def test_publish_nowait_reports_what_fails_later(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    for number in range(3):
        rig.publisher.publish_nowait(given("t", b"x", id=f"id-{number}" if number else None))
    wait_until(lambda: len(rig.session.taken) == 3)
    first, second, third = rig.session.take(3)
    rig.pending.confirmed(first, 0, 0)
    rig.pending.failed(second, PublishRejectedError("too large", "id-1"))
    rig.pending.failed(third, OSError("gone"))
    report = rig.publisher.flush(5.0)
    assert (report.unanswered, report.left_out) == (0, 0)
    assert [(type(error), error.id) for error in report.failed] == [
        (PublishRejectedError, "id-1"),
        (PublishUnknownError, "id-2"),
    ]
    assert [event.source for event in rig.events] == ["publish", "publish"]
    assert rig.publisher.flush(0.0).failed == ()
    assert (rig.pending.counts.confirmed, rig.pending.counts.rejected, rig.pending.counts.unknown) == (1, 1, 1)


def test_publish_nowait_never_waits_for_room(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    for _ in range(10):
        rig.publisher.publish_nowait(given("t", b"x"))
    with pytest.raises(PublishNotSentError, match="no room"):
        rig.publisher.publish_nowait(given("t", b"x"))
    assert rig.publisher.flush(0.01).unanswered == 10


def test_failures_are_kept_up_to_a_bound_and_counted_beyond(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    for _ in range(4 * Failures.MOST):
        rig.publisher.publish_nowait(given("t", b""))
        wait_until(lambda: rig.session.taken)
        rig.pending.failed(rig.session.take(1)[0], OSError("x"))
    report = rig.publisher.flush(5.0)
    assert (len(report.failed), report.left_out) == (Failures.MOST, 3 * Failures.MOST)
    assert len(rig.pending.failures._left_out) == 0
    assert rig.publisher.flush(5.0).left_out == 0


def test_publish_many_tells_each_result_in_order(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    failed: list[PublishManyError] = []

    def run() -> None:
        try:
            rig.publisher.publish_many([Message("t", b"x", id=f"id-{number}") for number in range(3)], 0.5)
        except PublishManyError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(rig.session.taken) == 3)
    first, second = rig.session.take(2)
    rig.pending.failed(second, PublishRejectedError("too large", "id-1"))
    rig.pending.confirmed(first, 0, 0)
    thread.join(5.0)
    results = failed[0].results
    assert [type(result) for result in results] == [Receipt, PublishRejectedError, PublishUnknownError]
    assert [result.id for result in results] == ["id-0", "id-1", "id-2"]


def test_a_close_in_the_middle_of_publish_many_keeps_the_answers_so_far(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    messages = [Message("t", b"x", id=f"id-{number}") for number in range(12)]  # there is room for ten
    failed: list[PublishManyError] = []

    def run() -> None:
        try:
            rig.publisher.publish_many(messages, 10.0)
        except PublishManyError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: rig.pending._bell._waiting)
    rig.confirm(1)
    wait_until(lambda: len(rig.session.seen) == 11)
    rig.pending.fail_all(lambda id: ClosedError("closed"))
    thread.join(5.0)
    kinds = [type(result) for result in failed[0].results]
    assert kinds == [Receipt, *[PublishUnknownError] * 10, PublishNotSentError]
    assert [result.id for result in failed[0].results] == [message.id for message in messages]


def test_one_that_nobody_can_carry_is_refused_alone() -> None:
    bad = [Message("bad topic", b"x", id="mine"), Message("t", TOMBSTONE)]
    with EventBus("memory://refused-alone") as bus, pytest.raises(PublishManyError, match="2 of 4 messages") as caught:
        bus.publish_many([Message("t", b"1"), *bad, Message("t", b"2")])
    results = caught.value.results
    assert [type(one) for one in results] == [Receipt, PublishRejectedError, PublishRejectedError, Receipt]
    assert results[1].id == "mine"


def test_a_topic_that_is_an_enums_text_is_text() -> None:
    class Topic(str, Enum):
        ORDERS = "orders.new"

    with EventBus("memory://enum") as bus:
        receipt = bus.publish(
            Topic.ORDERS, b"x", key=Topic.ORDERS, id=Topic.ORDERS, headers={Topic.ORDERS: Topic.ORDERS}
        )
        assert (type(receipt.topic), receipt.topic, type(receipt.id)) == (str, "orders.new", str)
        sub = bus.subscribe(Topic.ORDERS, print, group=Topic.ORDERS)
        assert (type(sub.topic), type(sub.group)) == (str, str)


def test_large_ones_among_empty_ones_leave_the_bounds_as_they_are() -> None:
    outages = MemoryOutages("bounds")
    with EventBus("memory://bounds?max_in_flight_bytes=40000") as bus:
        bus.publish_nowait("t", b"x" * 1000)
        for _ in range(100):
            bus.publish_nowait("t", b"")
        bus.flush()
        assert bus._quick[0].largest >= 512
        outages.freeze()
        with pytest.raises(PublishNotSentError, match="no room"):
            for _ in range(1000):
                bus.publish_nowait("t", b"x" * 512)
        assert bus.get_statistics().in_flight_bytes < 41_000
        outages.restore()


def test_what_is_no_message_is_a_type_error_before_anything_is_sent(rig: Rig) -> None:
    rig.pending.swap(rig.session)
    with pytest.raises(TypeError, match="not str"):
        rig.publisher.publish_many([Message("t", b"x"), "t"], 1.0)  # type: ignore[list-item]
    assert rig.pending.published == 0


def test_what_is_refused_at_the_door_has_an_id_too(rig: Rig) -> None:
    for call in (rig.publisher.publish_nowait, lambda given: rig.publisher.publish(given, 1.0)):
        with pytest.raises(PublishRejectedError) as caught:
            call(given("bad topic", b"x"))
        assert caught.value.id


def test_a_signal_handler_s_exception_comes_out_as_it_is(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be of any kind: a ValueError is no verdict about the message."""
    ours = ValueError("a time limit")

    def interrupted(topic: object) -> str:
        raise ours

    monkeypatch.setattr(rig.publisher, "_names", evolve(OUR_NAMES, topic=interrupted))
    with pytest.raises(ValueError, match="a time limit") as caught:
        rig.publisher.publish_nowait(given("new", b"x"))
    assert caught.value is ours


def test_the_memory_of_known_topics_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.publishing.publisher.KNOWN_TOPICS", 3)
    rig.pending.swap(rig.session)
    for number in range(10):
        rig.publisher.publish_nowait(given(f"t{number}", b"x"))
        rig.confirm(1)
    assert len(rig.pending.inbox.topics) <= 3


def test_a_message_that_was_taken_back_is_never_sent_and_one_that_was_given_is_not_taken_back(rig: Rig) -> None:
    early = rig.publisher.publish_async(given("t", b"early"), 1.0)
    assert early.cancel()
    assert early.cancelled()
    rig.pending.swap(rig.session)
    late = rig.publisher.publish_async(given("t", b"late"), 1.0)
    wait_until(lambda: rig.session.taken)
    assert not late.cancel()
    rig.confirm(1)
    assert late.result(5.0).confirmed
    assert rig.session.seen == [late.number]
    assert rig.pending.in_flight == 0


def test_a_batch_says_not_sent_of_what_no_client_was_given(rig: Rig) -> None:
    with pytest.raises(PublishManyError) as caught:
        rig.publisher.publish_many([Message("t", b"x")] * 2, 0.05)
    assert [type(result) for result in caught.value.results] == [PublishNotSentError] * 2
    assert rig.pending.in_flight == 0


def test_failures_that_an_interrupted_flush_has_taken_are_told_by_the_next(rig: Rig) -> None:
    rig.pending.failures.add(PublishNotSentError("full", "1"))

    def interrupted(**figures: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("eventbus.publishing.publisher.FlushReport", interrupted)
        rig.publisher.flush(1.0)
    assert [error.id for error in rig.publisher.flush(1.0).failed] == ["1"]
