"""All outage cases on a real nats-server: core NATS and JetStream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
from drivers import Driver
from nats_driver import NatsDriver
from outages import OutageSuite


@pytest.mark.nats
class TestCoreNatsOutages(OutageSuite):
    backend = "nats-core"
    not_applicable: ClassVar[Mapping[str, str]] = {"m": "core NATS keeps no position"}
    slack = 0.2

    def make_driver(self) -> Driver:
        return NatsDriver(jetstream=False)


@pytest.mark.nats
class TestJetStreamOutages(OutageSuite):
    backend = "jetstream"
    slack = 0.2

    def make_driver(self) -> Driver:
        return NatsDriver(jetstream=True)
