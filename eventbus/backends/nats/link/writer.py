"""Sending without waiting: at once as far as the peer takes it, the rest by a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .transport import Transport
from .wire import PING

OnPong = Callable[[], object]


class Source(Protocol):
    """Holds accepted messages until they are written."""

    def take(self) -> bytes:
        """The next frames, b"" when there are none. Called under the writer's lock."""


class Writer:
    """Owns the sending side of a link. `lock` is the session's one lock: it puts the wire in order.

    Frames of `write` go before the messages of the source. PINGs and the expected PONGs match by order.
    """

    def __init__(self, transport: Transport, failed: Callable[[BaseException], object]) -> None:
        self.lock = threading.Lock()
        self.pongs: deque[OnPong] = deque()
        self.closed = False
        self._source: Source | None = None
        self._transport = transport
        self._failed = failed
        self._control: list[tuple[bytes, OnPong | None]] = []
        self._rest: memoryview | None = None
        self._wake = _taken_lock()
        self._kicked = False

    def attach(self, source: Source) -> None:
        """Messages come from here."""
        self._source = source

    @property
    def stuck(self) -> bool:
        """Whether the peer takes nothing at the moment. Under the lock."""
        return self._rest is not None

    def write(self, frames: bytes, on_pong: OnPong | None = None) -> None:
        """Send frames; never waits. On a link that is gone nothing happens. on_pong: for frames that end in a PING."""
        with self.lock:
            self._control.append((frames, on_pong))
            self.flush()

    def ask(self, on_pong: OnPong) -> None:
        """Send a PING behind what was taken so far, and nothing else. Under the lock; `on_pong` as for `ping`."""
        self._control.append((PING, on_pong))
        self.flush()

    def ping(self, on_pong: OnPong) -> None:
        """Send a PING; `on_pong()` runs on the reader thread. On a link that is gone nothing happens."""
        self.write(PING, on_pong)

    def flush(self) -> None:
        """Send what fits; the thread does the rest. Under the lock."""
        while self._rest is None and not self.closed:
            data = self._next()
            if not data:
                break
            self._send(data)
        if self._rest is not None:
            self._kick()

    def _kick(self) -> None:
        """Have the thread send what is there, soon. Under the lock."""
        if not self._kicked:
            self._kicked = True
            self._wake.release()

    def close(self) -> None:
        """Send nothing more and let the thread end. Under the lock."""
        self.closed = True
        self._rest = None
        self._kick()

    def run(self) -> None:
        """The writer thread: the only one that waits for the peer to take something."""
        while not self.closed:
            self._wake.acquire()
            while not self._push():
                self._transport.wait_writable()

    def _push(self) -> bool:
        """Go on sending; True when there is nothing left to wait for, and the thread may sleep."""
        with self.lock:
            rest = self._rest
            if rest is not None and not self.closed:
                self._rest = None
                self._send(rest)
            self.flush()
            if self._rest is None:
                self._kicked = False
                return True
            return False

    def _next(self) -> bytes:
        if self._control:
            control, self._control = self._control, []
            # Slots enter `pongs` as their PINGs enter the stream, be it later: behind what is on its way.
            self.pongs.extend(on_pong for _, on_pong in control if on_pong is not None)
            return b"".join(frames for frames, _ in control)
        return self._source.take() if self._source is not None else b""

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._transport.send(data)
        except OSError as error:
            self.closed = True
            self._failed(error)
            return
        if sent < len(data):
            self._rest = memoryview(data)[sent:]


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
