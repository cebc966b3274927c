"""Beside, on JetStream: a publish that is refused holds up, fails or repeats nothing but itself."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
from nats_operator import Operator
from rounds import limit, rounds
from world_support import Seen, end, pause

from eventbus import (
    EventBus,
    Message,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
)
from eventbus.testing import NatsServer, TcpProxy, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]


@pytest.fixture
def operator(nats_server: NatsServer) -> Iterator[Operator]:
    with Operator(nats_server.address) as made:
        yield made


@pytest.fixture
def bus(nats_server: NatsServer) -> Iterator[EventBus]:
    made = EventBus({"url": nats_server.url, "max_in_flight": 5000})
    made.open()
    yield made
    end(made)


def test_a_full_stream_holds_up_itself_and_is_not_sent_with_its_reason(bus: EventBus, operator: Operator) -> None:
    operator.make_stream("EU", "orders.eu.>", discard="new", max_msgs=1)
    operator.make_stream("US", "orders.us.>")
    bus.publish("orders.eu.new", b"fills it")
    waiting = bus.publish_async("orders.eu.new", b"waits")
    with pytest.raises(PublishNotSentError, match=r"maximum messages exceeded \(10077\) within 0.3 s"):
        bus.publish("orders.eu.new", b"full", timeout=0.3)
    started = time.monotonic()
    assert bus.publish("orders.us.new", b"x", timeout=3.0).partition == "US"
    assert time.monotonic() - started < 1.0
    wait_until(waiting.cancel)  # not while it is asked again
    assert bus.flush(5.0).unanswered == 0
    operator.call("STREAM.PURGE.EU")
    assert bus.publish("orders.eu.new", b"there is room again").confirmed
    assert operator.stored("EU") == 1, "what was not sent, or taken back, is not stored"


def test_a_full_subject_holds_up_itself(bus: EventBus, operator: Operator) -> None:
    operator.make_stream("jobs", "jobs.>", discard="new", discard_new_per_subject=True, max_msgs_per_subject=1)
    bus.publish("jobs.a", b"first")
    second = bus.publish_async("jobs.a", b"second")
    for topic in ("jobs.b", "jobs.c"):
        assert bus.publish(topic, b"x", timeout=3.0).confirmed
    assert not second.done()
    operator.call("STREAM.PURGE.jobs", filter="jobs.a")
    assert second.result(5.0).confirmed


def test_a_topic_that_the_bound_stream_does_not_take_is_rejected_alone(
    nats_server: NatsServer, operator: Operator
) -> None:
    operator.make_stream("ORDERS", "orders.>")
    bus = EventBus({"url": nats_server.url, "stream_name": "ORDERS"})
    try:
        bus.open()
        outside = bus.publish_async("other.topic", b"x")
        assert bus.publish("orders.a", b"x", timeout=2.0).confirmed
        assert isinstance(outside.exception(5.0), PublishRejectedError)
        assert "does not take 'other.topic'" in str(outside.exception())
    finally:
        end(bus)


def test_a_topic_that_has_moved_to_a_full_stream_holds_up_itself(bus: EventBus, operator: Operator) -> None:
    operator.make_stream("A", "a.>")
    bus.publish("a.x", b"1")
    bus.publish("a.y", b"1")
    operator.call("STREAM.UPDATE.A", name="A", subjects=["a.x"])
    operator.make_stream("B", "a.y", discard="new", max_msgs=1)
    assert bus.publish("a.y", b"fills it").partition == "B"
    waiting = bus.publish_async("a.y", b"waits")
    for number in range(20):
        assert bus.publish("a.x", str(number), timeout=3.0).partition == "A"
    assert not waiting.done()
    operator.call("STREAM.PURGE.B")
    assert waiting.result(5.0).partition == "B"


@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_a_topic_that_is_taken_from_its_stream_holds_up_itself(
    nats_server: NatsServer, operator: Operator, delay: float
) -> None:
    """Its lookup ends while its record is being tried: what waits for the others goes on all the same."""
    operator.make_stream("S", "s.a", "s.b")
    with TcpProxy(*nats_server.address) as proxy:
        bus = EventBus(nats_server.url_at(*proxy.address))
        try:
            bus.open()
            bus.publish_many([Message("s.a", b"1"), Message("s.b", b"1")])
            proxy.delay(delay)
            operator.call("STREAM.UPDATE.S", name="S", subjects=["s.b"])
            gone = bus.publish_async("s.a", b"2")
            for number in range(5):
                assert bus.publish("s.b", str(number), timeout=5.0).confirmed
            assert isinstance(gone.exception(10.0), (PublishRejectedError, PublishUnknownError))
            assert operator.stored("S") == 7
        finally:
            end(bus)


def test_an_outage_of_the_whole_stream_parts_no_topics(nats_server: NatsServer) -> None:
    """Else each topic would have a window of its own afterwards, and the server too much to do."""
    bus = EventBus(nats_server.url)
    try:
        bus.open()
        topics = [f"s.t{number}" for number in range(30)]
        bus.publish_many([Message(topic, b"1") for topic in topics])
        for _ in range(2):
            nats_server.freeze()
            waiting = [bus.publish_async(topic, b"2") for topic in topics]
            pause(0.5)
            nats_server.thaw()
            assert all(one.result(10.0).confirmed for one in waiting)
        session = bus._supervisor.session
        queues = set(session.publisher._routes.by_topic.values())  # type: ignore[union-attr]
        assert len(queues) == 1
    finally:
        end(bus)


@pytest.mark.parametrize("many", [1, 60])
def test_what_was_given_up_costs_nobody_time_and_is_not_sent(bus: EventBus, operator: Operator, many: int) -> None:
    operator.make_stream("orders", "orders.>", discard="new", max_msgs=1)
    bus.publish("orders.a", b"fills it")
    with pytest.raises(PublishManyError) as caught:
        bus.publish_many([Message("orders.a", b"x") for _ in range(many)], timeout=0.7)
    assert {type(result) for result in caught.value.results} == {PublishNotSentError}
    assert "maximum messages exceeded" in str(caught.value.results[-1])
    operator.call("STREAM.UPDATE.orders", name="orders", subjects=["orders.>"], discard="new", max_msgs=1000)
    started = time.monotonic()
    assert bus.publish("orders.b", b"y", timeout=5.0).confirmed
    assert time.monotonic() - started < 2.5
    assert operator.stored("orders") == 2


def test_too_many_headers_are_refused_at_once_and_hold_up_nobody(bus: EventBus, operator: Operator) -> None:
    operator.make_stream("orders", "orders.>")
    large = bus.publish_async("orders.b", b"x", headers={f"n{number}": "v" * 1000 for number in range(80)})
    assert bus.publish("orders.a", b"x", timeout=2.0).confirmed
    assert isinstance(large.exception(5.0), PublishRejectedError)


@pytest.mark.parametrize("change", [{"sealed": True}, {"max_msg_size": 100}, {"subjects": ["orders.b"]}], ids=str)
def test_refused_by_the_next_session_and_stored_by_the_last_one_is_unknown(
    nats_server: NatsServer, operator: Operator, change: dict[str, object]
) -> None:
    operator.make_stream("orders", "orders.>")
    with TcpProxy(*nats_server.address) as proxy:
        bus = EventBus({"url": nats_server.url_at(*proxy.address)})
        try:
            bus.open()
            bus.publish("orders.a", b"1")
            proxy.black_hole(to_server=False, to_client=True)
            unanswered = bus.publish_async("orders.a", bytes(500))
            wait_until(lambda: operator.stored("orders") == 2)
            config = operator.call("STREAM.INFO.orders")["config"]
            operator.call("STREAM.UPDATE.orders", **{**config, **change})
            proxy.cut()
            proxy.accept()
            assert isinstance(unanswered.exception(20.0), PublishUnknownError)
            assert bus.get_statistics().rejected == 0
        finally:
            end(bus)


def test_a_topic_without_a_stream_is_rejected_alone(bus: EventBus, operator: Operator) -> None:
    operator.make_stream("EU", "orders.eu.>")
    results = [bus.publish_async(f"orders.eu.{number % 3}", str(number)) for number in range(300)]
    with pytest.raises(PublishRejectedError, match=r"no stream (holds|takes) 'orders\.us\.new'"):
        bus.publish("orders.us.new", b"x", timeout=5.0)
    assert all(result.result(5.0).partition == "EU" for result in results)
    assert operator.stored("EU") == 300


def test_an_id_is_one_messages_inside_one_topic(bus: EventBus, operator: Operator) -> None:
    seen = Seen()
    bus.subscribe("orders.*", seen, group="reader")
    first = bus.publish("orders.created", b"created", id="order-42")
    assert not bus.publish("orders.paid", b"paid", id="order-42").duplicate
    assert bus.publish("orders.created", b"again", id="order-42").duplicate
    minted = bus.publish("orders.created", b"minted")
    assert bus.publish("orders.created", b"as after an unknown one", id=minted.id).duplicate
    assert not bus.publish("orders.copied", b"forwarded", id=minted.id).duplicate
    seen.wait(4)
    assert [message.id for message in seen.messages] == [first.id, first.id, minted.id, minted.id]
    assert bus.publish_many(seen.messages)[0].duplicate
    assert operator.stored("orders") == 4


def test_new_topics_of_a_stream_keep_their_order(bus: EventBus, operator: Operator) -> None:
    for number in range(200):
        bus.publish_nowait(f"orders.{number % 20}", str(number))
    assert bus.flush(5.0).unanswered == 0
    seen = Seen()
    bus.subscribe("orders.*", seen, group="reader")
    assert seen.wait(200) == [str(number).encode() for number in range(200)]


def test_a_stream_that_is_deleted_is_made_again_and_nothing_overtakes(bus: EventBus, operator: Operator) -> None:
    bus.publish("orders.new", b"first")
    operator.call("STREAM.DELETE.orders")
    for number in range(1000):
        bus.publish_nowait("orders.new", str(number))
    assert bus.flush(10.0).unanswered == 0
    seen = Seen()
    bus.subscribe("orders.*", seen, group="reader")
    assert seen.wait(1000) == [str(number).encode() for number in range(1000)]


def test_a_busy_stream_has_everything_in_the_end() -> None:
    with tempfile.TemporaryDirectory() as store:
        limits = f"store_dir: '{store}', max_buffered_msgs: 20, max_file_store: 1GB, max_memory_store: 100MB"
        with NatsServer(jetstream=False, config=f"jetstream {{ {limits} }}") as server, EventBus(server.url) as bus:
            number = rounds(2000, 20_000)
            receipts = bus.publish_many([Message("orders.new", str(one)) for one in range(number)], timeout=60.0)
            assert len({receipt.offset for receipt in receipts}) == number
            with Operator(server.address) as operator:
                assert operator.stored("orders") == number


def test_an_answer_that_comes_late_is_believed(nats_server: NatsServer, operator: Operator) -> None:
    """The resend is held up by a stream that has no room any more: the first sending was stored all the same."""
    operator.make_stream("late", "late.>", discard="new", max_msgs=2)
    with TcpProxy(*nats_server.address) as proxy:
        bus = EventBus({"url": nats_server.url_at(*proxy.address), "ping_interval": 60.0})
        try:
            bus.open(10.0)
            bus.publish("late.x", b"1")
            proxy.delay(3.0)
            stored = bus.publish_async("late.x", b"2")
            assert stored.result(20.0).offset == 2
            assert operator.stored("late") == 2
        finally:
            end(bus)


MUTE = {"publish": {"allow": [">"]}, "subscribe": {"allow": [">"], "deny": ["_INBOX.*.p.*"]}}
"""May not read the inbox that answers to publishes come to."""


def test_a_publish_without_any_answer_makes_the_bus_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its age counts from the first sending, however often it is sent again."""
    monkeypatch.setattr("eventbus.backends.nats.core.session.STUCK", 3.0)
    monkeypatch.setattr("eventbus.backends.nats.jetstream.publisher.UNANSWERED", 0.5)
    user = json.dumps([{"user": "app", "password": "pw", "permissions": MUTE}])
    with NatsServer(config=f"authorization {{ users: {user} }}") as server:
        url = f"nats://app:pw@{server.address[0]}:{server.address[1]}"
        bus = EventBus({"url": url, "health_check": {"interval": 0.2}, "reconnect": {"failure_threshold": 100}})
        try:
            bus.open()
            with pytest.raises(PublishUnknownError):
                bus.publish("orders.new", b"x", timeout=0.5)
            wait_until(lambda: not bus.get_health_status().is_healthy, 10.0)
            assert "publish" in bus.get_health_status().detail
        finally:
            end(bus)


def test_several_publishers_of_one_stream_lose_nothing_and_keep_their_order(nats_server: NatsServer) -> None:
    number, seen = rounds(5_000, 60_000), Seen()
    buses = [EventBus({"url": nats_server.url, "name": f"publisher-{one}"}) for one in range(4)]
    try:
        for bus in buses:
            bus.open()

        def publish(index: int) -> None:
            for one in range(number):
                while True:
                    try:
                        buses[index].publish_nowait("orders.new", f"{index}/{one}")
                        break
                    except PublishNotSentError:
                        buses[index].flush(5.0)

        threads = [threading.Thread(target=publish, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [bus.flush(60.0).unanswered for bus in buses] == [0] * 4
        assert sum(bus.get_statistics().rejected for bus in buses) == 0
        buses[0].subscribe("orders.new", seen, group="reader")
        seen.wait(4 * number, 60.0)
        for index in range(4):
            mine = [int(payload.split(b"/")[1]) for payload in seen.payloads if payload.startswith(b"%d/" % index)]
            assert mine == list(range(number))
    finally:
        for bus in buses:
            end(bus)
