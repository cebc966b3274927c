"""What no probe sees: the broker answers, and yet publishes wait, or a consumer stands still in a partition."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition
from kafka_engine_support import Buses, lasting, session_of

from eventbus import EventBus, NotConnectedError
from eventbus.backends.kafka import metadata
from eventbus.backends.kafka.consuming import stalls, standstill
from eventbus.backends.kafka.consuming.assignment import Assignment
from eventbus.backends.kafka.consuming.consumer_thread import ConsumerThread
from eventbus.backends.kafka.consuming.stalls import Stalls
from eventbus.backends.kafka.consuming.standstill import NEVER_FETCHED, Standstill
from eventbus.backends.kafka.publishing import progress
from eventbus.backends.kafka.publishing.progress import Progress
from eventbus.backends.kafka.topics import TopicUnready
from eventbus.testing import MockKafka, wait_until

Make = Callable[..., MockKafka]


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (progress, stalls, standstill):
        monkeypatch.setattr(module, "time", made)
    return made


# -- publishes -----------------------------------------------------------------------------------


def test_publishes_stall_while_the_broker_answers_and_none_of_them_is(clock: Clock) -> None:
    outbox = outbox_with("t")
    progress = Progress(outbox, 30.0, lambda topics, timeout: {}, print)
    progress.check()
    clock.now += 29
    progress.check()
    outbox.answered += 1
    clock.now += 29
    progress.check()
    clock.now += 29
    progress.excuse()  # a probe failed
    clock.now += 29
    progress.check()
    clock.now += 1
    with pytest.raises(NotConnectedError, match="1 publishes wait and none was answered for 30 s"):
        progress.check()
    outbox.in_flight = 0
    progress.check()
    outbox.thread_alive = False
    with pytest.raises(NotConnectedError, match="died"):
        progress.check()


def outbox_with(*topics: str) -> Any:
    """One in which a publish to each waits."""
    return SimpleNamespace(
        answered=0, in_flight=len(topics), topics_in_flight=topics, thread_alive=True, throttled=False
    )


def test_publishes_that_no_replica_can_store_are_no_stall_and_are_told_once(clock: Clock) -> None:
    causes = {"a": "topic a has no leader"}
    told: list[str] = []
    outbox = outbox_with("a")
    progress = Progress(outbox, 30.0, lambda topics, timeout: causes, lambda error: told.append(str(error)))
    for _ in range(3):
        clock.now += 30
        progress.check()
    assert told == ["publishes wait: topic a has no leader"]
    outbox.topics_in_flight = ("a", "b")
    clock.now += 30
    progress.check()  # b has its time, too
    clock.now += 30
    with pytest.raises(NotConnectedError, match="none was answered for 30 s"):
        progress.check()
    outbox.answered += 1
    progress.check()
    outbox.topics_in_flight = ("a",)
    clock.now += 30
    progress.check()
    assert len(told) == 2, "it is news again"


# -- what a consumer notes of itself -------------------------------------------------------------


class Fetching:
    """A consumer and its partitions: where it stands, and which end it saw. Of p1 nothing was delivered yet."""

    def __init__(self) -> None:
        self.positions = {("t", 0): 5, ("t", 1): -1001}
        self.ends = {("t", 0): 5, ("t", 1): 0}
        self.states: Any = {
            ("t", 0): SimpleNamespace(begun=True, busy=False, advance=bool),
            ("t", 1): SimpleNamespace(begun=False, busy=False, advance=bool),
        }
        reader: Any = SimpleNamespace(
            lock=threading.Lock(),
            states=self.states,
            reserve=lambda where: None,
            fetches=True,
            note_end=lambda where, end, low: None,
        )
        self.readers = dict.fromkeys(self.states, reader)
        self.standstill = Standstill(self.readers, lambda *news: None)

    def position(self, asked: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, self.positions[one.topic, one.partition]) for one in asked]

    def get_watermark_offsets(self, asked: TopicPartition, *, cached: bool) -> tuple[int, int]:
        end = self.ends.get((asked.topic, asked.partition))
        if end is None:
            raise KafkaException("unknown partition")
        return 0, end

    def lasting(self, clock: Clock, seconds: int, *, drained: bool = True) -> None:
        for _ in range(seconds):
            self.standstill.drained |= drained
            self.standstill.look(self)
            clock.now += 1


def test_each_partition_stands_still_for_itself(clock: Clock) -> None:
    fetching = Fetching()
    fetching.lasting(clock, 10)
    fetching.positions["t", 0] = 6
    fetching.lasting(clock, 10)
    assert fetching.standstill.for_longer_than(11.0) == {("t", 1): 0}
    assert fetching.standstill.for_longer_than(10.0) == {("t", 0): 6, ("t", 1): 0}
    fetching.ends["t", 1] = 3
    fetching.lasting(clock, 1)
    assert fetching.standstill.for_longer_than(2.0) == {("t", 0): 6}
    del fetching.readers["t", 0]
    fetching.lasting(clock, 1)
    assert fetching.standstill.for_longer_than(0.0) == {("t", 1): 3}


@pytest.mark.parametrize("end", [-1001, None])
def test_a_partition_that_was_never_fetched_stands_still_too(clock: Clock, end: Any) -> None:
    fetching = Fetching()
    fetching.ends["t", 1] = end
    fetching.lasting(clock, 10)
    assert fetching.standstill.for_longer_than(10.0) == {("t", 0): 5, ("t", 1): NEVER_FETCHED}


def test_a_partition_does_not_stand_still_while_something_of_it_is_being_handled(clock: Clock) -> None:
    fetching = Fetching()
    fetching.lasting(clock, 10)
    fetching.states["t", 0].busy = True
    fetching.lasting(clock, 1)
    fetching.states["t", 0].busy = False
    fetching.lasting(clock, 5)
    assert fetching.standstill.for_longer_than(6.0) == {("t", 1): 0}


def test_no_partition_stands_still_while_it_may_wait_behind_others(clock: Clock) -> None:
    fetching = Fetching()
    fetching.lasting(clock, 10)
    fetching.lasting(clock, 1, drained=False)
    assert fetching.standstill.for_longer_than(0.0) == {}


# -- what becomes of it --------------------------------------------------------------------------


class Feeding:
    """A consumer that stands at 5 in one partition for ever, of which `end` is known."""

    def __init__(self) -> None:
        self.end = 5
        self.stands = {("t", 0): 5}
        self.asked = self.cured = self.rebuilt = 0
        self.error: Exception | None = None
        self.is_ours = True

    def standing(self, seconds: float) -> dict[Any, int]:
        return self.stands

    def show(self, troubles: Any) -> None:
        self.troubles = dict(troubles)

    def reads(self, where: Any) -> bool:
        return self.is_ours

    def cure(self, places: Any) -> None:
        self.cured += 1
        assert list(places) == [("t", 0)]

    def rebuild(self, cause: Exception) -> None:
        self.rebuilt += 1
        assert "t [0] at 5" in str(cause)

    def ends(self, places: Any, timeout: float) -> dict[Any, int]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {("t", 0): self.end}

    def looked_at(self, clock: Clock, count: int = 1) -> None:
        """As the thread of the watch does, every 3 seconds."""
        self.stalls: Any = getattr(self, "stalls", None) or Stalls(self.ends, 30.0)
        for _ in range(count):
            try:
                self.stalls.look([self])
            except NotConnectedError as error:
                assert error is self.error
            clock.now += 3


def test_an_idle_consumer_is_left_alone_though_a_message_is_on_its_way(clock: Clock) -> None:
    feeding = Feeding()
    feeding.looked_at(clock, 100)
    assert 5 <= feeding.asked <= 10, "it is cheap"
    feeding.end, asked = 6, feeding.asked
    while feeding.asked == asked:
        feeding.looked_at(clock)
    feeding.end = feeding.stands["t", 0] = 6
    feeding.looked_at(clock, 100)
    assert (feeding.cured, feeding.rebuilt) == (0, 0)


def test_a_partition_that_stays_behind_is_cured_alone_and_then_its_consumer_is_replaced_once(clock: Clock) -> None:
    feeding = Feeding()
    feeding.looked_at(clock)
    feeding.end = 6
    feeding.looked_at(clock, 10)
    assert feeding.cured == 0, "30 s are not over"
    feeding.looked_at(clock, 2)
    assert (feeding.cured, feeding.rebuilt) == (1, 0)
    feeding.looked_at(clock, 12)
    assert (feeding.cured, feeding.rebuilt) == (1, 1)
    feeding.looked_at(clock, 50)
    assert (feeding.cured, feeding.rebuilt) == (1, 1)
    assert list(feeding.troubles) == [("t", 0)], "then it is told"
    feeding.stands["t", 0] = 6
    feeding.looked_at(clock)
    assert feeding.troubles == {}


def test_where_another_member_does_not_get_on_is_told_and_disturbs_nobody(clock: Clock) -> None:
    """Its handler may just be slow."""
    feeding = Feeding()
    feeding.end, feeding.is_ours = 6, False
    feeding.looked_at(clock, 50)
    assert (feeding.cured, feeding.rebuilt) == (0, 0)
    assert list(feeding.troubles) == [("t", 0)]


def test_one_that_got_on_is_cured_again(clock: Clock) -> None:
    """As when a partition is never fetched, twice in a consumer's life: it stands at no offset both times."""
    feeding = Feeding()
    feeding.end = 6
    feeding.looked_at(clock, 50)
    assert (feeding.cured, feeding.rebuilt) == (1, 1)
    feeding.stands["t", 0] = 6
    feeding.looked_at(clock, 50)
    assert (feeding.cured, feeding.rebuilt) == (1, 1)
    feeding.stands["t", 0] = 5
    feeding.looked_at(clock, 50)
    assert (feeding.cured, feeding.rebuilt) == (2, 2)


