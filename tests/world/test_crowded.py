"""Crowded: many subscriptions on a bus, many buses in a process, small and large payloads side by side."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from rounds import limit, rounds
from world_support import MakeBus, Outages, Seen, assert_closes, end, fresh, took

import eventbus
from eventbus import EventBus, Message, SubscriptionState
from eventbus.testing import NatsServer, wait_until

pytestmark = pytest.mark.watchdog(limit(40.0))

READY = 2.0
"""Seconds in which 200 subscriptions are attached."""
LARGE = 900_000


def _served(bus: EventBus, subscriptions: list[eventbus.Subscription], seen: Counter[str], timeout: float) -> None:
    """Every subscription is ACTIVE and gets a message of its own."""
    wait_until(
        lambda: all(sub.state is SubscriptionState.ACTIVE for sub in subscriptions),
        timeout,
        message=lambda: f"{Counter(sub.state.value for sub in subscriptions)}",
    )
    before = Counter(seen)
    bus.publish_many([Message(sub.topic, b"x") for sub in subscriptions])
    wait_until(
        lambda: all(seen[sub.topic] > before[sub.topic] for sub in subscriptions),
        10.0,
        message=lambda: f"{sum(seen[sub.topic] > before[sub.topic] for sub in subscriptions)} of them got theirs",
    )


def _many(bus: EventBus, number: int, prefix: str) -> tuple[list[eventbus.Subscription], Counter[str]]:
    seen: Counter[str] = Counter()

    def handle(message: Message) -> None:
        seen[message.topic] += 1

    return [bus.subscribe(f"{prefix}.{index}", handle, group="group") for index in range(number)], seen


def test_two_hundred_subscriptions_of_a_memory_bus(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus()
    subscriptions, seen = _many(bus, 200, "crowded")
    assert took(bus.open) < READY
    _served(bus, subscriptions, seen, READY)
    for number in range(rounds(2, 20)):
        started = time.monotonic()
        outages.cut()
        wait_until(lambda number=number: bus.get_connection_state().reconnect_count > number, READY)  # type: ignore[misc]
        _served(bus, subscriptions, seen, READY)
        assert time.monotonic() - started < 2 * READY
    ended, rest = subscriptions[:100], subscriptions[100:]
    assert all(bus.unsubscribe(sub, 2.0) for sub in ended)
    _served(bus, rest, seen, READY)
    assert_closes(bus, "200 subscriptions", 5.0)


@pytest.mark.nats
def test_many_subscriptions_of_a_jetstream_bus(nats_server: NatsServer) -> None:
    number = rounds(40, 200)
    bus = EventBus(nats_server.url)
    try:
        subscriptions, seen = _many(bus, number, "crowded")
        bus.open(10.0)
        _served(bus, subscriptions, seen, 10.0)
        nats_server.restart()
        wait_until(lambda: bus.get_connection_state().reconnect_count == 1)
        _served(bus, subscriptions, seen, 5.0)
        assert_closes(bus, f"{number} subscriptions", 5.0)
    finally:
        bus.close(3.0)


def test_ten_buses_in_a_process_share_a_group(make_bus: MakeBus) -> None:
    topic, seen = fresh("shared"), Seen()
    with ExitStack() as stack:
        buses = [stack.enter_context(make_bus(name=f"bus{number}")) for number in range(10)]
        for bus in buses:
            bus.subscribe(topic, seen, group="group")
        for turn in range(20):
            for index, bus in enumerate(buses):
                bus.publish_nowait(topic, f"{turn}/{index}", key=str(index))
        assert all(bus.flush(5.0).unanswered == 0 for bus in buses)
        wait_until(
            lambda: len(set(seen.payloads)) == 200, 15.0, message=lambda: f"{len(set(seen.payloads))} of 200 came"
        )
        assert_closes(buses[0], "one of ten")
        buses[1].publish(topic, b"the others go on")
        wait_until(lambda: b"the others go on" in seen.payloads)


def test_small_and_large_payloads_keep_their_order_side_by_side(make_bus: MakeBus, chance: random.Random) -> None:
    bus, topic, got = make_bus(), fresh("mixed"), []
    bus.open()
    bus.subscribe(topic, lambda message: got.append((message.headers["n"], len(message.payload))), group="group")
    sizes = [LARGE if chance.random() < 0.15 else 1 for _ in range(rounds(100, 3000))]
    many = [Message(topic, bytes(size), key="key", headers={"n": str(n)}) for n, size in enumerate(sizes)]
    assert all(receipt.confirmed for receipt in bus.publish_many(many, timeout=20.0))
    wait_until(lambda: len(got) >= len(many), 20.0, message=lambda: f"{len(got)} of {len(many)} came")
    assert got == [(str(number), size) for number, size in enumerate(sizes)]
    assert bus.get_statistics().in_flight_bytes == 0


def test_a_thousand_topics_under_one_pattern(memory_bus: MakeBus, outages: Outages) -> None:
    """A tenth of them appear later."""
    bus, seen = memory_bus(), Seen()
    bus.open()
    topics = [f"crowd.{number}" for number in range(1000)]
    bus.publish_many([Message(topic, topic) for topic in topics[:900]])
    bus.subscribe("crowd.*", seen, group="group", concurrency=4)
    bus.publish_many([Message(topic, topic) for topic in topics[900:]])
    seen.wait(1000)
    outages.cut()
    bus.publish_many([Message(topic, topic) for topic in topics])
    seen.wait(2000)
    assert set(seen.payloads) == {topic.encode() for topic in topics}


def test_what_is_in_hand_is_bounded_by_bytes(memory_bus: MakeBus) -> None:
    """32 MiB for a subscription; the messages of another one pass by."""
    bus, small = memory_bus(), Seen()
    bus.open()
    with ExitStack() as stack:
        go_on = Gate()
        stack.callback(go_on.open)
        large = bus.subscribe("large", go_on, group="group")
        bus.subscribe("small", small, group="group")
        for _ in range(60):
            bus.publish("large", bytes(LARGE))
        bus.publish_many([Message("small", b"x") for _ in range(100)])
        small.wait(100, 3.0)
        wait_until(lambda: large.status().in_hand > 0)
        assert large.status().in_hand <= 32 * 1024 * 1024 // LARGE + 1
    wait_until(lambda: bus.get_statistics().handled == 160, 10.0)


@pytest.mark.nats
@pytest.mark.parametrize("of", ["a subscription", "a bus"])
def test_what_is_in_hand_is_bounded_by_bytes_on_jetstream(nats_server: NatsServer, of: str) -> None:
    """Messages that fail or wait for a slow handler, beside a subscription that goes on, and one message too large."""
    bound, size, number = 4_000_000, 250_000, 60
    setting = "prefetch_bytes" if of == "a subscription" else "max_prefetch_bytes"
    with ExitStack() as stack:
        bus = EventBus({"url": nats_server.url, setting: bound})
        stack.callback(end, bus)
        bus.open()
        go_on, small = Gate(), Seen()
        stack.callback(go_on.open)
        for name in ("slow", "failing"):
            bus.publish_many([Message(f"large.{name}", bytes(size)) for _ in range(number)], timeout=20.0)
        slow = bus.subscribe("large.slow", go_on, group="group")
        failing = bus.subscribe("large.failing", _fail, group="group")
        bus.subscribe("small", small, group="group")
        wait_until(lambda: slow.status().in_hand and failing.status().in_hand)
        most, until = 0, time.monotonic() + 3.0
        while time.monotonic() < until:
            held = [one.status().in_hand for one in (slow, failing)]
            most = max(most, sum(held) if of == "a bus" else max(held))
            bus.publish("small", b"x")
        assert most * size <= 1.5 * bound + 2 * size
        small.wait(20, 5.0)
        go_on.open()
        wait_until(lambda: slow.status().in_hand == 0 and bus.get_statistics().handled >= number, 10.0)


@pytest.mark.nats
def test_messages_larger_than_the_bound_come_one_at_a_time(nats_server: NatsServer) -> None:
    bus, seen = EventBus({"url": nats_server.url, "prefetch_bytes": 1000}), Seen()
    try:
        bus.open()
        sizes = [LARGE if number % 3 == 0 else 10 for number in range(30)]
        bus.publish_many([Message("mixed", bytes(size)) for size in sizes], timeout=20.0)
        bus.subscribe("mixed", seen, group="group")
        assert [len(payload) for payload in seen.wait(30, 10.0)] == sizes
    finally:
        bus.close(3.0)


def _fail(message: Message) -> None:
    raise RuntimeError("poison")


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        """Let all through."""
        self._opened.set()

    def __call__(self, message: Message) -> None:
        self._opened.wait(20.0)
