"""NATS from far away does what every backend does: 60 ms for a round trip, in the long form of the tests 200 ms.

Far: world condition of design and README.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from short_form import FAR, LONG

from eventbus import EventBusConfig, NatsConfig
from eventbus.testing import NatsServer, TcpProxy
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.outages import Outages, ServerOutages

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(120.0)]
ONE_WAY = 0.1 if LONG else 0.03


class FarAway(BackendConformance):
    short = FAR
    jetstream: ClassVar[bool]
    server: ClassVar[NatsServer]
    proxy: ClassVar[TcpProxy]

    def config(self) -> EventBusConfig:
        address = "{}:{}".format(*self.proxy.address)
        return EventBusConfig(backend=NatsConfig(servers=(address,), jetstream=self.jetstream, ack_wait=2.0))

    def outages(self) -> Outages:
        return ServerOutages(self.server, self.proxy)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with NatsServer(jetstream=cls.jetstream) as cls.server, TcpProxy(*cls.server.address) as cls.proxy:
            cls.proxy.delay(ONE_WAY)
            yield


class TestFarCoreNatsConformance(FarAway):
    jetstream = False


class TestFarJetStreamConformance(FarAway):
    jetstream = True


del BackendConformance, FarAway  # or pytest collects the bases too
