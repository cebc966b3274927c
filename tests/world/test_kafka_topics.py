"""Beside and inherited, on Kafka: topics that are made, missing, refused, without a leader or deleted in use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from kafka_operator import Operator, inversions
from rounds import limit, rounds
from world_support import end, fresh

from eventbus import EventBus, EventBusConfig, KafkaConfig, Message, PublishNotSentError, PublishRejectedError, Reject
from eventbus.testing import MockKafka, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]

SOON = 2.0
"""Seconds in which a neighbour's work is done."""
AGAIN = 5.0
"""Seconds in which a topic that is gone is there again, or publishing to it is refused."""


@pytest.fixture(scope="module")
def operator(kafka_server_shared: Any) -> Operator:
    return Operator(kafka_server_shared.bootstrap).at_work()


@pytest.fixture
def make_bus(kafka_server_shared: Any) -> Iterator[Callable[..., EventBus]]:
    made: list[EventBus] = []

    def make(**kafka: Any) -> EventBus:
        bus = EventBus(EventBusConfig(backend=KafkaConfig(brokers=kafka_server_shared.bootstrap, **kafka)))
        made.append(bus)
        bus.open(20.0)
        return bus

    yield make
    for bus in made:
        end(bus)


def test_two_topics_of_dead_letters_whose_metrics_would_be_one_are_never_mixed(
    make_bus: Callable[..., EventBus],
) -> None:
    """The broker makes no second one. In one bus that is refused beforehand; of another process nobody knows."""
    name, refused = fresh("clash").replace("-", "x"), Reject("nobody wants this")

    def refuse(message: Message) -> None:
        raise refused

    first, second = make_bus(), make_bus()
    first.subscribe("c", refuse, group=f"{name}_b")
    first.publish("c", b"")
    wait_until(lambda: first.get_statistics().dead_lettered > 0, 20.0)
    sub = second.subscribe("b.c", refuse, group=name)
    receipt = second.publish("b.c", b"")
    wait_until(lambda: sub.status().error is not None, 20.0)
    assert isinstance(sub.status().error, PublishRejectedError)
    assert f"'dlq.{name}.b.c' collides with existing topic: dlq.{name}_b.c" in str(sub.status().error)
    assert second.unsubscribe(sub)
    second.subscribe("b.c", refuse, group=name, dead_letter=f"{name}.letters")
    wait_until(lambda: second.get_statistics().dead_lettered > 0, 20.0)
    assert receipt.id in {letter.id for letter in second.read(f"{name}.letters")}


def test_a_topic_that_cannot_be_made_holds_up_no_other(make_bus: Callable[..., EventBus], operator: Operator) -> None:
    """It takes more brokers than there are: not sent, for they may come, and with that cause."""
    there, impossible = operator.create(fresh("there")), [fresh("impossible") for _ in range(20)]
    bus = make_bus(replication_factor=3)
    waiting = [bus.publish_async(topic, b"") for topic in impossible]
    began = time.monotonic()
    assert bus.publish(there, b"").confirmed
    assert time.monotonic() - began < SOON
    with pytest.raises(PublishNotSentError, match="INVALID_REPLICATION_FACTOR"):
        bus.publish(impossible[0], b"", timeout=2.0)
    assert bus.publish(operator.create(fresh("there")), b"", timeout=SOON).confirmed
    operator.create(impossible[7])
    assert waiting[7].result(AGAIN).confirmed
    assert waiting[8].cancel(), "no client was given it"


def test_a_topic_without_a_leader_holds_up_no_other(mock_kafka: Callable[..., MockKafka]) -> None:
    cluster = mock_kafka()
    for topic in ("there", "leaderless"):
        cluster.create_topic(topic)
    cluster.set_leader("leaderless", 0, None)
    bus = EventBus(f"{cluster.url}?create_topics=false")
    try:
        bus.open(10.0)
        waiting = bus.publish_async("leaderless", b"")
        assert bus.publish("there", b"", timeout=SOON).confirmed
        with pytest.raises(PublishNotSentError, match="no partition has a leader"):
            bus.publish("leaderless", b"", timeout=1.0)
        cluster.set_leader("leaderless", 0, 1)
        assert waiting.result(AGAIN).confirmed
    finally:
        end(bus)


def test_many_topics_are_made_side_by_side(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(partitions=1)
    topics = [fresh("one-of-many") for _ in range(rounds(40, 300))]
    began = time.monotonic()
    assert len(bus.publish_many([Message(topic, b"") for topic in topics], timeout=40.0)) == len(topics)
    assert time.monotonic() - began < limit(20.0)


def test_a_topic_that_is_deleted_in_use_is_made_again(make_bus: Callable[..., EventBus], operator: Operator) -> None:
    """Its neighbour notices nothing; what is stored afterwards is in order, and what was not is told."""
    topic, other = operator.create(fresh("deleted")), operator.create(fresh("kept"))
    bus = make_bus(partitions=1)
    bus.publish(topic, b"0", key="k")
    for _ in range(2):
        operator.delete(topic)
        futures = [bus.publish_async(topic, b"%d" % number, key="k") for number in range(100)]
        assert bus.publish(other, b"", timeout=SOON).confirmed
        assert [future.result(AGAIN).confirmed for future in futures] == [True] * 100
        stored = operator.read(topic)
        assert [int(value) for _, _, value in stored] == [*range(100)]
        assert inversions(stored) == 0
    assert bus.get_connection_state().reconnect_count == 0


def test_a_topic_that_is_deleted_and_not_to_be_made_is_rejected(
    make_bus: Callable[..., EventBus], operator: Operator
) -> None:
    topic = operator.create(fresh("deleted"))
    bus = make_bus(create_topics=False)
    bus.publish(topic, b"0")
    operator.delete(topic)
    with pytest.raises(PublishRejectedError, match="does not exist, and create_topics is off"):
        bus.publish(topic, b"1", timeout=AGAIN)
    operator.create(topic)
    wait_until(lambda: is_stored(bus, topic), AGAIN)


def is_stored(bus: EventBus, topic: str) -> bool:
    try:
        return bus.publish(topic, b"2", timeout=5.0).confirmed
    except PublishRejectedError:
        return False
