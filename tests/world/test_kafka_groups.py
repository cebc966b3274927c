"""Crowded, beside and inherited, on Kafka: subscriptions that share a consumer, members that move, topics made anew."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewPartitions
from kafka_operator import Operator
from rounds import limit, rounds
from world_support import end, fresh

from eventbus import BROADCAST, EventBus, EventBusConfig, KafkaConfig, Message, Subscription, SubscriptionState
from eventbus.backends.kafka.backend import KafkaBackend
from eventbus.testing import KafkaServer, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]

Make = Callable[..., EventBus]

SOON = 5.0
JOINED = 20.0
MANY = rounds(40, 150)
MOST_THREADS, MOST_DESCRIPTORS = 20, 60
PROTOCOLS = ("consumer", "classic")
FAR, FAR_PARTITIONS = 0.1, 50
"""Seconds of a round trip."""


@pytest.fixture(scope="module")
def operator(kafka_server_shared: Any) -> Operator:
    return Operator(kafka_server_shared.bootstrap).at_work()


@pytest.fixture
def make_bus(kafka_server_shared: Any) -> Iterator[Make]:
    made: list[EventBus] = []

    def make(**kafka: Any) -> EventBus:
        bus = EventBus(EventBusConfig(backend=KafkaConfig(brokers=kafka_server_shared.bootstrap, **kafka)))
        made.append(bus)
        return bus

    yield make
    for bus in made:
        end(bus)


class Inbox:
    """A handler that notes what it is given."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def __call__(self, message: Message) -> None:
        self.got.append(message.text())

    def wait(self, *texts: str, timeout: float = JOINED) -> None:
        wait_until(lambda: set(texts) <= set(self.got), timeout, message=lambda: str(self.got))


def is_active(sub: Subscription) -> bool:
    return sub.state is SubscriptionState.ACTIVE


def of_this_process() -> tuple[int, int]:
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def is_made(operator: Operator, topic: str) -> bool:
    """Whether a topic of that name could be made: the old one takes a moment to go."""
    try:
        operator.create(topic)
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        return False
    return True


# -- crowded -------------------------------------------------------------------------------------


def test_many_subscriptions_of_a_group_share_a_consumer(make_bus: Make, operator: Operator) -> None:
    topics = [operator.create(fresh("many")) for _ in range(MANY)]
    threads, descriptors = of_this_process()
    bus = make_bus()
    inboxes = {topic: Inbox() for topic in topics}
    subs = [bus.subscribe(topic, inbox, group="crowd") for topic, inbox in inboxes.items()]
    bus.open()
    wait_until(lambda: all(map(is_active, subs)), JOINED)
    more_threads, more_descriptors = of_this_process()
    assert more_threads - threads <= MOST_THREADS
    assert more_descriptors - descriptors <= MOST_DESCRIPTORS
    bus.publish_many([Message(topic, topic) for topic in topics])
    for topic, inbox in inboxes.items():
        inbox.wait(topic)
        assert inbox.got == [topic]


def test_full_lanes_of_a_topic_hold_up_no_other_of_the_group(make_bus: Make, operator: Operator) -> None:
    full, other = operator.create(fresh("full")), operator.create(fresh("other"))
    gate, begun, inbox = threading.Event(), list[str](), Inbox()

    def stand(message: Message) -> None:
        begun.append(message.text())
        gate.wait(60.0)

    operator.store(full, 20_000)
    bus = make_bus()
    bus.subscribe(full, stand, group="g")
    bus.subscribe(other, inbox, group="g")
    bus.open()
    wait_until(lambda: bus.get_statistics().delivered > 1_000, JOINED)
    for number in range(5):
        bus.publish(other, str(number))
        inbox.wait(str(number), timeout=SOON)
    assert begun == ["0"]
    gate.set()
    wait_until(lambda: len(begun) == 20_000, JOINED)
    assert begun == [str(number) for number in range(20_000)], "each once, and in order"


