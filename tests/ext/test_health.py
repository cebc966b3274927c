"""Health checks tell apart what can be wrong with a bus and its subscriptions."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any
from unittest import mock

import pytest

from eventbus import EventBus, GuardConfig, Message, SubscribeError
from eventbus.backends.base import Prepared
from eventbus.backends.memory.backend import MemoryBackend
from eventbus.ext.health import HealthReport, live, ready
from eventbus.ext.process import wait_first_attempt
from eventbus.testing import MockKafka, NatsServer, wait_until
from eventbus.testing.memory import MemoryOutages

FAST = {"interval": 0.1, "timeout": 0.2, "retry_interval": 0.1}
MakeBus = Callable[..., EventBus]

_serials = count(1)


@pytest.fixture
def make_bus() -> Iterator[MakeBus]:
    with ExitStack() as stack:

        def make(url: str, **settings: Any) -> EventBus:
            bus = EventBus({"url": url, "health_check": FAST, **settings})
            stack.callback(bus.close, 3.0)
            return bus

        yield make


@pytest.fixture
def name() -> Iterator[str]:
    """Of a memory broker."""
    made = f"health-{os.getpid()}-{next(_serials)}"
    yield made
    MemoryOutages(made).restore()
    MemoryOutages(made).forget()


def states(report: HealthReport) -> dict[str, str]:
    return {one["topic"]: one["state"] for one in report.body["subscriptions"]}


def wait_status(bus: EventBus, status: str, **options: Any) -> HealthReport:
    """The report once it says so; it is what can be sent as JSON."""
    wait_until(lambda: ready(bus, **options).status == status, message=lambda: f"{ready(bus, **options)}")
    report = ready(bus, **options)
    assert json.loads(json.dumps(report.body)) == report.body
    assert report.body["status"] == report.status
    return report


# -- the connection ------------------------------------------------------------------------------


def test_a_bus_from_its_beginning_to_its_end(make_bus: MakeBus, name: str) -> None:
    bus, broker = (
        make_bus(f"memory://{name}", reconnect={"max_attempts": 2, "initial_backoff": 0.05}),
        MemoryOutages(name),
    )
    told: list[tuple[str, int, int]] = []

    def tell(status: str) -> None:
        report = wait_status(bus, status)
        told.append((status, report.status_code, live(bus).status_code))

    tell("new")
    bus.open()
    tell("ready")
    broker.refuse()
    tell("disconnected")
    broker.restore()
    tell("ready")
    bus.close()
    tell("closed")
    assert told == [
        ("new", 503, 200),
        ("ready", 200, 200),
        ("disconnected", 503, 200),
        ("ready", 200, 200),
        ("closed", 503, 503),
    ]


def test_only_a_new_bus_is_waited_for(make_bus: MakeBus, name: str) -> None:
    bus, broker = make_bus(f"memory://{name}", health_check={**FAST, "timeout": 10.0}), MemoryOutages(name)
    broker.refuse()
    bus.open(wait=False)
    wait_until(lambda: bus.get_connection_state().last_error is not None)
    started = time.monotonic()
    wait_first_attempt(bus)
    assert time.monotonic() - started < 5.0, "it has been tried"
    assert ready(bus).status_code == 503
    broker.restore()
    new = make_bus(f"memory://{name}")
    new.open(wait=False)
    wait_first_attempt(new)
    assert ready(new).status_code == 200


def test_reconnecting_says_how_far_it_is(make_bus: MakeBus, name: str) -> None:
    bus = make_bus(f"memory://{name}", reconnect={"initial_backoff": 0.05, "max_attempts": None})
    bus.open()
    MemoryOutages(name).refuse()
    report = wait_status(bus, "reconnecting")
    wait_until(lambda: ready(bus).body["attempt"] > 1)
    assert report.body["consecutive_failures"] > 0
    assert "cut the link" in ready(bus).body["detail"], "what the health check saw"
    wait_until(lambda: "refuses connections" in ready(bus).body["last_error"])


def test_one_failed_probe_is_suspect_and_still_ready(make_bus: MakeBus, name: str) -> None:
    bus, broker = make_bus(f"memory://{name}", reconnect={"failure_threshold": 1_000}), MemoryOutages(name)
    bus.open()
    broker.freeze()
    assert wait_status(bus, "suspect").status_code == 200
    broker.restore()
    assert wait_status(bus, "ready").status_code == 200


# -- subscriptions -------------------------------------------------------------------------------


def check_trouble(bus: EventBus, status: str, **options: Any) -> dict[str, Any]:
    """It is told, and costs the readiness only of those who ask for that; the subscription in question."""
    report = wait_status(bus, status, **options)
    assert report.status_code == 200
    assert ready(bus, needs_subscriptions=True, **options).status_code == 503
    assert live(bus).status_code == 200
    return next(one for one in report.body["subscriptions"] if one["state"] == status)


def test_a_refused_subscription_is_failed(make_bus: MakeBus, name: str) -> None:
    MemoryOutages(name).refuse_topic("orders", "not for you")
    bus = make_bus(f"memory://{name}")
    bus.subscribe("orders", print, group="billing")
    bus.subscribe("bills", print, group="billing")
    bus.open()
    assert "not for you" in check_trouble(bus, "failed")["reason"]
    assert states(ready(bus)) == {"orders": "failed", "bills": "active"}
    MemoryOutages(name).allow_topic("orders")
    assert wait_status(bus, "ready", needs_subscriptions=True).status_code == 200


def test_one_that_the_broker_did_not_take_yet_is_pending(make_bus: MakeBus, name: str) -> None:
    bus, takes_it = make_bus(f"memory://{name}"), threading.Event()
    connect = MemoryBackend.connect

    def connect_to_a_slow_one(backend: MemoryBackend, context: Any) -> Any:
        session = connect(backend, context)
        session.prepare = lambda attachments, timeout: Prepared(pending=() if takes_it.is_set() else attachments)
        return session

    with mock.patch.object(MemoryBackend, "connect", connect_to_a_slow_one):
        bus.subscribe("orders", print, group="billing")
        bus.open()
        assert check_trouble(bus, "pending")["reason"] == "waits for the broker"
        takes_it.set()
        wait_status(bus, "ready")


def test_dead_letters_that_are_held_are_a_stall(make_bus: MakeBus, name: str) -> None:
    bus = make_bus(f"memory://{name}", guard=GuardConfig(least=2, window=4), retry={"max_attempts": 1})

    def broken(message: Message) -> None:
        raise KeyError("since the last deploy")

    bus.subscribe("orders", broken, group="billing")
    bus.open()
    bus.publish_many([Message("orders", str(number)) for number in range(8)])
    assert "of the last" in check_trouble(bus, "stalled")["reason"]


def test_a_message_that_is_in_hand_for_too_long_is_a_stall(make_bus: MakeBus, name: str) -> None:
    bus, go_on = make_bus(f"memory://{name}"), threading.Event()
    bus.subscribe("orders", lambda message: go_on.wait(30), group="billing")
    bus.open()
    bus.publish("orders", b"")
    found = check_trouble(bus, "stalled", stalled_after=0.2)
    assert (found["in_hand"], found["reason"].startswith("a message has been in hand")) == (1, True)
    assert wait_status(bus, "ready").body["subscriptions"][0]["oldest_in_hand"] > 0.2
    go_on.set()
    wait_status(bus, "ready", stalled_after=0.2)


def test_a_pause_is_no_trouble(make_bus: MakeBus, name: str) -> None:
    bus = make_bus(f"memory://{name}")
    sub = bus.subscribe("orders", print, group="billing")
    bus.open()
    sub.pause()
    bus.publish("orders", b"")
    wait_until(lambda: (ready(bus).body["subscriptions"][0]["lag"] or 0) == 1)
    report = wait_status(bus, "ready", needs_subscriptions=True, stalled_after=0.0)
    assert (report.status_code, states(report)) == (200, {"orders": "paused"})


def test_the_worst_is_told(make_bus: MakeBus, name: str) -> None:
    MemoryOutages(name).refuse_topic("orders")
    bus, go_on = make_bus(f"memory://{name}"), threading.Event()
    bus.subscribe("bills", lambda message: go_on.wait(30), group="billing")
    bus.subscribe("orders", print, group="billing")
    bus.open()
    bus.publish("bills", b"")
    wait_until(lambda: set(states(ready(bus, stalled_after=0.1)).values()) == {"stalled", "failed"})
    assert ready(bus, stalled_after=0.1).status == "failed"
    MemoryOutages(name).refuse()
    wait_until(lambda: not bus.get_connection_state().is_connected)
    assert ready(bus).status == bus.get_connection_state().phase.value, "the connection comes first"
    go_on.set()


@pytest.mark.nats
def test_a_standby_is_ready(make_bus: MakeBus, nats_server: NatsServer) -> None:
    members = [make_bus(nats_server.url, health_check={}) for _ in range(2)]
    for bus in members:
        bus.subscribe("orders.*", lambda message: None, group="billing", ordered=True)
        bus.open()
    members[0].publish("orders.new", b"")

    def told() -> list[str]:
        return sorted(states(ready(bus))["orders.*"] for bus in members)

    wait_until(lambda: told() == ["active", "standby"], message=lambda: str(told()))
    for bus in members:
        assert wait_status(bus, "ready", needs_subscriptions=True).status_code == 200


def test_a_member_that_joins_is_rebalancing(make_bus: MakeBus, mock_kafka: Callable[..., MockKafka]) -> None:
    pytest.importorskip("confluent_kafka")
    cluster = mock_kafka(1)
    cluster.create_topic("orders", 1)
    cluster.rebalance_delay(0.6)
    bus = make_bus(f"{cluster.url}?group_protocol=classic", health_check={})
    bus.subscribe("orders", lambda message: None, group="billing")
    bus.open()
    report = wait_status(bus, "rebalancing", needs_subscriptions=True)
    assert (report.status_code, states(report)) == (200, {"orders": "rebalancing"})
    assert bus.get_subscriptions()[0].status().is_joining
    wait_until(lambda: states(ready(bus)) == {"orders": "active"})
    assert wait_status(bus, "ready").status_code == 200
    assert not bus.get_subscriptions()[0].status().is_joining


def test_what_a_subscription_s_status_says_is_what_the_bus_says(make_bus: MakeBus, name: str) -> None:
    MemoryOutages(name).refuse_topic("orders", "not for you")
    bus = make_bus(f"memory://{name}")
    sub = bus.subscribe("orders", print, group="billing")
    assert sub.status().not_served == "waits for the broker"
    bus.open()
    assert bus.get_health_status().not_served == (f"orders: {sub.status().not_served.removeprefix('orders: ')}",)
    bus.unsubscribe(sub)
    assert bus.get_subscriptions() == ()
    with pytest.raises(SubscribeError):
        bus.subscribe("orders", print, group="billing")
    assert bus.get_subscriptions() == ()
