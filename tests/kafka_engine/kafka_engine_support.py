"""What the Kafka engine tests share: impatient buses on librdkafka's mock, and a load that is counted."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

from eventbus import (
    BROADCAST,
    ErrorEvent,
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    KafkaConfig,
    Message,
    ReconnectConfig,
    ReconnectEvent,
)
from eventbus.backends.kafka.session import KafkaSession
from eventbus.testing import MockKafka, wait_until

__all__ = ["BROADCAST", "Buses", "Load", "clients_of", "lasting", "session_of", "threads_and_descriptors"]

INTERVAL, TIMEOUT, RETRY = 0.2, 0.5, 0.1
THRESHOLD = 3
CLASSIC = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 200}


def config(
    mock: MockKafka, *, kafka: dict[str, Any] | None = None, threshold: int = THRESHOLD, **bus: Any
) -> EventBusConfig:
    """Everything as fast as it goes. kafka: fields of KafkaConfig. threshold: failed probes until a reconnect."""
    kafka = dict(kafka or {})
    protocol = kafka.setdefault("group_protocol", "consumer")
    consumer = {"fetch.wait.max.ms": 10, **(CLASSIC if protocol == "classic" else {}), **kafka.pop("consumer", {})}
    backend = KafkaConfig(
        **{"brokers": mock.bootstrap, "create_topics": False, "stall_timeout": 1.5, **kafka, "consumer": consumer}
    )
    health = HealthCheckConfig(interval=INTERVAL, timeout=TIMEOUT, retry_interval=RETRY)
    reconnect = ReconnectConfig(initial_backoff=0.05, max_backoff=0.2, failure_threshold=threshold, max_attempts=None)
    return EventBusConfig(**{"backend": backend, "health_check": health, "reconnect": reconnect, **bus})


class Buses:
    """Opens buses, and closes what is still open at the end. Called with a mock and what `config` takes."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, mock: MockKafka, **fields: Any) -> EventBus:
        bus = EventBus(config(mock, **fields))
        self._stack.callback(bus.close, 5.0)
        bus.open(15.0)
        return bus


def session_of(bus: EventBus) -> KafkaSession:
    session = bus._supervisor.session
    assert isinstance(session, KafkaSession)
    return session


def clients_of(bus: EventBus) -> list[weakref.ref[Any]]:
    """Weakly: a client that is only dropped, as a fenced consumer is, would stay in its group."""
    return [weakref.ref(client) for client in session_of(bus).clients]


def lasting(seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    """The length of a fault, or of a look at what must not happen."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        meanwhile()
        threading.Event().wait(min(0.02, max(0.0, ends - time.monotonic())))


def threads_and_descriptors() -> tuple[int, int]:
    """Of the whole process, librdkafka's threads included."""
    from pathlib import Path

    return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))


class Load:
    """Threads that publish, each with a key of its own, until told to stop; and a handler that notes what comes.

    sync_every: each so manieth is a `publish` that waits. pace: seconds between two publishes of a thread.
    """

    def __init__(
        self, bus: EventBus, topic: str = "t", *, threads: int = 4, sync_every: int = 0, pace: float = 0.002
    ) -> None:
        self.bus, self.topic = bus, topic
        self._threads, self._sync_every, self._pace = threads, sync_every, pace
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.accepted: dict[str, int] = dict.fromkeys(map(str, range(threads)), 0)
        self.handled: dict[str, list[int]] = defaultdict(list)
        self.ids: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.failures: list[BaseException] = []
        self.reconnects: list[ReconnectEvent] = []
        self.errors: list[ErrorEvent] = []
        self.slowest = 0.0
        """Seconds that the longest call of `publish_nowait` took."""
        bus.register_reconnect_callback(self.reconnects.append)
        bus.register_error_callback(self.errors.append)

    def subscribe(self, bus: EventBus | None = None, **options: Any) -> Any:
        return (bus or self.bus).subscribe(self.topic, self.handle, **{"group": "g", **options})

    def handle(self, message: Message) -> None:
        number = int(message.payload)
        with self._lock:
            self.handled[message.key or ""].append(number)
            self.ids[message.key or "", number].add(message.id or "")

    @contextmanager
    def running(self) -> Iterator[None]:
        """It runs, and some of it has come through."""
        with self.running_unheard():
            self.more()
            yield

    @contextmanager
    def running_unheard(self) -> Iterator[None]:
        """It runs, and perhaps nobody subscribes."""
        threads = [threading.Thread(target=self._publish, args=(key,), daemon=True) for key in self.accepted]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30.0)
        assert not any(thread.is_alive() for thread in threads), "a publisher hangs"

    @property
    def count(self) -> int:
        """How much was handled."""
        return sum(map(len, list(self.handled.values())))

    def more(self, count: int = 30, timeout: float = 20.0) -> float:
        """Wait until so many more are handled; how long that took."""
        began, target = time.monotonic(), self.count + count
        wait_until(lambda: self.count >= target, timeout, message=lambda: f"{self.count} of {target}, {self.errors}")
        return time.monotonic() - began

    def check(self, *, duplicates: int = 0, failures: int = 0, timeout: float = 20.0, ordered: bool = True) -> None:
        """Nothing is lost or out of order, and no more than so many came twice, under one id."""
        assert len(self.failures) <= failures, self.failures[:3]
        wait_until(
            lambda: not self.missing(), timeout, message=lambda: f"missing: {self.missing()}, {self.errors[-3:]}"
        )
        doubled = 0
        for key, numbers in self.handled.items():
            first = list(dict.fromkeys(numbers))
            assert not ordered or first == sorted(first), f"{key} is out of order near {_inversion(first)}"
            doubled += len(numbers) - len(first)
        assert doubled <= duplicates, f"{doubled} came twice: {self.doubled()}"
        assert all(len(ids) == 1 and "" not in ids for ids in self.ids.values()), "one message has two ids"

    def missing(self) -> dict[str, list[int]]:
        missing = {key: sorted(set(range(n)) - set(self.handled[key]))[:5] for key, n in self.accepted.items()}
        return {key: numbers for key, numbers in missing.items() if numbers}

    def doubled(self) -> dict[str, list[int]]:
        counted = {key: Counter(numbers) for key, numbers in self.handled.items()}
        return {key: [one for one, times in counts.items() if times > 1][:5] for key, counts in counted.items()}

    def _publish(self, key: str) -> None:
        while not self._stop.is_set():
            number = self.accepted[key]
            try:
                if self._sync_every and number % self._sync_every == 0:
                    self.bus.publish(self.topic, b"%d" % number, key=key, timeout=30.0)
                else:
                    began = time.monotonic()
                    self.bus.publish_nowait(self.topic, b"%d" % number, key=key)
                    self.slowest = max(self.slowest, time.monotonic() - began)
            except BaseException as error:
                self.failures.append(error)
                return
            self.accepted[key] = number + 1
            if self._pace:
                self._stop.wait(self._pace)


def _inversion(numbers: list[int]) -> list[int]:
    for place, (one, other) in enumerate(pairwise(numbers)):
        if other < one:
            return numbers[max(0, place - 2) : place + 4]
    return []
