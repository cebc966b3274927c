"""Brokers for the tests of what joins a bus to the web."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus.testing import KafkaServer, NatsServer
from eventbus.testing.plugin import skip_or_fail

QUICK = {"broker.session.timeout.ms": 400, "broker.heartbeat.interval.ms": 80}
"""Kafka is back 1 s after kill -9."""


@pytest.fixture(scope="module")
def web_nats() -> Iterator[NatsServer]:
    """One for a module, which kills it and starts it again."""
    with skip_or_fail():
        server = NatsServer().start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def web_kafka() -> Iterator[KafkaServer]:
    """One for a module, which kills it and starts it again."""
    with skip_or_fail():
        server = KafkaServer(settings=QUICK).start()
    try:
        yield server
    finally:
        server.close()
