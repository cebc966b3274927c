"""Inherited, on NATS: streams and durables that an operator made, with settings of his own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats_operator import Operator
from rounds import limit
from world_support import Seen, end, pause

from eventbus import BROADCAST, EventBus, Message, PublishRejectedError, SubscribeError, SubscriptionState
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
    make_durable_of(operator, "orders", group, topic, **settings)


def make_durable_of(operator: Operator, stream: str, group: str, topic: str, **settings: object) -> None:
    name = durable_name(group, topic)
    config = {"durable_name": name, "name": name, "ack_policy": "explicit", "filter_subject": topic, **settings}
    operator.call(f"CONSUMER.CREATE.{stream}.{name}.{topic}", stream_name=stream, config=config, action="create")


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


def test_limits_of_the_server_are_kept_where_nobody_has_asked_for_more(tmp_path: Path) -> None:
    limits = 'limits { duplicate_window: "1m", max_ack_pending: 100 }'
    config = f'jetstream {{ store_dir: "{tmp_path}", {limits} }}'
    with NatsServer(jetstream=False, config=config) as server, Operator(server.address) as operator:
        with EventBus(server.url) as bus:
            seen, topics = Seen(), ("orders.x", "bills.x")
            bus.subscribe("orders.x", seen, group="shared")
            bus.subscribe("orders.x", seen, group=BROADCAST)
            bus.publish_many([Message(topic, b"%d" % number) for topic in topics for number in range(300)])
            seen.wait(600)
            assert operator.call("STREAM.INFO.orders")["config"]["duplicate_window"] == 60 * SECOND
        asked = {"url": server.url, "stream": {"duplicate_window": 120 * SECOND}}
        with EventBus(asked) as bus, pytest.raises(PublishRejectedError, match="duplicates window"):
            bus.publish("others.x", b"x")


ACCOUNTS = """
accounts {
  theirs { jetstream: enabled, users: [{user: theirs, password: pw}],
           exports: [{service: "$JS.API.>", response: stream}, {stream: "deliver.>"}, {service: "$JS.FC.>"}] }
  ours { jetstream: enabled, users: [{user: ours, password: pw}],
         imports: [{service: {account: theirs, subject: "$JS.API.>"}, to: "JS.theirs.API.>"},
                   {stream: {account: theirs, subject: "deliver.>"}},
                   {service: {account: theirs, subject: "$JS.FC.>"}}] }
}"""


@pytest.mark.parametrize("ordered", [False, True])
def test_what_a_stream_gathers_from_another_account_is_no_copy_of_ours(ordered: bool) -> None:
    """Their stream has the name of one of ours, too, which the pattern reads."""
    external = {"api": "JS.theirs.API", "deliver": "deliver.ours"}
    renamed = [{"src": "orders.>", "dest": "theirs.>"}]
    with (
        NatsServer(config=ACCOUNTS) as server,
        Operator(server.address, user="theirs") as theirs,
        Operator(server.address, user="ours") as ours,
        EventBus(f"nats://ours:pw@{server.address[0]}:{server.port}") as bus,
    ):
        theirs.make_stream("orders", "orders.>")
        ours.make_stream("orders", "orders.>")
        sources = [{"name": "orders", "external": external, "subject_transforms": renamed}]
        ours.make_stream("gathered", "theirs.>", sources=sources)
        seen = Seen()
        bus.subscribe("*.created", seen, group="g", ordered=ordered)
        theirs.send(b"PUB orders.created 6\r\ntheirs\r\n")
        bus.publish("orders.created", b"ours")
        assert {*seen.wait(2)} == {b"theirs", b"ours"}


# -- altered, deleted and made anew while in use ---------------------------------------------------


def alter_durable(operator: Operator, group: str, topic: str, **settings: object) -> None:
    name = durable_name(group, topic)
    config = {**operator.call(f"CONSUMER.INFO.orders.{name}")["config"], **settings}
    operator.call(
        f"CONSUMER.CREATE.orders.{name}.{config['filter_subject']}",
        stream_name="orders",
        config=config,
        action="update",
    )


@pytest.mark.parametrize("settings", [{"max_batch": 10}, {"max_expires": SECOND}, {"max_bytes": 1000}], ids=str)
def test_limits_that_are_altered_in_use_are_kept(
    nats_server: NatsServer, operator: Operator, settings: dict[str, object]
) -> None:
    with EventBus(nats_server.url) as bus:
        seen = Seen()
        bus.subscribe("orders.x", seen, group="g")
        bus.publish("orders.x", b"before")
        seen.wait(1)
        alter_durable(operator, "g", "orders.x", **settings)
        pause(5.5)  # as long as a request lasts: the next ones are too much
        for number in range(20):
            bus.publish("orders.x", str(number))
        assert seen.wait(21, 5.0)[1:] == [str(number).encode() for number in range(20)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"filter_subject": "orders.>"}, "filter is 'orders.>'"), ({"headers_only": True}, "headers_only is set")],
)
def test_a_durable_that_gives_something_else_fails_before_that_is_handled(
    nats_server: NatsServer, operator: Operator, settings: dict[str, object], told: str
) -> None:
    with EventBus(nats_server.url) as bus:
        seen = Seen()
        sub = bus.subscribe("orders.x", seen, group="g")
        bus.publish("orders.x", b"before")
        seen.wait(1)
        pause(1.5)  # so that nothing moves any more
        alter_durable(operator, "g", "orders.x", **settings)
        bus.publish("orders.x" if "headers_only" in settings else "orders.secret", b"payload")
        wait_until(lambda: sub.state is SubscriptionState.FAILED)
        assert told in str(sub.error)
        assert seen.payloads == [b"before"]


def test_a_paused_durable_says_so_until_it_goes_on(nats_server: NatsServer, operator: Operator) -> None:
    with EventBus(nats_server.url) as bus:
        seen, name = Seen(), durable_name("g", "orders.x")
        sub = bus.subscribe("orders.x", seen, group="g")
        bus.publish("orders.x", b"1")
        seen.wait(1)
        operator.call(f"CONSUMER.PAUSE.orders.{name}", pause_until="2100-01-01T00:00:00Z")
        bus.publish("orders.x", b"2")
        bus.reconnect(5.0)
        wait_until(lambda: sub.error is not None and "is paused by an operator" in str(sub.error), 40.0)
        operator.call(f"CONSUMER.PAUSE.orders.{name}")
        seen.wait(2)
        wait_until(lambda: sub.error is None)


def test_what_an_operator_sets_back_is_handled_again(nats_server: NatsServer, operator: Operator) -> None:
    with EventBus(nats_server.url) as bus:
        seen, name = Seen(), durable_name("g", "orders.x")
        bus.subscribe("orders.x", seen, group="g")
        bus.publish_many([Message("orders.x", str(number)) for number in range(5)])
        seen.wait(5)
        pause(1.5)
        config = operator.call(f"CONSUMER.INFO.orders.{name}")["config"]
        operator.call(f"CONSUMER.DELETE.orders.{name}")
        operator.call(f"CONSUMER.CREATE.orders.{name}.orders.x", stream_name="orders", config=config, action="create")
        assert seen.wait(10)[5:] == [str(number).encode() for number in range(5)]
        operator.call(f"CONSUMER.RESET.orders.{name}", seq=1)
        assert seen.wait(15)[10:] == [str(number).encode() for number in range(5)]


def test_a_durable_of_a_work_queue_is_made_again(nats_server: NatsServer, operator: Operator) -> None:
    operator.make_stream("JOBS", "jobs.>", retention="workqueue")
    with EventBus(nats_server.url) as bus:
        seen = Seen()
        sub = bus.subscribe("jobs.x", seen, group="g")
        bus.publish("jobs.x", b"1")
        seen.wait(1)
        wait_until(lambda: operator.stored("JOBS") == 0)
        operator.call(f"CONSUMER.DELETE.JOBS.{durable_name('g', 'jobs.x')}")
        bus.publish("jobs.x", b"2")
        assert seen.wait(2) == [b"1", b"2"]
        assert sub.state is SubscriptionState.ACTIVE


@pytest.mark.parametrize("group", ["g", None])
def test_a_topic_that_moves_to_another_stream_is_read_there(
    nats_server: NatsServer, operator: Operator, group: str | None
) -> None:
    operator.make_stream("OLD", "ops.>")
    with EventBus(nats_server.url) as bus:
        seen = Seen()
        bus.subscribe("ops.a", seen, group=group)
        bus.publish("ops.a", b"1")
        seen.wait(1)
        operator.call("STREAM.UPDATE.OLD", name="OLD", subjects=["old.>"])
        operator.make_stream("NEW", "ops.>")
        assert bus.publish("ops.a", b"2").partition == "NEW"
        assert seen.wait(2) == [b"1", b"2"]


def test_a_stream_of_a_pattern_that_can_be_read_again_is_read(nats_server: NatsServer, operator: Operator) -> None:
    operator.make_stream("bills", "bills.>")
    make_durable_of(operator, "bills", "g", "*.x", ack_policy="none")
    with EventBus(nats_server.url) as bus:
        seen = Seen()
        bus.subscribe("*.x", seen, group="g")
        bus.publish("orders.x", b"1")
        bus.publish("bills.x", b"2")
        seen.wait(1)
        operator.call(f"CONSUMER.DELETE.bills.{durable_name('g', '*.x')}")
        assert sorted(seen.wait(2)) == [b"1", b"2"]
