"""Beside, among good messages: those that no handler takes end as dead letters, all of them and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from nats_operator import Operator
from rounds import limit, rounds
from world_support import end, pause

from eventbus import EventBus, Message, RetryConfig
from eventbus.testing import NatsServer, wait_until
from eventbus.testing.servers.kafka import KafkaServer

COUNT = rounds(2000, 20_000)
KEYS = 50
SOON = RetryConfig(initial_backoff=0.01, max_backoff=0.05, max_attempts=3)
LONG = limit(60.0)
REFUSED_FOR = rounds(1, 10)
"""Seconds for which no dead letter can be stored."""


@pytest.fixture(params=[pytest.param("nats", marks=pytest.mark.nats), pytest.param("kafka", marks=pytest.mark.kafka)])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    with NatsServer() if request.param == "nats" else KafkaServer(fast=True) as made:
        yield made


PROCESS = """
import os, sys, threading
from test_poison import open_bus

def handler(message):
    os.write(1, f"{message.text()} {message.key}\\n".encode())  # one write: what a killed process did is known
    if message.payload.startswith(b"bad"):
        raise ValueError("nobody wants this")

open_bus(sys.argv[1]).subscribe("orders", handler, group="g", concurrency=4)
threading.Event().wait()
"""
"""What works like a `Shop`, and can be killed."""


class Shop:
    """A handler that takes no message whose text begins with "bad"."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: defaultdict[str, dict[int, None]] = defaultdict(dict)
        self.handled: set[int] = set()

    def __call__(self, message: Message) -> None:
        kind, number = message.text().split()
        self.note(kind, int(number), message.key or "")
        if kind == "bad":
            raise ValueError("nobody wants this")

    def note(self, kind: str, number: int, key: str) -> None:
        with self._lock:
            self.first[key].setdefault(number)
            if kind == "good":
                self.handled.add(number)

    def check_order(self) -> None:
        for key, seen in self.first.items():
            assert list(seen) == sorted(seen), f"{key} was turned round"

    @contextmanager
    def process(self, url: str) -> Iterator[None]:
        """Another process handles what comes, until it is killed at the end."""
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
        command = [sys.executable, "-c", PROCESS, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
            reading = threading.Thread(target=self._read, args=(process.stdout,))
            reading.start()
            try:
                yield
            finally:
                process.kill()
                reading.join()

    def _read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            kind, number, key = line.decode().split()
            self.note(kind, int(number), key)


def is_bad(number: int) -> bool:
    return number % 101 == 37  # of each key some


def open_bus(url: str) -> EventBus:
    soon = {"ack_wait": 1.0} if url.startswith("nats") else {}
    bus = EventBus({"url": url, "retry": SOON, **soon})
    bus.open()
    return bus


def publish(bus: EventBus, numbers: range) -> dict[int, str]:
    """Publish these, each confirmed; the ids of the bad ones."""
    messages = [Message("orders", f"{'bad' if is_bad(n) else 'good'} {n}", key=f"k{n % KEYS}") for n in numbers]
    receipts = bus.publish_many(messages, timeout=LONG)
    return {number: receipt.id for number, receipt in zip(numbers, receipts, strict=True) if is_bad(number)}


@contextmanager
def refused_dead_letters(server: Any) -> Iterator[None]:
    """The broker takes no dead letter for now; those that it has are kept."""
    if isinstance(server, NatsServer):
        with Operator(server.address) as operator:
            found = operator.call("STREAM.INFO.dlq")
            full = {**found["config"], "discard": "new", "max_msgs": found["state"]["messages"]}
            operator.call("STREAM.UPDATE.dlq", **full)
            yield
            operator.call("STREAM.UPDATE.dlq", **found["config"])
        return
    from kafka_operator import Operator as KafkaOperator

    administrator = KafkaOperator(server.bootstrap)
    administrator.configure("dlq.g.orders", max_message_bytes=1)
    yield
    administrator.configure("dlq.g.orders", max_message_bytes=1_000_000)
    administrator.close()


@pytest.mark.watchdog(limit(90.0))
def test_poison_through_outages_ends_as_dead_letters_and_nothing_else_does(server: Any) -> None:
    consumer, producer, shop = open_bus(server.url), open_bus(server.url), Shop()
    sub = consumer.subscribe("orders", shop, group="g", concurrency=4)
    bad: dict[int, str] = {}
    third = COUNT // 3
    for turn in range(3):
        numbers = range(turn * third, COUNT if turn == 2 else (turn + 1) * third)
        wait_until(lambda: turn != 1 or consumer.get_statistics().dead_lettered, LONG)  # noqa: B023
        with refused_dead_letters(server) if turn == 1 else nullcontext():
            bad |= publish(producer, numbers)
            if turn == 1:
                wait_until(lambda: sub.status().error is not None, LONG)
                pause(REFUSED_FOR)
                assert sub.status().in_hand > 0
                assert len(list(producer.read("dlq.g.orders"))) < len(bad)
        wait_until(lambda: len(shop.handled) > numbers.start, LONG)  # noqa: B023
        if turn < 2:
            server.kill()
            server.restart()
    good = {number for number in range(COUNT) if not is_bad(number)}
    wait_until(lambda: shop.handled == good, LONG, message=lambda: f"missing: {sorted(good - shop.handled)[:20]}")
    wait_until(lambda: consumer.wait_connected(1.0) and sub.status().in_hand == 0, LONG)
    wait_until(lambda: {one.id for one in producer.read("dlq.g.orders")} == set(bad.values()), LONG)
    if producer.features.ordered_by_key:
        shop.check_order()
    end(consumer)
    end(producer)


@pytest.mark.watchdog(limit(90.0))
def test_poison_outlives_the_processes_that_it_was_given_to(server: Any) -> None:
    """None of it is acknowledged before its dead letter is stored: they are killed at any time in between."""
    producer, shop = open_bus(server.url), Shop()
    bad = publish(producer, range(COUNT))
    good = set(range(COUNT)).difference(bad)
    for share in (3, 2):
        with shop.process(server.url):
            wait_until(lambda: len(shop.handled) > COUNT // share, LONG)  # noqa: B023
    with shop.process(server.url):
        wait_until(lambda: shop.handled == good, LONG, message=lambda: f"missing: {sorted(good - shop.handled)[:20]}")
        wait_until(lambda: {one.id for one in producer.read("dlq.g.orders")} == set(bad.values()), LONG)
    if producer.features.ordered_by_key:
        shop.check_order()
    end(producer)


@pytest.mark.nats
@pytest.mark.watchdog(limit(60.0))
def test_while_dead_letters_cannot_be_stored_their_messages_stay(nats_server: NatsServer) -> None:
    bus, shop = open_bus(nats_server.url), Shop()
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
