"""What is written into the properties, what is refused, and answers that are not Kafka's."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from testing_support import Target

from eventbus.testing import KafkaServer, ServerFailed
from eventbus.testing.servers.kafka_options import FAST, KafkaOptions, Layout, Seat, properties, render
from eventbus.testing.servers.kafka_wire import find_coordinator, read_cluster, string


def layout(size: int = 1) -> Layout:
    """Return where the first of some brokers listens."""
    voters = {node: ("127.0.0.1", 9300 + node) for node in range(1, size + 1)}
    return Layout(Seat(1, "c", voters), "127.0.0.1", 9092, 9093, 9999, "/store")


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": "alice"},
        {"password": "x"},
        {"mechanism": "SCRAM-SHA-256"},
        {"user": "a", "password": "x", "mechanism": "GSSAPI"},
        {"user": "a", "password": "x", "mechanism": "OAUTHBEARER"},
        {"user": "a=b", "password": "x"},
        {"verify_clients": True},
        {"settings": {"listeners": "PLAINTEXT://0.0.0.0:9092"}},
        {"settings": {"two words": 1}},
        {"settings": {"a=b": 1}},
        {"settings": {"": 1}},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"together|needs|tokens|no such mechanism|letters|itself|not the name"):
        KafkaServer(**wrong)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="setings"):
        KafkaServer(setings={})


def test_what_a_server_was_not_made_with_is_not_there() -> None:
    server = KafkaServer()
    with pytest.raises(ServerFailed, match="without proxied=True"):
        _ = server.proxy
    with pytest.raises(ServerFailed, match="without acl=True"):
        _ = server.access
    with pytest.raises(ServerFailed, match="never started"):
        server.freeze()
    assert (server.pid, server.running, server.log(), server.ready_time) == (0, False, "", 0.0)
    server.kill()
    server.stop()
    server.close()


def test_fast_settings_give_way_to_kafkas_own_and_both_to_given_ones() -> None:
    fast = properties(KafkaOptions(), layout())
    assert fast["broker.session.timeout.ms"] == 1000
    slow = properties(KafkaOptions(fast=False), layout())
    assert not set(FAST) & set(slow)
    given = properties(KafkaOptions(settings={"broker.session.timeout.ms": 2000, "x.y": True}), layout())
    assert given["broker.session.timeout.ms"] == 2000
    assert "x.y=true" in render(KafkaOptions(settings={"x.y": True}), layout()).splitlines()


@pytest.mark.parametrize(("size", "copies", "needed"), [(1, 1, 1), (2, 2, 2), (3, 3, 2), (5, 3, 2)])
def test_topics_have_as_many_copies_as_there_are_brokers_for(size: int, copies: int, needed: int) -> None:
    found = properties(KafkaOptions(), layout(size))
    assert found["default.replication.factor"] == found["offsets.topic.replication.factor"] == copies
    assert found["min.insync.replicas"] == needed
    voters = ",".join(f"{node}@127.0.0.1:{9300 + node}" for node in range(1, size + 1))
    assert found["controller.quorum.voters"] == voters


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("back\\slash", "back\\\\slash"),
        (" leading", "\\ leading"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("tab\there", "tab\\u0009here"),
        ("ü", "\\u00fc"),
        ("\N{GRINNING FACE}", "\\ud83d\\ude00"),
    ],
)
def test_values_are_written_as_java_reads_them(value: str, text: str) -> None:
    lines = render(KafkaOptions(settings={"mine": value}), layout()).splitlines()
    assert lines[-1] == f"mine={text}"


@pytest.mark.parametrize(("mechanism", "digest"), [("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-512", "sha512")])
def test_a_scram_password_is_salted(mechanism: Any, digest: str) -> None:
    options = KafkaOptions(user="alice", password="pässword", mechanism=mechanism)
    found = re.fullmatch(
        rf'{mechanism}=\[name=alice,salt="([^"]+)",saltedpassword="([^"]+)",iterations=4096\]',
        options.scram_credential(),
    )
    assert found is not None
    salt, salted = map(base64.b64decode, found.groups())
    assert salted == hashlib.pbkdf2_hmac(digest, "pässword".encode(), salt, 4096)
    assert options.scram_credential() != options.scram_credential()
    assert KafkaOptions(user="alice", password="x").scram_credential() == ""


# -- what a broker may answer --------------------------------------------------------------------


@contextmanager
def answering(target: Target, make: Callable[[int], bytes]) -> Iterator[tuple[str, int]]:
    """Answer the next question with what `make` makes of its number, and hang up."""

    def serve() -> None:
        with target.listener.accept()[0] as sock:
            sock.settimeout(5.0)
            sock.sendall(make(struct.unpack(">i", sock.recv(4096)[8:12])[0]))

    thread = threading.Thread(target=serve, name="eventbus.testing.answer")
    thread.start()
    try:
        yield target.address
    finally:
        thread.join(5.0)


def framed(number: int, body: bytes) -> bytes:
    """Return an answer."""
    return struct.pack(">ii", len(body) + 4, number) + body


def test_a_view_of_the_cluster_is_read(target: Target) -> None:
    brokers = struct.pack(">ii", 2, 7) + string("h") + struct.pack(">ih", 9092, -1)
    brokers += struct.pack(">i", 8) + string("h") + struct.pack(">i", 9093) + string("rack")
    partition = struct.pack(">hii", 0, 1, 7) + struct.pack(">iii", 2, 7, 8) + struct.pack(">ii", 1, 7)
    topics = struct.pack(">ih", 1, 0) + string("orders") + struct.pack(">bi", 0, 1) + partition
    body = brokers + string("id") + struct.pack(">i", 7) + topics
    with answering(target, lambda number: framed(number, body)) as address:
        view = read_cluster(address, 5.0)
    assert (view.cluster_id, view.brokers) == ("id", {7, 8})
    (found,) = view.partitions
    assert (found.topic, found.index, found.leader) == ("orders", 1, 7)
    assert (found.replicas, found.in_sync) == ((7, 8), (7,))
    assert view.has_leaders
    assert not view.in_sync


@pytest.mark.parametrize(
    "make",
    [
        lambda number: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda number: framed(number + 1, b""),
        lambda number: framed(number, struct.pack(">ii", 1, 7)),
        lambda number: struct.pack(">ii", 400, number),
        lambda number: struct.pack(">i", -1),
        lambda number: b"",
    ],
    ids=["http", "another number", "too short", "cut off", "negative", "nothing"],
)
def test_what_is_not_kafka_is_an_os_error(target: Target, make: Callable[[int], bytes]) -> None:
    with answering(target, make) as address, pytest.raises(ConnectionError):
        read_cluster(address, 5.0)


def test_a_broker_that_is_silent_is_an_os_error(target: Target) -> None:
    with pytest.raises(TimeoutError):
        read_cluster(target.address, 0.05)


@pytest.mark.parametrize(("error", "found"), [(0, 3), (15, None)])
def test_a_coordinator_that_is_not_there_is_none(target: Target, error: int, found: int | None) -> None:
    body = struct.pack(">ihh", 0, error, -1) + struct.pack(">i", 3) + string("h") + struct.pack(">i", 9092)
    with answering(target, lambda number: framed(number, body)) as address:
        assert find_coordinator(address, "group", 5.0) == found
