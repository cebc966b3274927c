"""NATS does what every backend does: core within what it promises, JetStream in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from eventbus import EventBusConfig, NatsConfig
from eventbus.testing import NatsServer, TcpProxy
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.outages import Outages, ServerOutages

pytestmark = pytest.mark.nats


class OnOneServer(BackendConformance):
    jetstream: ClassVar[bool]
    server: ClassVar[NatsServer]
    proxy: ClassVar[TcpProxy]

    def config(self) -> EventBusConfig:
        address = "{}:{}".format(*self.proxy.address)
        return EventBusConfig(backend=NatsConfig(servers=(address,), jetstream=self.jetstream, ack_wait=1.0))

    def outages(self) -> Outages:
        return ServerOutages(self.server, self.proxy)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with NatsServer(jetstream=cls.jetstream) as cls.server, TcpProxy(*cls.server.address) as cls.proxy:
            yield


class TestCoreNatsConformance(OnOneServer):
    jetstream = False


class TestJetStreamConformance(OnOneServer):
    jetstream = True


del BackendConformance, OnOneServer  # or pytest collects the bases too
