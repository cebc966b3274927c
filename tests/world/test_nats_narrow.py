"""Narrow, on NATS: accounts that may do little; what they may do works, and what is refused is said of itself alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from nats_accounts import PUBLISHER, READS_INBOX, bus_of, users
from nats_operator import Operator
from rounds import limit, rounds
from world_support import Seen, end, pause

from eventbus import (
    BROADCAST,
    EventBus,
    Message,
    PublishRejectedError,
    PublishUnknownError,
    SubscribeError,
    Subscription,
    SubscriptionState,
)
from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.recovery.attaching import Arrival, Attaching
from eventbus.testing import NatsCluster, NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]

MORE_THAN_ONE_PULL = 600
DURABLE = ("$JS.API.CONSUMER.INFO.orders.*", "$JS.API.CONSUMER.MSG.NEXT.orders.*", "$JS.ACK.orders.>")
WORKER = {"publish": {"allow": ["$JS.API.INFO", *DURABLE]}, **READS_INBOX}
BARE = {"publish": {"allow": ["$JS.API.CONSUMER.MSG.NEXT.orders.*", "$JS.ACK.orders.>"]}, **READS_INBOX}
MUTE = {"publish": {"deny": ["$JS.ACK.>"]}}
DENIED = {"subscribe": {"deny": ["secret.>"]}}


VERBS = ("CREATE", "INFO", "MSG.NEXT")


@pytest.fixture
def nats_cluster_of_users() -> Iterator[NatsCluster]:
    with NatsCluster(config=users(app={})) as made:
        yield made


@pytest.fixture
def server() -> Iterator[NatsServer]:
    config = users(publisher=PUBLISHER, worker=WORKER, bare=BARE, denied=DENIED, mute=MUTE)
    with NatsServer(config=config) as made:
        yield made


def test_who_may_only_publish_publishes(server: NatsServer) -> None:
    with bus_of(server, "admin") as admin:
        admin.publish("orders.new", b"so that the stream is there")
        with bus_of(server, "publisher", health_check={"interval": 0.1}) as bus:
            assert bus.publish("orders.new", b"x").confirmed
            bus.reconnect(5.0)
            assert [receipt.confirmed for receipt in bus.publish_many([])] == []
            assert bus.publish("orders.new", b"y").confirmed
            with pytest.raises(PublishRejectedError, match="Permissions Violation"):
                bus.publish("other.topic", b"x", timeout=5.0)
            wait_until(lambda: bus.get_health_status().last_success_time is not None)
            assert bus.get_health_status().is_healthy


@pytest.mark.parametrize("user", ["worker", "bare"])
def test_who_may_only_read_its_durable_reads_it(server: NatsServer, user: str) -> None:
    with bus_of(server, "admin") as admin:
        admin.unsubscribe(admin.subscribe("orders.*", print, group="billing"))
        with bus_of(server, user) as bus:
            seen = Seen()
            bus.subscribe("orders.*", seen, group="billing")
            for number in range(50):
                admin.publish("orders.new", str(number))
            assert seen.wait(50) == [str(number).encode() for number in range(50)]
            server.restart()
            admin.publish("orders.new", b"after the restart", timeout=10.0)
            wait_until(lambda: b"after the restart" in seen.payloads, 10.0)


def test_who_may_not_acknowledge_is_told_so(server: NatsServer) -> None:
    with bus_of(server, "admin") as admin, bus_of(server, "mute", ack_wait=1.0) as bus:
        admin.unsubscribe(admin.subscribe("orders.*", print, group="billing"))
        told: list[str] = []
        bus.register_error_callback(lambda event: told.append(event.source))
        sub = bus.subscribe("orders.*", lambda message: None, group="billing")
        for number in range(3):
            admin.publish("orders.new", str(number))
        wait_until(lambda: sub.error is not None)
        assert "takes no acknowledgements" in str(sub.error) and "takes no acknowledgements" in str(sub.status().error)
        wait_until(lambda: "subscription" in told)


def test_a_denial_and_a_pause_are_over_under_load_too(server: NatsServer) -> None:
    """Neither the group nor this member is ever without messages."""
    with bus_of(server, "admin") as admin, bus_of(server, "denied", ack_wait=1.0) as bus:
        operator = Operator(server.address, user="admin")
        sub = bus.subscribe("orders.x", lambda message: pause(0.002), group="g")
        over = threading.Event()

        def publish() -> None:
            while not over.wait(0.001):
                admin.publish_nowait("orders.x", b"x")

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            server.reload(config=users(denied=MUTE))
            wait_until(lambda: "takes no acknowledgements" in str(sub.error))
            server.reload(config=users(denied={}))
            wait_until(lambda: sub.error is None)
            name = durable_name("g", "orders.x")
            operator.call(f"CONSUMER.PAUSE.orders.{name}", pause_until="2100-01-01T00:00:00Z")
            wait_until(lambda: "paused" in str(sub.error))
            operator.request(f"$JS.API.CONSUMER.PAUSE.orders.{name}", b"{}")
            wait_until(lambda: sub.error is None)
        finally:
            over.set()
            publisher.join()
            operator.__exit__()


ORDERLY = ("$JS.API.CONSUMER.RESET.orders.*", "$JS.API.CONSUMER.UNPIN.orders.*")


def test_who_may_look_after_its_ordered_durable_reads_it() -> None:
    keeper = {"publish": {"allow": [*DURABLE, *ORDERLY]}, **READS_INBOX}
    with NatsServer(config=users(keeper=keeper)) as server, bus_of(server, "admin") as admin:
        admin.unsubscribe(admin.subscribe("orders.*", print, group="billing", ordered=True))
        with bus_of(server, "keeper") as bus:
            seen = Seen()
            bus.subscribe("orders.*", seen, group="billing", ordered=True)
            admin.publish_many([Message("orders.new", str(number)) for number in range(50)])
            assert seen.wait(50) == [str(number).encode() for number in range(50)]
            server.restart()
            admin.publish("orders.new", b"after the restart", timeout=10.0)
            wait_until(lambda: b"after the restart" in seen.payloads, 10.0)


@pytest.mark.parametrize(
    ("rights", "lacks"),
    [
        ({"publish": {"deny": ["$JS.API.CONSUMER.RESET.>"]}}, "RESET"),
        ({"publish": {"deny": ["$JS.API.CONSUMER.INFO.>"]}}, "INFO"),
        (BARE, "INFO"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_an_ordered_group_says_which_right_it_lacks_and_stays_failed(
    rights: dict[str, Any], lacks: str, exists: bool
) -> None:
    with NatsServer(config=users(app=rights)) as server, bus_of(server, "admin") as admin:
        admin.publish("orders.new", b"x")
        if exists or rights is BARE:
            admin.unsubscribe(admin.subscribe("orders.*", print, group="billing", ordered=True))
        bus = bus_of(server, "app", health_check={"interval": 0.2})
        sub = bus.subscribe("orders.*", lambda message: None, group="billing", ordered=True)
        with bus:
            wait_until(lambda: sub.error is not None, 10.0)
            states = set[SubscriptionState]()
            for _ in range(20):
                pause(0.05)
                states.add(sub.state)
            assert states == {SubscriptionState.FAILED}
            assert f"CONSUMER.{lacks}" in str(sub.error)
            assert bus.get_health_status().not_served


class Tries:
    """Counts how often subscriptions are prepared from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        prepare = Attaching.prepare

        def counted(*args: Any) -> Arrival:
            arrival = prepare(*args)
            self.count += 1
            return arrival

        monkeypatch.setattr(Attaching, "prepare", counted)


