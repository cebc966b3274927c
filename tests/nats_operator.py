"""What an operator does with a NATS server, beside the library: a client of a few lines."""

from __future__ import annotations

import itertools
import json
import socket
from typing import Any


class Operator:
    """One blocking connection for one thread; OSError when the server is gone or silent. Passwords are "pw"."""

    def __init__(self, address: tuple[str, int], timeout: float = 10.0, user: str = "") -> None:
        self._socket = socket.create_connection(address, timeout)
        self._lines = self._socket.makefile("rb")
        self._numbers = itertools.count(1)
        self._lines.readline()
        options = {"verbose": False, "headers": True, "no_responders": True, "user": user, "pass": user and "pw"}
        self.send(b"CONNECT %b\r\nSUB _INBOX.operator.* 1\r\nPING\r\n" % json.dumps(options).encode())
        while self._lines.readline() != b"PONG\r\n":
            pass

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *raised: object) -> None:
        self._lines.close()
        self._socket.close()

    def send(self, frames: bytes) -> None:
        """Send frames as they are."""
        self._socket.sendall(frames)

    def request(self, subject: str, payload: bytes = b"") -> dict[str, Any]:
        """What a server or a stream answers, {} for "nobody is there"."""
        inbox = f"_INBOX.operator.{next(self._numbers)}"
        self.send(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), inbox.encode(), len(payload), payload))
        while True:
            line = self._lines.readline().split()
            if line[0] == b"PING":
                self.send(b"PONG\r\n")
            elif line[0] in (b"MSG", b"HMSG"):
                data = self._lines.read(int(line[-1]) + 2)
                if line[1] == inbox.encode():
                    answer: dict[str, Any] = json.loads(data) if line[0] == b"MSG" else {}
                    return answer

    def call(self, operation: str, **request: object) -> dict[str, Any]:
        """One call of the JetStream API; AssertionError where it is refused."""
        answer = self.request(f"$JS.API.{operation}", json.dumps(request).encode() if request else b"")
        assert "error" not in answer, answer
        return answer

    def make_stream(self, name: str, *subjects: str, **config: object) -> None:
        """A stream as an operator makes one."""
        self.call(f"STREAM.CREATE.{name}", name=name, subjects=list(subjects), **config)

    def stored(self, stream: str) -> int:
        """How many messages a stream has."""
        return int(self.call(f"STREAM.INFO.{stream}")["state"]["messages"])
