"""A real PostgreSQL: its life, its deaths, and what it keeps over them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from eventbus.testing import PostgresServer, ServerFailed, ServerUnavailable, wait_until
from eventbus.testing.servers import postgres_source
from eventbus.testing.servers.guardian import children_of
from eventbus.testing.servers.postgres_external import ExternalPostgres, open_postgres
from eventbus.testing.servers.postgres_source import find_postgres

psycopg = pytest.importorskip("psycopg")


def connected(server: PostgresServer) -> contextlib.closing[Any]:
    """A client, hung up at the end of a `with` block, whatever has become of its server."""
    return contextlib.closing(psycopg.connect(server.url, autocommit=True, connect_timeout=5))


def is_readable(connection: Any, timeout: float) -> bool:
    """Whether its server says something in time."""
    return bool(select.select([connection.fileno()], [], [], timeout)[0])


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any server."""
    monkeypatch.delenv("EVENTBUS_TEST_POSTGRES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(postgres_source, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(postgres_source, "_docker_reason", lambda: "no daemon")
    return monkeypatch


def fake_programs(folder: Path, version: str) -> Path:
    """Make programs called postgres and initdb."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.postgres
def test_what_is_committed_is_kept_over_every_end(postgres_server: PostgresServer) -> None:
    port = postgres_server.port
    with connected(postgres_server) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    for n, end in enumerate((postgres_server.kill, postgres_server.stop)):
        with connected(postgres_server) as connection:
            connection.execute("INSERT INTO kept VALUES (%s)", (n,))
            end()
            assert not postgres_server.running
            assert not postgres_server.answers()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        postgres_server.start()
        assert postgres_server.port == port
    postgres_server.restart(hard=False)
    with connected(postgres_server) as connection:
        assert connection.execute("SELECT n FROM kept ORDER BY n").fetchall() == [(0,), (1,)]


@pytest.mark.postgres
def test_it_listens_on_loopback_only_and_is_not_roots(postgres_server: PostgresServer) -> None:
    with connected(postgres_server) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)
    status = Path(f"/proc/{postgres_server.pid}/status").read_text()
    assert "\nUid:\t0\t" not in status


@pytest.mark.postgres
def test_frozen_it_stands_still_with_all_its_processes(postgres_server: PostgresServer) -> None:
    with connected(postgres_server) as connection:
        postgres_server.freeze()
        assert postgres_server.running
        assert not postgres_server.answers(0.2)
        connection.pgconn.send_query(b"SELECT 1")
        assert not is_readable(connection, 0.2)
        postgres_server.thaw()
        assert is_readable(connection, 10.0)
        wait_until(postgres_server.answers)


@pytest.mark.postgres
def test_a_frozen_one_can_be_killed_and_started_at_once(postgres_server: PostgresServer) -> None:
    with connected(postgres_server):
        children = children_of(postgres_server.pid)
        assert len(children) > 1
        postgres_server.freeze()
        postgres_server.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children), message="all are gone")
        postgres_server.start()
        assert postgres_server.answers()


@pytest.mark.postgres
def test_two_starts_and_a_closed_one_are_errors(postgres_server: PostgresServer) -> None:
    if isinstance(postgres_server, ExternalPostgres):
        pytest.skip("not applicable: this server is somebody else's")
    with pytest.raises(ServerFailed, match="running already"):
        postgres_server.start()
    postgres_server.close()
    postgres_server.close()
    with pytest.raises(ServerFailed, match="closed"):
        postgres_server.freeze()


SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from eventbus.testing import PostgresServer
    from eventbus.testing.servers.guardian import children_of

    server = PostgresServer().start()
    server.freeze()
    print(server.pid, *children_of(server.pid), Path(f"/proc/{server.pid}/cwd").resolve().parent, flush=True)
    sys.stdin.read()
    """
)


@pytest.mark.postgres
def test_frozen_it_is_gone_with_all_its_processes_when_its_parent_is_killed() -> None:
    if find_postgres().kind != "binary":
        pytest.skip("not applicable: the server is no child of this process")
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        *pids, directory = parent.stdout.readline().split()
        assert sum(Path(f"/proc/{pid}/exe").exists() for pid in pids) > 1  # one may have ended as it was frozen
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), message="all are gone")
    wait_until(lambda: not Path(directory).exists(), message=f"{directory} is removed")


@pytest.mark.usefixtures("nowhere")
def test_where_there_is_none_each_reason_is_given() -> None:
    with pytest.raises(ServerUnavailable) as caught:
        find_postgres()
    text = str(caught.value)
    for part in ("EVENTBUS_TEST_POSTGRES is not set", "PATH: no postgres", "debian: no postgres", "docker: no daemon"):
        assert part in text
    with pytest.raises(ServerUnavailable):
        PostgresServer().start()


def test_the_path_comes_before_debians_newest(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("9.6", "15", "16"):
        fake_programs(tmp_path / "debian" / version / "bin", f"{version}.1")
    found = find_postgres()
    assert (found.kind, found.where) == ("binary", str(tmp_path / "debian" / "16" / "bin"))
    assert found.version == "16.1"
    assert "PATH: no postgres" in str(found)
    nowhere.setenv("PATH", str(fake_programs(tmp_path / "path", "17.2")))
    assert (find_postgres().where, find_postgres().version) == (str(tmp_path / "path"), "17.2")


def test_docker_is_the_last_resort(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setattr(postgres_source, "_docker_reason", lambda: "")
    assert find_postgres().kind == "docker"


@pytest.mark.postgres
def test_an_external_server_is_used_and_cannot_be_harmed(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_POSTGRES", postgres_server.url)
    with open_postgres() as server:
        assert isinstance(server, ExternalPostgres)
        assert server.address == postgres_server.address
        assert server.ready_time > 0
        for outage in (server.kill, server.freeze, server.restart, server.stop):
            with pytest.raises(ServerUnavailable, match="not ours"):
                outage()
    assert postgres_server.answers()


@pytest.mark.parametrize("url", ["postgresql://app:s3cret@127.0.0.1:9/shop", "s3cret"])
def test_an_external_server_that_is_down_is_unavailable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_POSTGRES", url)
    with pytest.raises(ServerUnavailable, match="EVENTBUS_TEST_POSTGRES") as caught:
        open_postgres().start()
    assert "s3cret" not in str(caught.value)
