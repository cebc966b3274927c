"""Three brokers, of which one dies or freezes under load: nothing is lost, nothing is replaced, and it goes on."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import AdminClient, NewTopic
from raw_kafka import native_clients

from eventbus import EventBus, ReconnectEvent
from eventbus.testing import KafkaCluster, KafkaServer, wait_until
from eventbus.testing.history import History
from eventbus.testing.plugin import skip_or_fail
from eventbus.testing.traffic import Traffic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

FROZEN_FOR = 15.0 if os.environ.get("EVENTBUS_SOAK") else 6.0
PUBLISHERS = 6
IMPATIENT = {"interval": 0.5, "timeout": 0.5}
STALL = 4.0
TOPICS = ("lone", "strict", "other")
_numbers = itertools.count(1)


class Work:
    """Two processes' worth of buses on the cluster: one publishes, both handle."""

    def __init__(self, cluster: KafkaCluster, **options: Any) -> None:
        self.cluster = cluster
        self.name = f"cluster{next(_numbers)}"
        self.topic = f"{self.name}.orders"
        self.history = History()
        self.buses = [self._open(number, options) for number in range(2)]
        self._sessions = [self._session(bus) for bus in self.buses]
        wait_until(lambda: all(self._has_partitions(bus) for bus in self.buses), 20.0)
        self._clients = [session.clients for session in self._sessions]

    def _open(self, number: int, options: dict[str, Any]) -> EventBus:
        bus = EventBus({"url": self.cluster.url, "name": f"{self.name}-{number}", "partitions": 6, **options})
        bus.open(timeout=10.0)
        bus.subscribe(self.topic, self.history.handler, group=self.name, concurrency=2)
        return bus

    def traffic(self) -> Traffic:
        return Traffic(self.buses[0], self.history, self.topic, threads=PUBLISHERS)

    def check(self) -> None:
        """Nothing was lost or overtaken."""
        wait_until(lambda: self.history.all_done, 30.0, message=lambda: str(self.history.check(once=False)))
        assert self.history.check(once=False) == []
        for bus in self.buses:
            wait_until(lambda bus=bus: bus.get_health_status().is_healthy)

    @property
    def kept_clients(self) -> bool:
        """Whether all was done by the clients that began."""
        return all(
            self._session(bus) is session and all(any(one is other for other in session.clients) for one in clients)
            for bus, session, clients in zip(self.buses, self._sessions, self._clients, strict=True)
        )

    def close(self) -> None:
        self._clients.clear()  # an admin client ends when it is forgotten
        for bus in self.buses:
            bus.close(5.0)

    @staticmethod
    def _session(bus: EventBus) -> Any:
        return bus._supervisor.session

    def _has_partitions(self, bus: EventBus) -> bool:
        ((reader,),) = [thread.readers for thread in self._session(bus).consumers.threads]
        return bool(reader.states)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with skip_or_fail():
        cluster = KafkaCluster(
            3, settings={"broker.session.timeout.ms": 600, "broker.heartbeat.interval.ms": 150}
        ).start()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def make_work(cluster: KafkaCluster, _no_leaks: None) -> Iterator[Callable[..., Work]]:
    made: list[Work] = []

    def make(**options: Any) -> Work:
        made.append(Work(cluster, **options))
        return made[-1]

    try:
        yield make
    finally:
        for server in cluster.running:
            server.thaw()
        cluster.start()
        for work in made:
            work.close()
        wait_until(lambda: native_clients() == 0, message=lambda: f"{native_clients()} clients of librdkafka are left")


def pause(seconds: float) -> None:
    """How long an outage lasts; nothing is synchronised by it."""
    threading.Event().wait(seconds)


@pytest.mark.watchdog(120)
def test_each_node_may_die_under_load(cluster: KafkaCluster, make_work: Callable[..., Work]) -> None:
    """One after the other: the leader of a partition, the group's coordinator and the controller are among them."""
    work = make_work(health_check=IMPATIENT)
    with work.traffic() as traffic:
        traffic.more(60)
        for server in cluster.servers:
            server.kill()
            for _ in range(3):
                traffic.more(60)
            server.start()
            cluster.wait_in_sync()
        traffic.more(60)
    work.check()
    assert work.kept_clients


