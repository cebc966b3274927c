"""A real nats-server: its life, its deaths, and what it keeps over them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testing_support import Wire

from eventbus.testing import Certificates, NatsServer, ServerFailed
from eventbus.testing.servers.nats_info import read_info

pytestmark = pytest.mark.nats

Connect = Callable[..., Wire]


def refused(server: NatsServer) -> bool:
    """Whether nobody listens at the server's port."""
    with socket.socket() as sock:
        return sock.connect_ex(server.address) != 0


def test_it_starts_on_loopback_and_knows_when(nats_server: NatsServer, wire: Connect) -> None:
    before = time.monotonic()
    assert nats_server.running
    assert nats_server.address == ("127.0.0.1", nats_server.port)
    assert nats_server.url == f"nats://127.0.0.1:{nats_server.port}"
    assert before - 5.0 < nats_server.ready_time < before
    client = wire(nats_server.address)
    assert client.hello() == "PONG"
    assert client.info["jetstream"] is True
    listening = {str(row[0]) for row in _listening(nats_server.pid)}
    assert listening == {"127.0.0.1"}


def test_kill_ends_it_and_restart_keeps_port_and_store(nats_server: NatsServer, wire: Connect) -> None:
    client = wire(nats_server.address)
    client.hello()
    assert "error" not in client.make_stream("kept")
    assert client.request("kept", "payload")["seq"] == 1
    port, pid = nats_server.port, nats_server.pid
    nats_server.kill()
    assert not nats_server.running
    assert client.line() == "", "the connection did not end with its server"
    assert refused(nats_server)
    killed = time.monotonic()
    nats_server.restart()
    assert nats_server.port == port
    assert nats_server.pid != pid
    assert nats_server.ready_time > killed
    again = wire(nats_server.address)
    again.hello()
    assert again.messages_in("kept") == 1


def test_an_orderly_stop_keeps_the_store_and_lose_state_loses_it(nats_server: NatsServer, wire: Connect) -> None:
    client = wire(nats_server.address)
    client.hello()
    client.make_stream("lost")
    with pytest.raises(ServerFailed, match="stopped or killed"):
        nats_server.lose_state()
    nats_server.restart(hard=False)
    assert "Initiating Shutdown" in nats_server.log()
    second = wire(nats_server.address)
    second.hello()
    assert second.messages_in("lost") == 0
    nats_server.stop()
    nats_server.stop()
    nats_server.lose_state()
    nats_server.start()
    third = wire(nats_server.address)
    third.hello()
    assert third.messages_in("lost") is None


def test_freeze_stands_still_with_open_connections_and_thaw_goes_on(nats_server: NatsServer, wire: Connect) -> None:
    client = wire(nats_server.address)
    client.hello()
    nats_server.freeze()
    assert nats_server.running
    assert _states(nats_server.pid) == {"T"}
    client.sock.sendall(b"PING\r\n")
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.line()
    assert not nats_server.answers(0.2), "a frozen server sent INFO"
    nats_server.thaw()
    assert "T" not in _states(nats_server.pid)
    fresh = wire(nats_server.address)
    assert fresh.hello() == "PONG"


@pytest.mark.parametrize("end", [NatsServer.kill, NatsServer.stop, NatsServer.restart])
def test_a_frozen_server_can_be_ended(nats_server: NatsServer, end: Callable[[NatsServer], None]) -> None:
    nats_server.freeze()
    started = time.monotonic()
    end(nats_server)
    assert time.monotonic() - started < 5.0
    assert nats_server.running is (end is NatsServer.restart)


def test_lame_duck_tells_its_clients_and_then_goes(wire: Connect) -> None:
    with NatsServer(lame_duck_grace=0.1) as server:
        client = wire(server.address, protocol=1)
        client.hello()
        server.lame_duck()
        heard = [*iter(client.line, "")]
        assert any('"ldm":true' in line for line in heard), heard
        server.wait_gone()
        assert not server.running
        server.start()
        assert wire(server.address).hello() == "PONG"


def test_reload_changes_the_password_in_place(wire: Connect) -> None:
    with NatsServer(user="app", password="old") as server:
        pid = server.pid
        assert server.url == f"nats://app:old@127.0.0.1:{server.port}"
        assert wire(server.address, user="app", **{"pass": "old"}).hello() == "PONG"
        server.reload(password="n3w $ecret")
        assert server.pid == pid
        assert server.url == f"nats://app:n3w%20%24ecret@127.0.0.1:{server.port}"
        assert "Authorization" in wire(server.address, user="app", **{"pass": "old"}).hello()
        assert wire(server.address, user="app", **{"pass": "n3w $ecret"}).hello() == "PONG"


