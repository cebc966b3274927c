"""Inherited, on NATS: streams and durables of others are used by name, and never made again in their place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats_operator import Operator
from rounds import limit
from world_support import Seen, end, pause

from eventbus import ConnectFailedError, EventBus, Message, PublishRejectedError, SubscribeError, SubscriptionState
from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]
JOINS_WITHIN = 5.0
QUICK_CHECK = {"interval": 0.2, "retry_interval": 0.2}


@pytest.fixture
def operator(nats_server: NatsServer) -> Iterator[Operator]:
    with Operator(nats_server.address) as made:
        yield made


def streams(operator: Operator) -> set[str]:
    return set(operator.call("STREAM.NAMES").get("streams") or ())


def test_where_no_stream_may_be_made_none_is_made(nats_server: NatsServer, operator: Operator) -> None:
    bus, seen = EventBus({"url": nats_server.url, "create_streams": False, "health_check": QUICK_CHECK}), Seen()
    try:
        bus.open()
        with pytest.raises(SubscribeError, match="create_streams is off"):
            bus.subscribe("orders.new", seen, group="g")
        with pytest.raises(PublishRejectedError, match="create_streams is off"):
            bus.publish("orders.new", b"x")
        sub = bus.subscribe("orders.*", seen, group="g")
        assert sub.state is SubscriptionState.ACTIVE
        assert streams(operator) == set()
        operator.make_stream("SHOP", "orders.>")
        assert bus.publish("orders.new", b"there").partition == "SHOP"
        assert seen.wait(1, JOINS_WITHIN) == [b"there"]
    finally:
        end(bus)


def test_a_stream_and_a_durable_are_bound_by_name(nats_server: NatsServer, operator: Operator) -> None:
    operator.make_stream("SHOP", "orders.*", "bills.*")
    config = {"durable_name": "worker", "ack_policy": "explicit", "filter_subject": "orders.*", "max_ack_pending": 5}
    operator.call("CONSUMER.DURABLE.CREATE.SHOP.worker", stream_name="SHOP", config=config)
    bus = EventBus({"url": nats_server.url, "stream_name": "SHOP", "durable": "worker"})
    try:
        bus.open()
        seen = Seen()
        bus.subscribe("orders.>", seen, group="billing")
        for number in range(20):
            assert bus.publish("orders.new", str(number)).partition == "SHOP"
        assert seen.wait(20) == [str(number).encode() for number in range(20)]
        assert [one["name"] for one in operator.call("CONSUMER.LIST.SHOP")["consumers"]] == ["worker"]
        with pytest.raises(SubscribeError, match=r"filter is 'orders\.\*', which is more than 'orders\.new'"):
            bus.subscribe("orders.new", seen, group="billing")
        bus.reconnect(5.0)
        bus.publish("orders.new", b"again")
        wait_until(lambda: b"again" in seen.payloads)
    finally:
        end(bus)


def test_a_bound_stream_that_is_not_there_is_no_other_one(nats_server: NatsServer, operator: Operator) -> None:
    operator.make_stream("orders", "orders.>")
    with EventBus({"url": nats_server.url, "stream_name": "SHOP"}) as bus:
        with pytest.raises(SubscribeError, match="stream not found"):
            bus.subscribe("orders.new", print, group="g")
        with pytest.raises(PublishRejectedError, match="stream not found"):
            bus.publish("orders.new", b"x")
    assert streams(operator) == {"orders"}


@pytest.mark.parametrize("settings", [{"domain": "hub"}, {"api_prefix": "$JS.hub.API"}], ids=str)
def test_jetstream_of_a_domain(settings: dict[str, str], tmp_path: Path) -> None:
    with NatsServer(config=f'jetstream {{ domain: "hub", store_dir: "{tmp_path}" }}') as server:
        bus, seen = EventBus({"url": server.url, **settings}), Seen()
        try:
            bus.open()
            bus.subscribe("orders.*", seen, group="g")
            assert bus.publish("orders.new", b"x").confirmed
            server.restart()
            assert bus.publish("orders.new", b"y", timeout=10.0).confirmed
            assert sorted(seen.wait(2, 15.0)) == [b"x", b"y"]
        finally:
            end(bus)
        nowhere = EventBus({"url": server.url, "domain": "elsewhere", "connect_timeout": 1.0})
        with pytest.raises(ConnectFailedError, match="JetStream"):
            nowhere.open()


def test_an_inbox_of_its_own_is_all_that_it_reads() -> None:
    users = [
        {"user": "app", "password": "pw", "permissions": {"subscribe": {"allow": ["_INBOX_app.>"]}}},
        {"user": "spy", "password": "pw", "permissions": {"subscribe": {"allow": ["_INBOX.>"]}}},
    ]
    with NatsServer(config=f"authorization {{ users: {json.dumps(users)} }}") as server:
        host, port = server.address
        seen = Seen()
        with EventBus({"url": f"nats://app:pw@{host}:{port}", "inbox_prefix": "_INBOX_app"}) as bus:
            bus.subscribe(">", seen, group="g")
            for number in range(20):
                assert bus.publish("orders.new", str(number)).confirmed
            assert len(seen.wait(20)) == 20


@pytest.mark.parametrize(("group", "start"), [("g", "earliest"), ("g", "latest"), (None, "earliest")])
@pytest.mark.parametrize("pattern", ["orders.*", "*.new", ">"])
def test_a_pattern_reads_streams_that_others_make_later_from_their_start(
    nats_server: NatsServer, operator: Operator, group: str | None, start: str, pattern: str
) -> None:
    operator.make_stream("FIRST", "orders.old", "bills.new")
    bus, seen = EventBus(nats_server.url), Seen()
    try:
        bus.open()
        bus.publish("bills.new", b"before")
        sub = bus.subscribe(pattern, seen, group=group, start=start)
        operator.make_stream("SECOND", "orders.new")
        others = EventBus({"url": nats_server.url, "create_streams": False})
        with others:
            others.publish_many([Message("orders.new", str(number)) for number in range(20)])
        expected = {str(number).encode() for number in range(20)}
        wait_until(lambda: expected <= set(seen.payloads), JOINS_WITHIN)
        assert (b"before" in seen.payloads) is (start == "earliest" and group is not None and pattern != "orders.*")
        assert sub.state is SubscriptionState.ACTIVE
        assert bus.get_statistics().duplicates == 0
    finally:
        end(bus)


def test_a_stream_of_a_pattern_that_cannot_be_read_is_reported_and_left_out(
    nats_server: NatsServer, operator: Operator
) -> None:
    operator.make_stream("GOOD", "orders.good")
    operator.make_stream("QUEUE", "orders.queue", retention="workqueue")
    config = {"durable_name": "taken", "ack_policy": "explicit"}
    operator.call("CONSUMER.DURABLE.CREATE.QUEUE.taken", stream_name="QUEUE", config=config)
    bus, seen, told = EventBus(nats_server.url), Seen(), list[str]()
    try:
        bus.open()
        bus.register_error_callback(lambda event: told.append(str(event.error)))
        bus.subscribe("orders.*", seen, group="g")
        bus.publish("orders.good", b"x")
        assert seen.wait(1) == [b"x"]
        wait_until(lambda: any("QUEUE" in text for text in told))
        assert bus.reconnect(5.0) is None
        bus.publish("orders.good", b"y")
        assert seen.wait(2) == [b"x", b"y"]
        assert sum("QUEUE" in text for text in told) <= 2, told
    finally:
        end(bus)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("again", ["at once", "in an outage"])
def test_a_deleted_durable_goes_on_behind_its_position(
    nats_server: NatsServer, operator: Operator, members: int, again: str
) -> None:
    operator.make_stream("orders", "orders.>")
    buses, seen = [EventBus({"url": nats_server.url, "name": f"b{number}"}) for number in range(members)], Seen()
    name = durable_name("g", "orders.*")
    try:
        for bus in buses:
            bus.open()
        for bus in buses:
            bus.subscribe("orders.*", seen, group="g")
        for number in range(40):
            buses[0].publish("orders.new", str(number))
        seen.wait(40)
        pause(4.0)  # what every member knows of the group is up to three seconds old
        if again == "in an outage":
            nats_server.restart()
            with Operator(nats_server.address) as other:
                other.call(f"CONSUMER.DELETE.orders.{name}")
        else:
            operator.call(f"CONSUMER.DELETE.orders.{name}")
        for number in range(40, 60):
            buses[0].publish("orders.new", str(number), timeout=10.0)
        seen.wait(60, 15.0)
        assert sorted(map(int, seen.payloads)) == list(range(60)), "none is lost, and none comes from the start"
    finally:
        for bus in buses:
            end(bus)


def test_a_stream_of_others_that_is_deleted_is_not_made_again(nats_server: NatsServer, operator: Operator) -> None:
    operator.make_stream("SHOP", "orders.new")
    bus, seen = EventBus({"url": nats_server.url, "health_check": QUICK_CHECK}), Seen()
    try:
        bus.open()
        sub = bus.subscribe("orders.new", seen, group="g")
        bus.publish("orders.new", b"1")
        seen.wait(1)
        operator.call("STREAM.DELETE.SHOP")
        wait_until(lambda: sub.state is SubscriptionState.FAILED, 10.0)
        assert "not made by eventbus" in str(sub.error)
        with pytest.raises(PublishRejectedError, match="not made by eventbus"):
            bus.publish("orders.new", b"2", timeout=10.0)
        assert streams(operator) == set()
        operator.make_stream("SHOP", "orders.new")
        assert bus.publish("orders.new", b"3", timeout=10.0).partition == "SHOP"
        assert seen.wait(2, 10.0) == [b"1", b"3"]
        assert sub.state is SubscriptionState.ACTIVE
    finally:
        end(bus)


def test_the_lag_is_what_waits_for_the_group(nats_server: NatsServer) -> None:
    go_on = threading.Event()
    with EventBus({"url": nats_server.url, "prefetch": 16}) as bus:
        sub = bus.subscribe("orders.*", lambda message: go_on.wait(20.0), group="g")
        bus.publish_many([Message("orders.new", b"x") for _ in range(100)])
        wait_until(lambda: sub.status().lag == 100)
        go_on.set()
        wait_until(lambda: sub.status().lag == 0)
