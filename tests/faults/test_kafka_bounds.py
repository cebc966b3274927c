"""Every call keeps its deadline, whatever a real Apache Kafka has stopped doing, and nothing stays behind."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("confluent_kafka")

from raw_kafka import native_clients

from eventbus import EventBus, Message, NotConnectedError, Phase, PublishUnknownError
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = pytest.mark.kafka

SLACK = 0.5
STATES = ("killed", "frozen", "black-holed")
NOTICED = {"health_check": {"interval": 0.1, "timeout": 0.2, "retry_interval": 0.05}}
UNNOTICED = {"health_check": {"interval": 300.0}}
_numbers = itertools.count(1)


class Outage:
    """A broker that can be taken away in three ways."""

    def __init__(self, server: KafkaServer) -> None:
        self.server = server

    def begin(self, state: str) -> None:
        if state == "killed":
            self.server.kill()
        elif state == "frozen":
            self.server.freeze()
        elif state == "black-holed":
            self.server.proxy.black_hole()

    def end(self) -> None:
        if not self.server.running:
            self.server.start()
        self.server.thaw()
        self.server.proxy.accept()
        self.server.proxy.cut()
        self.server.wait_ready()


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with skip_or_fail():
        server = KafkaServer(proxied=True).start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def outage(server: KafkaServer, _no_leaks: None) -> Iterator[Outage]:
    outage = Outage(server)
    try:
        yield outage
    finally:
        outage.end()
        wait_until(lambda: native_clients() == 0, message=lambda: f"{native_clients()} clients of librdkafka are left")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block takes at most so long, and a bit."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took <= seconds + SLACK, f"took {took:.2f} s"


class Laden:
    """A bus with all that can be in the way of a call: handlers, pending commits, a full queue.

    Half of what was consumed is handled only after the outage has begun: it cannot be committed.
    """

    def __init__(self, server: KafkaServer, **options: object) -> None:
        self.topic = f"bounds.{next(_numbers)}"
        self.bus = EventBus({"url": server.url, "partitions": 3, "name": self.topic, **options})
        self.bus.open(timeout=5.0)
        self._outage = threading.Event()
        self.entered: list[str] = []
        self.handled: list[str] = []
        self.sub = self.bus.subscribe(self.topic, self._handle, group="g", concurrency=2)
        self.other = self.bus.subscribe(f"{self.topic}.>", self._handle, group="g")
        for number in range(40):
            self.bus.publish(self.topic, str(number), key=str(number))
        wait_until(lambda: len(self.handled) >= 19 and self.bus.get_statistics().delivered == 40)

    def _handle(self, message: Message) -> None:
        self.entered.append(message.text())
        if len(self.entered) > 20:
            assert self._outage.wait(30.0)
        self.handled.append(message.text())

    def begin(self) -> None:
        """The outage is there: handle the rest, and queue what nobody takes."""
        self._outage.set()
        wait_until(lambda: len(self.handled) == 40)
        for number in range(1000):
            self.bus.publish_nowait(self.topic, f"queued {number}")
        assert self.bus.get_statistics().in_flight == 1000

    def end(self) -> None:
        self._outage.set()
        self.bus.close(2.0)


@pytest.fixture
def laden(server: KafkaServer, outage: Outage) -> Iterator[Callable[..., Laden]]:
    made: list[Laden] = []

    def make(**options: object) -> Laden:
        made.append(Laden(server, **options))
        return made[-1]

    yield make
    outage.end()
    for one in made:
        one.end()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "unnoticed"])
def test_every_call_returns_in_time(outage: Outage, laden: Callable[..., Laden], state: str, noticed: bool) -> None:
    one = laden(**(NOTICED if noticed else UNNOTICED))
    bus = one.bus
    outage.begin(state)
    one.begin()
    if noticed:
        wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING)
    with within(1.0), pytest.raises(PublishUnknownError):
        bus.publish(one.topic, "one more", timeout=1.0)
    with within(1.0):
        assert bus.flush(1.0).unanswered == 1001
    with within(2.0):
        assert bus.unsubscribe(one.other, timeout=2.0)
    with within(1.0), pytest.raises(NotConnectedError):
        bus.reconnect(timeout=1.0)
    with within(2.0):
        assert bus.stop_health_check(2.0)
    with within(1.0), pytest.raises(NotConnectedError):
        bus.reconnect(timeout=1.0)
    with within(2.0):
        assert bus.unsubscribe(one.sub, timeout=2.0)
    assert bus.get_statistics().in_flight == 1001
    with within(3.0):
        report = bus.close(timeout=3.0)
    assert (report.unanswered, report.unhandled) == (1001, 0)
    statistics = bus.get_statistics()
    assert (statistics.confirmed, statistics.unknown, statistics.in_flight) == (40, 1001, 0)
    with within(0.0):
        assert bus.close() is report


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_close_alone_returns_in_time(outage: Outage, laden: Callable[..., Laden], state: str, seconds: float) -> None:
    """With members of groups, commits on their way and a queue; nobody has noticed anything."""
    one = laden(**UNNOTICED)
    outage.begin(state)
    one.begin()
    with within(seconds):
        report = one.bus.close(timeout=seconds)
    assert report.unanswered == 1000
    assert len(set(one.handled)) == 40


@pytest.mark.parametrize("state", STATES)
def test_what_was_handled_and_not_committed_comes_again_to_the_next(
    server: KafkaServer, outage: Outage, laden: Callable[..., Laden], state: str
) -> None:
    """Or was committed after all: a frozen broker reads what it was sent. Nothing is left out."""
    one = laden(**NOTICED)
    outage.begin(state)
    one.begin()
    one.bus.close(timeout=1.0)
    outage.end()
    got: list[str] = []
    with EventBus({"url": server.url, "name": "next"}) as bus:
        bus.subscribe(one.topic, lambda message: got.append(message.text()), group="g")
        bus.publish(one.topic, "last", key="last")
        wait_until(lambda: "last" in got, 20.0)
        assert {str(number) for number in range(40)} <= {*one.handled, *got}


EXITING = """
import sys, threading, eventbus
bus = eventbus.EventBus(sys.argv[1])
bus.open()
gate = threading.Event()
handled = []
def handle(message):
    if message.text() == "late":
        gate.wait(30)
    handled.append(1)
topic = sys.argv[2]
bus.subscribe(topic, handle, group=topic)
bus.subscribe("exits.>", lambda message: None, group=topic)
bus.publish(topic, "x")
bus.publish(topic, "late")
while not handled:
    threading.Event().wait(0.01)
print("ready", flush=True)
sys.stdin.readline()
gate.set()
for number in range(1000):
    bus.publish_nowait(topic, "x")
bus.stop_health_check()
print("stopped", flush=True)
"""


@pytest.mark.parametrize("state", ["up", *STATES])
def test_a_process_that_only_stops_the_health_check_exits(outage: Outage, state: str) -> None:
    command = [sys.executable, "-c", EXITING, outage.server.url, f"exits.{state}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        outage.begin(state)
        started = time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.wait(10) == 0
        assert time.monotonic() - started < 2.0
        assert process.stdout.readline() == "stopped\n"
