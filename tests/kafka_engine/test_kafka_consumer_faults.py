"""Consumers that fail, stall, move or start over: nothing is skipped, and one thread alone touches each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError
from kafka_engine_support import BROADCAST, Buses, Load, clients_of, lasting, session_of

from eventbus import EventBus, Message, NotConnectedError, SubscriptionState
from eventbus.backends.kafka.clients.fork_safety import Consumer
from eventbus.backends.kafka.consuming import member
from eventbus.backends.kafka.consuming.consumer_thread import ConsumerThread
from eventbus.backends.kafka.consuming.partition_state import PartitionState
from eventbus.backends.kafka.consuming.reader import Reader
from eventbus.testing import MockKafka, TcpProxy, wait_until

Make = Callable[..., MockKafka]

PROTOCOLS = ("consumer", "classic")


def reading_of(bus: EventBus) -> ConsumerThread:
    (thread,) = [one for one in session_of(bus).consumers.threads if not one.is_over]
    return thread


def reader_of(bus: EventBus) -> Reader:
    (reader,) = reading_of(bus).readers
    return reader


def delivered_of(bus: EventBus) -> list[PartitionState]:
    """The partitions that it has and of which something was delivered."""
    return [state for state in list(reader_of(bus).states.values()) if state.offsets is not None]


def numbered(bus: EventBus, count: int, start: int = 0, topic: str = "t") -> None:
    for number in range(start, start + count):
        bus.publish_nowait(topic, b"%d" % number, key=str(number))
    assert bus.flush(10.0).unanswered == 0


class Inbox:
    """A handler that waits for `gate`, and notes."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.got: list[int] = []
        self.begun = 0
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def handle(self, message: Message) -> None:
        self.begun += 1
        self.gate.wait(30.0)
        self.got.append(int(message.payload))

    def wait(self, numbers: Any, timeout: float = 15.0) -> None:
        """Until all of these have come."""
        wanted = set(numbers)
        wait_until(
            lambda: wanted <= set(self.got), timeout, message=lambda: f"missing: {sorted(wanted - set(self.got))[:9]}"
        )


# -- a consumer that is of no use any more -------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_consumer_that_never_learns_where_its_group_stands_is_replaced(
    mock: Make, open_bus: Buses, protocol: str
) -> None:
    """The coordinator moves at the wrong moment: librdkafka says so once, and lets the partitions lie for ever."""
    cluster = mock(1)
    bus = open_bus(cluster, kafka={"group_protocol": protocol})
    inbox = Inbox()
    bus.subscribe("t", inbox.handle, group="g")
    numbered(bus, 10)
    inbox.wait(range(10))
    reading = reading_of(bus)
    cluster.push_errors("OffsetFetch", *[KafkaError.NOT_COORDINATOR] * 2)
    reading.rebuild(NotConnectedError("by the test"))
    wait_until(lambda: reading.rebuilds)
    numbered(bus, 10, 10)
    inbox.wait(range(20))
    assert reading.rebuilds > 1
    assert sorted(inbox.got) == list(range(20))


@pytest.mark.parametrize(
    ("protocol", "api", "code"),
    [
        ("classic", "Heartbeat", KafkaError.FENCED_INSTANCE_ID),
        ("consumer", "ConsumerGroupHeartbeat", KafkaError.INVALID_REQUEST),
    ],
)
def test_a_consumer_that_failed_for_good_is_replaced_alone(
    mock: Make, open_bus: Buses, protocol: str, api: str, code: int
) -> None:
    """A7: by the thread that owns it, once."""
    cluster = mock(1)
    bus = open_bus(cluster, kafka={"group_protocol": protocol})
    load = Load(bus)
    load.subscribe()
    with load.running():
        clients, reading = clients_of(bus), reading_of(bus)
        thread = reading.thread
        cluster.push_errors(api, code)
        wait_until(lambda: reading.rebuilds, 5.0)
        load.more(200, timeout=10.0)
        now = clients_of(bus)
        assert reading_of(bus) is reading
        assert reading.thread is thread
        assert now[:2] == clients[:2]
        assert now[2] != clients[2]
        assert reading.rebuilds == 1
    load.check(duplicates=500)
    assert load.reconnects == []
    assert any("failed for good" in str(event.error) for event in load.errors)


