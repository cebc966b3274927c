"""The plugin from outside: a pytest of its own, with and without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from testing_support import run_pytest

USES = """
    import socket, threading
    from eventbus.testing import TcpProxy

    def test_fixtures(eventbus_leaks, nats_server, nats_server_shared, tcp_proxy, certificates):
        assert nats_server.port != nats_server_shared.port
        proxy = tcp_proxy(*nats_server.address)
        with socket.create_connection(proxy.address, 5.0) as client:
            client.settimeout(5.0)
            assert client.recv(100).startswith(b"INFO")
        assert certificates.ca.exists()
"""
USES_KAFKA = """
    def test_fixtures(eventbus_leaks, kafka_server, kafka_server_shared, mock_kafka):
        assert kafka_server.bootstrap != kafka_server_shared.bootstrap
        assert kafka_server.answers() and kafka_server_shared.view().brokers == {1}
        mock = mock_kafka(3)
        assert len(mock.bootstrap.split(",")) == 3
"""
LEAKS = """
    import threading

    def test_leak(eventbus_leaks):
        eventbus_leaks._grace = 0.05
        wait = threading.Event().wait
        threading.Thread(target=wait, args=(20,), name="eventbus.left", daemon=True).start()
"""


@pytest.mark.nats
@pytest.mark.parametrize("spread", [(), ("-p", "xdist", "-n", "1")], ids=["here", "in a worker"])
def test_the_fixtures_work_together(tmp_path: Path, spread: tuple[str, ...]) -> None:
    if spread:
        pytest.importorskip("xdist")
    code, output = run_pytest(tmp_path, USES, "-W", "error", *spread)
    assert code == 0, output
    assert "eventbus: tests used NATS: " in output


def test_the_leak_guard_fails_a_test(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, LEAKS)
    assert code == 1, output
    assert "something was left behind" in output
    assert "thread eventbus.left" in output


@pytest.mark.kafka
def test_the_fixtures_of_kafka_work_together(tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka")
    code, output = run_pytest(tmp_path, USES_KAFKA, "-W", "error")
    assert code == 0, output
    assert "eventbus: tests used Kafka: " in output


@pytest.mark.parametrize("broker", ["nats", "kafka"])
def test_without_a_server_it_skips_with_the_reason(tmp_path: Path, broker: str) -> None:
    text = f"def test_it({broker}_server): ..."
    code, output = run_pytest(tmp_path, text, **{f"EVENTBUS_TEST_{broker.upper()}": "127.0.0.1:9"})
    assert code == 0, output
    assert "1 skipped" in output
    assert "does not answer" in output
    assert "tests used" not in output


@pytest.mark.parametrize("fixture", ["kafka_server_shared", "kafka_cluster"])
def test_without_java_it_skips_with_the_reason(tmp_path: Path, fixture: str) -> None:
    nothing = {"PATH": str(tmp_path), "JAVA_HOME": "", "DOCKER_HOST": "unix:///no/such/socket"}
    code, output = run_pytest(tmp_path, f"def test_it({fixture}): ...", **nothing)
    assert code == 0, output
    assert "1 skipped" in output
    assert "no java (JAVA_HOME is not set, and none on PATH)" in output


@pytest.mark.parametrize("broker", ["nats", "kafka"])
def test_without_a_server_it_fails_in_ci(tmp_path: Path, broker: str) -> None:
    text = f"def test_it({broker}_server): ..."
    code, output = run_pytest(tmp_path, text, CI="true", **{f"EVENTBUS_TEST_{broker.upper()}": "127.0.0.1:9"})
    assert code == 1, output
    assert "CI is set" in output


def test_it_imports_nothing_that_it_does_not_use_yet() -> None:
    code = "import sys, eventbus.testing.plugin; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(answer.stdout.split())
    ours = {name for name in loaded if name.startswith("eventbus.testing.")}
    assert ours == {"eventbus.testing.plugin"}
    assert not {"docker", "confluent_kafka"} & loaded


def test_the_test_tools_do_without_confluent_kafka() -> None:
    code = "import sys, eventbus.testing as t; t.KafkaServer, t.KafkaCluster, t.MockKafka; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "eventbus.testing.servers.kafka_mock" in answer.stdout.split()
    assert "confluent_kafka" not in answer.stdout.split()
