"""The ground of the fault chapter: `eventbus.testing.outages` makes the outages, `eventbus.testing.history` judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest

from ..bus import EventBus
from ..config import HealthCheckConfig, ReconnectConfig
from ..consuming.subscriptions import Subscription, SubscriptionState
from ._conformance import PublishingConformance
from .history import History
from .outages import Outages, not_applicable
from .traffic import Traffic, publish_until_answered
from .wait import wait_until

LONG = 60.0
"""Seconds for what takes a few on a quiet machine; some brokers wait 45 s for a member that is dead."""
GROUP = "g"


class FaultGround(PublishingConformance):
    """What the behaviours of the chapter are made of.

    `outages` gives the verbs; without them only the swaps are shown. `quick`: the fields of the configuration that
    a bus has in this chapter, so that an outage is noticed at once.
    """

    quick: ClassVar[Mapping[str, Any]] = {
        "health_check": HealthCheckConfig(interval=0.1, timeout=0.5, retry_interval=0.05),
        "reconnect": ReconnectConfig(initial_backoff=0.02, max_backoff=0.1, max_attempts=None),
    }

    def outages(self) -> Outages | None:
        """The verbs of the broker that `config` leads to, if there are any. Asked once for each test."""
        return None

    @pytest.fixture(autouse=True)
    def _healed(self, _around: None) -> Iterator[None]:
        self.history = History()
        self._struck: list[Outages] = []
        try:
            yield
        finally:
            for outages in self._struck:
                outages.heal()

    # -- helpers ---------------------------------------------------------------------------------

    @property
    def broker(self) -> Outages:
        """The verbs; without any the test is not applicable."""
        if not self._struck:
            outages = self.outages()
            if outages is None:
                not_applicable("no outages are declared for this backend")
            self._struck.append(outages)
        return self._struck[0]

    def open_quick(self, **changes: Any) -> EventBus:
        """A bus that notices an outage soon."""
        return self.open(**{**self.quick, **changes})

    def listen(self, bus: EventBus, **options: Any) -> Subscription:
        """Subscribe the history to the topic of the test; active when it returns."""
        handler = options.pop("handler", self.history.handler)
        sub = bus.subscribe(options.pop("topic", self.topic), handler, **{"group": GROUP, **options})
        wait_until(lambda: sub.state in (SubscriptionState.ACTIVE, SubscriptionState.STANDBY), LONG)
        self.ready(bus)
        return sub

    def send(self, bus: EventBus, *numbers: int, key: str = "k") -> None:
        """Publish these, each until the broker answers."""
        for number in numbers:
            publish_until_answered(bus, self.history, self.topic, key, number)

    @contextmanager
    def traffic(self, bus: EventBus) -> Iterator[Traffic]:
        """Publishers on the topic of the test; some messages have been answered when the block begins and ends."""
        with Traffic(bus, self.history, self.topic) as traffic:
            traffic.more(timeout=LONG)
            yield traffic
            traffic.more(timeout=LONG)

    def strike(self, *buses: EventBus, verb: str = "kill") -> None:
        """Begin an outage; each bus has noticed, or, where a part of the broker is left, is served by that."""
        getattr(self.broker, verb)()
        for bus in buses:
            if self.broker.partial:
                self.ready(bus)
            else:
                wait_until(partial(_is_unhealthy, bus), LONG, message=partial(_described, bus))

    def wait_well(self, *buses: EventBus) -> None:
        """The broker is back: each bus is connected and healthy."""
        for bus in buses:
            wait_until(partial(_is_well, bus), LONG, message=partial(_described, bus))

    def judge(self, bus: EventBus, *, copies: int = 1, ordered: bool | None = None) -> None:
        """All that was confirmed has come to its end, and no promise of this backend was broken."""

        def told() -> list[str]:
            return [self.history.summary(), *self.history.check_promised(bus.features, copies=copies, ordered=ordered)]

        wait_until(
            lambda: self.history.all_done and not self.history.check(copies=copies, ordered=False, once=False),
            LONG,
            message=lambda: "\n".join(told()),
        )
        assert told()[1:] == [], self.history.summary()

    def stored_once(self, bus: EventBus) -> None:
        """Where one id is stored once, none of what was sent again is there twice."""
        if bus.features.deduplicates and bus.features.readable:
            texts = [message.text() for message in bus.read(self.topic)]
            assert sorted(texts) == sorted(set(texts))


def _is_unhealthy(bus: EventBus) -> bool:
    return not bus.get_health_status().is_healthy


def _is_well(bus: EventBus) -> bool:
    return bus.get_connection_state().is_connected and bus.get_health_status().is_healthy


def _described(bus: EventBus) -> str:
    return f"{bus!r}: {bus.get_connection_state()!r}, {bus.get_health_status()!r}"
