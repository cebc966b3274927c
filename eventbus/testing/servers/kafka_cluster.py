"""Several Kafka brokers that make one cluster on loopback."""

from __future__ import annotations

import time
from signal import Signals
from typing import Any

from eventbus.testing.faults import TcpProxy
from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.kafka import KafkaServer
from eventbus.testing.servers.kafka_access import Access
from eventbus.testing.servers.kafka_options import HOST, Seat, new_cluster_id
from eventbus.testing.servers.kafka_wire import ClusterView, find_coordinator
from eventbus.testing.servers.process import ServerFailed
from eventbus.testing.wait import wait_until

_ANSWER = 1.0
_START = 60.0


class KafkaCluster:
    """``size`` brokers, each a voter of the controllers too; each is killed, frozen, restarted alone.

    New topics have up to three replicas and want two in sync. Ports and topics stay the same until
    :meth:`close` (or the end of the ``with`` block). Needs Apache Kafka's jars: docker and
    ``EVENTBUS_TEST_KAFKA`` do not do. One thread at a time drives it. Times are seconds.
    """

    def __init__(self, size: int = 3, **options: Any) -> None:
        """Describe the cluster. ``options``: arguments of :class:`KafkaServer` for every broker,
        but ``port``, ``name`` and ``seat`` (they are ``k1``, ``k2``, ..., by their node ids).

        Raises:
            ValueError: fewer than one broker, or settings that do not go together.
            TypeError: no such option.
        """
        if size < 1:
            raise ValueError(f"a cluster of {size}")
        nodes = range(1, size + 1)
        voters = {node: (HOST, free_port(HOST)) for node in nodes}
        cluster_id = new_cluster_id()
        self._controller_ports = [port for _, port in voters.values()]
        self.servers: list[KafkaServer] = [
            KafkaServer(name=f"k{node}", seat=Seat(node, cluster_id, voters), **options) for node in nodes
        ]

    @property
    def bootstrap(self) -> str:
        """``bootstrap.servers`` for clients: all brokers, running or not, with commas between."""
        return ",".join(server.bootstrap for server in self.servers)

    @property
    def url(self) -> str:
        """The URL for clients, ``kafka://a,b,c``; :attr:`client_options` has the credentials."""
        return f"kafka://{self.bootstrap}"

    @property
    def client_options(self) -> dict[str, str]:
        """What librdkafka needs to get in, by the names of its settings; nothing without security."""
        return self.servers[0].client_options

    @property
    def inner_bootstrap(self) -> str:
        """``bootstrap.servers`` past all security, proxies and access rights, for a test's own doings."""
        return ",".join(server.inner_bootstrap for server in self.servers)

    @property
    def proxies(self) -> list[TcpProxy]:
        """The proxy in front of each broker, in the order of :attr:`servers`; see ``proxied=True``."""
        return [server.proxy for server in self.servers]

    @property
    def access(self) -> Access:
        """Access rights, to be denied and restored at the brokers that run now.

        Raises:
            ServerFailed: the cluster was made without ``acl=True``, or no broker runs.
        """
        if not self.running:
            raise ServerFailed("no broker of the cluster runs")
        return Access([address for server in self.running for address in server.access.addresses])

    @property
    def running(self) -> list[KafkaServer]:
        """The brokers whose process is there, frozen ones included."""
        return [server for server in self.servers if server.running]

    def start(self, *, timeout: float = _START, wait: bool = True) -> KafkaCluster:
        """Start the brokers that do not run, and :meth:`wait_ready`, unless told not to.

        Raises:
            ServerUnavailable: there is no Apache Kafka on this machine.
            ServerFailed: one ended or was not ready in time.
            AssertionError: they do not agree in time.
        """
        try:
            starting = [server for server in self.servers if not server.running]
            for server in starting:
                server.start(wait=False)
            if wait:
                for server in starting:
                    server.wait_ready(timeout)
                self.wait_ready(timeout)
        except BaseException:
            self.close()
            raise
        return self

    def wait_ready(self, timeout: float = _START) -> None:
        """Wait until every running broker knows all the running ones, and a leader of each partition.

        Raises:
            AssertionError: not within ``timeout`` seconds; shows the ends of the logs.
        """
        wait_until(lambda: self._agree(in_sync=False), timeout, message=self._logs)

    def wait_in_sync(self, timeout: float = _START) -> None:
        """Wait until, on top of :meth:`wait_ready`, every replica of every partition is in sync.

        Raises:
            AssertionError: not within ``timeout`` seconds; shows the ends of the logs.
        """
        wait_until(lambda: self._agree(in_sync=True), timeout, message=self._logs)

    def partition_leader(self, topic: str, partition: int = 0) -> KafkaServer | None:
        """Return the running broker that leads a partition, ``None`` while none does."""
        for view in self._views():
            for each in view.partitions:
                if (each.topic, each.index) == (topic, partition):
                    return self._server(each.leader)
        return None

    def group_coordinator(self, group: str) -> KafkaServer | None:
        """Return the running broker that coordinates a consumer group, ``None`` while none does."""
        for server in self.running:
            try:
                node = find_coordinator(server.inner_address, group, _ANSWER)
            except OSError:
                continue
            found = self._server(node)
            if found is not None:
                return found
        return None

    def kill(self) -> None:
        """SIGKILL for every broker, as a power cut."""
        for server in self.servers:
            server.kill()

    def stop(self, timeout: float = 15.0) -> None:
        """End every broker in an orderly way (SIGTERM), by SIGKILL ``timeout`` seconds later.

        They go at the same time: the last ones have no majority left to say goodbye to, and often
        wait for it to the end.
        """
        deadline = time.monotonic() + timeout
        for server in self.running:
            server.signal(Signals.SIGTERM)
        for server in self.servers:
            server.stop(max(0.1, deadline - time.monotonic()))

    def restart(self, *, timeout: float = _START) -> None:
        """:meth:`kill` and :meth:`start`."""
        self.kill()
        self.start(timeout=timeout)

    def close(self) -> None:
        """Kill every broker and remove their files. Idempotent."""
        for server in self.servers:
            server.close()
        for port in self._controller_ports:
            release_port(port)

    def __enter__(self) -> KafkaCluster:
        """Start it."""
        return self.start()

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.close()

    def _agree(self, *, in_sync: bool) -> bool:
        running = self.running
        wanted = {server.node_id for server in running}
        try:
            views = [server.view() for server in running]
        except OSError:
            return False
        if any(view.brokers != wanted or not view.has_leaders for view in views):
            return False
        return not in_sync or all(view.in_sync for view in views)

    def _views(self) -> list[ClusterView]:
        views = []
        for server in self.running:
            try:
                views.append(server.view())
            except OSError:
                continue
        return views

    def _server(self, node_id: int | None) -> KafkaServer | None:
        return next((server for server in self.running if server.node_id == node_id), None)

    def _logs(self) -> str:
        ends = [f"{server.name}: {server.log()[-600:]}" for server in self.servers]
        return "\n".join(["a cluster whose brokers know each other and all leaders", *ends])
