"""The broker that tests are to use: one of their own, or one that runs already."""

from __future__ import annotations

from typing import Any

from eventbus.testing.servers.hosted import ExternalServer
from eventbus.testing.servers.kafka import KafkaServer
from eventbus.testing.servers.kafka_source import ENVIRONMENT, find_kafka
from eventbus.testing.servers.kafka_wire import ClusterView, read_cluster
from eventbus.testing.servers.process import ServerUnavailable

_PORT = 9092


class ExternalKafka(ExternalServer):
    """A broker that runs already, named by ``EVENTBUS_TEST_KAFKA``; no outage can be made of it."""

    def __init__(self, address: str) -> None:
        """Take the address (``host:port``); nothing is connected."""
        host, _, port = address.removeprefix("kafka://").partition(":")
        if not host or not (port or str(_PORT)).isdecimal():
            raise ServerUnavailable(f"{ENVIRONMENT} is not host:port: {address!r}")
        self.bootstrap = self.inner_bootstrap = f"{host}:{port or _PORT}"
        self.client_options: dict[str, str] = {}
        super().__init__(ENVIRONMENT, f"kafka://{self.bootstrap}", (host, int(port or _PORT)))

    def view(self, timeout: float = 1.0) -> ClusterView:
        """Return what it knows of brokers, topics and partitions.

        Raises:
            OSError: no answer within ``timeout`` seconds.
        """
        return read_cluster(self.address, timeout)

    def _check(self, timeout: float) -> None:
        try:
            self.view(timeout)
        except OSError as exc:
            raise ServerUnavailable(f"{ENVIRONMENT}={self.bootstrap} does not answer: {exc}") from exc

    reconfigure = lose_state = ExternalServer._refuse


def open_kafka(**options: Any) -> KafkaServer | ExternalKafka:
    """Return the broker that :func:`find_kafka` names, not started: the arguments of KafkaServer.

    Raises:
        ServerUnavailable: there is none, or ``EVENTBUS_TEST_KAFKA`` is set and options are given
            that a broker of somebody else's cannot take.
    """
    source = find_kafka()
    if source.kind != "external":
        return KafkaServer(**{"source": source, **options})
    if options:
        raise ServerUnavailable(f"{ENVIRONMENT} is set, and that server cannot take {options}")
    return ExternalKafka(source.where)
