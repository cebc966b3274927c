"""Who leaves a group amid a rebalance is not waited for by those who come after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import AdminClient, NewTopic

from eventbus import KafkaConfig
from eventbus.backends.kafka.clients.fork_safety import Consumer
from eventbus.backends.kafka.clients.options import ClientOptions
from eventbus.backends.kafka.consuming.leaving import close
from eventbus.testing import wait_until
from eventbus.testing.servers.kafka import KafkaServer

pytestmark = pytest.mark.kafka

ROUNDS = 12
"""A plain `close` leaves a ghost in two of three."""

TOPIC = "leaving"

Join = Callable[[str, str], Consumer]


@pytest.fixture
def join(kafka_server_shared: KafkaServer) -> Iterator[Join]:
    """`join(group, protocol)`: a consumer on its way into the group."""
    bootstrap = kafka_server_shared.bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].exception(10.0)
    options = ClientOptions(KafkaConfig(brokers=bootstrap), "leaving")
    made: list[Consumer] = []

    def make(group: str, protocol: str) -> Consumer:
        consumer = Consumer(options.consumer(group, protocol=protocol, start="earliest"))
        consumer.subscribe([TOPIC])
        made.append(consumer)
        return consumer

    yield make
    for consumer in made:
        consumer.close()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_the_next_member_has_its_partitions_soon(join: Join, protocol: str) -> None:
    for number in range(ROUNDS):
        group = f"{protocol}-{number}"
        first = join(group, protocol)
        wait_until(partial(assigned, first))
        second = join(group, protocol)
        for _ in range(10):  # it asks to join, and is not answered before the first one leaves or beats
            second.poll(0.01)
        close(first, protocol)
        ends = time.monotonic() + number / 2000
        while time.monotonic() < ends:
            second.poll(0.0005)
        close(second, protocol)
        third = join(group, protocol)
        wait_until(partial(assigned, third), message="a member that has left is waited for")
        close(third, protocol)


def assigned(consumer: Consumer) -> bool:
    consumer.poll(0.02)
    return len(consumer.assignment()) == 2