def recorder(recorded: list[list[int]]) -> type[Consumer]:
    """A class of consumers that note the thread of each call, each in a list of its own."""

    class Recorder(Consumer):
        def __init__(self, options: dict[str, Any]) -> None:
            self.threads = [threading.get_ident()]
            recorded.append(self.threads)
            super().__init__(options)

    def recording(method: Callable[..., Any]) -> Callable[..., Any]:
        def record(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.threads.append(threading.get_ident())
            return method(self, *args, **kwargs)

        return record

    for name in dir(confluent_kafka.Consumer):
        method = getattr(confluent_kafka.Consumer, name)
        if not name.startswith("_") and callable(method):
            setattr(Recorder, name, recording(method))
    return Recorder


def test_a_client_is_touched_by_its_owner_alone(mock: Make, open_bus: Buses, monkeypatch: pytest.MonkeyPatch) -> None:
    """A13: whatever others ask meanwhile, and it is answered at once."""
    recorded: list[list[int]] = []
    monkeypatch.setattr(member, "Consumer", recorder(recorded))
    cluster = mock(1)
    bus = open_bus(cluster)
    load = Load(bus)
    sub = load.subscribe(concurrency=2)
    stop = threading.Event()
    slowest = [0.0] * 4

    def ask(index: int) -> None:
        while not stop.is_set():
            for call in (
                bus.get_statistics,
                bus.get_health_status,
                lambda: session_of(bus).resume(sub),
                lambda: session_of(bus).acknowledge(sub, []),
                lambda: session_of(bus).clients,
            ):
                began = time.monotonic()
                call()
                slowest[index] = max(slowest[index], time.monotonic() - began)
            stop.wait(0.002)

    askers = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(4)]
    with load.running():
        for asker in askers:
            asker.start()
        load.more(500)
        bus.reconnect(10.0)
        load.more(500)
        stop.set()
        for asker in askers:
            asker.join(5.0)
    load.check(duplicates=500)
    assert bus.unsubscribe(sub)
    assert max(slowest) < 0.5
    assert len(recorded) == 2
    for threads in recorded:
        changes = sum(before != after for before, after in pairwise(threads))
        assert changes <= 1, "it went to more threads than its owner and the one that closes it"


# -- full lanes ----------------------------------------------------------------------------------


def test_fetching_goes_on_when_full_lanes_have_room_again(mock: Make, open_bus: Buses) -> None:
    cluster = mock(1)
    bus = open_bus(cluster)
    inbox = Inbox(is_open=False)
    bus.subscribe("t", inbox.handle, group="g", concurrency=3)
    numbered(bus, 4000)
    reading, reader = reading_of(bus), reader_of(bus)
    for _ in range(4):
        wait_until(lambda: reader.is_full and reading.member is not None and bool(reading.member.resting), 10.0)
        passed = len(inbox.got)
        inbox.gate.set()
        wait_until(lambda: len(inbox.got) >= passed + 600, 10.0)  # noqa: B023
        inbox.gate.clear()
        if len(inbox.got) > 2500:
            break
    inbox.gate.set()
    inbox.wait(range(4000))
    assert len(inbox.got) == 4000
    assert reading.rebuilds == 0


