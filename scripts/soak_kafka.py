"""Long outage rounds on real Kafka brokers; `scripts/soak.py` runs them.

kafka-restarts    kill -9 and restart under 500 confirmed publishes a second: nothing lost, keys in order
kafka-recovery    how soon the first message is handled again, beside a plain client on the same restarts
kafka-nodes       each of three nodes killed and frozen: nothing lost, nothing replaced, publishing goes on
kafka-reconnects  hundreds of reconnects leave threads, file descriptors and memory as they were
kafka-swaps       reconnects under eight publishing threads: nothing lost, keys in order
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from attrs import define, field

from eventbus import EventBus, Message, PublishError, Receipt
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.history import out_of_order
from scripts.bench.kafka_raw import RawKafka
from scripts.soaking.holdings import Holdings, settled
from scripts.soaking.nodes import nodes
from scripts.soaking.recovery import recovery
from scripts.soaking.traffic import Place, Traffic, place_of, verdict

PARTITIONS = 4
KILLS = (0.0, 3.0, 1.0)
"""Seconds that the broker stays down after each kill -9, before it is started."""
CALM = 4.0
KEYS = 20
RATE = 500.0
WARM = 20
"""Reconnects after which nothing may grow any more."""
EVERY_SHOWN = 20
MOST_GROWTH = 5 * 1024 * 1024
THREADS = 8
WINDOW = 200
"""Publishes of a thread that are not answered."""
PAUSE = 0.003
WITHIN = 30.0


def restarts(options: argparse.Namespace) -> bool:
    """One node, killed three times; a bus on default settings publishes and consumes."""
    print(f"kafka-restarts: {len(KILLS)} x kill -9 under {RATE:.0f} confirmed publishes/s with {KEYS} keys")
    with KafkaServer() as server, EventBus(f"{server.url}?partitions={PARTITIONS}") as bus:
        traffic = Traffic(bus, "soak.restarts", KEYS, RATE)
        traffic.start()
        for down in KILLS:
            time.sleep(CALM)
            killed = time.monotonic()
            server.kill()
            time.sleep(down)
            server.start()
            up = server.ready_time
            wait_until(lambda up=up: traffic.confirmed[-1][0] > up, WITHIN)  # type: ignore[misc]
            print(f"  killed with {len(traffic.confirmed):,} confirmed; away for {up - killed:.2f} s", flush=True)
        time.sleep(CALM)
        traffic.stop()
        return traffic.judge("kafka-restarts", RawKafka(server.bootstrap))


def reconnects(options: argparse.Namespace) -> bool:
    """One bus that publishes and consumes, replaced again and again."""
    print(f"kafka-reconnects: {options.reconnects} x bus.reconnect(), a publish handled after each")
    handled = 0

    def count(message: Message) -> None:
        nonlocal handled
        handled += 1

    with KafkaServer() as server, EventBus(f"{server.url}?partitions={PARTITIONS}") as bus:
        bus.subscribe("soak.reconnects", count, group="soak")
        before: Holdings | None = None
        warm = min(WARM, max(1, options.reconnects // 2))
        began = time.monotonic()
        for number in range(1, options.reconnects + 1):
            bus.reconnect()
            seen = handled
            bus.publish("soak.reconnects", b"x")
            wait_until(lambda seen=seen: handled > seen, WITHIN, message="not handled")  # type: ignore[misc]
            if number == warm:
                before = settled(None)
                began = time.monotonic()
                print(f"  after {number}: {before}", flush=True)
            elif not number % EVERY_SHOWN:
                print(f"  after {number}: {Holdings.now()}", flush=True)
        each = (time.monotonic() - began) / max(1, options.reconnects - warm)
        assert before is not None
        after = settled(before)
    grown = after.memory - before.memory
    good = after.threads <= before.threads and after.descriptors <= before.descriptors and grown < MOST_GROWTH
    print(
        f"{verdict(good)} kafka-reconnects: threads {after.threads - before.threads:+}, "
        f"descriptors {after.descriptors - before.descriptors:+}, memory {grown / 1024:+.0f} KiB, "
        f"objects {after.objects - before.objects:+}, "
        f"over {options.reconnects - warm} reconnects, {each:.2f} s from one to the next",
        flush=True,
    )
    return good


@define
class Stream:
    """What one thread publishes with `publish_async`, each message with the next number of its key."""

    bus: EventBus
    topic: str
    key: str
    confirmed: list[int] = field(factory=list)
    errors: list[BaseException] = field(factory=list)
    _open: deque[tuple[int, Future[Receipt]]] = field(factory=deque)

    def run(self, over: threading.Event) -> None:
        """Publish until it is over, then wait for all answers."""
        number = 0
        while not over.wait(PAUSE):
            try:
                self._open.append((number, self.bus.publish_async(self.topic, str(number), key=self.key)))
            except PublishError as error:
                self.errors.append(error)
            number += 1
            while self._open and (self._open[0][1].done() or len(self._open) > WINDOW):
                self._settle()
        while self._open:
            self._settle()

    def _settle(self) -> None:
        number, future = self._open.popleft()
        try:
            future.result(WITHIN)
            self.confirmed.append(number)
        except Exception as error:
            self.errors.append(error)


def swaps(options: argparse.Namespace) -> bool:
    """A healthy broker; the session is replaced under load."""
    print(f"kafka-swaps: {options.swaps} x bus.reconnect() under {THREADS} publishing threads")
    chance = random.Random(f"{options.seed}/kafka-swaps")
    topic, over = "soak.swaps", threading.Event()
    handled: list[Place] = []
    with KafkaServer() as server, EventBus(f"{server.url}?partitions={PARTITIONS}") as bus:
        bus.subscribe(topic, lambda message: handled.append((message.key or "", int(message.payload))), group="soak")
        streams = [Stream(bus, topic, f"stream-{number}") for number in range(THREADS)]
        threads = [threading.Thread(target=stream.run, args=(over,), daemon=True) for stream in streams]
        for thread in threads:
            thread.start()
        took = []
        for _ in range(options.swaps):
            time.sleep(chance.uniform(0.05, 0.3))
            began = time.monotonic()
            bus.reconnect()
            took.append(time.monotonic() - began)
        over.set()
        for thread in threads:
            thread.join(WITHIN)
        confirmed = {(stream.key, number) for stream in streams for number in stream.confirmed}
        late = _await_handled(confirmed, handled)
        log = [place_of(message.key(), message.value()) for message in RawKafka(server.bootstrap).read(topic)]
    errors = [error for stream in streams for error in stream.errors]
    lost, stored, seen = len(confirmed - set(log)), len(out_of_order(log)), len(out_of_order(handled))
    good = not (lost or late or stored or seen or errors)
    print(
        f"{verdict(good)} kafka-swaps: {len(confirmed):,} confirmed, {lost} lost, {late} not handled, order per key: "
        f"{stored} inversions stored, {seen} handled; {len(log) - len(set(log))} stored twice, "
        f"{len(handled) - len(set(handled))} handled again, {len(errors)} publishes failed {errors[:2] or ''}; "
        f"a swap took {sorted(took)[len(took) // 2]:.2f} s, at most {max(took):.2f} s",
        flush=True,
    )
    return good


def _await_handled(confirmed: set[Place], handled: list[Place]) -> int:
    """How many confirmed messages are not handled after a while."""
    deadline = time.monotonic() + WITHIN
    while (missing := len(confirmed - set(handled))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return missing


KAFKA_PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "kafka-restarts": restarts,
    "kafka-recovery": recovery,
    "kafka-nodes": nodes,
    "kafka-reconnects": reconnects,
    "kafka-swaps": swaps,
}
