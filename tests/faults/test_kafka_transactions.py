"""Others publish in transactions: what was aborted is not handled, and their markers in the log are no stall."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import Producer

from eventbus import EventBus, EventBusConfig, KafkaConfig
from eventbus.backends.kafka import metadata
from eventbus.backends.kafka.consuming import standstill
from eventbus.backends.kafka.session import KafkaSession
from eventbus.testing import wait_until
from eventbus.testing.servers.kafka import KafkaServer

pytestmark = pytest.mark.kafka

STALL = 0.7


@pytest.fixture
def producer(kafka_server_shared: KafkaServer) -> Iterator[Producer]:
    made = Producer({"bootstrap.servers": kafka_server_shared.bootstrap, "transactional.id": "others", "log_level": 0})
    made.init_transactions(20.0)
    yield made
    made.close()


def publish(producer: Producer, topic: str, *texts: str, commit: bool) -> None:
    producer.begin_transaction()
    for text in texts:
        producer.produce(topic, text.encode())
    producer.flush(10.0)
    (producer.commit_transaction if commit else producer.abort_transaction)(10.0)


def test_markers_are_no_stall(
    kafka_server_shared: KafkaServer, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "DISCOVER_EVERY", 0.2)
    monkeypatch.setattr(standstill, "LOOK_EVERY", 0.1)
    config = KafkaConfig(brokers=kafka_server_shared.bootstrap, stall_timeout=STALL, partitions=1)
    got: list[str] = []
    with EventBus(EventBusConfig(backend=config)) as bus:
        bus.subscribe("transactions", lambda message: got.append(message.text()), group="g")
        session = bus._supervisor.session
        assert isinstance(session, KafkaSession)
        (reading,) = session.consumers.threads
        publish(producer, "transactions", "a", "b", commit=True)
        wait_until(lambda: got == ["a", "b"])
        publish(producer, "transactions", "x", "y", commit=False)
        # Offsets: a, b, a marker, x, y, a marker. Nothing is handed over behind b.
        wait_until(
            lambda: reading.standing(STALL) == {("transactions", 0): 6}, message=lambda: str(reading.standing(0.0))
        )
        threading.Event().wait(3 * STALL)
        assert reading.rebuilds == 0
        publish(producer, "transactions", "c", commit=True)
        wait_until(lambda: got == ["a", "b", "c"])
