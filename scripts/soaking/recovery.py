"""How soon the first message is handled once a killed broker answers, beside a plain client on the same restarts.

`python -m scripts.soaking.recovery SIDE PROTOCOL BOOTSTRAP CLIENTS`: one side in a process of its own. It
answers each line of its input, a moment, with when its clients handled the first message published after it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen
from confluent_kafka import Consumer, Producer

from eventbus import EventBus, EventBusConfig, KafkaConfig, Message, PublishError
from eventbus.testing import KafkaServer
from scripts.bench.kafka_raw import STORING, RawKafka, client_options
from scripts.soaking.traffic import verdict

OUTAGES = (2.0, 10.0, 20.0)
START = 2.0
"""Seconds that the broker takes to answer, once it is started again."""
PROTOCOLS = ("classic", "consumer")
SIDES = ("ours", "raw")
CLIENTS = 4
"""Of each side and protocol, each with a topic and a group of its own: so many measurements for one restart."""
EVERY = 0.03
FACTOR, ENOUGH = 1.2, 0.3
"""Times as long as the plain client, or so many seconds."""
CALM = 3.0
GIVE_UP = 60.0
_POLL = 0.1
_GROUPS = {  # as Kafka has them by default; the broker itself is quick to be back
    "group.consumer.session.timeout.ms": 45_000,
    "group.consumer.heartbeat.interval.ms": 5_000,
    "group.initial.rebalance.delay.ms": 3_000,
    "group.min.session.timeout.ms": 6_000,
}

Handled = list[tuple[float, float]]
"""When each message was published and when it was handled."""


@frozen
class Outage:
    """One restart. recoveries: of each client of a side and a protocol, from the broker's answer to the first
    message handled that was published after the kill."""

    wanted: float
    recoveries: Mapping[tuple[str, str], Sequence[float]]


class Side:
    """A process with some clients of one kind."""

    def __init__(self, side: str, protocol: str, bootstrap: str) -> None:
        self.side, self.protocol = side, protocol
        command = [sys.executable, "-m", __spec__.name, side, protocol, bootstrap, str(CLIENTS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def mark(self, moment: float) -> None:
        """Ask for the first message that each client handles of those published after this moment."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{moment}\n")
        self._process.stdin.flush()

    def handled(self) -> list[float]:
        """When those were handled; without end where there was none in time."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side}, {self.protocol}: the process has ended")
        return [float(at) for at in json.loads(line)]

    def end(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def recovery(options: argparse.Namespace) -> bool:
    """Both sides and both protocols at once, on the same restarts of one broker."""
    chance = random.Random(f"{options.seed}/kafka-recovery")
    wanted = [outage for outage in options.outages or OUTAGES for _ in range(options.samples)]
    chance.shuffle(wanted)
    print(f"kafka-recovery: {len(wanted)} x kill -9; {CLIENTS} clients of each kind, from the answer of the broker")
    with KafkaServer(settings=_GROUPS) as server:
        raw = RawKafka(server.bootstrap)
        for side in SIDES:
            for protocol in PROTOCOLS:
                for number in range(CLIENTS):
                    raw.make_topic(_topic(side, protocol, number))
        sides = [Side(side, protocol, server.bootstrap) for side in SIDES for protocol in PROTOCOLS]
        try:
            began = time.monotonic()
            for side in sides:
                side.mark(began)
            if not all(math.isfinite(at) for side in sides for at in side.handled()):
                raise RuntimeError("not all clients have handled something")
            outages = [_outage(server, sides, downtime, chance) for downtime in wanted]
        finally:
            for side in sides:
                side.end()
    return all([_judge(downtime, outages) for downtime in sorted({*wanted})])


def _outage(server: KafkaServer, sides: Sequence[Side], downtime: float, chance: random.Random) -> Outage:
    time.sleep(CALM + chance.random())
    server.kill()
    killed = time.monotonic()
    for side in sides:
        side.mark(killed)
    time.sleep(max(0.0, downtime - START))
    server.start()
    ready = server.ready_time
    found = {(side.side, side.protocol): [at - ready for at in side.handled()] for side in sides}
    print(f"  away for {ready - killed:.2f} s", flush=True)
    return Outage(downtime, found)


def _judge(downtime: float, outages: Sequence[Outage]) -> bool:
    """Print the cells of one downtime; True if we are as quick as we have to be in both protocols."""
    good = True
    of_these = [outage.recoveries for outage in outages if outage.wanted == downtime]
    for protocol in PROTOCOLS:
        found = {side: [value for found in of_these for value in found[side, protocol]] for side in SIDES}
        ours, raw = (statistics.median(found[side]) for side in SIDES)
        bound = max(FACTOR * raw, ENOUGH)
        kept = math.isfinite(ours) and ours <= bound
        good = good and kept
        print(
            f"{verdict(kept)} kafka-recovery, away {downtime:g} s, {protocol}: {ours:.2f} s, plain {raw:.2f} s "
            f"(bound {bound:.2f} s); {_show(found['ours'])}, plain {_show(found['raw'])}",
            flush=True,
        )
    return good


def _show(values: Sequence[float]) -> str:
    return "[" + " ".join(f"{value:.2f}" for value in sorted(values)) + "]"


def _topic(side: str, protocol: str, number: int) -> str:
    return f"soak.recovery.{side}.{protocol}.{number}"


# -- in a process of its own -------------------------------------------------------------------------


def _ours(topic: str, protocol: str, bootstrap: str, handled: Handled) -> Callable[[bytes], object]:
    """A bus with a subscription; what is returned publishes."""
    kafka = KafkaConfig(brokers=bootstrap, group_protocol=protocol)
    bus = EventBus(EventBusConfig(backend=kafka, name=topic.rpartition(".")[2]))
    bus.open(GIVE_UP)

    def handler(message: Message) -> None:
        handled.append((float(message.payload), time.monotonic()))

    bus.subscribe(topic, handler, group=topic)

    def publish(payload: bytes) -> None:
        try:
            bus.publish_nowait(topic, payload)
        except PublishError as error:
            print(f"{topic}: {error}", file=sys.stderr)

    return publish


def _raw(topic: str, protocol: str, bootstrap: str, handled: Handled) -> Callable[[bytes], object]:
    """A producer, and a consumer with its loop; what is returned publishes."""
    options = client_options(bootstrap)
    producer = Producer(options.producer)
    consumer = Consumer(options.consumer(topic, protocol=protocol, start="earliest") | STORING)

    def loop() -> None:
        consumer.subscribe([topic])
        while True:
            message = consumer.poll(_POLL)
            if message is not None and message.error() is None:
                handled.append((float(message.value() or b"nan"), time.monotonic()))
                consumer.store_offsets(message)

    threading.Thread(target=loop, daemon=True).start()

    def publish(payload: bytes) -> None:
        producer.produce(topic, payload)
        producer.poll(0)

    return publish


def _work(side: str, protocol: str, bootstrap: str, clients: int) -> None:
    """Publish and handle until the input ends."""
    make = {"ours": _ours, "raw": _raw}[side]
    handled: list[Handled] = [[] for _ in range(clients)]
    publishers = [
        make(_topic(side, protocol, number), protocol, bootstrap, found) for number, found in enumerate(handled)
    ]

    def publish() -> None:
        while True:
            for publish in publishers:
                publish(str(time.monotonic()).encode())
            time.sleep(EVERY)

    threading.Thread(target=publish, daemon=True).start()
    for line in sys.stdin:
        print(json.dumps([_first(found, float(line)) for found in handled]), flush=True)


def _first(handled: Handled, after: float) -> float:
    """When the first message was handled that was published after a moment."""
    deadline = time.monotonic() + GIVE_UP
    while time.monotonic() < deadline:
        times = [at for published, at in list(handled) if published > after]
        if times:
            handled.clear()
            return min(times)
        time.sleep(EVERY)
    return math.inf


if __name__ == "__main__":
    _work(*sys.argv[1:4], int(sys.argv[4]))
    os._exit(0)
