"""Fixtures of the engine tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from kafka_engine_support import Buses

from eventbus.testing import MockKafka


@pytest.fixture
def mock(mock_kafka: Callable[..., MockKafka]) -> Callable[..., MockKafka]:
    """`mock(brokers, proxied=...)`: a mock with the topic t, and members that beat fast."""

    def make(brokers: int = 1, *, partitions: int = 3, **options: Any) -> MockKafka:
        made = mock_kafka(brokers, **options)
        made.create_topic("t", partitions, replicas=brokers)
        made.heartbeat_interval(0.1)
        made.session_timeout(2.0)
        return made

    return make


@pytest.fixture
def open_bus(mock: object) -> Iterator[Buses]:
    """`open_bus(mock, **config)`; closed before the mock."""
    with ExitStack() as stack:
        yield Buses(stack)
