"""Kafka does what every backend does on librdkafka's mock of two brokers, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from short_form import LONG, MOCK

pytest.importorskip("confluent_kafka")

from eventbus import EventBusConfig, KafkaConfig
from eventbus.testing import MockKafka
from eventbus.testing.conformance import BackendConformance
from eventbus.testing.outages import Outages

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(120.0)]
NAMES = ["ready", "orders", "result"]
if LONG:
    NAMES += ["next", "copies", "first", "later", "asked", "late", "a", "a.x", "a.x.y", "b", "one", "two", "dead"]
"""Of the topics of all behaviours."""


class MockOutages(Outages):
    """Those of all brokers of a mock, by the proxies in front of them."""

    def __init__(self, mock: MockKafka) -> None:
        self._mock = mock

    def kill(self) -> None:
        self._mock.refuse()

    def restore(self) -> None:
        self._mock.accept()

    def freeze(self) -> None:
        for proxy in self._mock.proxies:
            proxy.black_hole()

    def thaw(self) -> None:
        for proxy in self._mock.proxies:
            proxy.accept()

    def cut(self) -> None:
        for proxy in self._mock.proxies:
            proxy.cut()

    def half_open(self) -> None:
        for proxy in self._mock.proxies:
            proxy.half_open()

    def heal(self) -> None:
        self.restore()
        self.thaw()
        self.cut()


class TestMockConformance(BackendConformance):
    short = MOCK
    skips: ClassVar = {
        **dict.fromkeys(
            [
                "test_from_one_time_to_another",
                "test_a_new_group_begins_at_a_time_and_a_known_one_where_it_was",
                "test_a_group_that_began_at_a_time_goes_on_where_it_was",
            ],
            "the mock finds no offsets by time",
        ),
        "test_dead_letters_are_listed_and_purged": "the mock deletes no records",
    }
    mock: MockKafka

    def config(self) -> EventBusConfig:
        return EventBusConfig(backend=KafkaConfig(brokers=self.mock.bootstrap, create_topics=False))

    def outages(self) -> Outages:
        return MockOutages(self.mock)

    @pytest.fixture
    def served(self, mock_kafka: Callable[..., MockKafka]) -> None:
        """It is of this process: what it has open counts as the test's, so it ends with it."""
        self.mock = mock_kafka(2, proxied=True)
        self.mock.session_timeout(2.0)
        self.mock.heartbeat_interval(0.2)

    @pytest.fixture(autouse=True)
    def _topics(self, _around: None) -> None:
        """It makes no topics when it is asked to, and takes a tenth of a second for each."""
        ours = [f"{self.prefix}.{name}" for name in NAMES]
        dead = [f"dlq.g.{topic}" for topic in (ours if LONG else [self.topic])]
        others = [f"other{self.prefix}.ready", f"dlq.h.{self.topic}", f"dlq.other.{self.topic}"] if LONG else []
        for topic in (*ours, *dead, *others):
            self.mock.create_topic(topic, 4)
