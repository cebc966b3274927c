"""Far, on NATS: several addresses, some of them dead; servers that answer oddly; members that come and go."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from rounds import limit
from world_support import Seen, end

from eventbus import ConnectFailedError, EventBus, Message, SubscriptionState
from eventbus.backends.nats.link.addresses import ServerPool, parse_server
from eventbus.testing import NatsServer, TcpProxy, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]


@pytest.fixture
def swallowing() -> Iterator[tuple[str, int]]:
    """An address on loopback that answers no SYN: the queue of its listener is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


@pytest.mark.parametrize("dead", ["swallows", "refuses"])
def test_the_other_address_of_a_name_is_tried_beside_a_dead_one(
    nats_server: NatsServer, swallowing: tuple[str, int], dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, first = socket.getaddrinfo, swallowing if dead == "swallows" else ("127.0.0.2", 1)

    def two_addresses(host: Any, *rest: Any, **named: Any) -> Any:
        if host != "nats.example.test":
            return resolve(host, *rest, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in (first, nats_server.address)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    bus = EventBus("nats://nats.example.test:4222?connect_timeout=5")
    try:
        started = time.monotonic()
        bus.open()
        assert time.monotonic() - started < 2.0
        nats_server.restart()
        wait_until(lambda: bus.get_connection_state().reconnect_count and bus.wait_connected(0.0), 5.0)
    finally:
        end(bus)


def test_one_server_without_jetstream_is_no_answer_of_the_other(nats_server: NatsServer) -> None:
    with NatsServer(jetstream=False) as odd:
        for _ in range(4):  # they are tried in any order
            bus = EventBus({"url": f"{odd.url},{nats_server.url.removeprefix('nats://')}"})
            try:
                bus.open()
                assert bus.publish("orders.new", b"x").confirmed
            finally:
                end(bus)
        bus = EventBus(odd.url)
        with pytest.raises(ConnectFailedError, match="JetStream is not enabled"):
            bus.open()


def test_at_200_ms_it_opens_publishes_consumes_and_comes_back(nats_server: NatsServer) -> None:
    with TcpProxy(*nats_server.address) as proxy:
        proxy.delay(0.1)
        bus, seen = EventBus(nats_server.url_at(*proxy.address)), Seen()
        try:
            bus.open()
            bus.subscribe("far.*", seen, group="group")
            assert bus.publish("far.a", b"1", timeout=5.0).confirmed
            seen.wait(1, 5.0)
            proxy.cut()
            started = time.monotonic()
            assert bus.publish("far.a", b"2", timeout=10.0).confirmed
            assert time.monotonic() - started < 0.5 + 15 * 0.2 + 1.0  # a handshake takes six round trips
            seen.wait(2, 10.0)
        finally:
            end(bus)


def test_servers_that_are_announced_no_more_are_forgotten() -> None:
    pool = ServerPool(["a:4222"])
    source = parse_server("a:4222")
    pool.learn(["b:4222", "c:4222"], source)
    pool.learn(["c:4222", "d:4222"], source)
    assert {str(one) for one in pool.in_order()} == {"a:4222", "c:4222", "d:4222"}
    pool.learn(None, source)  # a server alone says nothing
    assert len(pool.in_order()) == 3


@pytest.mark.parametrize("jetstream", [True, False])
def test_200_subscriptions_at_100_ms_open_together_and_come_back_together(
    nats_server: NatsServer, jetstream: bool
) -> None:
    """Open and attached within 2 s (a slow machine has 4), served within 3 s of the server's answer."""
    with TcpProxy(*nats_server.address) as proxy:
        bus, seen = EventBus({"url": nats_server.url_at(*proxy.address), "jetstream": jetstream}), Seen()
        subs = [bus.subscribe(f"far{number % 7}.t{number}", seen, group="g") for number in range(200)]
        proxy.delay(0.05)
        try:
            started = time.monotonic()
            bus.open()
            wait_until(lambda: {sub.state for sub in subs} == {SubscriptionState.ACTIVE})
            assert time.monotonic() - started < 4.0
            nats_server.kill()
            nats_server.start()
            restarted = time.monotonic()
            wait_until(lambda: bus.get_connection_state().reconnect_count == 1)
            wait_until(lambda: {sub.state for sub in subs} == {SubscriptionState.ACTIVE})
            assert time.monotonic() - restarted < 5.0
            with EventBus({"url": nats_server.url, "jetstream": jetstream}) as other:
                other.publish_many([Message(sub.topic, sub.topic) for sub in subs], timeout=10.0)
            assert sorted(seen.wait(200, 10.0)) == sorted(sub.topic.encode() for sub in subs)
        finally:
            end(bus)
