"""Every mode of the proxy, seen from plain sockets on both of its sides."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from testing_support import Target

from eventbus.testing import TcpProxy, wait_until

MUTE = 0.15
Readable = Callable[[socket.socket, float], bool]


@pytest.fixture
def proxy(target: Target, tcp_proxy: Callable[..., TcpProxy]) -> TcpProxy:
    """A proxy in front of the target."""
    return tcp_proxy(*target.address)


def says(one: socket.socket, other: socket.socket, text: bytes) -> bool:
    """Whether bytes sent on one end arrive at the other."""
    one.sendall(text)
    got = b""
    while len(got) < len(text):
        part = other.recv(65536)
        if not part:
            break
        got += part
    return got == text


def is_reset(sock: socket.socket) -> bool:
    """Whether the next thing heard is RST."""
    try:
        return sock.recv(1) == b"never"
    except ConnectionResetError:
        return True


def test_it_forwards_both_ways_and_counts(proxy: TcpProxy, target: Target) -> None:
    assert proxy.connections == 0
    client, server = target.join(proxy.address)
    assert says(client, server, b"ping")
    assert says(server, client, b"pong")
    target.join(proxy.address)
    assert (proxy.connections, proxy.accepted) == (2, 2)


def test_an_end_is_passed_on_and_the_other_direction_lives(proxy: TcpProxy, target: Target) -> None:
    client, server = target.join(proxy.address)
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100) + server.recv(100) == b"last words"
    assert says(server, client, b"still here")
    server.close()
    assert client.recv(1) == b""
    wait_until(lambda: proxy.connections == 0, message="the connection is given up")


def test_a_reset_is_passed_on(proxy: TcpProxy, target: Target) -> None:
    client, server = target.join(proxy.address)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    assert is_reset(client)


def test_a_target_that_is_down_resets_the_client(proxy: TcpProxy, target: Target) -> None:
    target.listener.close()
    client = socket.socket()
    with client:
        client.settimeout(5.0)
        try:
            client.connect(proxy.address)
            assert is_reset(client)
        except ConnectionError:
            pass  # it was reset before it was known to be connected
    wait_until(lambda: proxy.connections == 0)


def test_a_slow_reader_holds_the_sender_back_and_loses_nothing(proxy: TcpProxy, target: Target) -> None:
    client, server = target.join(proxy.address)
    data = os.urandom(1 << 20) * 64
    client.setblocking(False)
    sent = 0
    stalled_since = time.monotonic()
    while time.monotonic() - stalled_since < 0.3 and sent < len(data):
        try:
            sent += client.send(data[sent : sent + 65536])
            stalled_since = time.monotonic()
        except BlockingIOError:
            pass
    assert sent < len(data), "64 MiB went into a connection that nobody reads"
    client.settimeout(10.0)
    rest = threading.Thread(target=client.sendall, args=(data[sent:],), name="eventbus.testing.sender", daemon=True)
    rest.start()
    got = bytearray()
    while len(got) < len(data):
        got += server.recv(1 << 20)
    rest.join(10.0)
    assert got == data


def test_refuse_closes_the_port_and_accept_opens_it_again(proxy: TcpProxy, target: Target) -> None:
    client, server = target.join(proxy.address)
    port = proxy.port
    proxy.refuse()
    assert is_reset(client)
    assert is_reset(server)
    with pytest.raises(ConnectionRefusedError):
        target.connect(proxy.address)
    proxy.accept()
    assert proxy.port == port
    assert says(*target.join(proxy.address), b"back")


def test_refuse_can_leave_the_existing_connections(proxy: TcpProxy, target: Target) -> None:
    client, server = target.join(proxy.address)
    proxy.refuse(cut=False)
    proxy.refuse(cut=False)
    with pytest.raises(ConnectionRefusedError):
        target.connect(proxy.address)
    assert says(client, server, b"still here")
    proxy.accept()
    assert says(client, server, b"and here")


def test_cut_resets_what_is_there_and_serves_what_comes(proxy: TcpProxy, target: Target) -> None:
    pairs = [target.join(proxy.address) for _ in range(3)]
    proxy.cut()
    assert proxy.connections == 0
    assert all(is_reset(client) and is_reset(server) for client, server in pairs)
    assert says(*target.join(proxy.address), b"new")


def test_a_black_hole_is_silent_and_gives_back_what_it_held(
    proxy: TcpProxy, target: Target, readable: Readable
) -> None:
    client, server = target.join(proxy.address)
    proxy.black_hole()
    client.sendall(b"to the server")
    server.sendall(b"to the client")
    assert not readable(client, MUTE)
    assert not readable(server, MUTE)
    assert proxy.connections == 1
    proxy.accept()
    assert server.recv(100) == b"to the server"
    assert client.recv(100) == b"to the client"


def test_a_black_hole_hides_even_the_end(proxy: TcpProxy, target: Target, readable: Readable) -> None:
    client, server = target.join(proxy.address)
    proxy.black_hole()
    client.close()
    assert not readable(server, MUTE)
    proxy.accept()
    assert server.recv(1) == b""


def test_a_black_hole_accepts_and_says_nothing(proxy: TcpProxy, target: Target, readable: Readable) -> None:
    proxy.black_hole()
    client, server = target.join(proxy.address)
    server.sendall(b"INFO")
    assert not readable(client, MUTE)
    proxy.accept()
    assert client.recv(100) == b"INFO"


@pytest.mark.parametrize("to_server", [True, False])
def test_a_black_hole_can_be_one_way(proxy: TcpProxy, target: Target, readable: Readable, to_server: bool) -> None:
    client, server = target.join(proxy.address)
    proxy.black_hole(to_server=to_server, to_client=not to_server)
    mute, heard = (client, server) if to_server else (server, client)
    mute.sendall(b"lost")
    assert not readable(heard, MUTE)
    assert says(heard, mute, b"heard")


def test_delay_holds_bytes_back_and_keeps_their_order(proxy: TcpProxy, target: Target) -> None:
    client, server = target.join(proxy.address)
    proxy.delay(0.2)
    started = time.monotonic()
    client.sendall(b"one")
    assert server.recv(100) == b"one"
    assert 0.2 <= time.monotonic() - started < 1.0
    client.sendall(b"two")
    wait_until(lambda: proxy.connections == 1)
    proxy.delay(0.0)
    assert says(server, client, b"quick")
    client.sendall(b"three")
    got = b""
    while len(got) < len(b"twothree"):
        got += server.recv(100)
    assert got == b"twothree"


def test_delay_can_be_long_without_stopping_others(proxy: TcpProxy, target: Target) -> None:
    slow, _ = target.join(proxy.address)
    proxy.delay(60.0)
    slow.sendall(b"in a minute")
    proxy.delay(0.0)
    assert says(*target.join(proxy.address), b"now")


def test_what_becomes_due_between_two_looks_is_sent(
    proxy: TcpProxy, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else has to happen for it: nobody else may be sending."""
    looks = itertools.count()
    hurried = SimpleNamespace(monotonic=lambda: time.monotonic() + 0.001 * next(looks))
    monkeypatch.setattr("eventbus.testing.faults.time", hurried)
    client, server = target.join(proxy.address)
    proxy.delay(0.0015)
    for _ in range(5):
        assert says(client, server, b"one at a time")


