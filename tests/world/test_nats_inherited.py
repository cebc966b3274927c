"""Inherited, on NATS: streams and durables that an operator made, with settings of his own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from nats_operator import Operator
from rounds import limit
from world_support import Seen, end

from eventbus import EventBus, Message, SubscribeError
from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]
SECOND = 1_000_000_000


@pytest.fixture
def operator(nats_server: NatsServer) -> Iterator[Operator]:
    with Operator(nats_server.address) as made:
        made.make_stream("orders", "orders.>")
        yield made


def make_durable(operator: Operator, group: str, topic: str, **settings: object) -> None:
    name = durable_name(group, topic)
    config = {"durable_name": name, "name": name, "ack_policy": "explicit", "filter_subject": topic, **settings}
    operator.call(f"CONSUMER.CREATE.orders.{name}.{topic}", stream_name="orders", config=config, action="create")


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch": 7},
        {"max_expires": SECOND},
        {"max_bytes": 2000},
        {"max_ack_pending": 3},
        {"max_batch": 1, "max_expires": SECOND // 2, "max_bytes": 1000},
    ],
    ids=str,
)
def test_requests_keep_to_the_limits_of_a_durable(
    nats_server: NatsServer, operator: Operator, settings: dict[str, object]
) -> None:
    make_durable(operator, "group", "orders.*", **settings)
    bus, seen = EventBus(nats_server.url), Seen()
    try:
        bus.open()
        bus.publish_many([Message("orders.new", bytes(100), headers={"n": str(number)}) for number in range(200)])
        bus.subscribe("orders.*", seen, group="group")
        seen.wait(200, 15.0)
        assert [message.headers["n"] for message in seen.messages] == [str(number) for number in range(200)]
        assert bus.get_statistics().duplicates == 0
    finally:
        end(bus)


def test_a_durable_without_payloads_is_refused_by_the_settings_name(
    nats_server: NatsServer, operator: Operator
) -> None:
    make_durable(operator, "group", "orders.*", headers_only=True)
    with EventBus(nats_server.url) as bus, pytest.raises(SubscribeError, match="headers_only"):
        bus.subscribe("orders.*", print, group="group")


@pytest.mark.parametrize(
    "settings", [{"ack_wait": SECOND}, {"ack_wait": 30 * SECOND, "backoff": [SECOND, 5 * SECOND]}], ids=str
)
def test_what_is_in_hand_is_renewed_as_the_durable_wants_it(
    nats_server: NatsServer, operator: Operator, settings: dict[str, object]
) -> None:
    """A handler of 3 s, two members, a bus with an ack_wait of 30 s: one call."""
    make_durable(operator, "group", "orders.*", **settings)
    calls, go_on = list[str](), threading.Event()
    buses = [EventBus({"url": nats_server.url, "ack_wait": 30.0, "name": name}) for name in ("one", "two")]
    try:
        for bus in buses:
            bus.open()

            def handle(message: Message, name: str = bus.config.name) -> None:
                calls.append(name)
                go_on.wait(3.0)

            bus.subscribe("orders.*", handle, group="group")
        buses[0].publish("orders.new", b"x")
        wait_until(lambda: calls)
        time.sleep(3.5)  # what is tried is that nothing happens meanwhile
        assert len(calls) == 1
    finally:
        go_on.set()
        for bus in buses:
            end(bus)


def test_copies_in_a_stream_that_gathers_others_are_not_delivered(nats_server: NatsServer, operator: Operator) -> None:
    operator.make_stream("REPORTS", "reports.>", sources=[{"name": "orders"}])
    with EventBus(nats_server.url) as bus:
        seen = Seen()
        bus.subscribe("*.created", seen, group="mail")
        for number in range(20):
            bus.publish("orders.created", str(number))
        bus.publish("reports.created", b"its own")
        wait_until(lambda: operator.stored("REPORTS") == 21)
        seen.wait(21)
        bus.publish("orders.created", b"last")
        wait_until(lambda: b"last" in seen.payloads)
        assert sorted(seen.payloads) == sorted([*(b"%d" % number for number in range(20)), b"its own", b"last"])
