"""Every interleaving of the Kafka producer's book-keeping; and broken twins, in which the races must be found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError
from race_explorer import UNTIL_FOUND, explore
from test_races import finds_a_race

from eventbus.backends.kafka import ledger as ledger_module
from eventbus.backends.kafka import outbox as outbox_module
from eventbus.backends.kafka.ledger import Bucket, Ledger
from eventbus.backends.kafka.outbox import Outbox
from eventbus.backends.kafka.problems import ClientErrors
from eventbus.errors import SessionRetired
from eventbus.publishing.records import Record

SECONDS = 2.0
"""Of one exploration: most of what can go wrong is found in the first one."""
PURGED = KafkaError(KafkaError._PURGE_QUEUE)


class SeenTally:
    """The explorer does not see into `itertools.count`: this one takes its steps where it looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0

    def tick(self) -> None:
        with self._lock:
            self._value += 1

    @property
    def value(self) -> int:
        with self._lock:
            return self._value


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "Tally", SeenTally)
    monkeypatch.setattr(outbox_module, "spawn", lambda *args: None)


# -- publisher against abandon -------------------------------------------------------------------


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
            report(PURGED, None)
        return 0


class Quiet:
    """Answers that nobody reads."""

    origin = "o"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


class CarelessOutbox(Outbox):
    """Looks whether the producer takes records, and enters then."""

    def publish(self, record: Record) -> None:
        produce = self.produce
        bucket = self.ledger.current
        bucket.enter()
        try:
            produce("t", b"", None, -1, lambda *report: bucket.answered(record, *report))
        except SessionRetired:
            self.ledger.current.leave()
            raise


class Publishing:
    """One record each, and the end of the producer."""

    def __init__(self, kind: type[Outbox] = Outbox) -> None:
        self.producer: Any = FakeProducer()
        made: Any = kind(
            self.producer, ClientErrors("test"), "reports", Quiet(), lambda topic: None, lambda cause: None
        )
        self.outbox = made
        self.outbox.ready.add("t")
        self.refused: list[int] = []
        self.back: list[int] = []

    def publish(self, number: int) -> None:
        try:
            self.outbox.publish(Record(number, "t", b"", None, None, None, None))
        except SessionRetired:
            self.refused.append(number)

    def first(self) -> None:
        self.publish(1)

    def second(self) -> None:
        self.publish(2)

    def abandon(self) -> None:
        self.back += [record.number for record in self.outbox.abandon()]

    def is_complete(self, wanted: list[int]) -> bool:
        return sorted(self.refused + self.back) == wanted and not self.producer.queue


def test_a_publisher_that_meets_the_end_of_the_producer_is_handed_back_or_refused() -> None:
    def invariant(made: Publishing) -> bool:
        return made.is_complete([1])

    explore(Publishing, Publishing.first, Publishing.abandon, invariant=invariant, clock="virtual", seconds=SECONDS)
    with pytest.raises(AssertionError, match="Race condition"):
        explore(
            lambda: Publishing(CarelessOutbox),
            Publishing.first,
            Publishing.abandon,
            invariant=invariant,
            clock="virtual",
            seconds=UNTIL_FOUND,
        )


def test_two_publishers_meet_the_end_of_the_producer() -> None:
    explore(
        Publishing,
        Publishing.first,
        Publishing.second,
        Publishing.abandon,
        invariant=lambda made: made.is_complete([1, 2]),
        clock="virtual",
        seconds=SECONDS,
        preemptions=1,
    )


# -- publisher against flush ---------------------------------------------------------------------


class CarelessLedger(Ledger):
    """Lets newcomers into the bucket that is waited for."""

    def _advance(self) -> None:
        self._turn += 1
        self.current = self._buckets[self._turn % 2]


class Flushing:
    """A record is inside; another one comes and is answered first, while somebody waits for all until now."""

    def __init__(self, kind: type[Ledger] = Ledger) -> None:
        self.ledger = kind(lambda bucket, record, error, message: None)
        self.accepted: list[int] = []
        self.answered: list[int] = []
        self.lied = False
        self.inside: dict[int, Bucket] = {}
        self.enter(1)

    def enter(self, number: int) -> None:
        bucket = self.ledger.current
        bucket.enter()
        self.inside[number] = bucket
        self.accepted.append(number)

    def answer(self, number: int) -> None:
        self.answered.append(number)
        self.inside.pop(number).leave()

    def publish(self) -> None:
        self.enter(2)
        self.answer(2)
        self.answer(1)

    def flush(self) -> None:
        wanted = set(self.accepted)
        for _ in range(3):
            if not self.ledger.inside_up_to(len(wanted)):
                self.lied = not wanted <= set(self.answered)
                return


def test_flush_says_all_are_answered_only_when_they_are() -> None:
    def invariant(made: Flushing) -> bool:
        made.lied = made.lied or made.ledger.inside != 0
        return not made.lied

    explore(Flushing, Flushing.publish, Flushing.flush, invariant=invariant, seconds=SECONDS)
    finds_a_race(lambda: Flushing(CarelessLedger), Flushing.publish, Flushing.flush, invariant=invariant)


def test_all_left_the_ledger_is_empty_for_who_asks_again() -> None:
    """Whatever earlier waiters, who gave up, have left there."""
    made = Flushing()
    for number in range(1, 4):
        assert made.ledger.inside_up_to(number) > 0
    made.enter(2)
    assert made.ledger.inside_up_to(2) > 0
    made.answer(1)
    assert made.ledger.inside_up_to(9) > 0
    made.answer(2)
    assert [made.ledger.inside_up_to(9) for _ in range(2)][-1] == 0
    assert made.ledger.inside == 0
