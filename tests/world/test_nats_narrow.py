"""Narrow, on NATS: accounts that may do little; what they may do works, and what is refused is said of itself alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from rounds import limit, rounds
from world_support import Seen, end

from eventbus import EventBus, PublishRejectedError, SubscribeError, Subscription, SubscriptionState
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]

READS_INBOX = {"subscribe": {"allow": ["_INBOX.>"]}}
PUBLISHER = {"publish": {"allow": ["orders.>"]}, **READS_INBOX}
DURABLE = ("$JS.API.CONSUMER.INFO.orders.*", "$JS.API.CONSUMER.MSG.NEXT.orders.*", "$JS.ACK.orders.>")
WORKER = {"publish": {"allow": ["$JS.API.INFO", *DURABLE]}, **READS_INBOX}
BARE = {"publish": {"allow": ["$JS.API.CONSUMER.MSG.NEXT.orders.*", "$JS.ACK.orders.>"]}, **READS_INBOX}
MUTE = {"publish": {"deny": ["$JS.ACK.>"]}}
DENIED = {"subscribe": {"deny": ["secret.>"]}}


def users(**permissions: dict[str, Any]) -> str:
    """The configuration of a server with the user `admin` and one more for each argument."""
    others = [{"user": name, "password": "pw", "permissions": rules} for name, rules in permissions.items()]
    return f"authorization {{ users: {json.dumps([{'user': 'admin', 'password': 'pw'}, *others])} }}"


@pytest.fixture
def server() -> Iterator[NatsServer]:
    config = users(publisher=PUBLISHER, worker=WORKER, bare=BARE, denied=DENIED, mute=MUTE)
    with NatsServer(config=config) as made:
        yield made


def bus_of(server: NatsServer, user: str, **settings: object) -> EventBus:
    return EventBus({"url": f"nats://{user}:pw@{server.address[0]}:{server.address[1]}", **settings})


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


@pytest.mark.parametrize(
    ("jetstream", "taken"),
    [
        (False, {"subscribe": {"deny": ["orders.>"]}}),
        (True, {"publish": {"deny": ["$JS.API.CONSUMER.MSG.NEXT.>"]}}),
        (True, {"publish": {"deny": ["$JS.API.CONSUMER.>", "$JS.API.STREAM.>"]}}),
    ],
)
@pytest.mark.parametrize("watched", [True, False])
def test_a_permission_that_is_taken_away_fails_the_subscription_until_it_is_back(
    jetstream: bool, taken: dict[str, Any], watched: bool
) -> None:
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
        wait_until(lambda: sub.state is SubscriptionState.FAILED, 15.0)
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
