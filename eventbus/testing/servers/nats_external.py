"""The server that tests are to use: one of their own, or one that runs already."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from eventbus.testing.servers.nats import NatsServer
from eventbus.testing.servers.nats_info import read_info
from eventbus.testing.servers.nats_source import ENVIRONMENT, find_nats
from eventbus.testing.servers.process import ServerUnavailable


class ExternalServer:
    """A server that runs already, named by ``EVENTBUS_TEST_NATS``; no outage can be made of it."""

    def __init__(self, url: str) -> None:
        """Take the URL (``nats://host:port``); nothing is connected."""
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        if parts.hostname is None:
            raise ServerUnavailable(f"{ENVIRONMENT} is not a URL: {url!r}")
        self.url = parts.geturl()
        self.name = "external"
        self.address = (parts.hostname, parts.port or 4222)
        self.port = self.address[1]
        self.pid = 0
        self.running = True
        self.ready_time = 0.0

    def start(self, *, timeout: float = 5.0) -> ExternalServer:
        """Check that it answers with INFO.

        Raises:
            ServerUnavailable: it does not, within ``timeout`` seconds.
        """
        try:
            read_info(self.address, timeout)
        except OSError as exc:
            raise ServerUnavailable(f"{ENVIRONMENT}={self.url} does not answer: {exc}") from exc
        self.ready_time = time.monotonic()
        return self

    def close(self) -> None:
        """Leave it alone."""

    def log(self) -> str:
        """Return nothing: its log is not ours."""
        return ""

    def __enter__(self) -> ExternalServer:
        """Check that it answers."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Leave it alone."""

    def _refuse(self, *_: object, **__: object) -> None:
        raise ServerUnavailable(
            f"{ENVIRONMENT} names a server that is not ours: it cannot be killed, frozen, "
            f"stopped or changed. Unset it to run this test on a server of its own"
        )

    kill = freeze = thaw = stop = restart = lame_duck = reload = lose_state = monitor = _refuse


def open_nats(**options: Any) -> NatsServer | ExternalServer:
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
    return ExternalServer(source.where)
