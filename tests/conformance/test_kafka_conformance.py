"""Kafka does what every backend does, under both group protocols, and from far away: 60 ms for a round trip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from raw_kafka import native_clients
from short_form import ALL, FAULTS, KAFKA_FAR, KAFKA_FAULTS, SWAPS

from eventbus import EventBusConfig, KafkaConfig
from eventbus.testing import wait_until
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.outages import Outages, ServerOutages
from eventbus.testing.servers.kafka import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(180.0)]
LEAVING = 90.0
"""Seconds that librdkafka may take to leave a group, after an outage, on threads of its own."""
BACK_AT_ONCE = {"broker.session.timeout.ms": 400, "broker.heartbeat.interval.ms": 80}
"""After kill -9 a broker has to wait for its own session to end."""


class OnOneServer(BackendConformance):
    protocol: ClassVar[str]
    one_way: ClassVar[float] = 0.0
    server: ClassVar[KafkaServer]

    def config(self) -> EventBusConfig:
        return EventBusConfig(
            backend=KafkaConfig(brokers=self.server.bootstrap, group_protocol=self.protocol, partitions=4)
        )

    def outages(self) -> Outages:
        return ServerOutages(self.server, self.server.proxy)

    @pytest.fixture
    def served(self, _no_leaks: None) -> Iterator[None]:
        """A broker hears the end of a link no sooner than it has answered: a member that joins may wait for long."""
        yield
        wait_until(lambda: native_clients() == 0, LEAVING, message=lambda: f"{native_clients()} clients are left")
        self.server.proxy.cut()

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with KafkaServer(fast=True, proxied=True, settings=BACK_AT_ONCE) as cls.server:
            cls.server.proxy.delay(cls.one_way)
            yield


class TestConsumerProtocolConformance(OnOneServer):
    protocol = "consumer"
    short = ALL - FAULTS | KAFKA_FAULTS


class TestClassicProtocolConformance(OnOneServer):
    protocol = "classic"
    short = ALL - FAULTS | SWAPS


class TestFarConformance(OnOneServer):
    protocol = "consumer"
    one_way = 0.03
    short = KAFKA_FAR


del BackendConformance, OnOneServer  # or pytest collects the bases too