def test_unsubscribing_with_a_backlog_is_no_trouble(mock: Make, open_bus: Buses) -> None:
    """And who comes next gets what was not handled."""
    cluster = mock(1)
    bus = open_bus(cluster)
    errors: list[Any] = []
    bus.register_error_callback(errors.append)
    slow, fast = Inbox(is_open=False), Inbox()
    sub = bus.subscribe("t", slow.handle, group="g")
    numbered(bus, 3000)
    wait_until(lambda: reader_of(bus).is_full, 10.0)
    thread = reading_of(bus).thread
    threading.Timer(0.2, slow.gate.set).start()
    assert bus.unsubscribe(sub, 5.0)
    thread.join(5.0)
    assert not thread.is_alive()
    bus.subscribe("t", fast.handle, group="g")
    fast.wait(set(range(3000)) - set(slow.got))
    assert len(slow.got) < 1500
    assert not set(slow.got) & set(fast.got), "what was handled was acknowledged"
    assert errors == []


# -- commits -------------------------------------------------------------------------------------


def test_a_commit_that_failed_is_repeated(mock: Make, open_bus: Buses) -> None:
    cluster = mock(1)
    bus = open_bus(cluster)
    first, second = Inbox(), Inbox()
    bus.subscribe("t", first.handle, group="g")
    numbered(bus, 1)
    first.wait([0])
    wait_until(lambda: reading_of(bus).is_settled, 5.0)
    cluster.push_errors("OffsetCommit", *[KafkaError.GROUP_AUTHORIZATION_FAILED] * 4)
    numbered(bus, 50, start=1)
    first.wait(range(51))
    wait_until(lambda: reading_of(bus).is_settled, 5.0)
    assert reading_of(bus).rebuilds == 0
    other = open_bus(cluster, name="other")
    bus.close()
    other.subscribe("t", second.handle, group="g")
    numbered(other, 1, start=51)
    second.wait([51])
    assert second.got == [51]


# -- partitions that move ------------------------------------------------------------------------


def test_a_revoked_partition_takes_only_its_own_deliveries_along(mock: Make, open_bus: Buses) -> None:
    cluster = mock(1, partitions=2)
    first = open_bus(cluster)
    second = open_bus(cluster, name="second")
    slow, fast = Inbox(is_open=False), Inbox()
    first.subscribe("t", slow.handle, group="g")
    numbered(first, 600)
    wait_until(lambda: len(delivered_of(first)) == 2 and first.get_statistics().delivered >= 600, 15.0)
    second.subscribe("t", fast.handle, group="g")
    wait_until(lambda: len(fast.got) > 100, 20.0)
    slow.gate.set()
    slow.wait(set(range(600)) - set(fast.got))
    fast.wait(set(range(600)) - set(slow.got))
    both = Counter(slow.got + fast.got)
    assert set(both) == set(range(600))
    assert sum(both.values()) <= 601, "but for the one that was running everything was handled once"
    assert len(slow.got) > 100
    assert first.get_statistics().delivered == 600, "its other partition was dropped and fetched again"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partitions_that_go_and_come_back_during_a_swap_skip_nothing(
    mock: Make, open_bus: Buses, protocol: str
) -> None:
    """A20."""
    cluster = mock(1)
    first = open_bus(cluster, kafka={"group_protocol": protocol})
    second = open_bus(cluster, kafka={"group_protocol": protocol}, name="second")
    load = Load(first, threads=6, pace=0.01)
    load.subscribe()
    with load.running():
        for _ in range(2 if protocol == "consumer" else 1):
            guest = load.subscribe(second)
            wait_until(lambda: delivered_of(second), 20.0)
            first.reconnect(10.0)
            assert second.unsubscribe(guest)
            wait_until(lambda: len(delivered_of(first)) == 3, 20.0)
        load.more()
    load.check(duplicates=500)


# -- topics that start over ----------------------------------------------------------------------