@pytest.mark.parametrize("error", [NotConnectedError("no answer"), TopicUnready("no leader")])
def test_a_consumer_with_an_excuse_is_not_replaced(clock: Clock, error: Exception) -> None:
    feeding = Feeding()
    feeding.end, feeding.error = 6, error
    feeding.looked_at(clock, 50)
    assert (feeding.cured, feeding.rebuilt) == (0, 0)


# -- on a broker ---------------------------------------------------------------------------------


class Inbox:
    """Notes what comes, by partition."""

    def __init__(self, bus: EventBus, **options: Any) -> None:
        self.got: list[str] = []
        bus.subscribe("t", lambda message: self.got.append(message.text()), group="g", **options)

    def wait(self, *texts: str, timeout: float = 15.0) -> None:
        wait_until(lambda: set(texts) <= set(self.got), timeout, message=lambda: str(self.got))


@pytest.fixture
def impatient(open_bus: Buses, monkeypatch: pytest.MonkeyPatch) -> Callable[[MockKafka], EventBus]:
    """A bus that finds a stall in about a second."""
    monkeypatch.setattr(metadata, "DISCOVER_EVERY", 0.2)
    monkeypatch.setattr(standstill, "LOOK_EVERY", 0.1)
    return lambda cluster: open_bus(cluster, kafka={"stall_timeout": 0.7})


