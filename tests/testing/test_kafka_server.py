"""A real Kafka broker: its life, its deaths, and what it keeps over them."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka_support import KafkaError, consume, listening, make_topic, metadata, produce, refusal

from eventbus.testing import Certificates, KafkaServer, ServerFailed, wait_until
from eventbus.testing.servers.kafka_source import find_kafka

pytestmark = pytest.mark.kafka


def refused(port: int) -> bool:
    """Whether nobody listens at a port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def states(pid: int) -> set[str]:
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return {task.read_text().rpartition(")")[2].split()[0] for task in tasks}


def test_it_starts_on_loopback_and_knows_when(kafka_server: KafkaServer) -> None:
    now = time.monotonic()
    assert kafka_server.running
    assert kafka_server.address == ("127.0.0.1", kafka_server.port)
    assert kafka_server.bootstrap == f"127.0.0.1:{kafka_server.port}"
    assert kafka_server.url == f"kafka://{kafka_server.bootstrap}"
    assert kafka_server.client_options == {}
    assert now - 10.0 < kafka_server.ready_time < now
    make_topic(kafka_server, "first", partitions=2)
    assert produce(kafka_server, "first", b"a", b"b") == [0, 0]
    assert sorted(consume(kafka_server, "first", 2)) == [b"a", b"b"]
    if kafka_server.pid:
        addresses = listening(kafka_server.pid)
        assert (set(addresses), len(addresses)) == ({"127.0.0.1"}, 3)


def test_kill_ends_it_and_restart_keeps_port_topics_and_offsets(kafka_server: KafkaServer) -> None:
    make_topic(kafka_server, "kept")
    assert produce(kafka_server, "kept", b"one", b"two") == [0, 0]
    assert consume(kafka_server, "kept", 1) == [b"one"]
    port, pid = kafka_server.port, kafka_server.pid
    kafka_server.kill()
    assert not kafka_server.running
    assert refused(port)
    assert not kafka_server.answers(0.2)
    killed = time.monotonic()
    kafka_server.restart()
    assert kafka_server.port == port
    assert kafka_server.pid != pid
    assert killed < kafka_server.ready_time < killed + 8.0, "fast settings were to make this quick"
    assert consume(kafka_server, "kept", 1) == [b"two"]


def test_an_orderly_stop_keeps_the_topics_and_lose_state_loses_them(kafka_server: KafkaServer) -> None:
    make_topic(kafka_server, "lost")
    with pytest.raises(ServerFailed, match="stopped or killed"):
        kafka_server.lose_state()
    kafka_server.restart(hard=False)
    assert [each.topic for each in kafka_server.view().partitions] == ["lost"]
    kafka_server.stop()
    kafka_server.stop()
    assert not kafka_server.running
    kafka_server.lose_state()
    kafka_server.start()
    assert kafka_server.view().partitions == ()
    make_topic(kafka_server, "lost")


def test_freeze_stands_still_with_open_connections_and_thaw_goes_on(kafka_server: KafkaServer) -> None:
    with socket.create_connection(kafka_server.address, 5.0) as before:
        kafka_server.freeze()
        assert kafka_server.running
        assert states(kafka_server.pid) == {"T"}
        assert not kafka_server.answers(0.2), "a frozen broker answered"
        kafka_server.thaw()
        assert "T" not in states(kafka_server.pid)
        kafka_server.wait_ready(5.0)
        before.settimeout(0.05)
        with pytest.raises(TimeoutError):  # neither an end nor a reset
            before.recv(1)


@pytest.mark.parametrize("end", [KafkaServer.kill, KafkaServer.stop])
def test_a_frozen_server_can_be_ended(kafka_server: KafkaServer, end: Callable[[KafkaServer], None]) -> None:
    kafka_server.freeze()
    started = time.monotonic()
    end(kafka_server)
    assert time.monotonic() - started < 5.0
    assert not kafka_server.running
    kafka_server.kill()
    for act in (kafka_server.freeze, kafka_server.thaw):
        with pytest.raises(ServerFailed, match="not running"):
            act()


def test_settings_are_taken_and_changed_ones_at_the_next_start() -> None:
    too_large = KafkaError.MSG_SIZE_TOO_LARGE
    with KafkaServer(settings={"message.max.bytes": 500}) as server:
        make_topic(server, "small")
        assert produce(server, "small", b"x" * 100, b"x" * 1000) == [0, too_large]
        server.reconfigure(settings={"message.max.bytes": 5000})
        server.restart(hard=False)
        assert produce(server, "small", b"x" * 1000) == [0]


def test_a_password_an_awkward_one_and_rights_denied_and_restored() -> None:
    password = 's3"cr\\et ,=ü'
    with KafkaServer(user="alice", password=password, acl=True) as server:
        assert server.client_options == {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "alice",
            "sasl.password": password,
        }
        make_topic(server, "hers")
        assert produce(server, "hers", b"1") == [0]
        refusal(server, "uthentication failed", sasl_password="wrong")
        server.access.deny("alice", "hers", operation="WRITE")
        assert produce(server, "hers", b"2") == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
        server.access.deny("alice", "hers")
        assert metadata(server, "hers").topics["hers"].error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        server.access.restore("alice", "hers")
        server.access.restore("alice", "hers", operation="WRITE")
        server.access.restore("alice", "hers", kind="group")
        assert produce(server, "hers", b"3") == [0]
        server.reconfigure(password="new")
        server.restart(hard=False)
        assert server.client_options["sasl.password"] == "new"
        assert consume(server, "hers", 2) == [b"1", b"3"]


