"""The PostgreSQL that tests are to use: one of their own, or one that runs already."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from eventbus.testing.servers.hosted import ExternalServer
from eventbus.testing.servers.postgres import PostgresServer, takes_clients
from eventbus.testing.servers.postgres_source import ENVIRONMENT, find_postgres
from eventbus.testing.servers.process import ServerUnavailable

_PORT = 5432


class ExternalPostgres(ExternalServer):
    """A server that runs already, named by ``EVENTBUS_TEST_POSTGRES``; no outage can be made of it."""

    def __init__(self, url: str) -> None:
        """Take the URL (``postgresql://user@host:port/database``); nothing is connected."""
        parts = urlsplit(url)
        if parts.hostname is None or not parts.username:
            raise ServerUnavailable(f"{ENVIRONMENT} is no URL such as postgresql://user:password@host:5432/database")
        super().__init__(ENVIRONMENT, url, (parts.hostname, parts.port or _PORT))
        self._user = unquote(parts.username)
        self._database = unquote(parts.path.strip("/")) or self._user

    def _check(self, timeout: float) -> None:
        if not takes_clients(self.address, self._user, self._database, timeout):
            host, port = self.address  # and no more of the URL: there may be a password in it
            raise ServerUnavailable(f"the server that {ENVIRONMENT} names takes no clients at {host}:{port}")


def open_postgres() -> PostgresServer | ExternalPostgres:
    """Return the server that :func:`find_postgres` names, not started.

    Raises:
        ServerUnavailable: there is none.
    """
    source = find_postgres()
    return ExternalPostgres(source.where) if source.kind == "external" else PostgresServer(source=source)
