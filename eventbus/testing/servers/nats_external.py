"""The server that tests are to use: one of their own, or one that runs already."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from eventbus.testing.servers.hosted import ExternalServer
from eventbus.testing.servers.nats import NatsServer
from eventbus.testing.servers.nats_info import read_info
from eventbus.testing.servers.nats_source import ENVIRONMENT, find_nats
from eventbus.testing.servers.process import ServerUnavailable


class ExternalNats(ExternalServer):
    """A server that runs already, named by ``EVENTBUS_TEST_NATS``; no outage can be made of it."""

    def __init__(self, url: str) -> None:
        """Take the URL (``nats://host:port``); nothing is connected."""
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        if parts.hostname is None:
            raise ServerUnavailable(f"{ENVIRONMENT} is not a URL: {url!r}")
        super().__init__(ENVIRONMENT, parts.geturl(), (parts.hostname, parts.port or 4222))

    def _check(self, timeout: float) -> None:
        try:
            read_info(self.address, timeout)
        except OSError as exc:
            raise ServerUnavailable(f"{ENVIRONMENT}={self.url} does not answer: {exc}") from exc

    lame_duck = reload = lose_state = monitor = ExternalServer._refuse


def open_nats(**options: Any) -> NatsServer | ExternalNats:
    """Return the server that :func:`find_nats` names, not started: the arguments of NatsServer.

    Raises:
        ServerUnavailable: there is none, or ``EVENTBUS_TEST_NATS`` is set and options are given
            that a server of somebody else's cannot take.
    """
    source = find_nats()
    if source.kind != "external":
        return NatsServer(**{"source": source, **options})
    if options:
        raise ServerUnavailable(f"{ENVIRONMENT} is set, and that server cannot take {options}")
    return ExternalNats(source.where)