def test_scram_over_tls(certificates: Certificates) -> None:
    options: dict[str, Any] = {"user": "alice", "password": 's3 ,]"x', "mechanism": "SCRAM-SHA-512"}
    with KafkaServer(**options, tls=certificates) as server:
        assert server.client_options["security.protocol"] == "SASL_SSL"
        make_topic(server, "secret")
        assert produce(server, "secret", b"1") == [0]
        refusal(server, "uthentication failed", sasl_password="wrong")
        server.restart()
        assert consume(server, "secret", 1) == [b"1"]


def test_scram_without_tls() -> None:
    with KafkaServer(user="bob", password="x", mechanism="SCRAM-SHA-256") as server:
        assert server.client_options["security.protocol"] == "SASL_PLAINTEXT"
        assert set(metadata(server).brokers) == {1}


def test_tls_for_those_who_know_the_authority(certificates: Certificates) -> None:
    with KafkaServer(tls=certificates) as server:
        assert server.client_options == {"security.protocol": "SSL", "ssl.ca.location": str(certificates.ca)}
        assert set(metadata(server).brokers) == {1}
        refusal(server, "certificate verify failed", ssl_ca_location=str(certificates.other_ca))


def test_mutual_tls_for_those_whom_the_authority_knows(certificates: Certificates) -> None:
    with KafkaServer(tls=certificates, verify_clients=True) as server:
        assert set(metadata(server).brokers) == {1}
        stranger = {
            "ssl_certificate_location": str(certificates.other_client_cert),
            "ssl_key_location": str(certificates.other_client_key),
        }
        refusal(server, "bad certificate", **stranger)


def test_a_proxy_stands_between_it_and_all_its_clients() -> None:
    with KafkaServer(proxied=True) as server:
        assert server.proxies == [server.proxy]
        assert server.bootstrap == f"127.0.0.1:{server.proxy.port}"
        assert server.port != server.proxy.port
        make_topic(server, "through")
        brokers = metadata(server).brokers
        assert [broker.port for broker in brokers.values()] == [server.proxy.port]
        server.proxy.black_hole()
        timed_out = KafkaError._MSG_TIMED_OUT
        assert produce(server, "through", b"lost", timeout=0.5) == [timed_out]
        assert server.answers(), "the broker itself was to go on"
        server.proxy.accept()
        assert produce(server, "through", b"kept") == [0]
        server.restart()
        assert produce(server, "through", b"again") == [0]
    with pytest.raises(RuntimeError, match="not running"):
        server.proxy.accept()


def test_nothing_is_left_after_close() -> None:
    server = KafkaServer().start()
    directory, pid = Path(f"/proc/{server.pid}/cwd").resolve(), server.pid
    assert directory.is_dir()
    server.close()
    server.close()
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ServerFailed, match="closed"):
        server.freeze()


def test_a_value_that_is_wrong_shows_the_log() -> None:
    with pytest.raises(ServerFailed, match=r"(?s)ended while it was to start.*no.such.compression"):
        KafkaServer(settings={"compression.type": "no.such.compression"}).__enter__()


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerFailed, match=rf"port {port} is taken.*ddress already in use"):
            KafkaServer(port=port).__enter__()


def test_it_is_not_ready_in_no_time_and_says_so() -> None:
    server = KafkaServer()
    try:
        with pytest.raises(ServerFailed, match=r"is not ready after 0.01 s"):
            server.start(timeout=0.01)
        assert server.running
        server.wait_ready()
        with pytest.raises(ServerFailed, match="running already"):
            server.start()
    finally:
        server.close()


def test_the_server_is_there_when_the_thread_that_started_it_is_gone() -> None:
    server = KafkaServer()
    thread = threading.Thread(target=server.start, name="eventbus.testing.starter")
    try:
        thread.start()
        thread.join(30.0)
        assert not thread.is_alive()
        assert server.answers()
    finally:
        server.close()


SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from eventbus.testing import KafkaServer

    server = KafkaServer().start(wait=False)
    print(server.pid, Path(f"/proc/{server.pid}/cwd").resolve(), flush=True)
    if sys.argv[1] == "frozen":
        server.wait_ready()
        server.freeze()
    print("ready", flush=True)
    sys.stdin.read()
    """
)


@contextmanager
def parent(how: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Run the script, which starts a server; yield it, the server's pid and its directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            pid, _, directory = process.stdout.readline().strip().partition(" ")
            assert process.stdout.readline() == "ready\n"
            yield process, int(pid), Path(directory)
        finally:
            process.kill()


def is_alive(pid: int) -> bool:
    """Whether a process is there and not only waiting to be reaped by the init process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["starts", "frozen"])
def test_kill_9_of_the_parent_ends_the_server_and_removes_its_files(how: str) -> None:
    if find_kafka(external=False).kind != "java":
        pytest.skip("not applicable: the process is the docker daemon's")
    with parent(how) as (process, pid, directory):
        assert is_alive(pid)
        assert directory.is_dir()
        process.kill()
        wait_until(lambda: not is_alive(pid), 5.0, message="the server is gone")
        wait_until(lambda: not directory.exists(), 5.0, message="its directory is gone")
