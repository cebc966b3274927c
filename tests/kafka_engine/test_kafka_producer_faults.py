"""A producer that fails, stalls or is replaced: nothing that was accepted is lost, and each key keeps its order."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError
from kafka_engine_support import INTERVAL, Buses, Load, clients_of, lasting, session_of, threads_and_descriptors

from eventbus import (
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    KafkaConfig,
    Message,
    NotConnectedError,
    PublishRejectedError,
)
from eventbus.backends.kafka.publishing.progress import Progress
from eventbus.testing import MockKafka, wait_until
from eventbus.threads import StopToken

Make = Callable[..., MockKafka]

UNKNOWN_PRODUCER_ID = KafkaError.UNKNOWN_PRODUCER_ID
SOAK = bool(os.environ.get("EVENTBUS_SOAK"))


def test_a_producer_that_failed_for_good_is_replaced_at_once(mock: Make, open_bus: Buses) -> None:
    """A5."""
    cluster = mock(1)
    cluster.create_topic("hasty", 3)
    bus = open_bus(cluster)
    # The mock, unlike Kafka, stores what comes behind a request that was out of order: only who waits keeps it.
    load, hasty = Load(bus, sync_every=1), Load(bus, "hasty", pace=0.01)
    load.subscribe()
    hasty.subscribe()
    with load.running(), hasty.running():
        for times in (1, 2):
            cluster.push_errors("Produce", KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
            wait_until(lambda times=times: len(load.reconnects) == times, 10.0)  # type: ignore[misc]
            load.more()
    load.check(duplicates=200)
    hasty.check(duplicates=200, ordered=False)
    assert [event.how for event in load.reconnects] == ["rebuilt", "rebuilt"]
    assert all("failed for good" in str(event.cause) for event in load.reconnects)
    assert max(event.downtime for event in load.reconnects) < 1.0
    assert load.failures + hasty.failures == [], "publishers do not see it"


def test_a_producer_that_stalls_while_the_broker_answers_is_replaced(mock: Make, open_bus: Buses) -> None:
    """A6: the broker has forgotten its id, and librdkafka asks for new ones for ever without an error."""
    cluster = mock(1)
    bus = open_bus(cluster)
    load = Load(bus)
    load.subscribe()
    with load.running():
        cluster.push_errors("Produce", *[UNKNOWN_PRODUCER_ID] * 10_000)
        wait_until(lambda: load.reconnects, 20.0)
        cluster.clear_errors("Produce")
        load.more()
    load.check(duplicates=200)
    assert load.reconnects[0].how == "rebuilt"
    assert "none was answered" in str(load.reconnects[0].cause)


@pytest.mark.watchdog(100)
@pytest.mark.parametrize(("latency", "swaps"), [(0.0, 30), (0.03, 8)])
def test_eight_publishers_lose_and_turn_round_nothing_over_many_swaps(
    mock: Make, open_bus: Buses, latency: float, swaps: int
) -> None:
    """A8, A22: and threads and descriptors are as many as before."""
    cluster = mock(1)
    bus = open_bus(cluster)
    load = Load(bus, threads=8, sync_every=50, pace=0.002)
    load.subscribe()
    with load.running():
        bus.reconnect(10.0)
        load.more()
        gc.collect()
        before = threads_and_descriptors()
        cluster.delay(latency)
        for _ in range(50 if SOAK else swaps):
            bus.reconnect(10.0)
        cluster.delay(0.0)
    load.check(duplicates=200, timeout=30.0)  # where a busy machine is silent for 0.15 s
    wait_until(lambda: no_more(before, 3), 10.0, message=lambda: f"{before} {threads_and_descriptors()}")


def test_swaps_while_answers_are_lost(mock: Make, open_bus: Buses) -> None:
    """A8."""
    cluster = mock(1, proxied=True)
    bus = open_bus(cluster)
    load = Load(bus, threads=8, sync_every=50)
    load.subscribe()
    proxy = cluster.proxies[0]
    with load.running():
        for _ in range(3):
            proxy.black_hole(to_server=False, to_client=True)
            lasting(0.2)
            proxy.half_open()
            proxy.accept()
            bus.reconnect(10.0)
            proxy.cut()
    load.check(duplicates=10_000)
    assert any(load.doubled().values()), "nothing was in flight: the test shows nothing"


def no_more(before: tuple[int, int], allowance: int) -> bool:
    """allowance: the lanes that were not there before, and what librdkafka opens on demand."""
    return all(now <= then + allowance for now, then in zip(threads_and_descriptors(), before, strict=True))


@pytest.mark.skipif(
    not SOAK, reason="not applicable: only in the long form, 30 reconnects are counted with the publishers"
)
@pytest.mark.watchdog(150)
def test_threads_and_descriptors_stay_as_many_over_reconnects_with_consumers(mock: Make, open_bus: Buses) -> None:
    """A22."""
    cluster = mock(1)
    bus = open_bus(cluster)
    load = Load(bus, threads=1, pace=0.005)
    load.subscribe()
    with load.running():
        for _ in range(3):
            bus.reconnect(10.0)
        load.more()
        gc.collect()
        before = threads_and_descriptors()
        for _ in range(200):
            bus.reconnect(10.0)
        load.more()
        wait_until(lambda: no_more(before, 3), 15.0, message=lambda: f"{before} {threads_and_descriptors()}")
    load.check(duplicates=2000)


def test_a_refused_topic_is_rejected_and_replaces_nothing(mock: Make, open_bus: Buses) -> None:
    """A19."""
    cluster = mock(1)
    cluster.create_topic("secret")
    cluster.create_topic("known")
    bus = open_bus(cluster)
    load = Load(bus)
    bus.publish("known", b"")
    clients = clients_of(bus)
    cluster.topic_error("secret", KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(PublishRejectedError, match=r"secret"):
        bus.publish("secret", b"", timeout=5.0)
    bus.publish_nowait("secret", b"")
    wait_until(lambda: load.errors, 5.0)
    assert isinstance(load.errors[0].error, PublishRejectedError)
    assert (load.errors[0].source, load.errors[0].topic) == ("publish", "secret")
    cluster.push_errors("Produce", KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(PublishRejectedError, match=r"known"):
        bus.publish("known", b"", timeout=5.0)
    bus.publish("known", b"")  # librdkafka itself would refuse until it is told of the topic again
    cluster.topic_error("known", KafkaError.TOPIC_AUTHORIZATION_FAILED)
    lasting(4 * INTERVAL)
    assert bus.get_health_status().is_healthy
    assert clients_of(bus) == clients
    assert load.reconnects == []
    cluster.topic_error("secret", 0)
    bus.publish("secret", b"", timeout=5.0)


def test_a_message_that_is_too_large_is_rejected_and_holds_nothing_up(mock: Make, open_bus: Buses) -> None:
    """Also as the first one of its topic, when it waits until the topic is made sure of."""
    cluster = mock(1)
    bus = open_bus(cluster)
    for _ in range(2):
        with pytest.raises(PublishRejectedError, match="t: "):
            bus.publish("t", bytes(2_000_000), timeout=3.0)
        bus.publish("t", b"", timeout=3.0)
    assert bus.get_statistics().in_flight == 0


def test_what_comes_back_from_a_living_producer_is_sent_again(mock: Make, open_bus: Buses) -> None:
    cluster = mock(1)
    bus = open_bus(cluster)
    load = Load(bus)
    bus.publish("t", b"")
    cluster.push_errors("Produce", KafkaError.UNKNOWN)
    assert bus.publish("t", b"again", timeout=5.0).confirmed
    assert load.reconnects == []


def test_the_first_messages_wait_for_leaders_that_know_of_it(
    mock: Make, open_bus: Buses, caplog: pytest.LogCaptureFixture
) -> None:
    """Else what comes as a leader takes over may be stored behind the next batch, or never, and be confirmed."""
    cluster = mock(1)
    cluster.create_topic("fresh", 1)
    bus = open_bus(cluster)
    caplog.set_level("INFO", logger="eventbus")
    cluster.push_errors("ListOffsets", *[KafkaError.NOT_LEADER_FOR_PARTITION] * 3)
    receipts = bus.publish_many([Message("fresh", str(number), key="k") for number in range(20)])
    assert [receipt.offset for receipt in receipts] == list(range(20))
    assert "topic fresh is not ready: its leaders have not begun" in caplog.text


def test_flush_ends_while_others_publish_on(mock: Make, open_bus: Buses) -> None:
    """And what was accepted before is answered then."""
    cluster = mock(1)
    bus = open_bus(cluster)
    load = Load(bus, threads=4, pace=0.0)
    stop = threading.Event()
    answered: list[bool] = []

    def flush_again_and_again() -> None:
        while not stop.is_set():
            future = bus.publish_async("t", b"0", key="x")
            unanswered = bus.flush(5.0).unanswered
            answered.append(not unanswered and (future.done() or bool(future.result(0.1))))

    thread = threading.Thread(target=flush_again_and_again, daemon=True)
    with load.running_unheard():
        thread.start()
        wait_until(lambda: len(answered) > 30, 20.0)
        stop.set()
        thread.join(10.0)
    assert all(answered)


def asked_in(cluster: MockKafka, seconds: float) -> Counter[str]:
    cluster.track()
    lasting(seconds)
    return cluster.requests()


def test_a_probe_at_rest_costs_one_request_and_makes_no_topic(mock: Make, open_bus: Buses) -> None:
    """A24."""
    cluster = mock(1)
    cluster.create_topic("__consumer_offsets")  # as in every cluster that has seen a group
    bus = open_bus(cluster)
    for published in (False, True):
        if published:
            bus.publish("t", b"")
        wait_until(lambda: asked_in(cluster, 0.5).keys() == {"Metadata"}, 10.0, message="the clients settle down")
        asked = asked_in(cluster, 5 * INTERVAL)
        assert asked.keys() == {"Metadata"}
        assert 3 <= asked["Metadata"] <= 6
    assert set(session_of(bus)._catalogue.listing(None, 2.0).found) == {"t", "__consumer_offsets"}


def test_an_unknown_topic_is_refused_and_not_created(mock: Make, open_bus: Buses) -> None:
    """A24."""
    cluster = mock(1)
    bus = open_bus(cluster)
    began = time.monotonic()
    with pytest.raises(PublishRejectedError, match="does not exist"):
        bus.publish("nowhere", b"", timeout=5.0)
    assert time.monotonic() - began < 3.0
    assert set(session_of(bus)._catalogue.listing(None, 2.0).found) == {"t"}


def test_a_broker_far_away_is_connected_to(mock: Make) -> None:
    """Each answer takes longer than one look at the progress of a connect."""
    cluster = mock(1)
    cluster.delay(0.27)
    backend = KafkaConfig(brokers=cluster.bootstrap, create_topics=False)
    with EventBus(EventBusConfig(backend=backend)) as bus:
        assert bus.publish("t", b"", timeout=5.0).confirmed
        cluster.delay(0.0)


def test_a_probe_that_fails_is_an_excuse_for_publishes_that_wait(
    mock: Make, open_bus: Buses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is no stall, however long it lasts."""
    excused: list[bool] = []
    monkeypatch.setattr(Progress, "excuse", lambda self: excused.append(True))
    cluster = mock(1)
    bus = open_bus(cluster, health_check=HealthCheckConfig(enabled=False))
    session = session_of(bus)
    session.probe(2.0, StopToken())
    assert not excused
    cluster.refuse()
    with pytest.raises(NotConnectedError):
        session.probe(0.2, StopToken())
    assert excused
