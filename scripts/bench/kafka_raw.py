"""Kafka for the bench and the soak without the bus: the judge, the filler, and the options of both sides."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from eventbus import KafkaConfig
from eventbus.backends.kafka.clients.options import ClientOptions

ID_HEADER = "Eventbus-Id"
USER_HEADER = ("tenant", "acme-europe-west")
"""What each message that is consumed carries beside its id."""
KEYS = 1000
PARTITIONS = 4
STORING: dict[str, Any] = {"enable.auto.commit": True, "auto.commit.interval.ms": 1000}
"""What a plain client adds to have its stored offsets committed."""

_ANSWER = 10.0
_SERVE_EVERY = 1000


def client_options(bootstrap: str, **config: Any) -> ClientOptions:
    """The bus's own options of librdkafka: a plain client gets the same ones."""
    return ClientOptions(KafkaConfig(brokers=tuple(bootstrap.split(",")), **config), "bench")


def ids(origin: str) -> Iterator[str]:
    """Message ids as long as the bus's own; `origin`: sixteen characters."""
    return (f"{origin}-{number:012d}" for number in itertools.count(1))


class RawKafka:
    """Asks a cluster what it holds. RuntimeError or KafkaException when that does not work."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin: Any = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def make_topic(self, topic: str, partitions: int = PARTITIONS, replicas: int = -1) -> None:
        """Create a topic; returns when each partition has a leader."""
        new = NewTopic(topic, num_partitions=partitions, replication_factor=replicas)
        self._admin.create_topics([new], request_timeout=_ANSWER)[topic].result(_ANSWER)
        deadline = time.monotonic() + _ANSWER
        while True:
            found = self._admin.list_topics(topic, timeout=_ANSWER).topics[topic]
            leaders = [partition.leader for partition in found.partitions.values()]
            if found.error is None and len(leaders) == partitions and min(leaders) >= 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{topic} has no leaders: {found.error}")
            time.sleep(0.01)

    def drop_topic(self, topic: str) -> None:
        """Delete a topic."""
        self._admin.delete_topics([topic], request_timeout=_ANSWER)[topic].result(_ANSWER)

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends."""
        found = self._admin.list_topics(topic, timeout=_ANSWER).topics[topic]
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in found.partitions}
        answers = self._admin.list_offsets(asked, request_timeout=_ANSWER)
        return {place.partition: future.result(_ANSWER).offset for place, future in answers.items()}

    def stored(self, topic: str) -> int:
        """How many messages a topic holds that nothing was ever deleted from."""
        return sum(self.ends(topic).values())

    def committed(self, group: str, topic: str) -> int:
        """How many messages of a topic a group has committed."""
        # Asked by a consumer that never joins: librdkafka's admin client can end the process over this question.
        consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": group, "log_level": 0})
        try:
            places = [TopicPartition(topic, number) for number in self.ends(topic)]
            return sum(max(0, place.offset) for place in consumer.committed(places, _ANSWER))
        finally:
            consumer.close()

    def fill(self, topic: str, payload: bytes, count: int) -> None:
        """Store so many messages with a key, an id and one more header each."""
        producer = Producer(client_options(self._bootstrap).producer)
        keys = [f"customer-{number}" for number in range(KEYS)]
        for number, id in zip(range(count), ids("0123456789abcdef"), strict=False):
            producer.produce(topic, payload, keys[number % KEYS], headers=[(ID_HEADER, id), USER_HEADER])
            if not number % _SERVE_EVERY:
                producer.poll(0)
        producer.flush(60.0)
        if (found := self.stored(topic)) != count:
            raise RuntimeError(f"{topic} holds {found} of {count} messages")

    def read(self, topic: str, timeout: float = 60.0) -> list[Message]:
        """Everything that a topic holds, in the order of each partition."""
        wanted = {partition: end for partition, end in self.ends(topic).items() if end}
        options = {"bootstrap.servers": self._bootstrap, "group.id": "judge", "enable.auto.commit": False}
        consumer = Consumer({**options, "log_level": 0})
        consumer.assign([TopicPartition(topic, partition, 0) for partition in wanted])
        found: list[Message] = []
        deadline = time.monotonic() + timeout
        try:
            while wanted:
                for message in consumer.consume(1000, 0.1):
                    if message.error() is not None:
                        raise KafkaException(message.error())
                    found.append(message)
                    if (message.offset() or 0) + 1 >= wanted.get(message.partition() or 0, 1 << 60):
                        del wanted[message.partition() or 0]
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{topic}: only {len(found)} messages were read in {timeout:g} s")
        finally:
            consumer.close()
        return found
