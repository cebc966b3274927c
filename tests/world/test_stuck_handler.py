"""A handler that does not return: the bus closes in time, names it, and the next process gets the message."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from world_support import fresh, run_script, took

from eventbus import CloseReport, EventBus, Message
from eventbus.testing import NatsServer, wait_until
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.plugin import skip_or_fail
from eventbus.testing.servers.kafka import KafkaServer

pytestmark = pytest.mark.watchdog(90)

CLOSE = 3.0
IN_TIME = 3.5
"""Seconds in which `close(timeout=3)` returns."""
TOPIC = "orders.new"
NEXT = """
import sys
from eventbus import EventBus
from eventbus.testing import wait_until
found = []
with EventBus(sys.argv[1]) as bus:
    bus.subscribe("orders.new", found.append, group="shop")
    wait_until(lambda: found, 30.0)
print(*[(one.text(), one.key) for one in found])
"""


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("nats", "kafka"))]
)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a broker of this test's own."""
    if request.param == "memory":
        name = fresh("stuck")
        yield f"memory://{name}"
        MemoryOutages(name).forget()
        return
    with skip_or_fail(), NatsServer() if request.param == "nats" else KafkaServer(fast=True) as server:
        yield server.url + ("?ack_wait=2" if request.param == "nats" else "")


class Stuck:
    """A handler that waits until it is released."""

    def __init__(self) -> None:
        self.entered, self.released, self.returned = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, message: Message) -> None:
        self.entered.set()
        assert self.released.wait(60.0)
        self.returned.set()


def redelivered(url: str) -> str:
    """What the next process of the group gets; on memory, which no process shares with another, the next bus."""
    if not url.startswith("memory:"):
        done = run_script(NEXT, url, timeout=60.0)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
    found: list[Message] = []
    with EventBus(url) as bus:
        bus.subscribe(TOPIC, found.append, group="shop")
        wait_until(lambda: found)
    return str((found[0].text(), found[0].key))


def test_a_stuck_handler_does_not_hold_up_the_close(url: str) -> None:
    stuck, reports = Stuck(), list[CloseReport]()
    bus = EventBus(url)
    bus.open()
    try:
        bus.publish(TOPIC, "1", key="customer-7")
        bus.subscribe(TOPIC, stuck, group="shop")
        assert stuck.entered.wait(30.0)
        assert took(lambda: reports.append(bus.close(timeout=CLOSE))) < IN_TIME
        assert reports[0].unhandled == 1
        assert [name for name in reports[0].unfinished_threads if "lane" in name] == [f"eventbus.bus.lane-{TOPIC}-0"]
        assert redelivered(url) == "('1', 'customer-7')"
    finally:
        stuck.released.set()
        bus.close(0.0)
    wait_until(stuck.returned.is_set)
    wait_until(lambda: not any("lane" in thread.name for thread in threading.enumerate()))
