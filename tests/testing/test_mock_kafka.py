"""The mock of Kafka: each fault that it can be told to make reaches a real client."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from kafka_support import (
    KafkaError,
    KafkaException,
    consume,
    listening,
    metadata,
    produce,
    refusal,
    settings,
)

from eventbus.testing import MockKafka, ServerFailed, ServerUnavailable, wait_until
from eventbus.testing.servers import kafka_mock_library
from eventbus.testing.servers.kafka_mock import DISCONNECT
from eventbus.testing.servers.kafka_mock_library import APIS
from eventbus.testing.servers.kafka_wire import ask

confluent_kafka = pytest.importorskip("confluent_kafka")

Make = Callable[..., MockKafka]


@pytest.fixture
def mock(mock_kafka: Make) -> MockKafka:
    """Three brokers, and the topic t with two partitions."""
    made = mock_kafka(3)
    made.create_topic("t", partitions=2, replicas=3)
    return made


def partition(mock: MockKafka, index: int = 0) -> Any:
    """Return a partition of the topic t, as a new client sees it."""
    return metadata(mock, "t").topics["t"].partitions[index]


def test_it_produces_and_consumes_on_loopback(mock: MockKafka) -> None:
    assert mock.url == f"kafka://{mock.bootstrap}"
    assert len(mock.bootstrap.split(",")) == 3
    assert all(address.startswith("127.0.0.1:") for address in mock.bootstrap.split(","))
    assert set(metadata(mock).brokers) == {1, 2, 3}
    assert len(metadata(mock, "t").topics["t"].partitions) == 2
    assert produce(mock, "t", b"1", b"2") == [0, 0]
    assert sorted(consume(mock, "t", 2)) == [b"1", b"2"]
    assert set(listening(os.getpid())) == {"127.0.0.1"}


def test_a_broker_refuses_and_accepts_again(mock_kafka: Make) -> None:
    mock = mock_kafka(1)
    mock.refuse(1)
    with pytest.raises(KafkaException):
        metadata(mock, timeout=0.2)
    refusal(mock, "refused")
    mock.accept(1)
    assert set(metadata(mock).brokers) == {1}
    mock.refuse()
    with pytest.raises(KafkaException):
        metadata(mock, timeout=0.2)
    mock.accept()
    assert set(metadata(mock).brokers) == {1}


def test_answers_come_late(mock_kafka: Make) -> None:
    mock = mock_kafka(1)
    mock.delay(0.2)
    started = time.monotonic()
    metadata(mock)
    assert time.monotonic() - started >= 0.2
    with pytest.raises(ValueError, match=r"a time of -1"):
        mock.delay(-1)
    mock.delay(0, broker=1)
    mock.push_answers(1, "Metadata", (0, 0.3), (0, 0.0))
    started = time.monotonic()
    metadata(mock)
    assert time.monotonic() - started >= 0.3


def test_errors_are_pushed_one_for_each_request_and_cleared(mock: MockKafka) -> None:
    too_large = KafkaError.MSG_SIZE_TOO_LARGE
    mock.push_errors("Produce", too_large, 0, too_large)
    assert produce(mock, "t", b"1", b"2", b"3", b"4") == [too_large, 0, too_large, 0]
    mock.push_errors("Produce", too_large)
    mock.clear_errors("Produce")
    assert produce(mock, "t", b"5") == [0]


def test_it_hangs_up_instead_of_answering(mock: MockKafka) -> None:
    mock.track()
    mock.push_errors("Produce", DISCONNECT, DISCONNECT)
    assert produce(mock, "t", b"1") == [0]
    assert mock.requests()["Produce"] == 3, "two were to be sent again"


def test_a_topic_and_its_leaders(mock: MockKafka) -> None:
    mock.topic_error("t", KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert metadata(mock, "t").topics["t"].error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    mock.topic_error("t", 0)
    mock.set_leader("t", 0, None)
    assert partition(mock).leader == -1
    mock.set_leader("t", 0, 2)
    assert partition(mock).leader == 2
    mock.track()
    mock.set_leader("t", 1, 2)
    assert produce(mock, "t", b"1") == [0]
    assert mock.requests(2)["Produce"] == 1
    assert mock.requests(1)["Produce"] == mock.requests(3)["Produce"] == 0


def test_the_coordinator_is_where_it_was_set(mock: MockKafka) -> None:
    assert produce(mock, "t", b"1") == [0]
    mock.set_coordinator("readers", 3)
    mock.track()
    assert consume(mock, "t", 1) == [b"1"]
    assert mock.requests(3)["JoinGroup"] >= 1
    assert mock.requests(1)["JoinGroup"] == mock.requests(2)["JoinGroup"] == 0
    mock.set_coordinator("writers", 2, "transaction")


def test_requests_are_counted_from_track_to_untrack(mock: MockKafka) -> None:
    metadata(mock)
    assert sum(mock.requests().values()) == 0
    mock.track()
    metadata(mock)
    assert mock.requests()["Metadata"] >= 1
    mock.untrack()
    before = mock.requests()
    metadata(mock)
    assert mock.requests() == before
    mock.track()
    assert mock.requests()["Metadata"] == 0


class Member:
    """A consumer in a group."""

    def __init__(self, mock: MockKafka, protocol: str = "consumer") -> None:
        self.consumer = confluent_kafka.Consumer(settings(mock, group_id="g", group_protocol=protocol))
        self.consumer.subscribe(["t"])

    def partitions(self) -> int:
        """Return how many partitions it has; polls once."""
        self.consumer.poll(0.02)
        return len(self.consumer.assignment())


@pytest.fixture
def member() -> Iterator[Callable[..., Member]]:
    """`member(mock, protocol)` joins the group g."""
    with ExitStack() as stack:

        def join(mock: MockKafka, protocol: str = "consumer") -> Member:
            made = Member(mock, protocol)
            stack.callback(made.consumer.close)
            return made

        yield join


def test_members_of_the_new_protocol_beat_as_often_as_told(mock: MockKafka, member: Callable[..., Member]) -> None:
    mock.heartbeat_interval(0.05)
    mock.track()
    wait_until(member(mock).partitions, 10.0)
    wait_until(lambda: mock.requests()["ConsumerGroupHeartbeat"] > 10, 3.0, message="many heartbeats")


def test_silent_members_of_the_new_protocol_lose_their_partitions(
    mock_kafka: Make, member: Callable[..., Member]
) -> None:
    mock = mock_kafka(1, proxied=True)
    mock.create_topic("t", partitions=2)
    mock.heartbeat_interval(0.1)
    mock.session_timeout(0.5)
    first = member(mock)
    wait_until(lambda: first.partitions() == 2, 10.0)
    mock.proxies[0].half_open()
    second = member(mock)
    wait_until(lambda: second.partitions() == 2, 10.0)
    mock.proxies[0].cut()


def versions(mock: MockKafka) -> dict[int, tuple[int, int]]:
    """Return the lowest and the highest version of each request, as broker 1 tells them."""
    host, _, port = mock.bootstrap.partition(",")[0].partition(":")
    answer = ask((host, int(port)), APIS["ApiVersions"], 0, b"", 5.0)
    assert answer.int16() == 0
    rows = [(answer.int16(), answer.int16(), answer.int16()) for _ in range(answer.int32())]
    return {api: (lowest, highest) for api, lowest, highest in rows}


def test_versions_can_be_limited(mock: MockKafka) -> None:
    lowest, highest = versions(mock)[APIS["Fetch"]]
    mock.set_api_versions("Fetch", lowest, highest - 1)
    assert versions(mock)[APIS["Fetch"]] == (lowest, highest - 1)


def test_an_older_kafka_knows_no_groups_of_the_new_protocol(mock: MockKafka, member: Callable[..., Member]) -> None:
    assert APIS["ConsumerGroupHeartbeat"] in versions(mock)
    mock.remove_api("ConsumerGroupHeartbeat")
    assert APIS["ConsumerGroupHeartbeat"] not in versions(mock)
    mock.track()
    modern = member(mock)
    wait_until(lambda: modern.partitions() or mock.requests()["FindCoordinator"] > 1, 10.0)
    assert modern.partitions() == 0
    assert mock.requests()["ConsumerGroupHeartbeat"] == 0
    wait_until(member(mock, "classic").partitions, 10.0)


def test_a_new_group_waits_for_members(mock_kafka: Make, member: Callable[..., Member]) -> None:
    mock = mock_kafka(1, rebalance_delay=0.5)
    mock.create_topic("t")
    started = time.monotonic()
    wait_until(member(mock, "classic").partitions, 10.0)
    assert time.monotonic() - started >= 0.5


def test_a_proxy_stands_in_front_of_each_broker(mock_kafka: Make) -> None:
    mock = mock_kafka(2, proxied=True)
    ports = [proxy.port for proxy in mock.proxies]
    assert mock.bootstrap == ",".join(f"127.0.0.1:{port}" for port in ports)
    mock.create_topic("t")
    mock.set_leader("t", 0, 2)
    brokers = metadata(mock).brokers
    assert [brokers[number].port for number in (1, 2)] == ports
    mock.proxies[1].black_hole()
    assert produce(mock, "t", b"lost", timeout=0.5) == [KafkaError._MSG_TIMED_OUT]
    mock.proxies[1].accept()
    assert produce(mock, "t", b"kept") == [0]


def test_what_it_refuses_is_an_error(mock: MockKafka) -> None:
    with pytest.raises(ServerFailed, match="topic t: Broker: Topic already exists"):
        mock.create_topic("t")
    for act in (lambda: mock.refuse(9), lambda: mock.accept(9), lambda: mock.push_answers(9, "Fetch", (0, 0.0))):
        with pytest.raises(ServerFailed, match="refused broker 9"):
            act()
    with pytest.raises(ServerFailed, match="leader 9 of t/0"):
        mock.set_leader("t", 0, 9)
    with pytest.raises(ValueError, match="no such request: 'Produse'"):
        mock.push_errors("Produse", 1)
    with pytest.raises(ServerFailed, match="without proxied=True"):
        _ = mock.proxies
    with pytest.raises(ValueError, match="mock cluster of 0"):
        MockKafka(0)
    with pytest.raises(ValueError, match="a time of -1"):
        MockKafka(1, proxied=True, rebalance_delay=-1)


def test_it_ends_with_the_block_and_twice() -> None:
    with MockKafka() as mock:
        port = mock.bootstrap
        assert set(metadata(mock).brokers) == {1}
    assert mock.bootstrap == port
    with pytest.raises(KafkaException):
        metadata(mock, timeout=0.2)
    mock.close()
    with pytest.raises(ServerFailed, match="closed"):
        mock.track()


def test_without_confluent_kafka_or_its_mock_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    load = kafka_mock_library.load_library.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(kafka_mock_library, "_candidates", lambda _: ["/no/such/library.so", "libc.so.6"])
        with pytest.raises(ServerUnavailable, match=r"no librdkafka with a mock cluster \(found: /no/such"):
            load()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "confluent_kafka", None)
        with pytest.raises(ServerUnavailable, match="confluent-kafka is not installed"):
            load()
    with pytest.raises(ServerUnavailable, match="no rd_kafka_mock_of_all"):
        _ = load().mock_of_all
