"""What the world's tests do at a Kafka broker as any other program would, without the library."""

from __future__ import annotations

import secrets
import struct
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from eventbus.testing import wait_until
from eventbus.testing.servers.kafka_wire import ask, string

ANSWER = 10.0
_ALTER_CLIENT_QUOTAS = 49


class Operator:
    """An administrator of a cluster."""

    def __init__(self, bootstrap: str) -> None:
        self._options = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.admin: Any = AdminClient(self._options)

    def close(self) -> None:
        """Its client ends when nobody has it any more."""
        self.admin = None

    def at_work(self) -> Operator:
        """Its links are there: for one that serves several tests."""
        topic = self.create(f"first-{secrets.token_hex(4)}")
        self.configure(topic, retention_ms=1000)
        return self

    def create(self, topic: str, partitions: int = 1, **config: object) -> str:
        """Make a topic; config with "_" for "."; its name."""
        values = {name.replace("_", "."): str(value) for name, value in config.items()}
        self.admin.create_topics([NewTopic(topic, partitions, 1, config=values)])[topic].result(ANSWER)
        return topic

    def delete(self, topic: str) -> None:
        """It is gone when this returns: the controller answers before its leaders know of it, which still store."""
        self.admin.delete_topics([topic])[topic].result(ANSWER)
        wait_until(lambda: not self._is_led(topic))

    def _is_led(self, topic: str) -> bool:
        first = TopicPartition(topic, 0)
        try:
            self.admin.list_offsets({first: OffsetSpec.latest()}, request_timeout=ANSWER)[first].result(ANSWER)
        except KafkaException as error:
            assert error.args[0].code() in (KafkaError._NOENT, KafkaError.UNKNOWN_TOPIC_OR_PART)
            return False
        return True

    def configure(self, topic: str, **config: object) -> None:
        """Set these and nothing else."""
        changes = [
            ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        asked = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
        self.admin.incremental_alter_configs([asked])[asked].result(ANSWER)

    def allow(self, user: str, topic: str, *operations: AclOperation) -> None:
        """Whatever has a rule is denied to whom no rule allows it."""
        self._rule(ResourceType.TOPIC, topic, user, operations)

    def allow_cluster(self, user: str, *operations: AclOperation) -> None:
        self._rule(ResourceType.BROKER, "kafka-cluster", user, operations)

    def _rule(self, kind: Any, name: str, user: str, operations: Iterable[AclOperation]) -> None:
        literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
        rules = [AclBinding(kind, name, literal, f"User:{user}", "*", one, allow) for one in operations]
        for future in self.admin.create_acls(rules).values():
            future.result(ANSWER)

    def store(self, topic: str, count: int) -> None:
        """Numbered messages without a key."""
        producer = Producer(self._options)
        for number in range(count):
            producer.produce(topic, b"%d" % number)
        assert producer.flush(ANSWER) == 0
        producer.close()

    def throttle_producers(self, address: tuple[str, int], bytes_per_second: float) -> None:
        """A quota for every client of the cluster; the address is that of one broker."""
        entity = struct.pack(">i", 1) + string("client-id") + struct.pack(">h", -1)
        change = struct.pack(">i", 1) + string("producer_byte_rate") + struct.pack(">d?", bytes_per_second, False)
        answer = ask(address, _ALTER_CLIENT_QUOTAS, 0, struct.pack(">i", 1) + entity + change + b"\0", ANSWER)
        answer.int32(), answer.int32()
        assert answer.int16() == 0

    def read(self, topic: str) -> list[tuple[int, bytes | None, bytes]]:
        """All that is stored now: partition, key and value, in the order of each partition."""
        reader = Consumer({**self._options, "group.id": "reader", "enable.auto.commit": False})
        try:
            partitions = reader.list_topics(topic, timeout=ANSWER).topics[topic].partitions
            ends = {number: reader.get_watermark_offsets(TopicPartition(topic, number))[1] for number in partitions}
            reader.assign([TopicPartition(topic, number, 0) for number, end in ends.items() if end])
            found: list[tuple[int, bytes | None, bytes]] = []
            left = {number for number, end in ends.items() if end}
            while left:
                message = reader.poll(ANSWER)
                assert message is not None, f"no more messages of {topic}, {left} are not at their end"
                number, offset = message.partition(), message.offset()
                assert number is not None
                assert offset is not None
                found.append((number, message.key(), message.value() or b""))
                if offset + 1 >= ends[number]:
                    left.discard(number)
            return found
        finally:
            reader.close()


def inversions(stored: Iterable[tuple[int, bytes | None, bytes]]) -> int:
    """How many values are behind a greater one of their key."""
    keys: dict[bytes | None, list[int]] = defaultdict(list)
    for _, key, value in stored:
        keys[key].append(int(value.split()[0]))
    return sum(one > other for numbers in keys.values() for one, other in pairwise(numbers))