@pytest.mark.watchdog(120)
@pytest.mark.parametrize("who", ["leader", "coordinator"])
def test_a_node_may_freeze_under_load(cluster: KafkaCluster, make_work: Callable[..., Work], who: str) -> None:
    work = make_work()
    freeze_under_load(cluster, work, who)
    assert work.kept_clients
    assert all(bus.get_statistics().reconnects == 0 for bus in work.buses)


@pytest.mark.watchdog(120)
def test_an_impatient_bus_replaces_its_clients_once_at_most(
    cluster: KafkaCluster, make_work: Callable[..., Work]
) -> None:
    """Every probe of a client may go to the node that is frozen: then it looks as if nobody answered."""
    work = make_work(health_check=IMPATIENT)
    events: list[list[ReconnectEvent]] = [[] for _ in work.buses]
    for bus, noted in zip(work.buses, events, strict=True):
        bus.register_reconnect_callback(noted.append)
    freeze_under_load(cluster, work, "leader")
    for noted in events:
        assert [event.how for event in noted].count("rebuilt") <= 1


@pytest.mark.watchdog(120)
def test_topics_that_store_nothing_without_a_node_cost_no_other(cluster: KafkaCluster) -> None:
    """One without a leader, one with too few replicas: what waits for them is told, and is no stall of the clients."""
    gone, name = cluster.servers[2], f"cluster{next(_numbers)}"
    make_topics(
        cluster,
        NewTopic(f"{name}.lone", 1, replica_assignment=[[gone.node_id]], config={"min.insync.replicas": "1"}),
        NewTopic(f"{name}.strict", 1, replica_assignment=[[1, gone.node_id]], config={"min.insync.replicas": "2"}),
    )
    handled: list[str] = []
    errors: list[str] = []
    patient = {"health_check": {"interval": 0.5}, "reconnect": {"failure_threshold": 100}}  # while leaders are elected
    with EventBus({"url": cluster.url, "stall_timeout": STALL, **patient}) as bus:
        bus.register_error_callback(lambda event: errors.append(str(event.error)))
        subs = [bus.subscribe(f"{name}.{topic}", lambda m: handled.append(m.topic), group="g") for topic in TOPICS]
        for topic in TOPICS:
            bus.publish(f"{name}.{topic}", b"before")
        wait_until(lambda: len(handled) == len(TOPICS), 20.0)
        gone.kill()
        waiting = [bus.publish_async(f"{name}.{topic}", b"while it is away") for topic in ("lone", "strict")]
        wait_until(lambda: any("publishes wait: " in error for error in errors), 30.0, message=lambda: str(errors))
        wait_until(lambda: "has no leader" in str(subs[0].error), 20.0)
        pause(2 * STALL)
        assert [error for error in errors if "none was answered" in error or "does not answer" in error] == []
        assert (bus.get_health_status().is_healthy, bus.get_statistics().reconnects) == (True, 0)
        assert bus.publish(f"{name}.other", b"meanwhile").confirmed
        gone.start()
        cluster.wait_in_sync()
        assert all(future.result(30.0).confirmed for future in waiting)
        wait_until(
            lambda: sorted(handled) == sorted([f"{name}.{topic}" for topic in TOPICS] * 2),
            30.0,
            message=lambda: f"{handled}, {[sub.status() for sub in subs]}",
        )
        wait_until(lambda: all(sub.error is None for sub in subs), 20.0)


def make_topics(cluster: KafkaCluster, *topics: NewTopic) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.inner_bootstrap})
    for future in admin.create_topics([*topics]).values():
        future.result(10.0)


def freeze_under_load(cluster: KafkaCluster, work: Work, who: str) -> None:
    def found() -> KafkaServer | None:
        return cluster.partition_leader(work.topic) if who == "leader" else cluster.group_coordinator(work.name)

    with work.traffic() as traffic:
        traffic.more(60)
        frozen = wait_until(found)
        frozen.freeze()
        pause(FROZEN_FOR)
        traffic.more(60)  # through the others
        frozen.thaw()
        cluster.wait_in_sync()
        traffic.more(60)
    work.check()
