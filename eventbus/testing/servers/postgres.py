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

from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.hosted import HostedServer
from eventbus.testing.servers.postgres_hosts import DATABASE, USER, DockerHost, LocalHost
from eventbus.testing.servers.postgres_source import PostgresSource, find_postgres
from eventbus.testing.servers.process import Host, ServerUnavailable

__all__ = ["PostgresServer", "PostgresSource", "find_postgres", "takes_clients"]

_count = itertools.count(1)
_PROTOCOL = 3 << 16
_HOST = "127.0.0.1"


class PostgresServer(HostedServer[Host]):
    """One PostgreSQL server on loopback that a test kills, freezes, thaws and restarts.

    A ``with`` block starts it, and closes it at its end. Its port and its data stay the same until
    :meth:`close`, which removes everything; a ``kill -9`` of the test does too. One thread at a time
    drives it; properties and :meth:`log` are for any thread. Times are seconds.
    """

    START = 30.0

    def __init__(self, *, source: PostgresSource | None = None) -> None:
        """Describe the server; nothing runs before :meth:`start`.

        ``source``: which server to run, else :func:`find_postgres`.
        """
        super().__init__()
        self.name = f"postgres-{os.getpid()}-{next(_count)}"
        self._source = source
        self._port = free_port(_HOST)

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

    def answers(self, timeout: float = HostedServer.ANSWER) -> bool:
        """Whether it takes a client now, within ``timeout`` seconds."""
        return takes_clients(self.address, USER, DATABASE, timeout)

    def close(self) -> None:
        """Kill it and remove its directory. Idempotent."""
        super().close()
        release_port(self._port)

    def _launch(self) -> None:
        if self._host is None:
            self._host = self._make_host()
        self._host.start()

    def _make_host(self) -> Host:
        source = self._source or find_postgres(external=False)
        if source.kind == "external":
            raise ServerUnavailable(f"{source} cannot be started; use postgres_external.open_postgres()")
        if source.kind == "docker":
            return DockerHost(self.name, source.where, *self.address)
        return LocalHost(self.name, source.where, *self.address)


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
