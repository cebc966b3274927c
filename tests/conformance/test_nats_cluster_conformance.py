"""JetStream on three servers does what every backend does, and goes on without the one that leads a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from short_form import DELIVERY, KILLED

from eventbus import EventBusConfig, NatsConfig
from eventbus.testing import NatsCluster, NatsServer
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.outages import Outages
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(120.0)]


class LeaderOutages(Outages):
    """Those of the server that leads a stream; the other two serve on."""

    partial = True

    def __init__(self, cluster: NatsCluster, stream: str) -> None:
        self._cluster, self._stream = cluster, stream
        self._frozen: list[NatsServer] = []

    def kill(self) -> None:
        self._leader().kill()

    def restore(self) -> None:
        self._cluster.start()

    def freeze(self) -> None:
        self._frozen.append(self._leader())
        self._frozen[-1].freeze()

    def thaw(self) -> None:
        while self._frozen:
            self._frozen.pop().thaw()
        self._cluster.wait_ready()

    def heal(self) -> None:
        self.thaw()
        self.restore()

    def _leader(self) -> NatsServer:
        leader = self._cluster.stream_leader(self._stream) or self._cluster.leader()
        assert leader is not None
        return leader


class TestClusterConformance(BackendConformance):
    short = DELIVERY | KILLED
    cluster: ClassVar[NatsCluster]

    def config(self) -> EventBusConfig:
        servers = tuple("{}:{}".format(*server.address) for server in self.cluster.servers)
        return EventBusConfig(backend=NatsConfig(servers=servers, ack_wait=2.0))

    def outages(self) -> Outages:
        return LeaderOutages(self.cluster, stream=self.prefix)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_servers(cls) -> Iterator[None]:
        with skip_or_fail():
            cls.cluster = NatsCluster(3).start()
        try:
            yield
        finally:
            cls.cluster.close()
