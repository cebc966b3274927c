"""Foreign, on Kafka: what other programs write is read, whatever its bytes, and ours is read by them."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from rounds import limit, rounds
from world_support import Seen, end, fresh

from eventbus import TOMBSTONE, Batch, EventBus, Message, PublishManyError, PublishRejectedError, SubscribeError
from eventbus.fields import RawHeaders
from eventbus.testing import KafkaServer, wait_until

pytest.importorskip("confluent_kafka")

import other_kafka_client
import raw_kafka
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from other_kafka_client import Row
from other_kafka_client import row_of as parsed

from eventbus.testing.servers.kafka_jars import get_jars
from eventbus.testing.servers.kafka_source import find_kafka

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]

BINARY = b"\x00\x01\xff\n"
LONG_42 = (42).to_bytes(8, "big")
HEADERS = (("t", BINARY), ("t", None), ("", b""), ("naïve", b"v"))


@pytest.fixture
def bus(kafka_server_shared: KafkaServer) -> Any:
    bus = EventBus({"url": kafka_server_shared.url, "create_topics": False})
    bus.open()
    yield bus
    end(bus)


def new_topic(server: KafkaServer, name: str | None = None) -> str:
    topic = name or fresh("foreign")
    admin = AdminClient({"bootstrap.servers": server.inner_bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10.0)
    return topic


def read(bus: EventBus, topic: str, count: int, group: str | None = None) -> list[Message]:
    """So many messages, and no more of them."""
    seen = Seen()
    subscription = bus.subscribe(topic, seen, group=group or fresh("reader"))
    seen.wait(count, 20.0)
    bus.unsubscribe(subscription)
    assert len(seen.messages) == count
    return seen.messages


def row_of(message: Message) -> Row:
    value = None if message.is_tombstone else message.payload
    return message.raw_key, value, message.raw_headers


# -- names of headers that are no text -----------------------------------------------------------

NAMES: list[list[bytes]] = [
    [b"bad\xff"],
    [b"fine", b"\xff\xfe", b"fine too"],
    [b"\x80", b"\x80", b"ok"],
    [b"\xed\xa0\x80"],  # a surrogate
    [b"\xf4\x90\x80\x80", "schön".encode()],
    [b"\xc3" * 200],
    [b"", b"ok"],
]


def test_no_name_of_a_header_ends_the_process(bus: EventBus, kafka_server_shared: KafkaServer) -> None:
    topic = new_topic(kafka_server_shared)
    rows = [(str(place).encode(), [(name, b"v") for name in names]) for place, names in enumerate(NAMES)]
    raw_kafka.produce(kafka_server_shared.bootstrap, topic, [*rows, (b"last", [])])
    messages = read(bus, topic, len(NAMES) + 1)
    for names, message in zip(NAMES, messages, strict=False):
        lost = False
        for name, (read_as, value) in zip(names, message.raw_headers, strict=True):
            assert value == b"v"
            if not lost or _is_text(name):
                assert read_as.encode(errors="surrogateescape") == name
            lost |= not _is_text(name)
        assert dict(message.headers) == dict.fromkeys(message.headers, "v")
        assert all(shown.isprintable() and message.headers[shown] == "v" for shown in message.headers)
        assert message.raw_headers == message.raw_headers
    assert dict(messages[0].headers) == {"bad\\xff": "v"}
    assert messages[-1].payload == b"last"


@pytest.mark.parametrize("threshold", [700, 1], ids=["seldom", "amid the reading"])
def test_a_column_of_headers_has_what_the_messages_have(
    bus: EventBus, kafka_server_shared: KafkaServer, threshold: int
) -> None:
    """Whenever the garbage collector runs: before Python 3.12 it may hide that a name was none."""
    topic, found = new_topic(kafka_server_shared), list[tuple[RawHeaders, RawHeaders]]()
    rows = [(b"x", [(name, b"v") for name in names]) for names in [[], *NAMES, [b"ok"]] * 5]
    raw_kafka.produce(kafka_server_shared.bootstrap, topic, rows)
    singly = [message.raw_headers for message in read(bus, topic, len(rows))]

    def handler(batch: Batch) -> None:
        thresholds = gc.get_threshold()
        gc.set_threshold(threshold)
        column = batch.headers
        gc.set_threshold(*thresholds)
        found.extend(zip(column, [message.raw_headers for message in batch], strict=True))

    bus.subscribe(topic, handler, group=fresh("reader"), batch=(len(rows), 0.5))
    wait_until(lambda: len(found) >= len(rows))
    assert all(in_column == alone for in_column, alone in found)
    assert [list(map(itemgetter(1), one)) for one, _ in found] == [list(map(itemgetter(1), one)) for one in singly]
    assert threshold == 1 or [one for one, _ in found] == singly


def test_a_name_that_cannot_be_published_is_refused_and_nothing_else_is(
    bus: EventBus, kafka_server_shared: KafkaServer
) -> None:
    topic, copies = new_topic(kafka_server_shared), new_topic(kafka_server_shared)
    rows = [(b"good", [(b"n", b"1")]), (b"bad", [(b"n\xff", b"2")]), (b"good too", [(b"n", None)])]
    raw_kafka.produce(kafka_server_shared.bootstrap, topic, rows)
    messages = read(bus, topic, 3)
    for message in messages:
        message.topic = copies
    with pytest.raises(PublishManyError) as caught:
        bus.publish_many(messages)
    assert [isinstance(result, PublishRejectedError) for result in caught.value.results] == [False, True, False]
    with pytest.raises(PublishRejectedError, match="not valid Unicode"):
        bus.publish(copies, b"x", headers=messages[1].headers)
    assert [row_of(message) for message in read(bus, copies, 2)] == [row_of(messages[0]), row_of(messages[2])]


def test_a_collection_amid_the_reading_of_headers_hides_nothing(
    bus: EventBus, kafka_server_shared: KafkaServer
) -> None:
    """Before Python 3.12 one may run within `headers()`, and swallow the error that it has noted."""
    topic, count = new_topic(kafka_server_shared), rounds(300, 10_000)
    names = [(b"\xff%d" % number, b"v") for number in range(8)]
    raw_kafka.produce(kafka_server_shared.bootstrap, topic, [(b"x", names)] * count)
    messages = read(bus, topic, count)
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for message in messages:
            shown = [value for _, value in message.raw_headers]
            assert shown == [b"v"] * 8
            assert len(repr(message.headers)) > 8
    finally:
        gc.set_threshold(*thresholds)


def _is_text(data: bytes) -> bool:
    try:
        return bool(data.decode() or True)
    except UnicodeDecodeError:
        return False


# -- names of topics and groups ------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["n" * 249, "a..b", ".hidden"], ids=lambda name: name[:9])
def test_a_topic_with_any_name_that_kafka_takes(kafka_server_shared: KafkaServer, topic: str) -> None:
    with EventBus(kafka_server_shared.url) as bus:
        with pytest.raises(PublishRejectedError, match="its name is none for a new one"):
            bus.publish(topic, b"x", timeout=10.0)
        new_topic(kafka_server_shared, topic)
        assert bus.publish(topic, b"there", timeout=10.0).topic == topic
        assert [message.payload for message in read(bus, topic, 1)] == [b"there"]


def test_groups_with_any_name_that_kafka_takes(bus: EventBus, kafka_server_shared: KafkaServer) -> None:
    topic = new_topic(kafka_server_shared)
    bus.publish(topic, b"x")
    for group in ("g" * 500, "team:billing/v2", "my app ", "größe", "* >"):
        assert len(read(bus, topic, 1, group=fresh(group))) == 1
    with EventBus({"url": kafka_server_shared.url, "group": "my group: one"}) as other:
        seen = Seen()
        other.subscribe(topic, seen)
        seen.wait(1, 20.0)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "n" * 250, "a\n", "a\x00"])
def test_what_kafka_does_not_take_is_refused_at_the_door(bus: EventBus, name: str) -> None:
    with pytest.raises(PublishRejectedError, match="bad topic"):
        bus.publish(name, b"x")
    with pytest.raises(SubscribeError, match="bad topic"):
        bus.subscribe(name, print, group="g")


@pytest.mark.parametrize("group", ["", "a\nb", "a\x00", "\udcff", "g" * 10_001])
def test_a_group_that_no_program_could_use(bus: EventBus, group: str) -> None:
    with pytest.raises(SubscribeError, match="bad group"):
        bus.subscribe("t", print, group=group)


# -- other clients -------------------------------------------------------------------------------

OURS: list[Row] = [
    (LONG_42, b"a", HEADERS),
    (None, b"x" * 3000, ()),
    (LONG_42, None, ()),
    (b"", b"", (("a b", b" "), ("a b", BINARY))),
    ("schlüssel".encode(), b'{"a":1}', (("trace", b"1\n2"),)),
]


def publish_ours(bus: EventBus, topic: str) -> list[Row]:
    """What they read: our id is a header among theirs."""
    messages = [
        Message(topic, TOMBSTONE if value is None else value, key=key, headers=fields) for key, value, fields in OURS
    ]
    receipts = bus.publish_many(messages)
    ids = [(("Eventbus-Id", receipt.id.encode()),) for receipt in receipts]
    return [(key, value, own + fields) for own, (key, value, fields) in zip(ids, OURS, strict=True)]


class Java:
    """Java's own client, run from `KafkaClient.java`."""

    def __init__(self, server: KafkaServer) -> None:
        self._bootstrap = server.bootstrap

    def run(self, what: str, *arguments: str) -> list[str]:
        source = find_kafka(external=False, docker=False)
        program = Path(__file__).with_name("KafkaClient.java")
        command = [source.java, "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
        command += ["-cp", f"{get_jars()}/*", str(program), what, self._bootstrap, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50.0, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def read(self, topic: str, count: int) -> list[Row]:
        return [parsed(line) for line in self.run("read", topic, str(count))]


@pytest.fixture(scope="module")
def java(kafka_server_shared: KafkaServer) -> Java:
    source = find_kafka(external=False, docker=False)
    if source.kind != "java":
        pytest.skip(f"Java's client needs Java and Kafka's jars, not {source}")
    listed = subprocess.run([source.java, "--list-modules"], capture_output=True, text=True, timeout=20.0, check=False)
    if "jdk.compiler" not in listed.stdout:
        pytest.skip("not applicable: this Java runs no sources, it has no compiler")
    return Java(kafka_server_shared)


def test_java_s_records_in_every_compression(bus: EventBus, kafka_server_shared: KafkaServer, java: Java) -> None:
    topic = new_topic(kafka_server_shared)
    java.run("write", topic)
    rows = [row_of(message) for message in read(bus, topic, 15)]
    for place, codec in enumerate((b"none", b"gzip", b"snappy", b"lz4", b"zstd")):
        expected: list[Row] = [(LONG_42, codec, HEADERS), (None, b"x" * 3000, ()), (LONG_42, None, ())]
        assert rows[place * 3 : place * 3 + 3] == expected


def test_java_s_transactions_without_the_aborted(bus: EventBus, kafka_server_shared: KafkaServer, java: Java) -> None:
    topic = new_topic(kafka_server_shared)
    java.run("transact", topic)
    texts = [message.text() for message in read(bus, topic, 9)]
    assert texts == [f"kept {turn}.{number}" for turn in (0, 2, 4) for number in range(3)]


def test_java_reads_what_we_write_in_every_compression(kafka_server_shared: KafkaServer, java: Java) -> None:
    topic = new_topic(kafka_server_shared)
    expected: list[Row] = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        with EventBus({"url": kafka_server_shared.url, "producer": {"compression.type": codec}}) as bus:
            expected += publish_ours(bus, topic)
    assert java.read(topic, len(expected)) == expected


@pytest.mark.parametrize(("client", "module"), [("kafka-python", "kafka"), ("aiokafka", "aiokafka")])
def test_beside_another_python_client(
    bus: EventBus, kafka_server_shared: KafkaServer, client: str, module: str
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"not applicable: {client} is not installed")
    theirs, ours = new_topic(kafka_server_shared), new_topic(kafka_server_shared)

    def run(verb: str, topic: str, *rest: str, given: str = "") -> list[Row]:
        program = [
            sys.executable,
            other_kafka_client.__file__,
            client,
            verb,
            kafka_server_shared.bootstrap,
            topic,
            *rest,
        ]
        done = subprocess.run(program, input=given, capture_output=True, text=True, timeout=50.0, check=False)
        assert done.returncode == 0, done.stderr
        return [parsed(line) for line in done.stdout.splitlines()]

    rows: list[Row] = [
        (LONG_42, b"a", (("t", BINARY), ("t", b""), ("naïve", b"v"))),
        (None, b"x", ()),
        (b"k", None, ()),
    ]
    run("write", theirs, given="\n".join(map(other_kafka_client.line_of, rows)))
    assert [row_of(message) for message in read(bus, theirs, len(rows))] == rows
    expected = publish_ours(bus, ours)
    assert run("read", ours, str(len(expected))) == expected
