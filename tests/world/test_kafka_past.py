"""Reading the past of topics that others write and alter: transactions, retention, topics made anew, rights."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation
from kafka_operator import Operator
from rounds import limit
from world_support import fresh

from eventbus import EventBus, EventBusConfig, Excerpt, KafkaConfig, Message, PurgeError, ReadError
from eventbus.message import TOMBSTONE
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]


@pytest.fixture
def bus(kafka_server_shared: KafkaServer) -> Iterator[EventBus]:
    with EventBus(EventBusConfig(backend=KafkaConfig(brokers=kafka_server_shared.bootstrap))) as made:
        yield made


@pytest.fixture
def operator(kafka_server_shared: KafkaServer) -> Iterator[Operator]:
    made = Operator(kafka_server_shared.bootstrap)
    yield made
    made.close()


@pytest.fixture
def others(kafka_server_shared: KafkaServer) -> Iterator[Producer]:
    made = Producer(
        {"bootstrap.servers": kafka_server_shared.bootstrap, "transactional.id": fresh("o"), "log_level": 0}
    )
    made.init_transactions(20.0)
    yield made
    made.close()


def texts(excerpt: Excerpt) -> list[str]:
    return [message.text() for message in excerpt]


def timed(excerpt: Excerpt, most: float = 5.0) -> list[str]:
    began = time.monotonic()
    found = texts(excerpt)
    assert time.monotonic() - began < most
    return found


def test_what_was_aborted_is_not_read_and_an_open_transaction_holds_nothing_up(
    bus: EventBus, operator: Operator, others: Producer
) -> None:
    topic = operator.create(fresh("transactions"))
    bus.publish(topic, "a")
    for commit in (True, False):
        others.begin_transaction()
        others.produce(topic, b"committed" if commit else b"aborted")
        others.flush(10.0)
        (others.commit_transaction if commit else others.abort_transaction)(10.0)
    assert timed(bus.read(topic)) == ["a", "committed"]
    others.begin_transaction()
    others.produce(topic, b"open")
    others.flush(10.0)
    bus.publish(topic, "behind it")
    assert timed(bus.read(topic)) == ["a", "committed"]
    others.commit_transaction(10.0)
    assert timed(bus.read(topic)) == ["a", "committed", "open", "behind it"]


def test_one_partition_offsets_in_each_and_tombstones(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(fresh("sliced"), partitions=3)
    for number in range(30):
        bus.publish(topic, f"{number}", partition=number % 3)
    bus.publish(topic, TOMBSTONE, key="k", partition=2)
    assert texts(bus.read(topic, partition=1)) == [str(number) for number in range(1, 30, 3)]
    assert sorted(map(int, texts(bus.read(topic, start=8, until=10)))) == list(range(24, 30))
    *_, last = bus.read(topic, partition=2)
    assert last.is_tombstone
    with pytest.raises(ReadError, match="no partition 3"):
        bus.read(topic, partition=3)
    assert timed(bus.read(operator.create(fresh("empty"), partitions=4))) == []


def test_what_is_deleted_is_left_out(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(fresh("kept"))
    bus.publish_many([Message(topic, f"{number} {'.' * 5000}") for number in range(3000)])
    excerpt = bus.read(topic, start=0)
    found = [next(excerpt).offset]
    delete_below(operator, topic, 2900)
    found += [message.offset for message in excerpt]
    assert found == sorted(set(found))  # type: ignore[type-var]
    assert found[-100:] == list(range(2900, 3000))
    assert [message.offset for message in bus.read(topic, start=5)] == list(range(2900, 3000))
    excerpt = bus.read(topic)
    delete_below(operator, topic, 3000)
    assert len(timed(excerpt)) <= 100
    assert timed(bus.read(topic)) == []


def test_a_topic_that_goes_or_is_made_anew_ends_it(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(fresh("gone"))
    bus.publish_many([Message(topic, f"{number} {'.' * 5000}") for number in range(3000)])
    excerpt = bus.read(topic, timeout=8.0)
    next(excerpt)
    operator.delete(topic)
    with pytest.raises(ReadError, match="not there any more"):
        list(excerpt)
    with pytest.raises(ReadError, match=topic):
        bus.read(topic)
    topic = operator.create(fresh("anew"))
    bus.publish_many([Message(topic, f"{number} {'.' * 5000}") for number in range(3000)])
    excerpt = bus.read(topic, timeout=8.0)
    next(excerpt)
    operator.delete(topic)
    wait_until(lambda: is_made(operator, topic), 10.0)
    bus.publish_many([Message(topic, f"new {'.' * 5000}") for _ in range(3000)], timeout=20.0)
    found: list[str] = []
    with pytest.raises(ReadError, match=r"made anew|not there any more"):
        for message in excerpt:
            found.append(message.text())
    assert not [text for text in found if text.startswith("new")]


def test_it_joins_no_group(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(fresh("quiet"))
    bus.publish_many([Message(topic, f"{number} {'.' * 5000}") for number in range(2000)])
    before = groups(operator)
    excerpt = bus.read(topic)
    next(excerpt)
    assert groups(operator) == before
    excerpt.close()
    assert groups(operator) == before


def test_who_may_read_the_topic_needs_no_other_right() -> None:
    with skip_or_fail():
        server = KafkaServer(user="narrow", password="secret", acl=True).start()
    operator = Operator(server.inner_bootstrap)
    try:
        operator.allow("somebody-else", "*", AclOperation.ALL)
        topic, secret = operator.create(fresh("may")), operator.create(fresh("not"))
        operator.store(topic, 10)
        operator.allow("narrow", topic, AclOperation.READ)
        backend = KafkaConfig(brokers=server.bootstrap, user="narrow", password="secret")
        with EventBus(EventBusConfig(backend=backend)) as bus:
            assert timed(bus.read(topic)) == [str(number) for number in range(10)]
            with pytest.raises(ReadError, match=f"{secret}.*(?i:authoriz)"):
                bus.read(secret)
            with pytest.raises(PurgeError, match=f"{topic}.*(?i:authoriz)"):
                bus.purge_dead_letters(topic, force=True)
            assert bus.list_dead_letters() == []
    finally:
        operator.close()
        server.close()


def test_what_may_not_be_deleted_is_told_and_stays(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(f"dlq.{fresh('compacted')}", cleanup_policy="compact")
    bus.publish(topic, "x", key="k")
    with pytest.raises(PurgeError, match=topic):
        bus.purge_dead_letters(topic)
    assert texts(bus.read(topic)) == ["x"]


def is_made(operator: Operator, topic: str) -> bool:
    from confluent_kafka import KafkaException

    try:
        operator.create(topic)
    except KafkaException:
        return False  # it is still being deleted
    return True


def delete_below(operator: Operator, topic: str, offset: int) -> None:
    from confluent_kafka import TopicPartition

    for future in operator.admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result(10.0)


def groups(operator: Operator) -> set[str]:
    return {one.group_id for one in operator.admin.list_consumer_groups().result(10.0).valid}


def test_many_topics_of_dead_letters_are_listed_from_afar() -> None:
    topics = sorted(f"dlq.g.t{number}" for number in range(30))
    with skip_or_fail():
        server = KafkaServer(proxied=True).start()
    with server:
        with EventBus(server.url) as near:
            near.publish_many([Message(topic, "x") for topic in topics for _ in range(2)], timeout=30.0)
        server.proxy.delay(0.03)
        with EventBus(server.url) as bus:
            found = bus.list_dead_letters(timeout=5.0)
    assert [(one.topic, one.messages) for one in found] == [(topic, 2) for topic in topics]
    assert all(one.oldest and one.newest and one.oldest <= one.newest for one in found)
