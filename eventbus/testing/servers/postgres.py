"""A real PostgreSQL server for tests, whichever way this machine can run one.

>>> from eventbus.testing.servers.postgres import PostgresServer
>>> with PostgresServer() as server:                  # doctest: +SKIP
...     client.connect(server.url)
...     server.restart()                              # kill -9, and a start with the same data and port
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from types import TracebackType

from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.postgres_hosts import DATABASE, USER, DockerHost, LocalHost, PostgresHost
from eventbus.testing.servers.postgres_source import PostgresSource, find_postgres
from eventbus.testing.servers.process import ServerFailed, ServerUnavailable, wait_ready

__all__ = ["PostgresServer", "PostgresSource", "find_postgres", "takes_clients"]

_count = itertools.count(1)
_ANSWER = 1.0
_PROTOCOL = 3 << 16
_HOST = "127.0.0.1"


class PostgresServer:
    """One PostgreSQL server on loopback that a test kills, freezes, thaws and restarts.

    A ``with`` block starts it, and closes it at its end. Its port and its data stay the same until
    :meth:`close`, which removes everything; a ``kill -9`` of the test does too. One thread at a time
    drives it; properties and :meth:`log` are for any thread. Times are seconds.
    """

    def __init__(self, *, source: PostgresSource | None = None) -> None:
        """Describe the server; nothing runs before :meth:`start`.

        ``source``: which server to run, else :func:`find_postgres`.
        """
        self.name = f"postgres-{os.getpid()}-{next(_count)}"
        self._source = source
        self._port = free_port(_HOST)
        self._host: PostgresHost | None = None
        self._ready_time = 0.0

    @property
    def port(self) -> int:
        """The port for clients; known before the first start, the same ever after."""
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for clients."""
        return _HOST, self._port

    @property
    def url(self) -> str:
        """The URL for clients, of a role that may do everything."""
        return f"postgresql://{USER}@{_HOST}:{self._port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """The process id of the last start; 0 before the first and in docker."""
        return self._host.pid if self._host else 0

    @property
    def running(self) -> bool:
        """Whether the process is there; true while it is frozen."""
        return self._host is not None and self._host.running

    @property
    def ready_time(self) -> float:
        """``time.monotonic()`` of the moment the last start was first seen to take a client."""
        return self._ready_time

    def start(self, *, timeout: float = 30.0, wait: bool = True) -> PostgresServer:
        """Start it and wait until it takes clients (see :attr:`ready_time`), unless told not to.

        Raises:
            ServerUnavailable: there is no server to run on this machine.
            ServerFailed: it runs already, or ended, or was not ready in time; holds its log.
        """
        if self._host is None:
            self._host = self._make_host()
        self._host.start()
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until it takes clients; for use after ``start(wait=False)``.

        Raises:
            ServerFailed: it ended, or was not ready in time.
        """
        self._ready_time = wait_ready(self.name, self, self.answers, timeout)

    def answers(self, timeout: float = _ANSWER) -> bool:
        """Whether it takes a client now, within ``timeout`` seconds."""
        return takes_clients(self.address, USER, DATABASE, timeout)

    def kill(self) -> None:
        """SIGKILL, frozen or not; returns when it is gone. Fine if it is gone already."""
        if self._host is not None:
            self._host.kill()

    def freeze(self) -> None:
        """SIGSTOP; returns when the server really stands still. Connections stay open."""
        self._started().freeze()

    def thaw(self) -> None:
        """SIGCONT after :meth:`freeze`."""
        self._started().thaw()

    def stop(self, timeout: float = 10.0) -> None:
        """Have it cut its clients off and end, by SIGKILL after ``timeout``. Keeps the data."""
        if self._host is not None:
            self._host.stop(timeout)

    def restart(self, *, hard: bool = True, timeout: float = 30.0) -> None:
        """:meth:`kill` (``hard=False``: :meth:`stop`) and :meth:`start`."""
        if hard:
            self.kill()
        else:
            self.stop()
        self.start(timeout=timeout)

    def log(self) -> str:
        """Everything the server has logged, over all its starts."""
        return self._host.log() if self._host else ""

    def close(self) -> None:
        """Kill it and remove its directory. Idempotent."""
        host, self._host = self._host, None
        if host is not None:
            host.close()
        release_port(self._port)

    def __enter__(self) -> PostgresServer:
        """Start it, unless it runs already."""
        try:
            return self if self.running else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _make_host(self) -> PostgresHost:
        source = self._source or find_postgres(external=False)
        if source.kind == "external":
            raise ServerUnavailable(f"{source} cannot be started; use postgres_external.open_postgres()")
        if source.kind == "docker":
            return DockerHost(self.name, source.where, *self.address)
        return LocalHost(self.name, source.where, *self.address)

    def _started(self) -> PostgresHost:
        if self._host is None:
            raise ServerFailed(f"{self.name} was never started, or is closed")
        return self._host


def takes_clients(address: tuple[str, int], user: str, database: str, timeout: float) -> bool:
    """Whether a server lets a client in, or asks for its password, within ``timeout`` seconds.

    One that is still starting, or recovers, says so by an error.
    """
    names = b"".join(part.encode() + b"\0" for part in ("user", user, "database", database)) + b"\0"
    try:
        with socket.create_connection(address, timeout) as client:
            client.sendall(struct.pack("!ii", 8 + len(names), _PROTOCOL) + names)
            return client.recv(1) == b"R"
    except OSError:
        return False