def test_a_negative_delay_is_refused(proxy: TcpProxy) -> None:
    with pytest.raises(ValueError, match="delay"):
        proxy.delay(-1.0)


def test_half_open_mutes_the_old_for_ever_and_serves_the_new(
    proxy: TcpProxy, target: Target, readable: Readable
) -> None:
    client, server = target.join(proxy.address)
    proxy.half_open()
    proxy.accept()
    client.sendall(b"anybody?")
    server.close()
    assert not readable(client, MUTE)
    assert says(*target.join(proxy.address), b"new")
    assert proxy.connections == 2
    proxy.cut()
    assert is_reset(client)


def test_modes_can_be_switched_from_many_threads(proxy: TcpProxy, target: Target) -> None:
    actions = [proxy.refuse, proxy.accept, proxy.cut, proxy.black_hole, proxy.half_open]
    threads = [
        threading.Thread(target=lambda a=action: [a() for _ in range(50)], name="eventbus.testing.switch")
        for action in actions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    proxy.accept()
    assert says(*target.join(proxy.address), b"fine")


def test_stop_closes_everything_and_start_begins_again(target: Target) -> None:
    proxy = TcpProxy(*target.address)
    with pytest.raises(RuntimeError, match="not running"):
        proxy.cut()
    for _ in range(3):
        proxy.start()
        proxy.start()
        client, server = target.join(proxy.address)
        proxy.black_hole()
        assert proxy.connections == 1
        proxy.stop()
        proxy.stop()
        assert is_reset(client)
        assert is_reset(server)
        assert proxy.connections == 0
    with pytest.raises(ConnectionRefusedError):
        target.connect(proxy.address)
    with pytest.raises(RuntimeError, match="not running"):
        proxy.accept()


def test_a_taken_port_is_an_error(proxy: TcpProxy, target: Target) -> None:
    with pytest.raises(OSError, match="in use"):
        TcpProxy(*target.address, port=proxy.port).start()
    proxy.refuse()
    with socket.create_server(proxy.address), pytest.raises(OSError, match="in use"):
        proxy.accept()
    proxy.accept()
    assert says(*target.join(proxy.address), b"fine")


def test_it_serves_ipv6(target: Target, tcp_proxy: Callable[..., TcpProxy]) -> None:
    proxy = tcp_proxy(*target.address, host="::1")
    assert says(*target.join(proxy.address), b"six")


def test_it_idles_without_work(proxy: TcpProxy, target: Target, readable: Readable) -> None:
    client, server = target.join(proxy.address)
    proxy.half_open()
    server.close()
    before = time.process_time()
    assert not readable(client, 0.3)
    assert time.process_time() - before < 0.1


def test_it_listens_on_loopback_only(target: Target) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        TcpProxy(*target.address, host="0.0.0.0")
