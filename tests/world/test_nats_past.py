"""Reading the past of streams that others alter: nothing is left on the server, nothing hangs, refusals are typed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from nats_operator import Operator
from rounds import limit
from test_nats_narrow import bus_of, users

from eventbus import EventBus, Excerpt, Message, ReadError
from eventbus.backends.nats.jetstream import excerpts
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]

READS_INBOX = {"subscribe": {"allow": ["_INBOX.>"]}}
UNSEEING = {"publish": {"deny": ["$JS.API.STREAM.MSG.GET.>", "$JS.API.STREAM.NAMES"]}}
MUTE = {"publish": {"deny": ["$JS.API.CONSUMER.CREATE.>"]}}
DEAF = {"publish": {"deny": ["$JS.API.CONSUMER.MSG.NEXT.>"]}}
TOPIC = "orders.new"


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer(config=users(unseeing=UNSEEING, mute=MUTE, deaf=DEAF)) as made:
        yield made


@pytest.fixture
def bus(server: NatsServer) -> Iterator[EventBus]:
    with bus_of(server, "admin") as made:
        yield made


@pytest.fixture
def operator(server: NatsServer) -> Iterator[Operator]:
    with Operator(server.address, user="admin") as made:
        yield made


def fill(bus: EventBus, count: int, size: int = 10, topic: str = TOPIC) -> None:
    bus.publish_many([Message(topic, f"{number} {'.' * size}") for number in range(count)])


def numbers(excerpt: Excerpt) -> list[int]:
    return [int(message.text().split()[0]) for message in excerpt]


def consumers(operator: Operator) -> list[str]:
    return list(operator.call("CONSUMER.NAMES.orders").get("consumers") or ())


def test_no_consumer_stays_behind(bus: EventBus, operator: Operator) -> None:
    fill(bus, 3000)
    excerpt = bus.read(TOPIC)
    next(excerpt)
    (name,) = consumers(operator)
    config = operator.call(f"CONSUMER.INFO.orders.{name}")["config"]
    assert (config["ack_policy"], config["inactive_threshold"]) == ("none", excerpts.INACTIVE * 10**9)
    excerpt.close()
    wait_until(lambda: consumers(operator) == [])
    for _ in bus.read(TOPIC):
        break
    assert numbers(bus.read(TOPIC)) == list(range(3000))
    wait_until(lambda: consumers(operator) == [])


def test_a_consumer_that_is_deleted_in_the_middle_is_made_again(bus: EventBus, operator: Operator) -> None:
    fill(bus, 5000, 1000)
    excerpt = bus.read(TOPIC)
    found = [int(next(excerpt).text().split()[0])]
    for _ in range(3):
        (name,) = consumers(operator)
        operator.call(f"CONSUMER.DELETE.orders.{name}")
        found += [int(next(excerpt).text().split()[0]) for _ in range(1200)]
    assert found + numbers(excerpt) == list(range(5000))


def test_what_is_deleted_meanwhile_is_left_out_and_nothing_hangs(bus: EventBus, operator: Operator) -> None:
    fill(bus, 8000, 1000)
    excerpt = bus.read(TOPIC)
    found = [int(next(excerpt).text().split()[0])]
    operator.call("STREAM.PURGE.orders", seq=4000)
    for sequence in range(7900, 8001):
        operator.call("STREAM.MSG.DELETE.orders", seq=sequence)
    began = time.monotonic()
    found += numbers(excerpt)
    assert time.monotonic() - began < 5.0
    assert found == sorted(set(found))
    assert set(range(3999, 7899)) <= set(found)
    assert max(found) == 7898
    one = bus.read(TOPIC, start=7898)
    operator.call("STREAM.PURGE.orders")
    assert len(numbers(one)) <= 2


def test_a_stream_that_is_deleted_in_the_middle_is_said_to_be(bus: EventBus, operator: Operator) -> None:
    fill(bus, 5000, 1000)
    excerpt = bus.read(TOPIC)
    next(excerpt)
    operator.call("STREAM.DELETE.orders")
    with pytest.raises(ReadError, match="not there"):
        numbers(excerpt)


def test_a_stream_that_is_made_anew_in_the_middle_is_said_to_be(bus: EventBus, operator: Operator) -> None:
    fill(bus, 5000, 1000)
    excerpt = bus.read(TOPIC)
    next(excerpt)
    operator.call("STREAM.DELETE.orders")
    operator.make_stream("orders", "orders", "orders.>")
    bus.publish_many([Message(TOPIC, f"-1 {'.' * 1000}") for _ in range(5000)])
    found: list[str] = []
    with pytest.raises(ReadError, match="made anew"):
        for message in excerpt:
            found.append(message.text())
    assert not [text for text in found if text.startswith("-1")]


def test_messages_of_any_size_are_read(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "MOST_BYTES", 64 * 1024)
    for number, size in enumerate([10, 200_000, 10, 500_000, 900_000, 60_000, 10, 10]):
        bus.publish(TOPIC, f"{number} {'.' * size}")
    began = time.monotonic()
    assert numbers(bus.read(TOPIC)) == list(range(8))
    assert time.monotonic() - began < 5.0


def test_a_topic_without_messages_in_a_stream_that_takes_it_is_empty(bus: EventBus) -> None:
    fill(bus, 3)
    assert list(bus.read("orders.old")) == []
    fill(bus, 2, topic="orders.old")
    assert numbers(bus.read("orders.old")) == [0, 1]
    assert numbers(bus.read(TOPIC)) == [0, 1, 2]


def test_rights_that_lack_are_said_at_once_or_done_without(server: NatsServer, bus: EventBus) -> None:
    fill(bus, 300)
    fill(bus, 5, topic="orders.old")
    with bus_of(server, "unseeing") as unseeing:
        assert numbers(unseeing.read(TOPIC)) == list(range(300))
    for user in ("mute", "deaf"):
        with bus_of(server, user) as narrow:
            began = time.monotonic()
            with pytest.raises(ReadError, match="ermissions"):
                numbers(narrow.read(TOPIC))
            assert time.monotonic() - began < 2.0


def test_a_work_queue_beside_its_group_is_refused(bus: EventBus, operator: Operator) -> None:
    operator.make_stream("jobs", "jobs.>", retention="workqueue")
    bus.publish("jobs.a", b"0")
    bus.subscribe("jobs.a", lambda message: threading.Event().wait(0.01), group="g")
    bus.publish("jobs.a", b"1")
    with pytest.raises(ReadError, match="workqueue"):
        numbers(bus.read("jobs.a", start=1))
