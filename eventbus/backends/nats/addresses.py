"""Servers: how they are written, and which to try next."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from attrs import evolve, field, frozen

from ...config import DEFAULT_NATS_PORT
from ...errors import ConfigError

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
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "nats", text
    if scheme not in ("nats", "tls"):
        raise ConfigError(f"server {_hidden(text)!r}: the scheme is nats:// or tls://, not {scheme}://")
    if rest.count(":") > 1 and "[" not in rest and "@" not in rest:
        rest = f"[{rest}]"
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname, parts.port
        if host is not None and ":" in host:  # before 3.11 anything in brackets passes
            ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ConfigError(f"server {_hidden(text)!r}: {error}") from error
    if not host or parts.path.strip("/") or parts.query or any(ord(character) <= 32 for character in host):
        raise ConfigError(f"server {_hidden(text)!r}: expected host, host:port or nats://host:port")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    server = Server(host, DEFAULT_NATS_PORT if port is None else port, tls=scheme == "tls")
    if user is not None and password is None:
        return evolve(server, token=user)
    return evolve(server, user=user, password=password)


def _hidden(text: str) -> str:
    return text.rpartition("@")[2]


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
        """Add what `source` announces as `connect_urls`; what is malformed is left out."""
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
            fresh = {(server.host, server.port): server for server in [*self._announced, *found]}
            self._announced = [server for place, server in fresh.items() if place not in given][-_MAX_ANNOUNCED:]

    def leave(self, server: Server, leaving: bool) -> None:
        """Note whether this server said that it is about to end: it is tried last."""
        with self._lock:
            if leaving:
                self._leaving[server.host, server.port] = None
            else:
                self._leaving.pop((server.host, server.port), None)
