"""A real Kafka broker for tests, whichever way this machine can run one.

>>> from eventbus.testing.servers.kafka import KafkaServer
>>> with KafkaServer() as server:                     # doctest: +SKIP
...     client.connect(server.url)
...     server.kill()                                 # kill -9
...     server.start()                                # same port, same topics
"""

from __future__ import annotations

import itertools
import os
import socket
from dataclasses import replace
from signal import Signals
from typing import Any

from eventbus.testing.faults import TcpProxy
from eventbus.testing.ports import free_port, release_port
from eventbus.testing.servers.hosted import HostedServer
from eventbus.testing.servers.kafka_access import Access
from eventbus.testing.servers.kafka_hosts import KafkaHost, LocalHost, Ports
from eventbus.testing.servers.kafka_jars import get_jars
from eventbus.testing.servers.kafka_java import Java
from eventbus.testing.servers.kafka_options import HOST, KafkaOptions, Seat, new_cluster_id
from eventbus.testing.servers.kafka_source import KafkaSource, find_kafka
from eventbus.testing.servers.kafka_warm import warmed
from eventbus.testing.servers.kafka_wire import ClusterView, read_cluster
from eventbus.testing.servers.process import ServerFailed, ServerUnavailable

__all__ = ["KafkaServer", "KafkaSource", "find_kafka"]

_count = itertools.count(1)


