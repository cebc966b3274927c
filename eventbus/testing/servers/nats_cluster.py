"""Several NATS servers that make one JetStream cluster on loopback."""

from __future__ import annotations

import contextlib
from typing import Any

from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.nats import NatsServer
from eventbus.testing.wait import wait_until

_HOST = "127.0.0.1"


class NatsCluster:
    """``size`` servers with routes between them; each can be killed, frozen, restarted alone.

    Ports and JetStream stores stay the same until :meth:`close` (or the end of the ``with``
    block). Needs a nats-server binary: docker and ``EVENTBUS_TEST_NATS`` do not do. One thread
    at a time drives it. Times are seconds.
    """

    def __init__(self, size: int = 3, *, name: str = "c", **options: Any) -> None:
        """Describe the cluster. ``options``: arguments of :class:`NatsServer` for every server,
        but ``port``, ``host``, ``store_dir`` and ``name`` (they are ``n0``, ``n1``, ...).

        Raises:
            ValueError: fewer than one server.
            TypeError: no such option.
        """
        if size < 1:
            raise ValueError(f"a cluster of {size}")
        self._route_ports = [free_port(_HOST) for _ in range(size)]
        routes = ", ".join(f"nats-route://{_HOST}:{port}" for port in self._route_ports)
        self.servers: list[NatsServer] = [
            NatsServer(
                name=f"n{index}",
                host=_HOST,
                cluster=f"cluster {{ name: {name}, listen: {_HOST}:{port}, routes: [{routes}] }}",
                **options,
            )
            for index, port in enumerate(self._route_ports)
        ]

    @property
    def urls(self) -> list[str]:
        """The URLs of all servers, running or not."""
        return [server.url for server in self.servers]

    @property
    def running(self) -> list[NatsServer]:
        """The servers whose process is there, frozen ones included."""
        return [server for server in self.servers if server.running]

    def start(self, *, timeout: float = 30.0) -> NatsCluster:
        """Start the servers that do not run, and :meth:`wait_ready`.

        Raises:
            ServerUnavailable: there is no server binary on this machine.
            ServerFailed: one ended or sent no INFO in time.
            AssertionError: no leader in time.
        """
        try:
            starting = [server for server in self.servers if not server.running]
            for server in starting:
                server.start(wait=False)
            for server in starting:
                server.wait_ready(timeout)
            self.wait_ready(timeout)
        except BaseException:
            self.close()
            raise
        return self

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until every running server is healthy and names the same JetStream leader.

        Raises:
            AssertionError: not within ``timeout`` seconds; shows the ends of the logs.
        """
        wait_until(self._is_ready, timeout, message=self._logs)

    def leader(self) -> NatsServer | None:
        """Return the running server that leads JetStream's metadata, ``None`` while none does."""
        for server in self.running:
            leader = self._server(_meta_leader(server))
            if leader is not None:
                return leader
        return None

    def stream_leader(self, stream: str, account: str = "$G") -> NatsServer | None:
        """Return the running server that leads ``stream``, ``None`` while none does."""
        return self._find_leader(stream, account, None)

    def consumer_leader(self, stream: str, consumer: str, account: str = "$G") -> NatsServer | None:
        """Return the running server that leads a consumer, ``None`` while none does."""
        return self._find_leader(stream, account, consumer)

    def close(self) -> None:
        """Kill every server and remove their files. Idempotent."""
        for server in self.servers:
            server.close()
        for port in self._route_ports:
            release_port(port)

    def __enter__(self) -> NatsCluster:
        """Start it."""
        return self.start()

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.close()

    def _is_ready(self) -> bool:
        running = self.running
        try:
            if not all(server.monitor("healthz").get("status") == "ok" for server in running):
                return False
        except OSError:
            return False
        leaders = {_meta_leader(server) for server in running}
        return len(leaders) == 1 and self._server(leaders.pop()) is not None

    def _server(self, name: str | None) -> NatsServer | None:
        return next((server for server in self.running if server.name == name), None)

    def _find_leader(self, stream: str, account: str, consumer: str | None) -> NatsServer | None:
        for server in self.running:
            for found in _streams(server, account):
                if found["name"] == stream:
                    leader = self._server(_leader_in(found, consumer))
                    if leader is not None:
                        return leader
        return None

    def _logs(self) -> str:
        ends = [f"{server.name}: {server.log()[-600:]}" for server in self.servers]
        return "\n".join(["a cluster that is healthy and has one leader", *ends])


def _meta_leader(server: NatsServer) -> str | None:
    with contextlib.suppress(OSError):
        name = server.monitor("jsz").get("meta_cluster", {}).get("leader")
        return str(name) if name else None
    return None


def _streams(server: NatsServer, account: str) -> list[dict[str, Any]]:
    try:
        page = server.monitor("jsz?accounts=true&streams=true&consumers=true")
    except OSError:
        return []
    return [
        stream
        for details in page.get("account_details") or []
        if details["name"] == account
        for stream in details.get("stream_detail") or []
    ]


def _leader_in(stream: dict[str, Any], consumer: str | None) -> str | None:
    if consumer is None:
        return (stream.get("cluster") or {}).get("leader")
    for found in stream.get("consumer_detail") or []:
        if found["name"] == consumer:
            return (found.get("cluster") or {}).get("leader")
    return None
