"""One proxied connection: two pipes between two sockets. Used by the proxy's thread only."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque

_CHUNK = 65_536
_ROOM = 262_144
_RESET = struct.pack("ii", 1, 0)


class Pipe:
    """Bytes on their way from one socket to another, at most 256 KiB of them."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry from ``source`` to ``sink``."""
        self.source = source
        self.sink = sink
        self.ended = False
        self.finished = False
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._size = 0

    @property
    def hungry(self) -> bool:
        """Whether it would read more; a full one leaves the bytes to the kernel."""
        return not self.ended and self._size < _ROOM

    def due_at(self) -> float | None:
        """When the next bytes may be forwarded, by ``time.monotonic()``."""
        return self._chunks[0][0] if self._chunks else None

    def fill(self, due: float) -> None:
        """Read what is there, to be forwarded at ``due``.

        Raises:
            OSError: the source was reset.
        """
        if not self.hungry:
            return
        with contextlib.suppress(BlockingIOError):
            data = self.source.recv(_CHUNK)
            self.ended = not data
            self._size += len(data)
            self._chunks.append((due, data))

    def drain(self, now: float) -> None:
        """Forward what is due and fits; then the end, if the source has ended.

        Raises:
            OSError: the sink was reset.
        """
        with contextlib.suppress(BlockingIOError):
            while self._chunks and self._chunks[0][0] <= now:
                due, data = self._chunks[0]
                if data:
                    sent = self.sink.send(data)
                    self._size -= sent
                    if sent < len(data):
                        self._chunks[0] = due, data[sent:]
                        return
                else:
                    self.finished = True
                    self.sink.shutdown(socket.SHUT_WR)
                self._chunks.popleft()


class Link:
    """A client's connection and the one made for it to the target."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        """Join the two; ``server`` is still connecting."""
        self.client = client
        self.server = server
        self.to_server = Pipe(client, server)
        self.to_client = Pipe(server, client)
        self.connecting = True
        self.deaf = False
        self.armed_at = 0.0  # when the selector was last told what to wait for

    @property
    def finished(self) -> bool:
        """Whether both sides have ended and been told so."""
        return self.to_server.finished and self.to_client.finished

    def close(self, *, reset: bool) -> None:
        """Close both sockets; ``reset`` sends RST instead of FIN."""
        for sock in (self.client, self.server):
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
