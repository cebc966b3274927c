"""Narrow, on Kafka: accounts that may do little do it; what is forbidden is rejected and costs nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import AclOperation
from kafka_operator import Operator
from rounds import limit
from world_support import end, fresh, pause

from eventbus import (
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    KafkaConfig,
    Message,
    PublishRejectedError,
    SubscriptionState,
)
from eventbus.backends.kafka.session import KafkaSession
from eventbus.testing import KafkaServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytestmark = [pytest.mark.kafka, pytest.mark.watchdog(limit(60.0))]

USER, PASSWORD = "narrow", "secret"
IMPATIENT = HealthCheckConfig(interval=0.2, timeout=1.0)


@pytest.fixture
def server() -> Iterator[KafkaServer]:
    """Of one test: what nobody was allowed before is denied."""
    with skip_or_fail():
        server = KafkaServer(user=USER, password=PASSWORD, acl=True).start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def operator(server: KafkaServer) -> Iterator[Operator]:
    made = Operator(server.inner_bootstrap)
    made.allow("somebody-else", "*", AclOperation.ALL)
    made.allow_cluster("somebody-else", AclOperation.ALL)
    yield made
    made.close()


@pytest.fixture
def bus(server: KafkaServer, operator: Operator) -> Iterator[EventBus]:
    backend = KafkaConfig(brokers=server.bootstrap, user=USER, password=PASSWORD)
    made = EventBus(EventBusConfig(backend=backend, health_check=IMPATIENT))
    yield made
    end(made)


def outbox_of(bus: EventBus) -> Any:
    session = bus._supervisor.session
    assert isinstance(session, KafkaSession)
    return session.outbox


def reconnects(bus: EventBus) -> int:
    return bus.get_connection_state().reconnect_count


def test_who_may_only_read_consumes_and_is_told_that_it_may_not_publish(bus: EventBus, operator: Operator) -> None:
    """It has no right to any producer: that is said of each publish, and replaces nothing. Later it is allowed."""
    topic = operator.create(fresh("read"))
    operator.allow(USER, topic, AclOperation.READ)
    operator.store(topic, 10)
    got: list[Message] = []
    bus.open(20.0)
    subscription = bus.subscribe(topic, got.append, group="group")
    wait_until(lambda: len(got) == 10, 20.0)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(PublishRejectedError, match="CLUSTER_AUTHORIZATION_FAILED"):
            bus.publish(topic, b"0", timeout=10.0)
        assert time.monotonic() - began < 5.0
    pause(1.0)
    operator.store(topic, 10)
    wait_until(lambda: len(got) == 20, 10.0)
    assert (reconnects(bus), subscription.state) == (0, SubscriptionState.ACTIVE)
    assert bus.get_health_status().is_healthy
    operator.allow(USER, topic, AclOperation.WRITE)
    wait_until(lambda: is_stored(bus, topic), 15.0)
    assert reconnects(bus) == 0


def test_who_may_only_write_publishes(bus: EventBus, operator: Operator) -> None:
    """Neither read nor see how topics are configured, nor make one; the topic beside it is closed to it."""
    topic, secret = operator.create(fresh("write")), operator.create(fresh("secret"))
    operator.allow(USER, topic, AclOperation.WRITE)
    bus.open(20.0)
    futures = [bus.publish_async(name, b"%d" % number) for number in range(100) for name in (topic, secret)]
    assert all(isinstance(future.exception(20.0), PublishRejectedError) for future in futures[1::2])
    assert all(future.result(20.0).confirmed for future in futures[::2])
    with pytest.raises(PublishRejectedError, match="AUTHORIZATION_FAILED"):
        bus.publish(fresh("missing"), b"", timeout=10.0)
    assert bus.publish(topic, b"0").confirmed
    assert (reconnects(bus), bus.get_health_status().is_healthy) == (0, True)


def test_a_topic_that_may_be_seen_and_not_read_costs_no_other(bus: EventBus, operator: Operator) -> None:
    """The innocent one's name stands in the broker's words: "authorization"."""
    for topic, *operations in (("auth", AclOperation.READ, AclOperation.DESCRIBE), ("secret", AclOperation.DESCRIBE)):
        operator.create(topic)
        operator.allow(USER, topic, *operations)
        operator.store(topic, 1)
    got: list[str] = []
    errors: list[tuple[str | None, str]] = []
    bus.register_error_callback(lambda event: errors.append((event.topic, str(event.error))))
    bus.open()
    good = bus.subscribe("auth", lambda message: got.append(message.text()), group="g")
    refused = bus.subscribe("secret", lambda message: got.append("secret"), group="g")
    wait_until(lambda: refused.state is SubscriptionState.FAILED and errors, 20.0)
    wait_until(lambda: got == ["0"], 20.0)
    pause(3.0)
    assert good.state is SubscriptionState.ACTIVE
    assert good.error is None
    assert refused.state is SubscriptionState.FAILED
    assert [topic for topic, _ in errors] == ["secret"]
    assert reconnects(bus) == 0


def test_each_topic_of_a_pattern_that_may_not_be_read_is_told(bus: EventBus, operator: Operator) -> None:
    for topic in ("m.secret", "m.hidden", "m.open"):
        operator.create(topic)
        operator.allow(USER, topic, AclOperation.DESCRIBE)
        operator.store(topic, 1)
    operator.allow(USER, "m.open", AclOperation.READ)
    got: list[str] = []
    errors: list[str] = []
    bus.register_error_callback(lambda event: errors.append(str(event.error)))
    bus.open()
    sub = bus.subscribe("m.*", lambda message: got.append(message.topic), group="g")

    def told() -> list[str]:
        return sorted(error.split(":")[0] for error in errors)

    wait_until(lambda: told() == ["topic m.hidden", "topic m.secret"], 20.0, message=lambda: str(errors))
    for topic in ("m.secret", "m.hidden"):
        assert sub.error is not None
        operator.allow(USER, topic, AclOperation.READ)
        wait_until(lambda topic=topic: topic in got, 20.0)  # type: ignore[misc]
    wait_until(lambda: sub.error is None, 20.0)
    assert (sorted(got), told()) == (["m.hidden", "m.open", "m.secret"], ["topic m.hidden", "topic m.secret"])


def test_a_right_to_read_that_is_taken_away_costs_no_other_its_commits(
    server: KafkaServer, bus: EventBus, operator: Operator
) -> None:
    got: list[str] = []
    for name in ("a", "b"):
        operator.create(name)
        operator.allow(USER, name, AclOperation.ALL)
    bus.open()
    subs = {name: bus.subscribe(name, lambda message: got.append(message.topic), group="g") for name in ("a", "b")}
    for name in subs:
        bus.publish(name, "x")
    wait_until(lambda: sorted(got) == ["a", "b"], 20.0)
    server.access.deny(USER, "a", operation="READ")
    wait_until(lambda: subs["a"].state is SubscriptionState.FAILED, 20.0)
    for _ in range(5):
        bus.publish("b", "y")
    wait_until(lambda: [one.committed for one in subs["b"].status().partitions] == [6], 20.0)
    assert (subs["b"].state, subs["b"].error) == (SubscriptionState.ACTIVE, None)
    server.access.restore(USER, "a", operation="READ")
    bus.publish("a", "z")
    wait_until(lambda: got.count("a") == 2 and subs["a"].error is None, 20.0)
    assert reconnects(bus) == 0


@pytest.mark.parametrize("operation", ["READ", "ALL"])
def test_a_right_to_a_group_that_is_taken_away_is_shown_and_told_once(
    server: KafkaServer, bus: EventBus, operator: Operator, operation: Any
) -> None:
    operator.create("taken")
    operator.allow(USER, "taken", AclOperation.ALL)
    got: list[str] = []
    errors: list[str] = []
    bus.register_error_callback(lambda event: errors.append(str(event.error)))
    bus.open()
    server.access.restore(USER, "g", kind="group", operation=operation)  # it has rules now, which allow it
    sub = bus.subscribe("taken", lambda message: got.append(message.text()), group="g")
    operator.store("taken", 1)
    wait_until(lambda: got == ["0"], 20.0)
    server.access.deny(USER, "g", kind="group", operation=operation)
    wait_until(lambda: sub.state is SubscriptionState.FAILED, 10.0)
    pause(12.0)  # it is tried again
    assert len([error for error in errors if error.startswith("group g: ")]) == 1, errors
    operator.store("taken", 2)
    server.access.restore(USER, "g", kind="group", operation=operation)
    wait_until(lambda: len(got) == 3 and sub.state is SubscriptionState.ACTIVE, 20.0)
    assert (reconnects(bus), sub.error) == (0, None)


def test_who_may_not_make_topics_is_told_so(bus: EventBus, operator: Operator) -> None:
    topic = fresh("later")
    operator.allow(USER, topic, AclOperation.WRITE)
    bus.open(20.0)
    with pytest.raises(PublishRejectedError, match="cannot be created"):
        bus.publish(topic, b"", timeout=10.0)
    operator.create(topic)
    assert bus.publish(topic, b"", timeout=10.0).confirmed


def is_stored(bus: EventBus, topic: str) -> bool:
    try:
        return bus.publish(topic, b"0", timeout=5.0).confirmed
    except PublishRejectedError:
        return False


def test_a_quota_is_no_failure(kafka_server: Any) -> None:
    """The broker puts off its answers for seconds: what is published waits, and nothing is replaced for it."""
    operator = Operator(kafka_server.bootstrap)
    topic = operator.create(fresh("slow"))
    backend = KafkaConfig(brokers=kafka_server.bootstrap)
    bus = EventBus(EventBusConfig(backend=backend, health_check=IMPATIENT))
    try:
        bus.open(20.0)
        bus.publish(topic, b"0")
        operator.throttle_producers(kafka_server.address, 80_000.0)
        failures: list[int] = []
        wait_until(lambda: publish_round(bus, topic, failures), 30.0, message="answers are put off")
        publish_round(bus, topic, failures)
        assert reconnects(bus) == 0
        assert max(failures) <= 1, "a probe that was on its way as it began may have been put off, too"
    finally:
        operator.throttle_producers(kafka_server.address, 1e12)
        operator.close()
        end(bus)


def publish_round(bus: EventBus, topic: str, failures: list[int]) -> bool:
    """Whether the broker puts off its answers; failures: of the health check meanwhile."""
    futures = [bus.publish_async(topic, bytes(20_000)) for _ in range(16)]
    while not all(future.done() for future in futures):
        failures.append(bus.get_health_status().consecutive_failures)
        pause(0.05)
    assert [future.result(0.0).confirmed for future in futures] == [True] * 16
    return bool(outbox_of(bus).throttled)
