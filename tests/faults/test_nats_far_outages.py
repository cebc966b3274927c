"""All outage cases on NATS from far away: 60 ms for a round trip, in the long form of the tests also 200 ms.

Far: world condition of design and README. What is bounded in time has five round trips more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from drivers import Driver
from nats_driver import NatsDriver
from outages import OutageSuite

from eventbus import EventBusConfig, HealthCheckConfig

LONG = os.environ.get("EVENTBUS_TEST_LONG", "") not in ("", "0")


class FarDriver(NatsDriver):
    """round_trip: seconds."""

    def __init__(self, round_trip: float, *, jetstream: bool) -> None:
        super().__init__(jetstream=jetstream)
        self.backend = f"{self.backend}-far"
        self._one_way = round_trip / 2
        self.slow(0.0)

    def slow(self, seconds: float) -> None:
        super().slow(self._one_way + seconds)

    def config(self, **changes: Any) -> EventBusConfig:
        if "connect_timeout" in changes:  # of a test that is at home near the broker
            changes["connect_timeout"] += 20 * self._one_way
        probes = HealthCheckConfig(interval=0.1, timeout=0.4 + 6 * self._one_way, retry_interval=0.05)
        return super().config(**{"health_check": probes, "connect_timeout": 2.0 + 20 * self._one_way, **changes})


class FarSuite(OutageSuite):
    jetstream: ClassVar[bool]
    round_trip: ClassVar[float] = 0.06
    slack = 0.2 + 5 * 0.06
    reconnects = 200 if LONG else 40
    growth = 400 if LONG else 3000  # what is made once weighs more in few of them

    def make_driver(self) -> Driver:
        return FarDriver(self.round_trip, jetstream=self.jetstream)


@pytest.mark.nats
class TestFarCoreNatsOutages(FarSuite):
    backend = "nats-core-far"
    jetstream = False
    not_applicable: ClassVar[Mapping[str, str]] = {"m": "core NATS keeps no position"}


@pytest.mark.nats
class TestFarJetStreamOutages(FarSuite):
    backend = "jetstream-far"
    jetstream = True


if LONG:

    @pytest.mark.nats
    class TestVeryFarJetStreamOutages(FarSuite):
        backend = "jetstream-very-far"
        jetstream = True
        round_trip = 0.2
        slack = 0.2 + 5 * 0.2
        reconnects = 40
        left_out: ClassVar[Mapping[str, str]] = {
            "test_a_password_that_is_changed_on_the_server_is_reported_and_not_hammered": "it counts from an answer"
        }


del FarSuite, OutageSuite  # or pytest collects the bases too
