"""Beside, on Kafka: one bad message in each batch; exactly the bad ones are rejected, whatever tells that they are."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError
from confluent_kafka.admin import AclOperation, NewPartitions
from kafka_operator import Operator, inversions
from rounds import LONG, limit
from world_support import end, fresh

from eventbus import EventBus, EventBusConfig, KafkaConfig, Message, PublishManyError, PublishRejectedError, Receipt
from eventbus.backends.kafka.publishing.limits import size_of
from eventbus.backends.kafka.session import KafkaSession
from eventbus.publishing.publisher import Publisher
from eventbus.testing import KafkaServer, MockKafka, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]

USER, PASSWORD = "writer", "secret"
BATCHES, SIZE = (100, 1000) if LONG else (10, 200)
KEYS = 64
ANSWERED = 120.0 if LONG else 30.0

Results = Sequence["Receipt | BaseException"]


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with skip_or_fail():
        server = KafkaServer(user=USER, password=PASSWORD, acl=True).start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def operator(server: KafkaServer) -> Operator:
    return Operator(server.inner_bootstrap).at_work()


@pytest.fixture
def bus(server: KafkaServer) -> Iterator[EventBus]:
    made = bus_of(server)
    made.open(20.0)
    yield made
    end(made)


def bus_of(server: KafkaServer, **kafka: Any) -> EventBus:
    backend = KafkaConfig(brokers=server.bootstrap, user=USER, password=PASSWORD, **kafka)
    return EventBus(EventBusConfig(backend=backend))


def outbox_of(bus: EventBus) -> Any:
    session = bus._supervisor.session
    assert isinstance(session, KafkaSession)
    return session.outbox


def publish_all(bus: EventBus, topic: str, bad: Callable[[int], dict[str, Any] | None]) -> Results:
    """Numbered messages, pipelined; one in the middle of each batch is what `bad` makes of it."""
    futures: list[Future[Receipt]] = []
    for number in range(BATCHES * SIZE):
        extra = bad(number) if number % SIZE == SIZE // 2 else None
        message = {"payload": b"%d" % number, "key": f"key{number % KEYS}", **(extra or {})}
        futures.append(bus.publish_async(topic, **message))
    bus.flush(ANSWERED)
    return [future.exception(1.0) or future.result() for future in futures]


def rejected(results: Results) -> list[int]:
    wrong = [one for one in results if not isinstance(one, (Receipt, PublishRejectedError))]
    assert wrong == [], wrong[0]
    return [number for number, result in enumerate(results) if isinstance(result, PublishRejectedError)]


BAD = frozenset(range(SIZE // 2, BATCHES * SIZE, SIZE))
SPOILERS = [
    ({"cleanup.policy": "compact"}, {"key": None}, "needs a key"),
    ({"max.message.bytes": 20_000}, {"payload": b"0 " + bytes(30_000)}, "max.message.bytes of the topic is 20000"),
]


@pytest.mark.parametrize(("config", "bad", "words"), SPOILERS, ids=["key", "size"])
def test_what_the_configuration_tells_costs_the_bad_ones_alone(
    bus: EventBus, operator: Operator, config: dict[str, Any], bad: dict[str, Any], words: str
) -> None:
    topic = operator.create(fresh("told"), 3, **config)
    results = publish_all(bus, topic, lambda number: bad)
    assert rejected(results) == sorted(BAD)
    assert all(words in str(results[number]) for number in BAD)
    stored = operator.read(topic)
    numbers = [int(value.split()[0]) for _, _, value in stored]
    assert sorted(numbers) == sorted(set(range(BATCHES * SIZE)) - BAD), "lost, or stored twice"
    assert inversions(stored) == 0


@pytest.mark.parametrize(("config", "bad", "words"), SPOILERS, ids=["key", "size"])
def test_what_only_the_broker_knows_costs_the_bad_ones_alone(
    server: KafkaServer, operator: Operator, config: dict[str, Any], bad: dict[str, Any], words: str
) -> None:
    """An account that is not told how the topic is configured: each batch is refused, its members are judged."""
    topic = operator.create(fresh("untold"), 3, **config)
    operator.allow(USER, topic, AclOperation.WRITE, AclOperation.DESCRIBE)
    bus = bus_of(server)
    try:
        bus.open(20.0)
        results = publish_all(bus, topic, lambda number: bad)
        assert rejected(results) == sorted(BAD)
        stored = operator.read(topic)
        numbers = [int(value.split()[0]) for _, _, value in stored]
        assert sorted(numbers) == sorted(set(range(BATCHES * SIZE)) - BAD), "lost, or stored twice"
        assert inversions(stored) <= outbox_of(bus).overtaken_count
    finally:
        end(bus)


def test_a_permission_that_is_taken_away_and_given_back(bus: EventBus, server: KafkaServer, operator: Operator) -> None:
    """What is published meanwhile is rejected, and nothing else: neither what came before nor what comes after."""
    topic, other = operator.create(fresh("taken"), 3), operator.create(fresh("kept"), 1)
    first = publish_all(bus, topic, lambda number: None)
    server.access.deny(USER, topic, operation="WRITE")
    meanwhile = publish_all(bus, topic, lambda number: None)
    assert bus.publish(other, b"0", timeout=5.0).confirmed
    server.access.restore(USER, topic, operation="WRITE")
    last = publish_all(bus, topic, lambda number: None)
    assert (rejected(first), rejected(last)) == ([], [])
    assert len(rejected(meanwhile)) == BATCHES * SIZE
    assert "TOPIC_AUTHORIZATION_FAILED" in str(meanwhile[0])
    numbers = [int(value) for _, _, value in operator.read(topic)]
    assert sorted(numbers) == sorted([*range(BATCHES * SIZE)] * 2)
    assert bus.get_connection_state().reconnect_count == 0


def test_a_permission_that_comes_and_goes_under_load(bus: EventBus, server: KafkaServer, operator: Operator) -> None:
    """One bad message in each batch beside: each is stored once or rejected; what is turned round is counted."""
    topic = operator.create(fresh("flicker"), 3, cleanup_policy="compact", max_message_bytes=20_000)
    futures: list[Future[Receipt]] = []
    for part in range(4):
        (server.access.deny if part % 2 else server.access.restore)(USER, topic, operation="WRITE")
        for _ in range(BATCHES * SIZE // 4):
            number = len(futures)
            message: dict[str, Any] = {"payload": b"%d" % number, "key": f"key{number % KEYS}"}
            if number in BAD:
                message |= SPOILERS[number // SIZE % 2][1]
            futures.append(bus.publish_async(topic, **message))
    server.access.restore(USER, topic, operation="WRITE")
    bus.flush(ANSWERED)
    out = set(rejected([future.exception(1.0) or future.result() for future in futures]))
    assert out.issuperset(BAD)
    stored = operator.read(topic)
    assert sorted(int(value) for _, _, value in stored) == [one for one in range(len(futures)) if one not in out]
    assert inversions(stored) <= outbox_of(bus).overtaken_count
    assert bus.get_connection_state().reconnect_count == 0


def test_a_limit_that_is_raised_counts_at_once_and_one_that_is_lowered_is_found_out(
    bus: EventBus, operator: Operator
) -> None:
    topic = operator.create(fresh("limit"), 1, max_message_bytes=5_000)
    assert bus.publish(topic, bytes(4_000)).confirmed
    with pytest.raises(PublishRejectedError, match="5000"):
        bus.publish(topic, bytes(6_000))
    operator.configure(topic, max_message_bytes=8_000)
    wait_until(lambda: answer_to(bus, topic, 6_000) == "stored", 5.0)
    operator.configure(topic, max_message_bytes=3_000)
    wait_until(lambda: "of the topic is 3000" in answer_to(bus, topic, 4_000), 5.0)


def answer_to(bus: EventBus, topic: str, size: int) -> str:
    try:
        bus.publish(topic, bytes(size), timeout=5.0)
    except PublishRejectedError as error:
        return str(error)
    return "stored"


EXTRAS: list[dict[str, Any]] = [
    {},
    {"key": "k\N{EURO SIGN}"},
    {"key": b"\xff", "headers": {"name": "value"}},
    {"id": "x" * 99},
]


@pytest.mark.parametrize("extra", EXTRAS, ids=["plain", "text key", "header", "id"])
def test_the_size_at_the_door_is_the_broker_s(bus: EventBus, operator: Operator, extra: dict[str, Any]) -> None:
    """To the byte: the largest that passes is stored, and the broker would take none that is larger."""
    topic = operator.create(fresh("exact"), 1, max_message_bytes=5_000)
    largest = max(size for size in range(4_600, 5_000) if size_at_the_door(topic, size, extra) <= 5_000)
    receipt = bus.publish(topic, bytes(largest), **extra)
    with pytest.raises(PublishRejectedError, match="takes 5001 bytes"):
        bus.publish(topic, bytes(largest + 1), **extra)
    headers: list[Any] = [("Eventbus-Id", receipt.id), *extra.get("headers", {}).items()]
    answers: list[KafkaError | None] = []
    outbox_of(bus).producer.produce(
        topic, bytes(largest + 1), extra.get("key"), -1, lambda error, _: answers.append(error), None, 0, headers
    )
    wait_until(lambda: answers, 5.0)
    error = answers[0]
    assert error is not None
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE


def size_at_the_door(topic: str, size: int, extra: dict[str, Any]) -> int:
    publisher = Publisher("sizes", 10, 10_000, print, print)
    publisher.publish_nowait((topic, bytes(size), extra.get("key"), extra.get("headers"), extra.get("id"), None, None))
    return size_of(publisher.pending.inbox.records[0])


def test_what_is_compressed_is_not_judged_by_its_size(server: KafkaServer, operator: Operator) -> None:
    topic = operator.create(fresh("packed"), 1, max_message_bytes=5_000)
    with bus_of(server, producer={"compression.type": "lz4"}) as bus:
        assert bus.publish(topic, bytes(20_000)).confirmed
        with pytest.raises(PublishRejectedError, match="MSG_SIZE_TOO_LARGE"):
            bus.publish(topic, secrets.token_bytes(20_000))


def test_batches_never_become_larger_than_their_topic_takes(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(fresh("small"), 2, max_message_bytes=100_000)
    receipts = bus.publish_many([Message(topic, bytes(9_000), key=f"{number}") for number in range(500)], timeout=30.0)
    assert len(receipts) == 500


def test_partition_and_timestamp_are_where_and_when_a_message_is_stored(bus: EventBus, operator: Operator) -> None:
    topic = operator.create(fresh("placed"), 3)
    when = datetime(2024, 5, 1, 12, 0, 0, 123_000, tzinfo=timezone.utc)
    place: dict[str, Any] = {"partition": 2, "timestamp": when}
    assert bus.publish(topic, b"0", **place).partition == 2
    assert bus.publish_async(topic, b"1", key="k", **place).result(10.0).partition == 2
    bus.publish_nowait(topic, b"2", **place)
    receipts = bus.publish_many([Message(topic, b"3", **place), Message(topic, b"4", partition=0)])
    assert [receipt.partition for receipt in receipts] == [2, 0]
    assert bus.flush(10.0).unanswered == 0
    assert sorted((partition, value) for partition, _, value in operator.read(topic)) == [
        (0, b"4"),
        *((2, b"%d" % number) for number in range(4)),
    ]
    got: list[Message] = []
    bus.subscribe(topic, got.append, group=fresh("group"))
    wait_until(lambda: len(got) == 5, 20.0)
    assert {message.timestamp for message in got if message.partition == 2} == {when}
    bus.publish_many([message for message in got if message.partition == 2])  # and on: they go wherever copies go
    with pytest.raises(PublishRejectedError, match="no partition 3: the topic has 3"):
        bus.publish(topic, b"", partition=3)
    late = datetime.now(timezone.utc) + timedelta(hours=2)
    with pytest.raises(PublishManyError) as caught:
        bus.publish_many([Message(topic, b"", timestamp=late), Message(topic, b"5")])
    assert "after.max.ms" in str(caught.value.results[0])
    assert isinstance(caught.value.results[1], Receipt)
    operator.admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10.0)
    wait_until(lambda: takes(bus, topic, 4), 10.0)


def takes(bus: EventBus, topic: str, partition: int) -> bool:
    try:
        return bus.publish(topic, b"6", partition=partition, timeout=5.0).partition == partition
    except PublishRejectedError:
        return False


@pytest.mark.parametrize("code", ["NOT_ENOUGH_REPLICAS", "UNKNOWN"])
def test_what_is_waited_out_is_named_when_the_time_is_over(mock_kafka: Callable[..., MockKafka], code: str) -> None:
    cluster = mock_kafka()
    cluster.create_topic("t")
    bus = EventBus(f"{cluster.url}?create_topics=false")
    try:
        bus.open(10.0)
        bus.publish("t", b"")
        cluster.push_errors("Produce", *[getattr(KafkaError, code)] * 1000)
        with pytest.raises(Exception, match="no answer within 2 s|" + code) as caught:
            bus.publish("t", b"", timeout=2.0)
        cluster.clear_errors("Produce")
        assert code in str(caught.value) or code == "NOT_ENOUGH_REPLICAS", "librdkafka itself goes on with that one"
    finally:
        end(bus)
