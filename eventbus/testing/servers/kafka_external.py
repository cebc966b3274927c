"""The broker that tests are to use: one of their own, or one that runs already."""

from __future__ import annotations

import time
from typing import Any

from eventbus.testing.servers.kafka import KafkaServer
from eventbus.testing.servers.kafka_source import ENVIRONMENT, find_kafka
from eventbus.testing.servers.kafka_wire import ClusterView, read_cluster
from eventbus.testing.servers.process import ServerUnavailable

_PORT = 9092


class ExternalKafka:
    """A broker that runs already, named by ``EVENTBUS_TEST_KAFKA``; no outage can be made of it."""

    def __init__(self, address: str) -> None:
        """Take the address (``host:port``); nothing is connected."""
        host, _, port = address.removeprefix("kafka://").partition(":")
        if not host or not (port or str(_PORT)).isdecimal():
            raise ServerUnavailable(f"{ENVIRONMENT} is not host:port: {address!r}")
        self.name = "external"
        self.address = (host, int(port or _PORT))
        self.port = self.address[1]
        self.bootstrap = f"{host}:{self.port}"
        self.inner_bootstrap = self.bootstrap
        self.url = f"kafka://{self.bootstrap}"
        self.client_options: dict[str, str] = {}
        self.pid = 0
        self.running = True
        self.ready_time = 0.0

    def start(self, *, timeout: float = 5.0) -> ExternalKafka:
        """Check that it answers.

        Raises:
            ServerUnavailable: it does not, within ``timeout`` seconds.
        """
        try:
            self.view(timeout)
        except OSError as exc:
            raise ServerUnavailable(f"{ENVIRONMENT}={self.bootstrap} does not answer: {exc}") from exc
        self.ready_time = time.monotonic()
        return self

    def view(self, timeout: float = 1.0) -> ClusterView:
        """Return what it knows of brokers, topics and partitions.

        Raises:
            OSError: no answer within ``timeout`` seconds.
        """
        return read_cluster(self.address, timeout)

    def close(self) -> None:
        """Leave it alone."""

    def log(self) -> str:
        """Return nothing: its log is not ours."""
        return ""

    def __enter__(self) -> ExternalKafka:
        """Check that it answers."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Leave it alone."""

    def _refuse(self, *_: object, **__: object) -> None:
        raise ServerUnavailable(
            f"{ENVIRONMENT} names a server that is not ours: it cannot be killed, frozen, "
            f"stopped or changed. Unset it to run this test on a server of its own"
        )

    kill = freeze = thaw = stop = restart = reconfigure = lose_state = _refuse


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
