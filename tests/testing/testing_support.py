"""A NATS client of thirty lines, a TCP target to put a proxy in front of, a pytest of its own."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import Any

TIMEOUT = 5.0


class Wire:
    """One client connection to a NATS server; `hello` is the INFO, and what was said to it."""

    def __init__(self, sock: socket.socket, **login: Any) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT)
        self.lines = sock.makefile("rb")
        self.info = json.loads(self.lines.readline().partition(b" ")[2])
        self.login = login

    def hello(self, context: ssl.SSLContext | None = None) -> str:
        """Log in and ping; return `PONG` or the error."""
        if context is not None:
            self.lines.close()
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
            self.lines = self.sock.makefile("rb")
        options = {
            "verbose": False,
            "headers": True,
            "no_responders": True,
            **self.login,
        }
        self.sock.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(options).encode())
        return self.line()

    def line(self) -> str:
        """Return the next line, empty at the end."""
        return self.lines.readline().decode().strip()

    def request(self, subject: str, body: Any = "") -> dict[str, Any]:
        """Ask JetStream; return its answer."""
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.sock.sendall(b"SUB answer 1\r\nUNSUB 1 1\r\n")
        self.sock.sendall(b"PUB %s answer %d\r\n%s\r\n" % (subject.encode(), len(payload), payload))
        head = self.line().split()
        assert head[0] == "MSG", head
        answer: dict[str, Any] = json.loads(self.lines.read(int(head[-1])))
        self.lines.readline()
        return answer

    def make_stream(self, name: str, replicas: int = 1) -> dict[str, Any]:
        """Create a stream for the subject of the same name."""
        body = {"name": name, "subjects": [name], "storage": "file", "num_replicas": replicas}
        return self.request(f"$JS.API.STREAM.CREATE.{name}", body)

    def messages_in(self, name: str) -> int | None:
        """Return how many messages a stream holds, None if there is no such stream."""
        answer = self.request(f"$JS.API.STREAM.INFO.{name}")
        return answer["state"]["messages"] if "state" in answer else None

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.sock.close()


class Target:
    """A listening socket, and the two ends of connections made to it through a proxy."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.settimeout(TIMEOUT)
        self.address: tuple[str, int] = self.listener.getsockname()

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """Return a client's end only: nobody has accepted it yet."""
        return self._keep(socket.create_connection(address, TIMEOUT))

    def accepted(self) -> socket.socket:
        """Return the server's end of the next connection."""
        return self._keep(self.listener.accept()[0])

    def join(self, address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
        """Connect, and return both ends."""
        client = self.connect(address)
        return client, self.accepted()

    def _keep(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(TIMEOUT)
        return self._stack.enter_context(sock)


def is_readable(sock: socket.socket, timeout: float) -> bool:
    """Whether something (bytes, an end, a reset) comes within `timeout` seconds."""
    before = sock.gettimeout()
    sock.settimeout(timeout)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        sock.settimeout(before)
    return True


def run_pytest(directory: Path, text: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run pytest on one test file; return its exit code and output."""
    (directory / "test_it.py").write_text(textwrap.dedent(text))
    # Only ours, whether it is installed or not, and none of the settings of this run.
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "EVENTBUS_TEST_NATS", "EVENTBUS_TEST_KAFKA")}
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "eventbus.testing.plugin", "-rs", *arguments],
        check=False,
        cwd=directory,
        env={**clean, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return answer.returncode, answer.stdout + answer.stderr
