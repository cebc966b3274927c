"""Servers: how they are written, and which to try next."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Sequence
from urllib.parse import unquote

from attrs import evolve, field, frozen

from ....config import DEFAULT_NATS_PORT, NATS_SCHEMES
from ....config_fields import server_url
from ....errors import ConfigError

_MAX_ANNOUNCED = 64


@frozen
class Server:
    """One server. user and password or token: its own credentials, from its URL.

    verify_as: the name that its certificate is checked against, None for the host.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    verify_as: str | None = None

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address, not a name."""
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_server(text: str) -> Server:
    """A server from "host", "host:port", "[::1]:4222", "::1" or a nats:// or tls:// URL; ConfigError."""
    found = server_url(text, "servers", NATS_SCHEMES, DEFAULT_NATS_PORT)
    server = Server(found.host, found.port, tls=found.scheme == "tls")
    if found.credentials is None:
        return server
    user, colon, password = found.credentials.partition(":")
    if not colon:
        return evolve(server, token=unquote(user))
    return evolve(server, user=unquote(user), password=unquote(password))


class ServerPool:
    """The servers known: the configured ones and those that the cluster announced. Thread-safe.

    What earlier sessions learned is kept here for later ones.
    """

    def __init__(self, configured: Sequence[str]) -> None:
        """ConfigError for one that is malformed."""
        self._lock = threading.Lock()
        self._configured = [parse_server(text) for text in configured]
        self._announced: list[Server] = []
        self._leaving: dict[tuple[str, int], None] = {}

    def in_order(self) -> list[Server]:
        """All, in the order to try: configured ones from a random one on, announced, those going away."""
        with self._lock:
            first = random.randrange(len(self._configured))
            known = self._configured[first:] + self._configured[:first]
            known += random.sample(self._announced, len(self._announced))
            leaving = dict(self._leaving)
        return sorted(known, key=lambda server: (server.host, server.port) in leaving)

    def learn(self, urls: object, source: Server) -> None:
        """Note what `source` announces as `connect_urls`, all that there are now; what is malformed is left out."""
        if not isinstance(urls, list):
            return
        found = []
        for text in urls[:_MAX_ANNOUNCED]:
            try:
                server = parse_server(text if isinstance(text, str) else "")
            except ConfigError:
                continue
            name = source.verify_as or source.host
            credentials = evolve(source, host=server.host, port=server.port)
            found.append(evolve(credentials, verify_as=name if server.is_address else None))
        with self._lock:
            given = {(server.host, server.port) for server in self._configured}
            fresh = {(server.host, server.port): server for server in found}
            self._announced = [server for place, server in fresh.items() if place not in given]

    def leave(self, server: Server, leaving: bool) -> None:
        """Note whether this server said that it is about to end: it is tried last."""
        with self._lock:
            if leaving:
                self._leaving[server.host, server.port] = None
            else:
                self._leaving.pop((server.host, server.port), None)
