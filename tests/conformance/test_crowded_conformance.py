"""A bus with fifty more subscriptions does what every bus does.

Crowded: world condition of design and README. See also tests/world/test_crowded.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from short_form import DELIVERY, SWAPS

from eventbus import EventBus, EventBusConfig, MemoryConfig, NatsConfig
from eventbus.testing import NatsServer, TcpProxy
from eventbus.testing.conformance import BackendConformance, Inbox
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.outages import Outages, ServerOutages

CROWD = 50


class Crowded(BackendConformance):
    short = DELIVERY | SWAPS

    def make(self, **changes: Any) -> EventBus:
        """With subscriptions to topics that nobody publishes to."""
        bus, beside = super().make(**changes), Inbox()
        for number in range(CROWD):
            bus.subscribe(f"crowd.number-{number}", beside, group="crowd")
        return bus


class TestCrowdedMemoryConformance(Crowded):
    def config(self) -> EventBusConfig:
        return EventBusConfig(backend=MemoryConfig(name="crowded"))

    def outages(self) -> Outages:
        return MemoryOutages("crowded")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_broker(cls) -> Iterator[None]:
        yield
        MemoryOutages("crowded").forget()


@pytest.mark.nats
class TestCrowdedJetStreamConformance(Crowded):
    server: ClassVar[NatsServer]
    proxy: ClassVar[TcpProxy]

    def config(self) -> EventBusConfig:
        address = "{}:{}".format(*self.proxy.address)
        return EventBusConfig(backend=NatsConfig(servers=(address,), ack_wait=1.0))

    def outages(self) -> Outages:
        return ServerOutages(self.server, self.proxy)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with NatsServer() as cls.server, TcpProxy(*cls.server.address) as cls.proxy:
            yield
