"""A real NATS server for tests, whichever way this machine can run one.

>>> from eventbus.testing.servers.nats import NatsServer
>>> with NatsServer() as server:                      # doctest: +SKIP
...     client.connect(server.url)
...     server.kill()                                 # kill -9
...     server.start()                                # same port, same JetStream store
"""

from __future__ import annotations

import itertools
import os
import ssl
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.hosted import HostedServer
from eventbus.testing.servers.nats_hosts import LocalHost, NatsHost
from eventbus.testing.servers.nats_info import fetch_page, read_info
from eventbus.testing.servers.nats_options import NatsOptions
from eventbus.testing.servers.nats_source import NatsSource, find_nats
from eventbus.testing.servers.process import (
    ServerFailed,
    ServerUnavailable,
    log_tail,
)
from eventbus.testing.wait import wait_until

__all__ = ["NatsServer", "NatsSource", "find_nats"]

_count = itertools.count(1)
_RELOADED = "Reloaded server configuration"
_NOT_RELOADED = "Failed to reload server configuration"


class NatsServer(HostedServer[NatsHost]):
    """One nats-server on loopback that a test kills, freezes, thaws, restarts and reconfigures.

    A ``with`` block starts it, and closes it at its end. Its port and its JetStream store stay the same until
    :meth:`close`, which removes everything; a ``kill -9`` of the test does too. One thread at a time
    drives it; properties, :meth:`log` and :meth:`monitor` are for any thread. Times are seconds.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        store_dir: Path | str | None = None,
        name: str | None = None,
        source: NatsSource | None = None,
        **options: Any,
    ) -> None:
        """Describe the server; nothing runs before :meth:`start`.

        ``port``: a free one below the ephemeral range unless given. ``store_dir``: keeps the
        JetStream store beyond :meth:`close`. ``name``: the server's name, by which it is told from
        another one that took its port. ``source``: which server to run, else :func:`find_nats`.
        ``options``: the settings, as :class:`NatsOptions` explains them: jetstream, config, host,
        user and password or token, tls, verify_clients, handshake_first, max_payload,
        lame_duck_duration, lame_duck_grace, cluster.

        Raises:
            ValueError: settings that do not go together, or a host that is not loopback.
            TypeError: no such setting.
        """
        super().__init__()
        self._options = NatsOptions(**options)
        host = self._options.host
        self.name = name or f"nats-{os.getpid()}-{next(_count)}"
        self._store_dir = Path(store_dir) if store_dir is not None else None
        self._source = source
        self._own_ports = [free_port(host)] if port else [free_port(host), free_port(host)]
        self._monitor_port = self._own_ports[0]
        self._port = port or self._own_ports[1]

    @property
    def port(self) -> int:
        """The port for clients; known before the first start, the same ever after."""
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for clients."""
        return self._options.host, self._port

    @property
    def url(self) -> str:
        """The URL for clients, credentials included: ``nats://`` or, with TLS, ``tls://``."""
        return self.url_at(*self.address)

    def url_at(self, host: str, port: int) -> str:
        """Return :attr:`url` with another address: that of a proxy in front of the server."""
        return self._options.url(host, port)

    def answers(self, timeout: float = HostedServer.ANSWER) -> bool:
        """Whether it sends INFO to a new connection now, within ``timeout`` seconds."""
        try:
            info = read_info(self.address, timeout, self._probe_context())
        except OSError:
            return False
        return bool(info.get("server_name") == self.name)  # else another one has the port

    def lame_duck(self) -> None:
        """Let it retire (SIGUSR2), as before maintenance.

        It tells its clients, refuses new ones, begins to cut them off after ``lame_duck_grace``
        and then ends by itself: :meth:`wait_gone`.
        """
        self._started().signal(Signals.SIGUSR2)

    def wait_gone(self, timeout: float = 40.0) -> None:
        """Wait until it has ended by itself, as after :meth:`lame_duck`.

        Raises:
            ServerFailed: it still runs after ``timeout`` seconds.
        """
        self._started().wait_gone(timeout)

    def reload(self, config: str | None = None, **changes: Any) -> None:
        """Change settings in place (SIGHUP): ``reload(password="new")``, ``reload("debug: true")``.

        ``changes`` are arguments of the constructor. A server that is down takes them at its next
        start. Returns when the server has them.

        Raises:
            TypeError: no such setting.
            ServerFailed: the server refused them; it goes on with the old ones.
        """
        before = self._options
        if config is not None:
            changes["config"] = config
        self._options = replace(before, **changes)
        if self._host is None:
            return
        self._configure()
        if self.running and not self._reloaded():
            self._options = before
            self._configure()
            raise ServerFailed(f"{self.name} refused the new configuration: {log_tail(self)}")

    def lose_state(self) -> None:
        """Delete the JetStream store, as a lost disk would. Only while it is stopped or killed.

        Raises:
            ServerFailed: it is running.
        """
        if self.running:
            raise ServerFailed("lose_state() needs a server that is stopped or killed")
        self._started().lose_state()

    def monitor(self, page: str, timeout: float = HostedServer.ANSWER) -> dict[str, Any]:
        """Return a monitoring page of the server: ``varz``, ``connz``, ``jsz?streams=1``...

        Raises:
            OSError: no answer within ``timeout`` seconds.
        """
        return fetch_page(self._options.host, self._monitor_port, page, timeout)

    def close(self) -> None:
        """Kill it and remove its directory (not a ``store_dir`` that was given). Idempotent."""
        if self._store_dir is not None:
            self.stop()
        super().close()
        for port in self._own_ports:
            release_port(port)

    def _launch(self) -> None:
        if self._host is None:
            self._host = self._make_host()
            self._configure()
        self._host.start()

    def _make_host(self) -> NatsHost:
        source = self._source or find_nats(external=False)
        if source.kind == "binary":
            return LocalHost(self.name, source.where, self._store_dir)
        if source.kind == "external":
            raise ServerUnavailable(f"{source} cannot be started; use nats_external.open_nats()")
        from eventbus.testing.servers.nats_docker import DockerHost

        if self._store_dir is not None or self._options.cluster:
            raise ServerUnavailable(f"store_dir and clusters need a nats-server binary, not {source}")
        return DockerHost(self.name, source.where)

    def _configure(self) -> None:
        self._started().configure(self._options, self._port, self._monitor_port)

    def _reloaded(self) -> bool:
        def count() -> tuple[int, int]:
            log = self.log()
            return log.count(_RELOADED), log.count(_NOT_RELOADED)

        good, bad = count()
        self._started().signal(Signals.SIGHUP)
        wait_until(lambda: count() != (good, bad), message=f"{self.name} reloads its configuration")
        return count()[1] == bad

    def _probe_context(self) -> ssl.SSLContext | None:
        options = self._options
        if options.tls is None or not options.handshake_first:
            return None
        return options.tls.client_context(identify=options.verify_clients)
