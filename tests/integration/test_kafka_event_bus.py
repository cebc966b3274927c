"""The whole bus on a real Apache Kafka that is killed with -9."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import eventbus
from eventbus import EventBus, Phase, SubscriptionState
from eventbus.testing import KafkaServer, wait_until

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import AdminClient

from eventbus.backends.kafka.clients.fork_safety import Consumer, Producer

pytestmark = pytest.mark.kafka

PARTITIONS = 3
KEYS = ("a", "b", "c", "d")
IMPATIENT = {"interval": 0.2, "timeout": 0.4, "retry_interval": 0.1}


class Load:
    """A thread for each key that publishes until it is told to stop, and a handler that notes what comes."""

    def __init__(self, bus: EventBus, topic: str) -> None:
        self._bus, self._topic = bus, topic
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.confirmed: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        """For each key, in order: number, partition, offset."""
        self.handled: dict[str, list[int]] = defaultdict(list)
        self.failures: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._publish, args=(key,), daemon=True) for key in KEYS]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30.0)
        assert not any(thread.is_alive() for thread in threads), "a publisher hangs"

    def handle(self, message: eventbus.Message) -> None:
        with self._lock:
            self.handled[message.key or ""].append(message.json())

    @property
    def count(self) -> int:
        return sum(len(numbers) for numbers in list(self.confirmed.values()))

    def more(self, count: int = 40) -> None:
        """Wait until so many more are confirmed."""
        target = self.count + count
        wait_until(lambda: self.count >= target or self.failures, 30.0)

    def check(self) -> None:
        """Nothing is lost, nothing was out of order, and no publish failed."""
        assert self.failures == []
        wait_until(lambda: not self._missing(), 30.0, message=lambda: f"handled: {self._missing()} are missing")
        for key in self.confirmed:
            first_seen = list(dict.fromkeys(self.handled[key]))
            assert first_seen == sorted(first_seen), f"{key} was handled out of order"
            offsets = [offset for _, _, offset in self.confirmed[key]]
            assert offsets == sorted(set(offsets)), f"{key} was stored out of order"
            assert len({partition for _, partition, _ in self.confirmed[key]}) == 1
            assert set(first_seen) <= set(range(len(offsets))), "handled and never published"

    def _missing(self) -> int:
        with self._lock:
            return sum(len({n for n, _, _ in self.confirmed[key]} - set(self.handled[key])) for key in self.confirmed)

    def _publish(self, key: str) -> None:
        try:
            number = 0
            while not self._stop.is_set():
                receipt = self._bus.publish(self._topic, number, key=key)
                assert receipt.confirmed
                self.confirmed[key].append((number, receipt.partition, receipt.offset))
                number += 1
        except BaseException as error:
            self.failures.append(error)


class Made:
    """What every client of librdkafka was made with, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: list[tuple[type, dict[str, Any]]] = []
        for kind in (Producer, Consumer, AdminClient):
            monkeypatch.setattr(kind, "__init__", self._noting(kind, kind.__init__))

    def _noting(self, kind: type, original: Callable[..., None]) -> Callable[..., None]:
        def init(client: Any, options: dict[str, Any], *args: Any, **more: Any) -> None:
            plain = {key: value for key, value in options.items() if not callable(value)}
            if isinstance(client, (Producer, Consumer, AdminClient)):
                self.options.append((kind, plain))
            original(client, options, *args, **more)

        return init

    def of(self, kind: type) -> list[dict[str, Any]]:
        """Without those that only ask librdkafka whether it takes the options: they know of no broker."""
        return [options for made, options in self.options if made is kind and "bootstrap.servers" in options]


def phases_of(bus: EventBus) -> list[Phase]:
    """The phases that the bus moves to from now on."""
    phases: list[Phase] = []
    bus.register_state_callback(lambda state: phases.append(state.phase))
    return phases


def consumers_are_back(bus: EventBus, count: int) -> bool:
    clients = bus._supervisor.session.clients
    return sum(client is not None for client in clients) == 2 + count


