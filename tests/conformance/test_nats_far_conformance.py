"""NATS from far away does what every backend does: 60 ms for a round trip, in the long form of the tests 200 ms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

import pytest

from eventbus import EventBusConfig, NatsConfig
from eventbus.testing import NatsServer, TcpProxy
from eventbus.testing.conformance import BackendConformance

pytestmark = pytest.mark.nats
LONG = os.environ.get("EVENTBUS_TEST_LONG", "") not in ("", "0")
ONE_WAY = 0.1 if LONG else 0.03


class FarAway(BackendConformance):
    jetstream: ClassVar[bool]
    proxy: ClassVar[TcpProxy]

    def config(self) -> EventBusConfig:
        address = "{}:{}".format(*self.proxy.address)
        return EventBusConfig(backend=NatsConfig(servers=(address,), jetstream=self.jetstream, ack_wait=2.0))

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with NatsServer(jetstream=cls.jetstream) as server, TcpProxy(*server.address) as cls.proxy:
            cls.proxy.delay(ONE_WAY)
            yield


class TestFarCoreNatsConformance(FarAway):
    jetstream = False


class TestFarJetStreamConformance(FarAway):
    jetstream = True


del BackendConformance, FarAway  # or pytest collects the bases too
