"""A connected socket that one thread reads and others write without ever waiting."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from typing import Protocol

from .... import greenlets

RECEIVE = 120 * 1024
"""Bytes that are asked for at a time, and so allocated: what has 128 KiB the C library maps anew for each read, shrinks
and unmaps. Without these three calls of the system a `publish` that waits for its answer takes 120 us, else 140."""
_SLICE = 64 * 1024
_NONBLOCKING = socket.MSG_DONTWAIT
_LONGEST_POLL = 1.0


class Transport(Protocol):
    """The socket of one link."""

    def receive(self) -> bytes:
        """Wait for bytes; b"" at the end. Reader thread only. OSError."""

    def send(self, data: bytes | memoryview) -> int:
        """Send what fits now and say how much; never waits. Under the writer's lock. OSError."""

    def wait_writable(self) -> None:
        """Wait until something fits, the link ends, or a second has passed."""

    def shutdown(self) -> None:
        """End the link both ways and wake whoever waits on it. Any thread, any number of times."""

    def close(self) -> None:
        """Give the descriptor back; nobody may read or write any more."""


class PlainTransport:
    """TCP."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        self._socket = sock
        self._send = sock.send

    def receive(self) -> bytes:
        """Wait for bytes from the kernel, at most 120 KiB; b"" at the end. Reader thread only. OSError."""
        return self._socket.recv(RECEIVE)

    def send(self, data: bytes | memoryview) -> int:
        """Give the kernel what it has room for and say how much, 0 without room; never waits. OSError."""
        try:
            return self._send(data, _NONBLOCKING)
        except BlockingIOError:
            return 0

    def wait_writable(self) -> None:
        """Wait until the kernel has room, the link ends, or a second has passed."""
        _wait(self._socket, select.POLLOUT)

    def shutdown(self) -> None:
        """End the link both ways and wake whoever waits on it. Any thread, any number of times."""
        _shut(self._socket)

    def close(self) -> None:
        """Give the descriptor back; nobody may read or write any more."""
        self._socket.close()


class GreenletTransport(PlainTransport):
    """TCP where gevent has patched sockets: those wait in `send`, whatever its flags, unless they never wait at all."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)

    def receive(self) -> bytes:
        """Wait for bytes from the kernel, at most 120 KiB; b"" at the end. Reader thread only. OSError."""
        while True:
            try:
                return super().receive()
            except BlockingIOError:
                _wait(self._socket, select.POLLIN)


class TlsTransport:
    """TLS over TCP: every call into the TLS object is non-blocking and under one lock, all waiting outside of it.

    Two threads inside one TLS object are a race in older versions of Python and a deadlock in some newer.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._lock = threading.Lock()
        self._wanted = select.POLLOUT

    def receive(self) -> bytes:
        """Wait for decrypted bytes, some 180 KiB at most; b"" at the end. Reader thread only. OSError."""
        while True:
            event, data = self._read()
            if not event:
                return data
            _wait(self._socket, event)

    def _read(self) -> tuple[int, bytes]:
        parts: list[bytes] = []
        size = 0
        event = 0
        with self._lock:
            while size < RECEIVE and not event:
                try:
                    part = self._socket.recv(_SLICE)
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
                except ssl.SSLZeroReturnError:
                    part = b""
                if event or not part:
                    break
                parts.append(part)
                size += len(part)
        # An end behind data is met again by the next call.
        return (0 if parts else event), b"".join(parts)

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send what fits now and say how much; never waits. OSError."""
        view, sent = memoryview(data), 0
        with self._lock:
            while sent < len(view):
                try:
                    sent += self._socket.send(view[sent : sent + _SLICE])
                except ssl.SSLWantReadError:
                    self._wanted = select.POLLIN
                    break
                except ssl.SSLWantWriteError:
                    self._wanted = select.POLLOUT
                    break
        return sent

    def wait_writable(self) -> None:
        """Wait until TLS can go on with what it wanted last, to write or to read, or a second has passed."""
        _wait(self._socket, self._wanted)

    def shutdown(self) -> None:
        """End the link both ways, without TLS's goodbye, and wake whoever waits on it. Any thread, repeatable."""
        _shut(self._socket)

    def close(self) -> None:
        """Give the descriptor back; nobody may read or write any more."""
        self._socket.close()


def transport_of(sock: socket.socket) -> Transport:
    """The right transport for a connected socket."""
    if isinstance(sock, ssl.SSLSocket):
        return TlsTransport(sock)
    return GreenletTransport(sock) if greenlets.are_threads() else PlainTransport(sock)


def _wait(sock: socket.socket, event: int) -> None:
    descriptor = sock.fileno()
    if descriptor < 0:
        return
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll(_LONGEST_POLL * 1000)


def _shut(sock: socket.socket) -> None:
    try:
        # Not the method of SSLSocket, which drops the TLS object under its users.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # the peer was first
