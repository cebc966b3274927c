"""The PostgreSQL that tests are to use: one of their own, or one that runs already."""

from __future__ import annotations

import time
from urllib.parse import unquote, urlsplit

from eventbus.testing.servers.postgres import PostgresServer, takes_clients
from eventbus.testing.servers.postgres_source import ENVIRONMENT, find_postgres
from eventbus.testing.servers.process import ServerUnavailable

_PORT = 5432


class ExternalPostgres:
    """A server that runs already, named by ``EVENTBUS_TEST_POSTGRES``; no outage can be made of it."""

    def __init__(self, url: str) -> None:
        """Take the URL (``postgresql://user@host:port/database``); nothing is connected."""
        parts = urlsplit(url)
        if parts.hostname is None or not parts.username:
            raise ServerUnavailable(f"{ENVIRONMENT} is no URL such as postgresql://user:password@host:5432/database")
        self.url = url
        self.name = "external"
        self.address = (parts.hostname, parts.port or _PORT)
        self.port = self.address[1]
        self.pid = 0
        self.running = True
        self.ready_time = 0.0
        self._user = unquote(parts.username)
        self._database = unquote(parts.path.strip("/")) or self._user

    def start(self, *, timeout: float = 5.0) -> ExternalPostgres:
        """Check that it takes clients.

        Raises:
            ServerUnavailable: it does not, within ``timeout`` seconds.
        """
        if not takes_clients(self.address, self._user, self._database, timeout):
            host, port = self.address  # and no more of the URL: there may be a password in it
            raise ServerUnavailable(f"the server that {ENVIRONMENT} names takes no clients at {host}:{port}")
        self.ready_time = time.monotonic()
        return self

    def close(self) -> None:
        """Leave it alone."""

    def log(self) -> str:
        """Return nothing: its log is not ours."""
        return ""

    def __enter__(self) -> ExternalPostgres:
        """Check that it takes clients."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Leave it alone."""

    def _refuse(self, *_: object, **__: object) -> None:
        raise ServerUnavailable(
            f"{ENVIRONMENT} names a server that is not ours: it cannot be killed, frozen, "
            f"stopped or changed. Unset it to run this test on a server of its own"
        )

    kill = freeze = thaw = stop = restart = _refuse


def open_postgres() -> PostgresServer | ExternalPostgres:
    """Return the server that :func:`find_postgres` names, not started.

    Raises:
        ServerUnavailable: there is none.
    """
    source = find_postgres()
    return ExternalPostgres(source.where) if source.kind == "external" else PostgresServer(source=source)