@pytest.mark.outage("a")
@pytest.mark.parametrize("rebuild", ["always", "if_needed"])
def test_kafka_event_bus_reconnect(kafka_server: KafkaServer, rebuild: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker dies and comes back; the health check does the rest, nobody calls reconnect()."""
    made = Made(monkeypatch)
    events: list[eventbus.ReconnectEvent] = []
    errors: list[eventbus.ErrorEvent] = []
    with EventBus(
        {
            "url": kafka_server.url,
            "partitions": PARTITIONS,
            "group": "shop",
            "producer": {"compression.type": "lz4"},
            "health_check": IMPATIENT,
            "reconnect": {"rebuild": rebuild, "initial_backoff": 0.2},
        }
    ) as bus:
        bus.register_reconnect_callback(events.append)
        bus.register_error_callback(errors.append)
        phases = phases_of(bus)
        load = Load(bus, "orders.new")
        subs = [
            bus.subscribe("orders.new", load.handle, concurrency=3),
            bus.subscribe("orders.*", lambda message: None, group="audit"),
        ]
        with load.running():
            load.more()
            wait_until(lambda: consumers_are_back(bus, 2))
            session, clients = bus._supervisor.session, bus._supervisor.session.clients
            kafka_server.kill()
            wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING)
            health, status = bus.get_health_status(), bus.get_reconnect_status()
            assert not health.is_healthy
            assert health.consecutive_failures == bus.config.reconnect.failure_threshold == status.failure_count
            wait_until(lambda: bus.get_reconnect_status().attempt >= 1)
            kafka_server.start()
            wait_until(lambda: events, 20.0)
            load.more()
        load.check()
        assert phases == [Phase.RECONNECTING, Phase.CONNECTED]
        assert [error.source for error in errors].count("health") == bus.config.reconnect.failure_threshold
        assert [(event.how, event.reconnect_count) for event in events] == [
            ("rebuilt" if rebuild == "always" else "healed", 1)
        ]
        assert events[0].attempts >= 1
        assert isinstance(events[0].cause, eventbus.NotConnectedError)
        wait_until(lambda: all(sub.state is SubscriptionState.ACTIVE for sub in subs), 20.0)
        wait_until(lambda: bus.get_health_status().is_healthy)
        assert bus.get_reconnect_status().failure_count == 0
        wait_until(lambda: consumers_are_back(bus, 2))
        now: Any = bus._supervisor.session
        if rebuild == "if_needed":
            assert now is session
            assert all(one is other for one, other in zip(now.clients, clients, strict=True))
            return
        assert now is not session
        assert not any(one is other for one in now.clients for other in clients)
        assert now.consumers._shared.options == session.consumers._shared.options
        for kind, count in ((Producer, 1), (AdminClient, 1), (Consumer, 2)):
            options = made.of(kind)
            # A candidate of an attempt that failed was made with them too.
            assert len(options) >= 2 * count
            assert len({str(sorted(each.items())) for each in options}) == count, kind
        assert {each["compression.type"] for each in made.of(Producer)} == {"lz4"}


@pytest.mark.slow
@pytest.mark.watchdog(120)
@pytest.mark.outage("a")
def test_kafka_event_bus_reconnect_on_default_settings(kafka_server: KafkaServer) -> None:
    """Three failed probes, five seconds apart: then the broker comes back, and what was published meanwhile."""
    events: list[eventbus.ReconnectEvent] = []
    with EventBus(f"{kafka_server.url}?group=shop") as bus:
        assert bus.config.reconnect == eventbus.ReconnectConfig()
        assert bus.config.health_check == eventbus.HealthCheckConfig()
        bus.register_reconnect_callback(events.append)
        phases = phases_of(bus)
        load = Load(bus, "orders.new")
        bus.subscribe("orders.new", load.handle)
        before = [bus.publish("orders.new", number, key="a") for number in range(50)]
        kafka_server.kill()
        started = time.monotonic()
        wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING, 40.0)
        check = bus.config.health_check
        assert time.monotonic() - started > 2 * check.interval, "fewer than three probes failed"
        during = [bus.publish_async("orders.new", number, key="a") for number in range(50, 100)]
        kafka_server.start()
        receipts = before + [future.result(20) for future in during]
        load.confirmed["a"] = [(n, receipt.partition, receipt.offset) for n, receipt in enumerate(receipts)]
        wait_until(lambda: events, 30.0)
        load.check()
        assert all(receipt.confirmed for receipt in receipts)
        assert phases == [Phase.RECONNECTING, Phase.CONNECTED]
        assert [(event.how, event.reconnect_count) for event in events] == [("healed", 1)]
        assert events[0].downtime >= 2 * check.interval
        assert bus.get_health_status().is_healthy


def test_the_sequence_of_the_mission(kafka_server: KafkaServer) -> None:
    """From the default configuration to close_global(), with the broker dead for a while in between."""
    brokers = [kafka_server.bootstrap]
    default = eventbus.get_default_kafka_config(brokers)
    assert default.reconnect == eventbus.ReconnectConfig(
        max_attempts=10, initial_backoff=1.0, max_backoff=30.0, backoff_factor=2.0, failure_threshold=3
    )
    events: list[eventbus.ReconnectEvent] = []
    handled: list[int] = []
    bus = eventbus.initialize_from_config({"url": kafka_server.url, "group": "shop", "health_check": IMPATIENT})
    try:
        assert eventbus.get_global() is bus
        bus.start_health_check()

        def broken(event: object) -> None:
            raise RuntimeError("a callback may fail")

        bus.register_reconnect_callback(broken)
        bus.register_reconnect_callback(events.append)
        for topic in ("a.new", "b.new"):
            bus.subscribe(topic, lambda message: handled.append(message.json()))
        state = bus.get_connection_state()
        assert (state.phase, state.is_connected, state.reconnect_count) == (Phase.CONNECTED, True, 0)
        assert bus.publish("a.new", 1).confirmed
        kafka_server.kill()
        wait_until(lambda: not bus.get_connection_state().is_connected)
        health = bus.get_health_status()
        assert (health.is_healthy, health.consecutive_failures) == (False, 3)
        kafka_server.start()
        wait_until(lambda: events, 20.0)
        assert bus.publish("b.new", 2).confirmed
        wait_until(lambda: sorted(set(handled)) == [1, 2])
        state = bus.get_connection_state()
        assert (state.phase, state.is_connected, state.reconnect_count) == (Phase.CONNECTED, True, 1)
        wait_until(lambda: bus.get_health_status().is_healthy)
        health = bus.get_health_status()
        assert (health.is_running, health.consecutive_failures) == (True, 0)
        assert bus.get_reconnect_status().last_reconnect_time == state.last_connected_time
        assert bus.stop_health_check()
        assert not bus.get_health_status().is_running
        assert bus.publish("a.new", 3).confirmed, "stopping the health check does not cost the connection"
        wait_until(lambda: 3 in handled)
    finally:
        report = eventbus.close_global()
    assert report == eventbus.CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
    assert bus.get_connection_state().phase is Phase.CLOSED
    with pytest.raises(eventbus.NotInitializedError):
        eventbus.get_global()
