"""A NATS client of a few lines: the judge and the load of the bench, part of neither side."""

from __future__ import annotations

import itertools
import json
import socket
import time
from typing import Any

_BLOCK = 64 * 1024
_PORTION = 5_000
"""Unconfirmed messages at once: a stream drops what exceeds its intake of 10,000."""

_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nPING\r\n'

Address = tuple[str, int]


class RawNats:
    """One blocking connection for one thread. OSError when the server is gone or silent."""

    def __init__(self, address: Address, timeout: float = 30.0) -> None:
        self._socket = socket.create_connection(address, timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb", _BLOCK)
        self._inboxes = itertools.count(1)
        self._line()
        self.answered = time.monotonic()
        """When the server's INFO was read."""
        self.send(_CONNECT)
        self._await_pong()

    def __enter__(self) -> RawNats:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def flush(self) -> None:
        """Return when the server has read everything sent so far."""
        self.send(b"PING\r\n")
        self._await_pong()

    def subscribe(self, topic: str, sid: int) -> None:
        """Ask for a topic; `receive` returns what comes."""
        self.send(f"SUB {topic} {sid}\r\n".encode())

    def blast(self, topic: str, payload: bytes, count: int) -> None:
        """Publish the same message many times, as fast as the socket takes it; returns when all is read."""
        frame = b"PUB %b %d\r\n%b\r\n" % (topic.encode(), len(payload), payload)
        at_once = max(1, _BLOCK // len(frame))
        block = frame * at_once
        for _ in range(count // at_once):
            self.send(block)
        self.send(frame * (count % at_once))
        self.flush()

    def receive(self) -> tuple[bytes, bytes]:
        """The header block (b"" without one) and the payload of the next message."""
        while True:
            verb, *words = self._line().split()
            if verb == b"MSG":
                return b"", self._body(int(words[-1]))
            if verb == b"HMSG":
                body, split = self._body(int(words[-1])), int(words[-2])
                return body[:split], body[split:]
            if verb == b"PING":
                self.send(b"PONG\r\n")

    def request(self, topic: str, payload: bytes = b"") -> bytes:
        """The payload of the first answer. Not beside a `subscribe` that still receives."""
        sid = next(self._inboxes) + 1_000_000
        inbox = f"_INBOX.raw.{id(self)}.{sid}"
        head = f"SUB {inbox} {sid}\r\nUNSUB {sid} 1\r\nPUB {topic} {inbox} {len(payload)}\r\n"
        self.send(head.encode() + payload + b"\r\n")
        return self.receive()[1]

    def api(self, call: str, body: object = None) -> dict[str, Any]:
        """What JetStream answers to `$JS.API.<call>`; RuntimeError with its text if it refuses."""
        data = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(self.request(f"$JS.API.{call}", data))
        if "error" in answer:
            raise RuntimeError(f"{call}: {answer['error']}")
        return answer

    def _await_pong(self) -> None:
        while (line := self._line()) != b"PONG":
            if line == b"PING":
                self.send(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise RuntimeError(line.decode())

    def _line(self) -> bytes:
        line = self._lines.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server hung up")
        return line[:-2]

    def _body(self, size: int) -> bytes:
        body: bytes = self._lines.read(size + 2)[:-2]
        return body


def make_stream(raw: RawNats, name: str) -> None:
    """A file stream with a duplicate window, for `<name>` and everything below it."""
    config = {
        "name": name,
        "subjects": [name, f"{name}.>"],
        "storage": "file",
        "retention": "limits",
        "num_replicas": 1,
        "duplicate_window": 600 * 10**9,
    }
    raw.api(f"STREAM.CREATE.{name}", config)


def stored(raw: RawNats, stream: str) -> int:
    """How many messages a stream holds."""
    return int(raw.api(f"STREAM.INFO.{stream}")["state"]["messages"])


def fill(raw: RawNats, topic: str, payload: bytes, count: int, limit: float = 60.0) -> None:
    """Put so many messages into the empty stream of a topic, in portions that its intake holds."""
    stream, deadline = topic.partition(".")[0], time.monotonic() + limit
    for done in range(0, count, _PORTION):
        wanted = min(done + _PORTION, count)
        raw.blast(topic, payload, wanted - done)
        while (found := stored(raw, stream)) != wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} of {wanted} messages were stored in {stream}")
            time.sleep(0.002)


def read_stream(address: Address, stream: str) -> list[bytes]:
    """The payloads of everything that a stream holds, in its order."""
    inbox = f"_INBOX.raw.read.{stream}"
    config = {"deliver_subject": inbox, "ack_policy": "none", "deliver_policy": "all"}
    with RawNats(address) as reader, RawNats(address) as asker:
        reader.subscribe(inbox, 1)
        reader.flush()
        count = stored(asker, stream)
        asker.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        return [reader.receive()[1] for _ in range(count)]


def only_consumer(raw: RawNats, stream: str) -> dict[str, Any]:
    """What the server says about the one consumer of a stream."""
    consumers = raw.api(f"CONSUMER.LIST.{stream}")["consumers"]
    if len(consumers) != 1:
        raise RuntimeError(f"stream {stream} has {len(consumers)} consumers, not one")
    return dict(consumers[0])