@pytest.mark.parametrize(
    ("jetstream", "taken"),
    [
        (False, {"subscribe": {"deny": ["orders.>"]}}),
        (True, {"publish": {"deny": ["$JS.API.CONSUMER.MSG.NEXT.>"]}}),
        (True, {"publish": {"deny": ["$JS.API.CONSUMER.>", "$JS.API.STREAM.>"]}}),
    ],
)
@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("busy", [True, False])
def test_a_permission_that_is_taken_away_fails_the_subscription_until_it_is_back(
    jetstream: bool, taken: dict[str, Any], watched: bool, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """busy: it shows first where more is asked for, else where the consumer is looked at or made."""
    check = {"interval": 0.2, "retry_interval": 0.2}
    with (
        NatsServer(config=users(app={})) as server,
        bus_of(server, "admin", jetstream=jetstream) as admin,
        bus_of(server, "app", jetstream=jetstream, health_check=check) as bus,
    ):
        seen, told = Seen(), list[str]()
        bus.register_error_callback(lambda event: told.append(str(event.error)))
        sub = bus.subscribe("orders.x", seen, group="g")
        other = bus.subscribe("bills.x", seen, group="g") if not jetstream else sub
        if not watched:
            assert bus.stop_health_check()
        server.reload(config=users(app=taken))
        if busy:
            admin.publish_many(Message("orders.x", b"") for _ in range(MORE_THAN_ONE_PULL))
        wait_until(lambda: sub.state is SubscriptionState.FAILED, 15.0)
        tried = Tries(monkeypatch)
        wait_until(lambda: tried.count >= 2, 15.0)  # which is no news
        assert "Permissions Violation" in str(sub.error)
        assert bus.get_connection_state().is_connected
        assert len(bus.get_health_status().not_served) == 1
        assert other is sub or other.state is SubscriptionState.ACTIVE
        server.reload(config=users(app={}))
        wait_until(lambda: sub.state is SubscriptionState.ACTIVE, 15.0)
        assert sub.error is None
        admin.publish("orders.x", b"again")
        wait_until(lambda: b"again" in seen.payloads)
        assert sum("Permissions Violation" in text for text in told) == 1, told


@pytest.mark.parametrize("may_ask", [True, False])
def test_an_inbox_that_is_taken_away_is_read_again_once_it_is_back(may_ask: bool) -> None:
    """may_ask: the probe of the health check sees that nothing is answered; else nobody does."""
    rights = ["orders.>", "$JS.API.CONSUMER.>", "$JS.API.STREAM.>", "$JS.ACK.>", *(["$JS.API.INFO"] if may_ask else [])]
    good = {"publish": {"allow": rights}, **READS_INBOX}
    bad = {"publish": {"allow": rights}, "subscribe": {"deny": ["_INBOX.>"]}}
    check = {"interval": 0.2, "retry_interval": 0.2, "timeout": 1.0}
    with NatsServer(config=users(app=good)) as server, bus_of(server, "app", health_check=check) as bus:
        seen = Seen()
        sub = bus.subscribe("orders.x", seen, group="g")
        assert bus.publish("orders.x", b"before").confirmed
        server.reload(config=users(app=bad))
        wait_until(lambda: sub.state is SubscriptionState.FAILED)
        with pytest.raises(PublishUnknownError):
            bus.publish("orders.x", b"meanwhile", timeout=0.5)
        server.reload(config=users(app=good))
        assert bus.publish("orders.x", b"after", timeout=10.0).confirmed
        assert {*seen.wait(3)} == {b"before", b"meanwhile", b"after"}
        assert sub.state is SubscriptionState.ACTIVE


def received_by(server: NatsServer) -> int:
    """Messages that a server has read from its clients."""
    return sum(client["in_msgs"] for client in server.monitor("connz")["connections"])


def test_what_was_permitted_is_not_rejected_when_that_ends_before_its_answer(
    nats_cluster_of_users: NatsCluster,
) -> None:
    """The stream's leader answers late; the server that we are at denies at once."""
    with bus_of(nats_cluster_of_users.servers[0], "admin") as admin:
        admin.publish("orders.x", b"so that the stream is there", timeout=10.0)
    leader = nats_cluster_of_users.stream_leader("orders")
    assert leader is not None
    ours = next(server for server in nats_cluster_of_users.servers if server is not leader)
    with bus_of(ours, "app") as bus:
        assert bus.publish("orders.x", b"so that it is known").confirmed
        leader.freeze()
        before = received_by(ours)
        permitted = [bus.publish_async("orders.x", b"%d" % number, timeout=20.0) for number in range(10)]
        wait_until(lambda: received_by(ours) >= before + 10)  # else they would rightly be denied
        ours.reload(config=users(app={"publish": {"deny": ["orders.>"]}}))
        denied = [bus.publish_async("orders.x", b"%d" % number, timeout=20.0) for number in range(10, 15)]
        pause(0.2)  # in which it answers to these
        leader.thaw()
        assert all(future.result(20.0).confirmed for future in permitted)
        for future in denied:
            with pytest.raises(PublishRejectedError, match="Permissions Violation"):
                future.result(20.0)


def test_denied_topics_raise_however_many_ask_at_a_time(server: NatsServer) -> None:
    bus = bus_of(server, "denied", jetstream=False)
    bus.open()
    made: list[Subscription] = []

    def subscribe(topic: str) -> None:
        with suppress(SubscribeError):
            made.append(bus.subscribe(topic, lambda message: None, group="g"))

    try:
        for turn in range(rounds(10, 100)):
            topics = [f"secret.t{turn}-{number}" for number in range(4)] + [f"open.t{turn}"]
            threads = [threading.Thread(target=subscribe, args=(topic,)) for topic in topics]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert {sub.topic.partition(".")[0] for sub in made} == {"open"}
        assert all(sub.state is SubscriptionState.ACTIVE for sub in made)
    finally:
        end(bus)


def test_a_subscription_too_many_is_refused_alone() -> None:
    with NatsServer(jetstream=False, config="max_subscriptions: 4") as server:
        bus = EventBus({"url": f"{server.url}?jetstream=false"})
        bus.open()
        try:
            seen, made = Seen(), list[Subscription]()
            for number in range(6):
                with suppress(SubscribeError):
                    made.append(bus.subscribe(f"orders.x{number}", seen))
            assert 0 < len(made) < 6
            bus.reconnect(5.0)
            assert [sub.state for sub in made] == [SubscriptionState.ACTIVE] * len(made)
            for sub in made:
                bus.publish(sub.topic, sub.topic)
            assert sorted(seen.wait(len(made))) == [sub.topic.encode() for sub in made]
        finally:
            end(bus)


def test_who_may_read_in_one_queue_group_only_reads_in_it() -> None:
    allowed = {"publish": {"allow": [">"]}, "subscribe": {"allow": ["_INBOX.>", "orders.> workers"]}}
    with (
        NatsServer(jetstream=False, config=users(app=allowed)) as server,
        bus_of(server, "app", jetstream=False) as bus,
    ):
        seen = Seen()
        bus.subscribe("orders.x", seen, group="workers")
        for group in ("others", None):
            with pytest.raises(SubscribeError, match="Permissions Violation"):
                bus.subscribe("orders.x", seen, group=group)
        bus.publish("orders.x", b"x")
        assert seen.wait(1) == [b"x"]


NO_STREAM_INFO = {"publish": {"allow": [">"], "deny": ["$JS.API.STREAM.INFO.>"]}}
NO_CONSUMER_INFO = {"publish": {"allow": [">"], "deny": ["$JS.API.CONSUMER.INFO.>"]}}
NO_SECRET = {"publish": {"allow": [">"], "deny": ["$JS.API.CONSUMER.MSG.NEXT.secret.>"]}}
NO_BILLS = {"publish": {"allow": [">"], "deny": ["$JS.API.CONSUMER.CREATE.bills.>"]}}


@pytest.mark.parametrize("reconnects", [False, True])
def test_a_stream_made_anew_is_read_whole_by_who_may_not_ask_for_it(reconnects: bool) -> None:
    """Nothing tells it from the old one but that its consumer begins anew."""
    with NatsServer(config=users(app=NO_STREAM_INFO)) as server, bus_of(server, "admin") as admin:
        admin.publish("orders.first", b"so that the stream is there")
        with bus_of(server, "app") as bus, Operator(server.address, user="admin") as operator:
            seen = Seen()
            bus.subscribe("orders.x", seen, group="g")
            for number in range(20):
                admin.publish("orders.x", f"old{number}")
            seen.wait(20)
            pause(1.5)  # it is known by now where the group stands
            operator.call("STREAM.DELETE.orders")
            operator.make_stream("orders", "orders.>")
            if reconnects:
                bus.reconnect(10.0)
            new = [f"new{number}".encode() for number in range(30)]
            for payload in new:
                admin.publish("orders.x", payload, timeout=10.0)
            seen.wait(50, 15.0)
            assert seen.payloads[20:] == new


def test_who_may_make_a_durable_and_not_ask_for_it_makes_it_again() -> None:
    with NatsServer(config=users(app=NO_CONSUMER_INFO)) as server, bus_of(server, "app") as bus:
        seen = Seen()
        sub = bus.subscribe("orders.x", seen, group="g")
        bus.publish("orders.x", b"1")
        seen.wait(1)
        pause(1.5)
        with Operator(server.address, user="admin") as operator:
            operator.call(f"CONSUMER.DELETE.orders.{durable_name('g', 'orders.x')}")
        bus.publish("orders.x", b"2")
        assert seen.wait(2) == [b"1", b"2"]
        assert sub.state is SubscriptionState.ACTIVE


def test_a_stream_of_a_pattern_that_may_not_be_pulled_from_is_left_out() -> None:
    with NatsServer(config=users(app=NO_SECRET)) as server, bus_of(server, "admin") as admin:
        for topic in ("orders.x", "secret.x"):
            admin.publish(topic, topic)
        with bus_of(server, "app") as bus:
            seen, told = Seen(), list[str]()
            bus.register_error_callback(lambda event: told.append(str(event.error)))
            sub = bus.subscribe("*.x", seen, group="g")
            assert seen.wait(1) == [b"orders.x"]
            wait_until(lambda: any("is not read from stream 'secret'" in text for text in told))
            assert sub.state is SubscriptionState.ACTIVE
            server.reload(config=users(app={}))
            assert sorted(seen.wait(2)) == [b"orders.x", b"secret.x"]


@pytest.mark.parametrize(("group", "start"), [(BROADCAST, "earliest"), ("late", "latest")])
def test_what_may_be_read_later_brings_no_history_where_none_was_wanted(group: Any, start: str) -> None:
    with NatsServer(config=users(app=NO_BILLS)) as server, bus_of(server, "admin") as admin:
        admin.publish_many([Message("bills.x", b"old") for _ in range(20)])
        admin.publish("orders.x", b"old")
        with bus_of(server, "app") as bus:
            seen = Seen()
            bus.subscribe("*.x", seen, group=group, start=start)
            admin.publish("bills.x", b"meanwhile")
            server.reload(config=users(app={}))
            assert seen.wait(1) == [b"meanwhile"]
            admin.publish("bills.x", b"new")
            assert seen.wait(2) == [b"meanwhile", b"new"]


def test_a_member_of_a_core_group_that_unsubscribes_handles_what_it_was_given() -> None:
    with (
        NatsServer(jetstream=False) as server,
        EventBus({"url": server.url, "jetstream": False}) as bus,
        EventBus({"url": server.url, "jetstream": False}) as other,
    ):
        seen, entered = Seen(), threading.Event()

        def slow(message: Message) -> None:
            entered.set()
            pause(0.005)
            seen(message)

        sub = bus.subscribe("orders.x", slow, group="g")
        other.publish_many([Message("orders.x", str(number)) for number in range(100)])
        assert entered.wait(5.0)
        assert bus.unsubscribe(sub, 5.0)
        assert seen.payloads == [str(number).encode() for number in range(100)]


def test_a_stream_whose_api_nobody_answers_holds_up_nobody() -> None:
    """An account that imports JetStream's API for one stream only."""
    allowed = ("INFO", "STREAM.NAMES", "STREAM.INFO.orders", *(f"CONSUMER.{verb}.orders.>" for verb in VERBS))
    imports = [f"$JS.API.{name}" for name in allowed] + ["$JS.ACK.orders.>", "orders.>"]
    config = f"""
        accounts {{
          A {{ jetstream: enabled, users: [{{user: admin, password: pw}}],
               exports: [{{service: "$JS.API.>", response_type: stream}}, {{service: "$JS.ACK.>"}},
                         {{service: "orders.>"}}] }}
          B {{ users: [{{user: app, password: pw}}],
               imports: {json.dumps([{"service": {"account": "A", "subject": subject}} for subject in imports])} }}
        }}"""
    with NatsServer(config=config) as server, bus_of(server, "admin") as admin, bus_of(server, "app") as bus:
        admin.publish("orders.x", b"1")
        admin.publish("bills.x", b"1")
        seen = Seen()
        sub = bus.subscribe("orders.x", seen, group="g")
        with suppress(SubscribeError):
            bus.subscribe("bills.x", seen, group="g")
        seen.wait(1)
        started = time.monotonic()
        bus.reconnect(10.0)
        wait_until(lambda: sub.state is SubscriptionState.ACTIVE)
        # A look at what is late may be on its way: it has the probe's timeout.
        assert time.monotonic() - started < bus.config.health_check.timeout + 2.5
        admin.publish("orders.x", b"2")
        seen.wait(2)
