"""Loopback ports that no outgoing connection can take while a server is down."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import threading
from pathlib import Path

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_000
_ROOM = 2_000
# Processes that run side by side (pytest-xdist) have neighbouring ids: each keeps to its own
# ports, so none takes the port of a server that another one has just killed.
_LANES = 32

_lock = threading.Lock()
_taken: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of ``host`` that is free now; this process gets no port twice.

    It lies below the range from which the kernel takes the ports of outgoing connections, so it
    stays free while a server is down between two starts. Only where the kernel's range leaves no
    room there is it one of the kernel's. Any thread may call this.

    Raises:
        OSError: no port is free.
    """
    limit = _first_ephemeral_port()
    if limit - _FIRST < _ROOM:
        return _ask_kernel(host)
    candidates = [p for p in range(_FIRST, limit) if p % _LANES == os.getpid() % _LANES]
    random.shuffle(candidates)
    with _lock:
        for port in candidates:
            if port not in _taken and _is_free(host, port):
                _taken.add(port)
                return port
    raise OSError(f"no free port for a test server between {_FIRST} and {limit}")


def release_port(port: int) -> None:
    """Let :func:`free_port` hand out ``port`` again; unknown ports are ignored."""
    with _lock:
        _taken.discard(port)


def require_loopback(host: str) -> str:
    """Return ``host`` if only this machine can reach it.

    Raises:
        ValueError: it is some other address, or a name other than ``localhost``.
    """
    if host == "localhost":
        return host
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise ValueError(f"a test server listens on loopback only, not on {host!r}")


def bracketed(host: str) -> str:
    """Return ``host`` as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _first_ephemeral_port() -> int:
    try:
        return int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768


def _is_free(host: str, port: int) -> bool:
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _ask_kernel(host: str) -> int:
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
