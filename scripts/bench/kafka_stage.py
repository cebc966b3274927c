"""Where Kafka is measured: one real broker for all rows, started when the first one needs it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eventbus.testing import KafkaServer
from eventbus.testing.servers.kafka_jars import VERSION
from scripts.bench.kafka_raw import PARTITIONS, RawKafka
from scripts.bench.stage import MeasurementFailed, Worker

_numbers = itertools.count(1)


class KafkaStage:
    """Every method measures once; messages per second, or seconds."""

    def __init__(self, server: KafkaServer) -> None:
        from confluent_kafka import libversion

        self._server = server
        self.cpu: float | None = None
        """Seconds of all processors for one message, in the last measurement that notes it."""
        self._raw = RawKafka(server.bootstrap)
        self._filled: dict[tuple[int, int], str] = {}
        self.versions = (f"librdkafka {libversion()[0]}", f"Apache Kafka {VERSION}, {PARTITIONS} partitions a topic")

    def store(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """A worker publishes into an empty topic, which then holds everything once."""
        result = self._stored(side, verb, count, size, settings)
        self.cpu = float(result["cpu"]) / count
        return count / float(result["seconds"])

    def p99(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """As `store`; the seconds that one call of a hundred takes at least."""
        return float(self._stored(side, verb, count, size, settings)["p99"])

    def consume(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """A worker reads a filled topic with a new group, and commits all of it; from the first to the last."""
        topic, group = self._filled_topic(count, size), f"bench-{next(_numbers)}"
        result = self._work(side, verb, self._job(topic, count, size, {**settings, "group": group}))
        if (found := self._raw.committed(group, topic)) != count:
            raise MeasurementFailed(f"{side} {verb}: {found} of {count} messages were committed")
        self.cpu = float(result["cpu"]) / (count - 1)
        return (count - 1) / float(result["seconds"])

    def handle(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """A worker fills a topic, and handles it."""
        with self._topic() as topic:
            return count / float(self._work(side, verb, self._job(topic, count, size, settings))["seconds"])

    def latency(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> float:
        """One process publishes and handles; the seconds that half of the messages take at least."""
        with self._topic() as topic:
            return float(self._work(side, verb, self._job(topic, count, size, settings))["seconds"])

    def _stored(self, side: str, verb: str, count: int, size: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        with self._topic() as topic:
            result = self._work(side, verb, self._job(topic, count, size, settings))
            wanted = count + int(settings["warm_up"])
            if (found := self._raw.stored(topic)) != wanted:
                raise MeasurementFailed(f"{side} {verb}: {found} messages stored instead of {wanted}")
        return result

    def _work(self, side: str, verb: str, job: Mapping[str, Any]) -> dict[str, Any]:
        with Worker(f"kafka_{side}", verb, job) as worker:
            return worker.result()

    def _job(self, topic: str, count: int, size: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        host, port = self._server.address
        return {"host": host, "port": port, "topic": topic, "count": count, "size": size, "settings": dict(settings)}

    def _filled_topic(self, count: int, size: int) -> str:
        """A topic with so many messages, made once."""
        if (count, size) not in self._filled:
            topic = f"filled{next(_numbers)}.bench"
            self._raw.make_topic(topic)
            self._raw.fill(topic, b"x" * size, count)
            self._filled[count, size] = topic
        return self._filled[count, size]

    @contextmanager
    def _topic(self) -> Iterator[str]:
        topic = f"store{next(_numbers)}.bench"
        self._raw.make_topic(topic)
        try:
            yield topic
        finally:
            self._raw.drop_topic(topic)


@contextmanager
def kafka_staged() -> Iterator[KafkaStage]:
    """A stage with its broker."""
    with KafkaServer(settings={"num.partitions": PARTITIONS}) as server:
        yield KafkaStage(server)