@pytest.mark.parametrize(("group", "start"), [("g", "earliest"), ("g", "latest"), (BROADCAST, "latest")])
def test_of_a_topic_that_was_made_anew_nothing_is_skipped(mock: Make, open_bus: Buses, group: Any, start: str) -> None:
    """A21: its offsets are those of messages that were handled before, and the group has no offsets any more."""
    before, after = mock(1, partitions=1), mock(1, partitions=1)
    (host, port), other = before._addresses[0], after._addresses[0]
    with TcpProxy(host, port) as proxy:
        for cluster in (before, after):
            cluster._library.mock_broker_set_host_port(cluster._open(), 1, proxy.address[0].encode(), proxy.port)
        bus = open_bus(before, kafka={"brokers": f"127.0.0.1:{proxy.port}"})
        inbox = Inbox()
        numbered(bus, 5, start=1000)
        bus.subscribe("t", inbox.handle, group=group, start=start)
        numbered(bus, 40)
        inbox.wait(range(40))
        wait_until(lambda: reading_of(bus).is_settled, 5.0)
        after.track()
        proxy.refuse()
        proxy._target = other
        proxy.accept()
        if group is BROADCAST:
            # Who stands behind the end of a log when it compares epochs is sent there by librdkafka, past what is new.
            wait_until(lambda: after.requests()["OffsetForLeaderEpoch"], 10.0)
            lasting(0.2)
        numbered(bus, 20, start=100)
        inbox.wait(range(100, 120), timeout=20.0)
        numbered(bus, 5, start=200)
        inbox.wait(range(200, 205))
        bus.close()


def test_a_pinned_start_that_is_gone_begins_with_what_is_left(mock: Make, open_bus: Buses) -> None:
    """And not at the end: what came after the subscription and was kept is not skipped."""
    cluster = mock(1, partitions=1)
    cluster.rebalance_delay(1.5)
    bus = open_bus(cluster, kafka={"group_protocol": "classic"})
    got: list[str | None] = []
    bus.subscribe("t", lambda message: got.append(message.key), group="g", start="latest")
    for number in range(10):  # the mock keeps five megabytes
        bus.publish("t", bytes(900_000), key=str(number))
    wait_until(lambda: "9" in got, 15.0, message=lambda: str(got))
    assert len(got) >= 4
    assert got == [str(number) for number in range(10)][-len(got) :]


# -- where a subscription begins -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_start_at_the_latest_is_pinned_before_the_group_is_joined(mock: Make, open_bus: Buses, protocol: str) -> None:
    cluster = mock(1)
    cluster.rebalance_delay(0.6)
    bus = open_bus(cluster, kafka={"group_protocol": protocol})
    inbox = Inbox()
    numbered(bus, 30)
    sub = bus.subscribe("t", inbox.handle, group="g", start="latest")
    assert sub.state is SubscriptionState.PENDING
    numbered(bus, 30, start=100)
    if protocol == "consumer":  # the other one takes its time to leave
        bus.reconnect(10.0)
    numbered(bus, 30, start=200)
    inbox.wait([*range(100, 130), *range(200, 230)])
    assert len(inbox.got) == 60


def test_a_broadcast_copy_keeps_its_place_over_a_rebuild(mock: Make, open_bus: Buses) -> None:
    cluster = mock(1)
    bus = open_bus(cluster)
    numbered(bus, 10)
    inbox = Inbox()
    bus.subscribe("t", inbox.handle, group=BROADCAST)
    stop = threading.Event()
    sent = [100]

    def publish() -> None:
        while not stop.wait(0.002):
            bus.publish("t", b"%d" % sent[0])
            sent[0] += 1

    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    for _ in range(3):
        lasting(0.3)
        bus.reconnect(10.0)
    reading_of(bus).rebuild(RuntimeError("a test asks for it"))
    wait_until(lambda: reading_of(bus).rebuilds == 1, 5.0)
    stop.set()
    publisher.join(10.0)
    inbox.wait(range(100, sent[0]))
    assert sorted(inbox.got) == list(range(100, sent[0]))
    assert bus.get_statistics().duplicates < sent[0] - 100, "it was read again and again"
