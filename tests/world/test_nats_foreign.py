"""Foreign, on NATS: nats-py on the other side, both ways, and beside us in our groups."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from nats_py_client import NatsPy
from rounds import limit
from world_support import Seen, end

from eventbus import EventBus, Message
from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(40.0))]
LARGE = b"x" * 900_000
PAYLOADS = [b"", b"\x00\r\n\r\n", b"MSG a 1 2\r\n", b"NATS/1.0\r\n\r\n", "schlüssel".encode(), LARGE]
HEADERS = [None, {}, {"Trace-Id": "1"}, {"empty": "", "Empty": "x"}, {"name": "with: colon"}, {"n" * 300: "v" * 3000}]


@pytest.fixture
def other(nats_server: NatsServer) -> Iterator[NatsPy]:
    with NatsPy(nats_server.url) as made:
        yield made


@pytest.mark.parametrize("jetstream", [True, False])
def test_what_nats_py_writes_is_read_as_it_is(nats_server: NatsServer, other: NatsPy, jetstream: bool) -> None:
    seen = Seen()
    with EventBus({"url": nats_server.url, "jetstream": jetstream}) as bus:
        bus.subscribe("orders.*", seen, group="g")
        sent = [(payload, headers) for payload in PAYLOADS for headers in HEADERS]
        for payload, headers in sent:
            other.publish("orders.new", payload, headers, reply="_INBOX.nobody" if not jetstream else "")
        seen.wait(len(sent))
        assert [message.payload for message in seen.messages] == [payload for payload, _ in sent]
        assert [dict(message.headers) for message in seen.messages] == [headers or {} for _, headers in sent]
        assert {message.raw_key for message in seen.messages} == {None}
        assert {message.id for message in seen.messages} == {None}


def test_its_ids_are_ours(nats_server: NatsServer, other: NatsPy) -> None:
    seen = Seen()
    with EventBus(nats_server.url) as bus:
        bus.subscribe("orders.*", seen, group="g")
        for _ in range(2):
            other.run(other.jetstream.publish("orders.new", b"x", headers={"Nats-Msg-Id": "its-own"}))
        other.run(other.jetstream.publish("orders.new", b"y"))
        seen.wait(2)
        assert [(message.id, message.payload) for message in seen.messages] == [("its-own", b"x"), (None, b"y")]


@pytest.mark.parametrize("jetstream", [True, False])
def test_what_we_write_is_read_by_nats_py(nats_server: NatsServer, other: NatsPy, jetstream: bool) -> None:
    other.subscribe("orders.*")
    with EventBus({"url": nats_server.url, "jetstream": jetstream}) as bus:
        receipts = [
            bus.publish("orders.new", payload, key=key, headers=headers)
            for payload in PAYLOADS
            for key in (None, "key", "schlüssel")
            for headers in (None, {"Trace-Id": "1"}, [("tag", "one"), ("tag", "two")])
        ]
        wait_until(lambda: len(other.got) == len(receipts))
    assert [message.data for message in other.got] == [payload for payload in PAYLOADS for _ in range(9)]
    ids = [receipt.id if not jetstream else f"{receipt.id}/orders.new" for receipt in receipts]
    assert [message.headers["Nats-Msg-Id"] for message in other.got] == ids
    assert [message.headers.get("Eventbus-Key") for message in other.got[:9:3]] == [None, "key", "schlüssel"]
    assert [message.headers.get("Trace-Id") for message in other.got[:3]] == [None, "1", None]


def test_a_core_group_shared_with_nats_py_loses_nothing_as_ours_come_and_go(
    nats_server: NatsServer, other: NatsPy
) -> None:
    other.subscribe("orders.*", queue="g")
    seen, bus, writer = Seen(), EventBus({"url": nats_server.url, "jetstream": False}), NatsPy(nats_server.url)
    sent = 0
    try:
        bus.open()
        with writer:
            for turn in range(12):
                sub = bus.subscribe("orders.*", seen, group="g")
                for _ in range(300):
                    writer.run(writer.client.publish("orders.new", str(sent).encode()))
                    sent += 1
                if turn % 3:
                    bus.reconnect(5.0)
                assert bus.unsubscribe(sub, 5.0)
            writer.run(writer.client.flush())
        wait_until(lambda: len(seen.payloads) + len(other.got) >= sent)
        taken = sorted(int(payload) for payload in [*seen.payloads, *(message.data for message in other.got)])
        assert taken == list(range(sent))
        assert seen.payloads and other.got
    finally:
        end(bus)


def test_a_durable_shared_with_nats_py_gives_each_message_to_one_of_both(
    nats_server: NatsServer, other: NatsPy
) -> None:
    seen, taken = Seen(), list[bytes]()
    with EventBus({"url": nats_server.url, "prefetch": 20}) as bus:
        bus.subscribe("orders.*", seen, group="g")
        bus.publish_many([Message("orders.new", str(number)) for number in range(2000)])
        while len(taken) + len(seen.payloads) < 2000:
            taken += [message.data for message in other.take("orders", durable_name("g", "orders.*"), 50)]
        assert sorted(map(int, [*taken, *seen.payloads])) == list(range(2000))


def test_a_consumer_that_nats_py_made_is_obeyed(nats_server: NatsServer, other: NatsPy) -> None:
    other.run(other.jetstream.add_stream(name="SHOP", subjects=["orders.*"], max_msgs=1000))
    other.run(other.jetstream.publish("orders.new", json.dumps({"n": 1}).encode()))
    other.run(other.jetstream.pull_subscribe("orders.*", durable="worker", stream="SHOP"))
    seen = Seen()
    with EventBus({"url": nats_server.url, "stream_name": "SHOP", "durable": "worker"}) as bus:
        bus.subscribe("orders.*", seen, group="any")
        assert bus.publish("orders.new", {"n": 2}).offset == 2
        assert [json.loads(payload)["n"] for payload in seen.wait(2)] == [1, 2]
        info = other.run(other.jetstream.consumer_info("SHOP", "worker"))
        wait_until(lambda: other.run(other.jetstream.consumer_info("SHOP", "worker")).num_ack_pending == 0)
        assert info.config.durable_name == "worker"