def test_copies_of_one_topic_have_their_own_places(make_bus: Make, operator: Operator) -> None:
    topic = operator.create(fresh("copies"))
    gate, stood, inbox = threading.Event(), list[str](), Inbox()

    def stand(message: Message) -> None:
        gate.wait(60.0)
        stood.append(message.text())

    bus = make_bus()
    subs = [bus.subscribe(topic, stand, group=BROADCAST), bus.subscribe(topic, inbox, group=BROADCAST)]
    bus.open()
    wait_until(lambda: all(map(is_active, subs)), JOINED)
    bus.publish_many([Message(topic, str(number)) for number in range(5_000)])
    inbox.wait(str(4_999))
    assert stood == []
    gate.set()
    wait_until(lambda: len(stood) == 5_000, JOINED)


# -- members that come and go --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_gets_no_partition_stands_by(make_bus: Make, operator: Operator, protocol: str) -> None:
    topic, inboxes = operator.create(fresh("standby")), [Inbox(), Inbox()]
    first, second = make_bus(group_protocol=protocol), make_bus(group_protocol=protocol)
    subs = [bus.subscribe(topic, inbox, group="g") for bus, inbox in zip((first, second), inboxes, strict=True)]
    first.open()
    wait_until(lambda: is_active(subs[0]), JOINED)
    second.open()
    wait_until(lambda: {sub.state for sub in subs} == {SubscriptionState.ACTIVE, SubscriptionState.STANDBY}, JOINED)
    assert second.get_health_status().is_healthy
    leaving = subs.index(next(sub for sub in subs if is_active(sub)))
    (first, second)[leaving].close()
    staying = 1 - leaving
    wait_until(lambda: is_active(subs[staying]), JOINED)
    operator.store(topic, 1)
    inboxes[staying].wait("0")


def test_a_group_that_takes_nobody_says_so_until_it_does() -> None:
    """librdkafka calls that fatal: the consumer is replaced again and again, and nothing is on its way."""
    with KafkaServer(settings={"group.consumer.max.size": "1"}) as server:
        first, second = (EventBus(server.url) for _ in range(2))
        with first, second:
            inside = first.subscribe("full", Inbox(), group="g")
            wait_until(lambda: is_active(inside), JOINED)
            outside = second.subscribe("full", Inbox(), group="g")
            wait_until(lambda: "maximum size" in str(outside.error), JOINED)
            assert (outside.state, outside.status().is_joining) == (SubscriptionState.PENDING, False)
            assert "maximum size" in second.get_health_status().not_served[0]
            assert first.unsubscribe(inside)
            wait_until(lambda: is_active(outside), JOINED)
            assert outside.error is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_retry_ends_when_its_partition_has_moved(make_bus: Make, operator: Operator, protocol: str) -> None:
    topic = operator.create(fresh("moves"), partitions=2)
    tried, inbox = list[str](), Inbox()

    def fail(message: Message) -> None:
        tried.append(message.text())
        raise ValueError("not here")

    first, second = make_bus(group_protocol=protocol), make_bus(group_protocol=protocol)
    first.open()
    for partition in (0, 1):
        first.publish(topic, f"poison {partition}", partition=partition)
    first.subscribe(topic, fail, group="g", dead_letter=None)
    wait_until(lambda: {"poison 0", "poison 1"} <= set(tried), JOINED)
    second.subscribe(topic, inbox, group="g")
    second.open()
    wait_until(lambda: inbox.got, JOINED)
    moved = inbox.got[0]
    kept = "poison 1" if moved == "poison 0" else "poison 0"
    before = tried.count(kept)
    tried_before = tried.count(moved)
    wait_until(lambda: tried.count(kept) > before + 1, JOINED, message="the other partition goes on")
    assert tried.count(moved) <= tried_before + 1
    assert inbox.got == [moved]


def test_a_static_member_that_is_started_again_has_its_place_at_once(make_bus: Make, operator: Operator) -> None:
    topic, inbox = operator.create(fresh("static")), Inbox()
    for text in ("first", "again"):
        bus = make_bus(group_instance_id="worker-1")
        sub = bus.subscribe(topic, inbox, group="static")
        bus.open()
        wait_until(lambda sub=sub: is_active(sub), JOINED)  # type: ignore[misc]
        bus.publish(topic, text)
        inbox.wait(text)
        bus.close()


