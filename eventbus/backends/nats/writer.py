"""Sending without waiting: at once when it is quiet, in bulk when it is busy, by a thread when it is full."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .transport import Transport
from .wire import PING

QUIET = 0.00002
"""Seconds since the last write after which a message goes out at once."""
LINGER = 0.00005
"""Seconds that the thread gives others to come along before it sends a message."""
BURST = 0.001
"""Seconds without a write after which a burst is over: until then publishers send full chunks themselves."""
_FEW = 16

OnPong = Callable[[], object]


class Source(Protocol):
    """Holds accepted messages until they are written."""

    def take(self) -> bytes:
        """The next frames, b"" when there are none. Called under the writer's lock."""

    def waiting(self) -> int:
        """How many messages were accepted since the last `take`."""

    def awake(self, awake: bool) -> None:
        """Whether the thread will call `take` once more, unasked. Called under the writer's lock."""


class Writer:
    """Owns the sending side of a link. `lock` is the session's one lock: it puts the wire in order.

    Frames of `write` go before the messages of the source. PINGs and the expected PONGs match by order.
    """

    def __init__(self, transport: Transport, failed: Callable[[BaseException], object]) -> None:
        self.lock = threading.Lock()
        self.pongs: deque[OnPong] = deque()
        self.last_write = 0.0
        self.closed = False
        self._source: Source | None = None
        self._transport = transport
        self._failed = failed
        self._control: list[bytes] = []
        self._asked: list[OnPong] = []
        self._rest: memoryview | None = None
        self._wake = _taken_lock()
        self._never = _taken_lock()
        self._kicked = False

    def attach(self, source: Source) -> None:
        """Messages come from here."""
        self._source = source

    @property
    def stuck(self) -> bool:
        """Whether the peer takes nothing at the moment. Under the lock."""
        return self._rest is not None

    def write(self, frames: bytes) -> None:
        """Send frames; never waits. On a link that is gone nothing happens."""
        with self.lock:
            self._control.append(frames)
            self.flush()

    def ping(self, on_pong: OnPong) -> None:
        """Send a PING; `on_pong()` runs on the reader thread. On a link that is gone nothing happens."""
        with self.lock:
            # Slots enter `pongs` as their PINGs enter the stream, be it later: behind what is on its way.
            self._asked.append(on_pong)
            self.flush()

    def flush(self) -> None:
        """Send what fits; the thread does the rest. Under the lock."""
        while self._rest is None and not self.closed:
            data = self._next()
            if not data:
                break
            self._send(data)
        if self._rest is not None:
            self.kick()

    def kick(self) -> None:
        """Have the thread send what is there, soon. Under the lock."""
        if not self._kicked:
            self._kicked = True
            self._wake.release()
            if self._source is not None:
                self._source.awake(True)

    def close(self) -> None:
        """Send nothing more and let the thread end. Under the lock."""
        self.closed = True
        self._rest = None
        self.kick()

    def run(self) -> None:
        """The writer thread: the only one that waits for the peer to take something."""
        while not self.closed:
            self._wake.acquire()
            self._linger()
            while not self._push():
                self._transport.wait_writable()

    def _linger(self) -> None:
        """Wait out a burst, in which publishers fill and send chunks themselves."""
        pause = LINGER
        while self._rest is None and not self.closed:
            before = self.last_write
            self._never.acquire(timeout=pause)
            quiet = self.last_write == before
            if quiet and (pause == BURST or self._source is None or self._source.waiting() < _FEW):
                return
            pause = BURST

    def _push(self) -> bool:
        """Go on sending; True when there is nothing left to wait for, and the thread may sleep."""
        with self.lock:
            rest = self._rest
            if rest is not None and not self.closed:
                self._rest = None
                self._send(rest)
            self.flush()
            if self._rest is None and self._source is not None:
                # In this order: a message that comes between the two goes out here, or its publisher kicks.
                self._source.awake(False)
                self.flush()
            if self._rest is None:
                self._kicked = False
                return True
            if self._source is not None:
                self._source.awake(True)
            return False

    def _next(self) -> bytes:
        if self._control or self._asked:
            frames = [*self._control, *(PING for _ in self._asked)]
            self.pongs.extend(self._asked)
            self._control, self._asked = [], []
            return b"".join(frames)
        return self._source.take() if self._source is not None else b""

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._transport.send(data)
        except OSError as error:
            self.closed = True
            self._failed(error)
            return
        self.last_write = time.monotonic()
        if sent < len(data):
            self._rest = memoryview(data)[sent:]


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