def reading_of(bus: EventBus) -> ConsumerThread:
    (thread,) = [one for one in session_of(bus).consumers.threads if not one.is_over]
    return thread


def key_of(bus: EventBus, partition: int) -> str:
    """A key that goes to this partition; what is published to learn it is a `?`."""
    return next(key for key in map(str, range(99)) if bus.publish("t", "?", key=key).partition == partition)


def test_a_consumer_that_fetches_nothing_is_replaced_once(mock: Make, impatient: Any) -> None:
    cluster = mock(1, partitions=1)
    bus = impatient(cluster)
    inbox = Inbox(bus)
    bus.publish("t", "before")
    inbox.wait("before")
    reading = reading_of(bus)
    lasting(2.0)
    assert reading.rebuilds == 0, "it has nothing to do"
    cluster.push_answers(1, "Fetch", (0, 60.0))
    lasting(0.1)
    bus.publish("t", "after")
    inbox.wait("after")
    assert reading.rebuilds == 1
    lasting(1.5)
    assert reading.rebuilds == 1
    assert inbox.got == ["before", "after"]
    assert bus.get_health_status().is_healthy


def test_one_partition_that_stands_still_while_others_move_is_found(mock: Make, impatient: Any) -> None:
    cluster = mock(2, partitions=2)
    for partition in (0, 1):
        cluster.set_leader("t", partition, partition + 1)
    bus = impatient(cluster)
    inbox = Inbox(bus)
    stuck, moving = key_of(bus, 0), key_of(bus, 1)
    bus.publish("t", "before", key=stuck)
    inbox.wait("before")
    cluster.push_answers(1, "Fetch", (0, 60.0))
    lasting(0.1)
    bus.publish("t", "after", key=stuck)
    lasting(6.0, lambda: "after" in inbox.got or bus.publish("t", "other", key=moving))
    assert inbox.got.count("after") == 1
    assert reading_of(bus).rebuilds == 1


def test_a_partition_that_was_never_fetched_is_found(
    mock: Make, impatient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: here it is paused behind our back, as soon as it is assigned."""
    assigned, consumers = Assignment._assigned, list[Any]()

    def assigned_and_paused(self: Assignment, consumer: Any, partitions: list[TopicPartition]) -> None:
        assigned(self, consumer, partitions)
        if not consumers:
            consumer.pause([one for one in partitions if one.partition == 0])
        consumers.append(consumer)

    monkeypatch.setattr(Assignment, "_assigned", assigned_and_paused)
    bus = impatient(mock(1, partitions=2))
    stuck = key_of(bus, 0)
    inbox = Inbox(bus)
    bus.publish("t", "waiting", key=stuck)
    inbox.wait("waiting")
    assert reading_of(bus).rebuilds == 1
    lasting(1.5)
    assert reading_of(bus).rebuilds == 1
