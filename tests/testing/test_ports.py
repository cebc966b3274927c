"""Ports that stay free while their server is down, and loopback only."""

from __future__ import annotations

import socket

import pytest

from eventbus.testing import ports


def test_ports_lie_below_the_ephemeral_range_and_differ() -> None:
    limit = ports._first_ephemeral_port()
    found = [ports.free_port() for _ in range(50)]
    for port in found:
        ports.release_port(port)
    assert len(set(found)) == 50
    assert all(1024 < port < limit for port in found)


def test_a_port_in_use_is_not_handed_out() -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as taken:
        port = taken.getsockname()[1]
        ports.release_port(port)
        assert not ports._is_free("127.0.0.1", port)
    assert ports._is_free("127.0.0.1", port)


def test_without_room_the_kernel_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_first_ephemeral_port", lambda: 1024)
    with socket.create_server(("127.0.0.1", ports.free_port())):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts_are_taken(host: str) -> None:
    assert ports.require_loopback(host) == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        ports.require_loopback(host)
