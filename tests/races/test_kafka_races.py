"""Every interleaving of the Kafka producer's book-keeping; and broken twins, in which the races must be found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError
from race_explorer import UNTIL_FOUND, explore

from eventbus.backends.kafka.clients.errors import ClientErrors
from eventbus.backends.kafka.publishing import publisher as publisher_module
from eventbus.backends.kafka.publishing.limits import Limits, Topic
from eventbus.backends.kafka.publishing.lines import Line
from eventbus.backends.kafka.publishing.publisher import KafkaPublisher
from eventbus.publishing.records import Record

SECONDS = 2.0
"""Of one exploration: most of what can go wrong is found in the first one."""
PURGED = KafkaError(KafkaError._PURGE_QUEUE)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "spawn", lambda *args: None)


# -- the sender against retire ----------------------------------------------------------------------


class FakeProducer:
    """Keeps what it is given until it is purged; reports come in `flush`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.queue: list[Callable[..., None]] = []
        self._purged: list[Callable[..., None]] = []
        self._stopping = False

    def produce(self, *args: Any) -> None:
        with self._changed:
            self.queue.append(args[4])

    def __len__(self) -> int:
        return len(self.queue)

    def purge(self) -> None:
        with self._changed:
            self._stopping = True
            self._purged += self.queue
            self.queue = []

    def flush(self, timeout: float) -> int:
        with self._changed:
            if not self._purged and self._stopping:  # else the clock, which moves when all wait, would order them
                self._changed.wait(timeout)
            purged, self._purged = self._purged, []
        for report in purged:
            report(PURGED, SimpleNamespace(partition=lambda: 0, offset=lambda: None))
        return 0


class Quiet:
    """Answers that nobody reads."""

    origin = "o"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class OneMaker:
    """Its producer is there from the beginning."""

    batch_bytes = message_bytes = 1_000_000
    compressed = throttled = False
    ban = None

    def __init__(self) -> None:
        self.errors = ClientErrors("test")

    def allow(self) -> None:
        pass


class CarelessOutbox(KafkaPublisher):
    """Looks whether the line is open, and counts the record then."""

    def publish(self, records: Sequence[Record]) -> int:
        line, send = self._lines["t"], self._producing._produce
        with self._lock:  # the explorer changes threads at locks
            if self._retired:
                return 0
        send("t", b"", None, -1, lambda *report: self._producing._report(records[0], *report))
        line.fast += 1
        return 1


class Publishing:
    """One record each, and the end of the producer."""

    def __init__(self, kind: type[KafkaPublisher] = KafkaPublisher) -> None:
        self.producer: Any = FakeProducer()
        maker: Any = OneMaker()
        answers: Any = Quiet()
        self.outbox = kind(maker, "reports", answers, lambda topic, stale: None, lambda cause: None)
        self.outbox._producing.begin(self.producer)
        self.outbox._lines["t"] = Line("t")
        self.outbox.topic_ready("t", Topic(1, Limits(), time.monotonic()))
        self.took = -1

    def publish(self) -> None:
        self.took = self.outbox.publish([Record(1, "t", b"", None, None)])

    def retire(self) -> None:
        self.outbox.retire()

    @property
    def is_empty(self) -> bool:
        return not self.producer.queue and self.outbox.in_flight == 0 and self.outbox._lines["t"].waits == self.took


def test_a_record_that_meets_the_end_of_the_producer_comes_back_or_is_not_taken() -> None:
    def explored(kind: type[KafkaPublisher], seconds: float) -> None:
        explore(
            lambda: Publishing(kind),
            Publishing.publish,
            Publishing.retire,
            invariant=lambda made: made.is_empty,
            clock="virtual",
            seconds=seconds,
        )

    explored(KafkaPublisher, SECONDS)
    with pytest.raises(AssertionError, match="Race condition"):
        explored(CarelessOutbox, UNTIL_FOUND)