def test_a_forked_child_is_another_static_member(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = KafkaBackend(KafkaConfig(group_instance_id="worker"))
    assert backend._static_id == "worker"
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    assert backend._static_id == "worker-4711"


def test_a_group_that_begins_now_says_so_before_it_has_handled_anything(make_bus: Make, operator: Operator) -> None:
    """Were its first member to die, the next one would begin later."""
    topic = operator.create(fresh("now"))
    operator.store(topic, 5)
    bus = make_bus()
    sub = bus.subscribe(topic, Inbox(), group="now", start="latest")
    bus.open()
    wait_until(lambda: [one.committed for one in sub.status().partitions] == [5], JOINED)


def test_what_was_unsubscribed_is_forgotten(make_bus: Make, operator: Operator) -> None:
    topics = [operator.create(fresh("leaves")) for _ in range(4)]
    bus = make_bus()
    bus.subscribe(topics[0], Inbox(), group="g")
    bus.open()
    for topic in topics[1:] * 3:
        sub = bus.subscribe(topic, Inbox(), group="g")
        wait_until(lambda sub=sub: is_active(sub), JOINED)  # type: ignore[misc]
        assert bus.unsubscribe(sub)
    consumers = bus._supervisor.session.consumers
    wait_until(lambda: len(consumers.threads[0].readers) == 1, SOON)
    assert len(consumers._reading) <= 2
    assert consumers._preparing.prepared == {}


# -- topics that others change -------------------------------------------------------------------


@pytest.mark.parametrize("group", ["g", BROADCAST], ids=["group", "copy"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_topic_that_was_made_anew_is_read_from_its_start(
    make_bus: Make, operator: Operator, protocol: str, group: Any
) -> None:
    topic, inbox = operator.create(fresh("anew")), Inbox()
    bus = make_bus(group_protocol=protocol, create_topics=False)
    sub = bus.subscribe(topic, inbox, group=group)
    bus.open()
    wait_until(lambda: is_active(sub), JOINED)
    operator.store(topic, 20)
    inbox.wait(*map(str, range(20)))
    wait_until(lambda: sub.status().partitions[0].committed == 20 or group is BROADCAST, SOON)
    operator.delete(topic)
    inbox.got.clear()
    wait_until(lambda: is_made(operator, topic), JOINED)
    operator.store(topic, 50)
    inbox.wait(*map(str, range(50)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_process_that_ends_before_it_sees_the_new_topic_skips_nothing_of_it(
    make_bus: Make, operator: Operator, protocol: str
) -> None:
    """Whether it reads on at its old place, and commits that, or not: a position is of one topic, not of one name."""
    topic, first, second = operator.create(fresh("ends")), Inbox(), Inbox()
    bus = make_bus(group_protocol=protocol, create_topics=False)
    bus.subscribe(topic, first, group="g")
    bus.open()
    operator.store(topic, 10)
    first.wait(*map(str, range(10)))
    first.got.clear()
    operator.delete(topic)
    wait_until(lambda: is_made(operator, topic), JOINED)
    operator.store(topic, 50)
    with suppress(AssertionError):  # it may be at work, or not have found the new one yet
        wait_until(lambda: "49" in first.got, 2.0)
    bus.close()
    bus = make_bus(group_protocol=protocol, create_topics=False)
    bus.subscribe(topic, second, group="g")
    bus.open()
    wait_until(lambda: {*first.got, *second.got} == {*map(str, range(50))}, JOINED, message=lambda: str(second.got))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partitions_that_are_added_are_read(make_bus: Make, operator: Operator, protocol: str) -> None:
    topic, inbox, copy = operator.create(fresh("grows")), Inbox(), Inbox()
    bus = make_bus(group_protocol=protocol)
    subs = [bus.subscribe(topic, inbox, group="g"), bus.subscribe(topic, copy, group=BROADCAST)]
    bus.open()
    wait_until(lambda: all(map(is_active, subs)), JOINED)
    operator.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10.0)
    wait_until(lambda: bus.publish(topic, "new", partition=2).confirmed, JOINED)
    inbox.wait("new")
    copy.wait("new")


def test_what_was_deleted_before_it_was_read_is_told(make_bus: Make, operator: Operator) -> None:
    topic, inbox = operator.create(fresh("deleted")), Inbox()
    operator.store(topic, 10)
    with make_bus() as first:
        first.subscribe(topic, inbox, group="g")
        inbox.wait(*map(str, range(10)))
    operator.store(topic, 30)
    (deleted,) = operator.admin.delete_records([TopicPartition(topic, 0, 25)]).values()
    deleted.result(10.0)
    bus, errors = make_bus(), list[str]()
    bus.register_error_callback(lambda event: errors.append(f"{event.topic}: {event.error}"))
    sub = bus.subscribe(topic, inbox, group="g")
    bus.open()
    inbox.wait("15", "29")
    wait_until(lambda: errors, SOON)
    assert errors == [f"{topic}: {topic} [0]: 10 to 24 were deleted before they were read"]
    assert "10 to 24" in str(sub.status().last_error)
    assert sub.error is None


def test_a_far_group_asks_nothing_about_each_partition_that_begins_late() -> None:
    """Whether what is deleted there was ours to read is known from where the group began."""
    with KafkaServer(proxied=True) as server:
        operator, got = Operator(server.inner_bootstrap), Inbox()
        topic = operator.create("cut", partitions=FAR_PARTITIONS)
        stored = [
            Message(topic, f"{number}", partition=number % FAR_PARTITIONS) for number in range(2 * FAR_PARTITIONS)
        ]
        with EventBus(f"kafka://{server.inner_bootstrap}") as near:
            near.publish_many(stored)
        for cut in operator.admin.delete_records([TopicPartition(topic, n, 1) for n in range(FAR_PARTITIONS)]).values():
            cut.result(10.0)
        server.proxy.delay(FAR / 2)
        with EventBus(f"{server.url}?connect_timeout=20") as bus:
            bus.subscribe(topic, got, group="far")
            wait_until(lambda: got.got, JOINED)
            began = time.monotonic()
            got.wait(*(f"{number}" for number in range(FAR_PARTITIONS, 2 * FAR_PARTITIONS)))
            assert time.monotonic() - began < FAR * FAR_PARTITIONS / 2
        operator.close()


def test_a_topic_that_is_gone_is_shown(make_bus: Make, operator: Operator) -> None:
    topic = operator.create(fresh("gone"))
    bus = make_bus(create_topics=False)
    sub = bus.subscribe(topic, Inbox(), group="g")
    bus.open()
    wait_until(lambda: is_active(sub), JOINED)
    operator.delete(topic)
    wait_until(lambda: sub.error is not None and "is not there any more" in str(sub.error), JOINED)
    assert bus.get_health_status().is_healthy


# -- what is shown -------------------------------------------------------------------------------


def test_each_partition_is_shown_without_asking(make_bus: Make, operator: Operator) -> None:
    topic, gate = operator.create(fresh("shown"), partitions=2), threading.Event()
    bus = make_bus()
    sub = bus.subscribe(topic, lambda message: gate.wait(30.0), group="g")
    bus.open()
    for partition in (0, 0, 0, 1):
        bus.publish(topic, "x", partition=partition)
    wait_until(lambda: sub.status().lag == 4, JOINED, message=lambda: str(sub.status()))
    shown = {one.partition: (one.in_hand, one.end) for one in sub.status().partitions}
    assert shown == {0: (3, 3), 1: (1, 1)}
    gate.set()
    wait_until(lambda: sub.status().lag == 0, JOINED)
    wait_until(lambda: [one.committed for one in sub.status().partitions] == [3, 1], JOINED)
    began = time.monotonic()
    for _ in range(100):
        sub.status()
    assert time.monotonic() - began < SOON


def test_lag_grows_while_nothing_is_fetched(make_bus: Make, operator: Operator) -> None:
    """A consumer learns where partitions end from what it fetches; and of one that waits for room nothing was begun."""
    topic, gate = operator.create(fresh("lag"), partitions=2), threading.Event()
    bus = make_bus()
    subs = [bus.subscribe(topic, lambda message: gate.wait(60.0), group=group) for group in ("stuck", BROADCAST)]
    paused = bus.subscribe(topic, lambda message: None, group="paused")
    bus.open()
    wait_until(lambda: all(map(is_active, subs)), JOINED)
    paused.pause()
    for stored in (10_000, 15_000, 20_000):
        operator.store(topic, stored if stored == 10_000 else 5_000)
        wait_until(
            lambda stored=stored: [sub.status().lag for sub in (*subs, paused)] == [stored] * 3,  # type: ignore[misc]
            JOINED,
            message=lambda: f"{[sub.status() for sub in (*subs, paused)]}",
        )
    gate.set()
    paused.resume()
    wait_until(lambda: [sub.status().lag for sub in (*subs, paused)] == [0] * 3, JOINED)
