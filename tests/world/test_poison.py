"""Beside, among good messages: those that no handler takes end as dead letters, all of them and no others."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from nats_operator import Operator
from rounds import limit, rounds
from world_support import end

from eventbus import EventBus, EventBusConfig, Message, NatsConfig, RetryConfig
from eventbus.testing import NatsServer, wait_until
from eventbus.testing.servers.kafka import KafkaServer

COUNT = rounds(2000, 20_000)
KEYS = 50
SOON = RetryConfig(initial_backoff=0.01, max_backoff=0.05, max_attempts=3)
LONG = limit(60.0)


@pytest.fixture(params=[pytest.param("nats", marks=pytest.mark.nats), pytest.param("kafka", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    with NatsServer() if request.param == "nats" else KafkaServer(fast=True) as made:
        yield made


class Shop:
    """A handler that takes no message whose text begins with "bad"."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: defaultdict[str, list[int]] = defaultdict(list)
        self.handled: set[int] = set()

    def __call__(self, message: Message) -> None:
        kind, number = message.text().split()
        with self._lock:
            if int(number) not in self.first[message.key or ""]:
                self.first[message.key or ""].append(int(number))
        if kind == "bad":
            raise ValueError("nobody wants this")
        with self._lock:
            self.handled.add(int(number))


def is_bad(number: int) -> bool:
    return number % 100 == 37


def open_bus(server: Any, **settings: Any) -> EventBus:
    source: Any = server.url
    if isinstance(server, NatsServer):
        address = "{}:{}".format(*server.address)
        source = EventBusConfig(backend=NatsConfig(servers=(address,), ack_wait=1.0), retry=SOON, **settings)
    bus = EventBus(source if isinstance(source, EventBusConfig) else {"url": source, "retry": SOON, **settings})
    bus.open()
    return bus


def publish(bus: EventBus, numbers: range) -> dict[int, str]:
    """Publish these, each confirmed; the ids of the bad ones."""
    messages = [Message("orders", f"{'bad' if is_bad(n) else 'good'} {n}", key=f"k{n % KEYS}") for n in numbers]
    receipts = bus.publish_many(messages, timeout=LONG)
    return {number: receipt.id for number, receipt in zip(numbers, receipts, strict=True) if is_bad(number)}


@pytest.mark.watchdog(limit(90.0))
def test_poison_through_outages_ends_as_dead_letters_and_nothing_else_does(server: Any) -> None:
    consumer, producer, shop = open_bus(server), open_bus(server), Shop()
    sub = consumer.subscribe("orders", shop, group="g", concurrency=4)
    bad: dict[int, str] = {}
    third = COUNT // 3
    for turn in range(3):
        numbers = range(turn * third, COUNT if turn == 2 else (turn + 1) * third)
        bad |= publish(producer, numbers)
        wait_until(lambda: len(shop.handled) > numbers.start, LONG)  # noqa: B023
        if turn < 2:
            server.kill()
            server.restart()
    good = {number for number in range(COUNT) if not is_bad(number)}
    wait_until(lambda: shop.handled == good, LONG, message=lambda: f"missing: {sorted(good - shop.handled)[:20]}")
    wait_until(lambda: consumer.wait_connected(1.0) and sub.status().in_hand == 0, LONG)
    wait_until(lambda: {one.id for one in producer.read("dlq.g.orders")} == set(bad.values()), LONG)
    if producer.features.ordered_by_key:
        for key, seen in shop.first.items():
            assert seen == sorted(seen), f"{key} was turned round"
    end(consumer)
    end(producer)


@pytest.mark.nats
@pytest.mark.watchdog(limit(60.0))
def test_while_dead_letters_cannot_be_stored_their_messages_stay(nats_server: NatsServer) -> None:
    bus, shop = open_bus(nats_server), Shop()
    with Operator(nats_server.address) as operator:
        operator.make_stream("DLQ", "dlq.>", discard="new", max_msgs=1)
        bus.publish("dlq.fills.it", b"")
        sub = bus.subscribe("orders", shop, group="g")
        bad = publish(bus, range(200))
        wait_until(lambda: len(shop.handled) >= 190 and sub.status().error is not None, LONG)
        assert "maximum messages exceeded" in str(sub.status().error)
        assert operator.stored("DLQ") == 1
        assert sub.status().in_hand >= len(bad)
        operator.call("STREAM.UPDATE.DLQ", name="DLQ", subjects=["dlq.>"], discard="new", max_msgs=1000)
        wait_until(lambda: len(shop.handled) == 198, LONG)
        wait_until(lambda: sub.status().in_hand == 0 and sub.status().error is None, LONG)
        assert {one.id for one in bus.read("dlq.g.orders")} == set(bad.values())
    end(bus)
