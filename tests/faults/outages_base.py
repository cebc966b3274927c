"""What all outage tests share: a broker, buses that are closed again, traffic with a history."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest
from drivers import Driver

from eventbus import (
    BROADCAST,
    ErrorEvent,
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    Phase,
    ReconnectConfig,
    ReconnectEvent,
    Subscription,
    SubscriptionState,
)
from eventbus.testing import wait_until
from eventbus.testing.history import History
from eventbus.testing.outages import not_applicable
from eventbus.testing.traffic import publish_until_answered

GROUP = "outages"
_numbers = itertools.count(1)


class Watch:
    """Everything that a bus tells its callbacks."""

    def __init__(self, bus: EventBus) -> None:
        self.reconnects: list[ReconnectEvent] = []
        self.errors: list[ErrorEvent] = []
        self.phases: list[Phase] = []
        bus.register_reconnect_callback(self.reconnects.append)
        bus.register_error_callback(self.errors.append)
        bus.register_state_callback(lambda state: self.phases.append(state.phase))

    def errors_of(self, source: str) -> list[BaseException]:
        """The errors with this source."""
        return [event.error for event in list(self.errors) if event.source == source]


class OutageBase:
    """The fixtures. A subclass names its backend and gives a driver.

    not_applicable: for a case letter, why this backend cannot show it.
    growth: bytes that a reconnect may leave; far less than a session.
    slack: seconds added to the measured bounds, for brokers in another process.
    reconnects: how many of them case (k) looks at.
    patience: seconds that probes of a slow broker have; where a dead one costs them all, fewer.
    left_out: tests by name that cost more than they show here, and why.

    A session that heals itself (`Features.heals_itself`) is kept through outages: a lost link is then no
    evidence, only failed probes are.
    """

    backend: ClassVar[str]
    not_applicable: ClassVar[Mapping[str, str]] = {}
    slack: ClassVar[float] = 0.0
    growth: ClassVar[int] = 400
    reconnects: ClassVar[int] = 200
    patience: ClassVar[float] = 2.0
    left_out: ClassVar[Mapping[str, str]] = {}

    def make_driver(self) -> Driver:
        """A broker for one test; `close` is called after it."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _around(self, request: pytest.FixtureRequest, _no_leaks: None) -> Iterator[None]:
        for marker in request.node.iter_markers("outage"):
            for case in marker.args:
                if case in self.not_applicable:
                    not_applicable(self.not_applicable[case])
        if request.node.originalname in self.left_out:
            not_applicable(self.left_out[request.node.originalname])
        self.history = History()
        self.buses: list[EventBus] = []
        self.releases: list[Callable[[], object]] = []
        self.broker = self.make_driver()
        self.topic = f"t{next(_numbers)}.orders"
        try:
            yield
        finally:
            for release in self.releases:
                release()
            with contextlib.suppress(Exception):
                self.broker.thaw()
            for bus in self.buses:
                bus.close(3.0)
            self.broker.close()

    # -- helpers ---------------------------------------------------------------------------------

    def make(self, **changes: Any) -> EventBus:
        """A bus that is not open."""
        bus = EventBus(self.config(**changes))
        self.buses.append(bus)
        return bus

    def config(self, **changes: Any) -> EventBusConfig:
        """Fast settings; "health_check" and "reconnect" may be mappings of what differs."""
        base = self.broker.config()
        for name, kind in (("health_check", HealthCheckConfig), ("reconnect", ReconnectConfig)):
            if isinstance(changes.get(name), dict):
                own = getattr(base, name)
                known = {field: getattr(own, field) for field in kind.__slots__ if field != "__weakref__"}
                changes[name] = kind(**{**known, **changes[name]})
        return self.broker.config(**changes)

    def open(self, **changes: Any) -> EventBus:
        """A bus that is connected."""
        bus = self.make(**changes)
        bus.open(timeout=5.0)
        return bus

    def open_replacing(self) -> EventBus:
        """A bus that gets a new session from every reconnect, also where the old one comes back by itself."""
        return self.open(reconnect={"rebuild": "always"})

    def listen(self, bus: EventBus, topic: str | None = None, **options: Any) -> Subscription:
        """Subscribe the history."""
        options.setdefault("group", GROUP)
        return bus.subscribe(topic or self.topic, self.history.handler, **options)

    def publish(self, bus: EventBus, *numbers: int, key: str = "k", topic: str | None = None) -> None:
        """Publish these, each until the broker answers."""
        for number in numbers:
            publish_until_answered(bus, self.history, topic or self.topic, key, number)

    def settle(self, *subs: Subscription, handled: int | None = None, timeout: float = 10.0) -> None:
        """Wait until all that was confirmed is handled and acknowledged; none of it may come again."""
        wait_until(lambda: self.history.all_done, timeout, message=self.describe)
        if handled is not None:
            wait_until(lambda: self.history.handled >= handled, timeout, message=self.describe)
        for sub in subs:
            wait_until(lambda sub=sub: self.broker.unacknowledged(sub) == 0)
        self.history.settle()

    def describe(self) -> str:
        """For failures: how everything stands."""
        lines = [f"confirmed {self.history.confirmed}, handled {self.history.handled}", *self.history.check()]
        for bus in self.buses:
            lines += [repr(bus), repr(bus.get_connection_state()), repr(bus.get_health_status())]
            lines.append(repr(bus.get_statistics()))
        return "\n".join(lines)

    def how(self, bus: EventBus) -> str:
        """How a bus comes back once its broker does."""
        return "healed" if bus.features.heals_itself else "rebuilt"

    def wait_lost(self, bus: EventBus) -> None:
        """The bus has noticed: unhealthy and not connected."""
        wait_until(
            lambda: not bus.get_connection_state().is_connected and not bus.get_health_status().is_healthy,
            message=self.describe,
        )

    def wait_back(self, bus: EventBus, reconnects: int) -> None:
        """The bus has recovered, and every status says so."""
        wait_until(
            lambda: bus.get_connection_state().reconnect_count >= reconnects and bus.get_health_status().is_healthy,
            message=self.describe,
        )
        state, health, status = bus.get_connection_state(), bus.get_health_status(), bus.get_reconnect_status()
        assert (state.phase, state.is_connected, state.reconnect_count) == (Phase.CONNECTED, True, reconnects)
        assert (health.is_healthy, health.is_running, health.consecutive_failures) == (True, True, 0)
        assert (status.is_reconnecting, status.attempt, status.failure_count) == (False, 0, 0)
        assert status.last_reconnect_time is not None
        assert state.last_connected_time == status.last_reconnect_time
        assert health.last_failure_time is not None
        assert bus.get_statistics().reconnects == reconnects

    def wait_active(self, *subs: Subscription) -> None:
        """All deliver."""
        wait_until(
            lambda: all(sub.state is SubscriptionState.ACTIVE and self.broker.serves(sub) for sub in subs),
            message=lambda: repr(subs),
        )

    def assert_history(self, **options: Any) -> None:
        """No promise that this backend makes was broken."""
        assert self.history.check_promised(self.buses[0].features, **options) == []

    def listen_alone(self, bus: EventBus) -> Subscription:
        """As `listen`; on a backend without acknowledgements without a group, where a dead member keeps its share."""
        return self.listen(bus) if bus.features.replays else self.listen(bus, group=BROADCAST)