class KafkaServer(HostedServer[KafkaHost]):
    """One broker (and controller, KRaft) on loopback that a test kills, freezes, thaws, restarts.

    Its ports and its topics stay the same until :meth:`close` (or the end of the ``with`` block),
    which removes everything; a ``kill -9`` of the test does too. One thread at a time drives it;
    properties, :meth:`log` and :meth:`view` are for any thread. Times are seconds.
    """

    START = 30.0
    STOP = 15.0

    def __init__(
        self,
        *,
        port: int | None = None,
        name: str | None = None,
        source: KafkaSource | None = None,
        proxied: bool = False,
        seat: Seat | None = None,
        **options: Any,
    ) -> None:
        """Describe the server; nothing runs before :meth:`start`.

        ``port``: a free one below the ephemeral range unless given. ``source``: which broker to
        run, else :func:`find_kafka`. ``proxied``: clients are sent through a :class:`TcpProxy`,
        :attr:`proxy`, also by the broker's own answers. ``seat``: its place in a cluster, which
        :class:`KafkaCluster` gives it. ``options``: the settings, as :class:`KafkaOptions`
        explains them: settings, fast, user and password, mechanism, tls, verify_clients, acl.

        Raises:
            ValueError: settings that do not go together.
            TypeError: no such setting.
        """
        super().__init__()
        self._options = KafkaOptions(**options)
        self.name = name or f"kafka-{os.getpid()}-{next(_count)}"
        self._source = source
        self._own_ports = [free_port(HOST) for _ in range((port is None) + (seat is None) + 1)]
        ports = iter(self._own_ports)
        self._inner_port = next(ports)
        self._port = next(ports) if port is None else port
        self._clustered = seat is not None
        self._seat = seat or Seat(1, new_cluster_id(), {1: (HOST, next(ports))})
        self._proxy = TcpProxy(HOST, self._port) if proxied else None

    @property
    def port(self) -> int:
        """The broker's own port for clients; known before the first start, the same ever after."""
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for clients: of the proxy where there is one."""
        return self._proxy.address if self._proxy else (HOST, self._port)

    @property
    def bootstrap(self) -> str:
        """``bootstrap.servers`` for clients: ``host:port``."""
        return "{}:{}".format(*self.address)

    @property
    def url(self) -> str:
        """The URL for clients, ``kafka://host:port``; :attr:`client_options` has the credentials."""
        return f"kafka://{self.bootstrap}"

    @property
    def client_options(self) -> dict[str, str]:
        """What librdkafka needs to get in, by the names of its settings; nothing without security."""
        return self._options.client_options()

    @property
    def inner_bootstrap(self) -> str:
        """``bootstrap.servers`` past all security, proxies and access rights, for a test's own doings."""
        return "{}:{}".format(*self.inner_address)

    @property
    def inner_address(self) -> tuple[str, int]:
        """Host and port of :attr:`inner_bootstrap`."""
        return HOST, self._inner_port

    @property
    def access(self) -> Access:
        """Access rights, to be denied and restored.

        Raises:
            ServerFailed: the server was made without ``acl=True``.
        """
        if not self._options.acl:
            raise ServerFailed(f"{self.name} checks no access rights: it was made without acl=True")
        return Access([self.inner_address])

    @property
    def proxy(self) -> TcpProxy:
        """The proxy that clients are sent through; it runs from the first start to :meth:`close`.

        Raises:
            ServerFailed: the server was made without ``proxied=True``.
        """
        if self._proxy is None:
            raise ServerFailed(f"{self.name} has no proxy: it was made without proxied=True")
        return self._proxy

    @property
    def proxies(self) -> list[TcpProxy]:
        """:attr:`proxy` in a list, as a cluster has them."""
        return [self.proxy]

    @property
    def node_id(self) -> int:
        """Kafka's ``node.id``."""
        return self._seat.node_id

    def answers(self, timeout: float = HostedServer.ANSWER) -> bool:
        """Whether it answers within ``timeout`` seconds, and counts itself among the brokers.

        A server on its own must have a leader for each of its partitions, too.
        """
        try:
            view = self.view(timeout)
        except OSError:
            return False
        if view.cluster_id != self._seat.cluster_id or self.node_id not in view.brokers:
            return False  # another one has the port, or it is still being registered
        return self._clustered or view.has_leaders

    def view(self, timeout: float = HostedServer.ANSWER) -> ClusterView:
        """Return what it knows of brokers, topics and partitions, past security and proxy.

        Raises:
            OSError: no answer within ``timeout`` seconds.
        """
        return read_cluster(self.inner_address, timeout)

    def reconfigure(self, **changes: Any) -> None:
        """Change settings, arguments of the constructor; a broker takes them at its next start.

        Only the password of a SCRAM user stays what it was until :meth:`lose_state`.

        Raises:
            TypeError: no such setting.
            ValueError: settings that do not go together.
        """
        self._options = replace(self._options, **changes)
        if self._host is not None:
            self._configure()

    def lose_state(self) -> None:
        """Delete topics and groups, as a lost disk would. Only while it is stopped or killed.

        Raises:
            ServerFailed: it is running.
        """
        if self.running:
            raise ServerFailed("lose_state() needs a server that is stopped or killed")
        self._started().lose_state()

    def signal(self, number: Signals) -> None:
        """Send it a signal."""
        self._started().signal(number)

    def close(self) -> None:
        """Kill it, stop its proxy and remove its directory. Idempotent."""
        if self._proxy is not None:
            self._proxy.stop()
        super().close()
        for port in self._own_ports:
            release_port(port)

    def _launch(self) -> None:
        if self._host is None:
            self._host = self._make_host()
            self._configure()
        if self.running:
            raise ServerFailed(f"{self.name} is running already (pid {self.pid})")
        self._require_ports()
        if self._proxy is not None:
            self._proxy.start()
        self._host.start()

    def _make_host(self) -> KafkaHost:
        source = self._source or find_kafka(external=False, docker=not self._clustered)
        if source.kind == "java":
            return LocalHost(self.name, warmed(Java(source.java, get_jars())))
        if source.kind == "external":
            raise ServerUnavailable(f"{source} cannot be started; use kafka_external.open_kafka()")
        if self._clustered:
            raise ServerUnavailable(f"clusters need Apache Kafka's jars, not {source}")
        from eventbus.testing.servers.kafka_docker import DockerHost

        return DockerHost(self.name, source.where)

    def _configure(self) -> None:
        ports = Ports(self._port, self._inner_port, self.address[1])
        self._started().configure(self._options, self._seat, ports)

    def _require_ports(self) -> None:
        """Kafka needs seconds to find out that a port is taken."""
        for port in (self._port, self._inner_port, self._seat.voters[self.node_id][1]):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as exc:
                    raise ServerFailed(f"{self.name} cannot start, its port {port} is taken: {exc}") from exc