def test_reload_takes_text_says_what_was_refused_and_goes_on(nats_server: NatsServer) -> None:
    nats_server.reload("max_control_line: 2048")
    assert nats_server.monitor("varz")["max_control_line"] == 2048
    with pytest.raises(ServerFailed, match="refused the new configuration"):
        nats_server.reload("nonsense {")
    nats_server.restart()
    assert nats_server.monitor("varz")["max_control_line"] == 2048
    nats_server.stop()
    nats_server.reload(max_payload=4096)
    nats_server.start()
    assert read_info(nats_server.address, 5.0)["max_payload"] == 4096
    with pytest.raises(TypeError):
        nats_server.reload(no_such_setting=1)


def test_a_token_and_no_jetstream(wire: Connect) -> None:
    with NatsServer(token="s3cret", jetstream=False) as server:
        assert server.url == f"nats://s3cret@127.0.0.1:{server.port}"
        client = wire(server.address, auth_token="s3cret")
        assert client.hello() == "PONG"
        assert "jetstream" not in client.info
        assert "Authorization" in wire(server.address, auth_token="wrong").hello()


def test_it_serves_on_ipv6() -> None:
    with NatsServer(host="::1") as server:
        assert server.url == f"nats://[::1]:{server.port}"
        assert read_info(server.address, 5.0)["port"] == server.port


@pytest.mark.parametrize("verify", [False, True])
def test_it_serves_tls(certificates: Certificates, wire: Connect, verify: bool) -> None:
    with NatsServer(tls=certificates, verify_clients=verify) as server:
        assert server.url.startswith("tls://127.0.0.1:")
        client = wire(server.address)
        assert client.info["tls_required"] is True
        assert client.hello(certificates.client_context(identify=True)) == "PONG"


def test_tls_before_info(certificates: Certificates) -> None:
    with NatsServer(tls=certificates, handshake_first=True, verify_clients=True) as server:
        assert server.answers()
        with pytest.raises(TimeoutError):
            read_info(server.address, 0.1)


def test_a_store_of_ones_own_outlives_the_server(tmp_path: Path, wire: Connect) -> None:
    for expected in (None, 0):
        with NatsServer(store_dir=tmp_path / "store") as server:
            client = wire(server.address)
            client.hello()
            assert client.messages_in("mine") == expected
            client.make_stream("mine")
    assert (tmp_path / "store").is_dir()


def test_nothing_is_left_after_close(wire: Connect) -> None:
    server = NatsServer()
    server.start()
    directory = Path(f"/proc/{server.pid}/cwd").resolve()
    pid = server.pid
    assert directory.is_dir()
    server.close()
    server.close()
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ServerFailed, match="closed"):
        server.freeze()


def test_a_configuration_that_is_wrong_shows_the_log() -> None:
    with pytest.raises(ServerFailed, match=r"(?s)ended while it was to start.*Parse error"):
        NatsServer(config="nonsense: {").__enter__()


def test_a_port_that_is_taken_is_an_error_even_if_nats_answers_there(
    nats_server: NatsServer,
) -> None:
    with pytest.raises(ServerFailed, match="address already in use"):
        NatsServer(port=nats_server.port).__enter__()


def test_two_starts_are_an_error(nats_server: NatsServer) -> None:
    with pytest.raises(ServerFailed, match="running already"):
        nats_server.start()


def test_the_server_is_there_when_the_thread_that_started_it_is_gone(
    nats_server: NatsServer,
) -> None:
    nats_server.kill()
    thread = threading.Thread(target=nats_server.start, name="eventbus.testing.starter")
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive()
    assert nats_server.answers()


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "0.0.0.0"},
        {"user": "app"},
        {"user": "app", "password": "x", "token": "y"},
        {"verify_clients": True},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"loopback|together|not both|need tls"):
        NatsServer(**wrong)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="max_paylod"):
        NatsServer(max_paylod=1)


def test_signals_to_a_dead_server_do_nothing(nats_server: NatsServer) -> None:
    nats_server.kill()
    nats_server.kill()
    nats_server.lame_duck()
    for act in (nats_server.freeze, nats_server.thaw):
        with pytest.raises(ServerFailed, match="not running"):
            act()
    assert not nats_server.running


def _states(pid: int) -> set[str]:
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return {task.read_text().rpartition(")")[2].split()[0] for task in tasks}


def _listening(pid: int) -> list[tuple[str, int]]:
    mine = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                address, port = fields[1].split(":")
                raw = bytes.fromhex(address)
                host = ".".join(map(str, raw[::-1])) if len(raw) == 4 else address
                found.append((host, int(port, 16)))
    return found
