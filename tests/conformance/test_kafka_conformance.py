"""Kafka does what every backend does, under both group protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from eventbus import EventBusConfig, KafkaConfig
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.servers.kafka import KafkaServer

pytestmark = pytest.mark.kafka


class OnOneServer(BackendConformance):
    protocol: ClassVar[str]
    server: ClassVar[KafkaServer]

    def config(self) -> EventBusConfig:
        return EventBusConfig(
            backend=KafkaConfig(brokers=self.server.bootstrap, group_protocol=self.protocol, partitions=4)
        )

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _own_server(cls) -> Iterator[None]:
        with KafkaServer(fast=True) as cls.server:
            yield


class TestConsumerProtocolConformance(OnOneServer):
    protocol = "consumer"


class TestClassicProtocolConformance(OnOneServer):
    protocol = "classic"


del BackendConformance, OnOneServer  # or pytest collects the bases too
