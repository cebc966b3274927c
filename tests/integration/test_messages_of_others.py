"""What other programs wrote, on real brokers: shown, handled and published again without a changed byte."""

from __future__ import annotations

import asyncio
import time
from secrets import token_hex
from typing import Any

import pytest

import eventbus
from eventbus import EventBus, Message
from eventbus.testing import KafkaServer, NatsServer, wait_until

Handled = dict[str, Message]


def forwarding(bus: EventBus, topic: str) -> Any:
    """A handler of a bridge: it publishes what it gets to another topic."""

    def forward(message: Message) -> None:
        bus.publish(topic, message.payload, key=message.raw_key, headers=message.raw_headers)

    return forward


# -- Kafka ----------------------------------------------------------------------------------------

RECORDS: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
    (b"plain", b"key", [("name", b"value")]),
    (b"binary key", b"\xff", []),
    (b"looks like it", b"\\xff", []),
    (b"Java's Long 42", (42).to_bytes(8, "big"), []),
    (b"empty key", b"", []),
    (b"no key", None, []),
    (b"headers", b"key", [("t", b"1"), ("", b""), ("t", b"\x00\xff"), ("my näme", b" 2\n"), ("t", None)]),
    (b"names of ours", b"key", [("Nats-Stream", b"s"), ("eventbus-x", b"x")]),
    (None, b"key", [("why", b"deleted")]),
]


@pytest.mark.kafka
def test_a_bridge_on_kafka_changes_no_byte(kafka_server_shared: KafkaServer) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")
    source, copies = (f"others.{token_hex(4)}.{name}" for name in ("source", "copies"))
    handled: list[Message] = []
    with EventBus(f"{kafka_server_shared.url}?partitions=1") as bus:
        bus.subscribe(source, forwarding(bus, copies), group="bridge")
        bus.subscribe(source, handled.append, group="reader")
        producer = confluent_kafka.Producer({"bootstrap.servers": kafka_server_shared.bootstrap})
        for value, key, headers in RECORDS:
            producer.produce(source, value, key, headers=headers)
        assert producer.flush(10.0) == 0
        wait_until(lambda: len(handled) == len(RECORDS), 20.0)
        read: list[Message] = []
        bus.subscribe(copies, read.append, group="copies")
        wait_until(lambda: len(read) == len(RECORDS), 20.0)
    for messages in (handled, read):
        for (value, key, headers), message in zip(RECORDS, messages, strict=True):
            assert (message.raw_key, message.raw_headers) == (key, tuple(headers))
            assert (message.payload, message.is_tombstone) == (value or b"", value is None)
    assert [message.offset for message in handled] == list(range(len(RECORDS)))
    assert {message.partition for message in handled} == {0}
    assert handled[1].key == handled[2].key == "\\xff"
    assert handled[6].headers == {"t": "", "": "", "my näme": " 2\n"}


@pytest.mark.kafka
def test_a_timestamp_that_is_no_date_is_none(kafka_server_shared: KafkaServer) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")
    from confluent_kafka.admin import AdminClient, NewTopic

    topic = f"others.{token_hex(4)}"
    any_time = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    client = {"bootstrap.servers": kafka_server_shared.bootstrap}
    admin = AdminClient(client)
    admin.create_topics([NewTopic(topic, 1, 1, config=any_time)])[topic].result(10.0)
    now = int(time.time() * 1000)
    producer = confluent_kafka.Producer(client)
    for timestamp in (now, now * 1000, now * 10**6, now):
        producer.produce(topic, b"x", timestamp=timestamp)
    assert producer.flush(10.0) == 0
    times: list[Any] = []
    with EventBus(kafka_server_shared.url) as bus:
        bus.subscribe(topic, lambda message: times.append(message.timestamp), group="reader")
        wait_until(lambda: len(times) == 4, 20.0)
    assert [moment is None for moment in times] == [False, True, True, False]


# -- NATS -----------------------------------------------------------------------------------------


async def _publish_raw(server: NatsServer, topic: str, block: bytes, payload: bytes) -> None:
    """Through nats-py's connection, but for the header block: nats-py itself repeats no name."""
    nats = pytest.importorskip("nats")
    client = await nats.connect(server.url)
    await client.publish(topic, b"plain", headers={"X-Py": "ä"})
    size = len(block)
    await client._send_command(
        b"HPUB %b %d %d\r\n%b%b\r\n" % (topic.encode(), size, size + len(payload), block, payload)
    )
    await client.flush()
    await client.close()


@pytest.mark.nats
@pytest.mark.parametrize("jetstream", [True, False], ids=["jetstream", "nats-core"])
def test_a_bridge_on_nats_changes_no_byte(nats_server_shared: NatsServer, jetstream: bool) -> None:
    name = f"others{token_hex(4)}"
    source, copies = f"{name}.source", f"{name}.copies"
    pairs = (("X-Tag", b"one"), ("x-tag", b""), ("X-Tag", b"two"), ("X-Name", b"Andr\xe9"), ("odd name", b"\xc2\xa0x"))
    lines = b"".join(b"%b: %b\r\n" % (header.encode(), value) for header, value in pairs)
    block = b"NATS/1.0\r\nNats-Msg-Id: an id of theirs\r\n%b\r\n" % lines
    read: list[Message] = []
    handled: list[Message] = []
    with EventBus({"url": nats_server_shared.url, "jetstream": jetstream, "group": "bridge"}) as bus:
        bus.subscribe(copies, read.append)
        bus.subscribe(source, forwarding(bus, copies))
        bus.subscribe(source, handled.append, group="reader")
        bus.publish(f"{name}.ready", b"")
        asyncio.run(_publish_raw(nats_server_shared, source, block, b"raw"))
        wait_until(lambda: len(read) == len(handled) == 2)
        assert handled[1].id == "an id of theirs"
        where = [(message.partition, message.offset) for message in handled]
        assert where == ([(name, 2), (name, 3)] if jetstream else [(None, None)] * 2)
        if not jetstream:
            handled[1].topic = copies
            bus.publish_many([handled[1]])
            wait_until(lambda: len(read) == 3)
            assert read.pop().id == "an id of theirs"
    for messages in (handled, read):
        assert [message.raw_headers for message in messages] == [(("X-Py", "ä".encode()),), pairs]
    assert handled[1].headers["X-Tag"] == "one"
    assert handled[1].headers["X-Name"] == "Andr\\xe9"


@pytest.mark.nats
@pytest.mark.parametrize("jetstream", [True, False], ids=["jetstream", "nats-core"])
@pytest.mark.parametrize("text", ["\u00a0nbsp\u00a0", "\u3000\u5168\u89d2\u3000", "\u2028line", "em\u2003"])
def test_what_unicode_calls_a_space_stays_in_keys_and_headers(
    nats_server_shared: NatsServer, jetstream: bool, text: str
) -> None:
    topic = f"spaces{token_hex(4)}.new"
    got: list[Message] = []
    with eventbus.EventBus({"url": nats_server_shared.url, "jetstream": jetstream, "group": "g"}) as bus:
        bus.subscribe(topic, got.append)
        bus.publish(topic, b"x", key=text, headers={"name": text})
        wait_until(lambda: got)
    assert (got[0].key, dict(got[0].headers)) == (text, {"name": text})
