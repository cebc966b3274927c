"""The link to the brokers fails in every way it can: nothing is lost, and clients are replaced only where needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException
from kafka_engine_support import INTERVAL, THRESHOLD, TIMEOUT, Buses, Load, clients_of, config, lasting, session_of

from eventbus import (
    EventBus,
    KafkaConfig,
    NotConnectedError,
    Phase,
    PublishNotSentError,
    SubscriptionState,
)
from eventbus.backends.kafka.catalogue import Catalogue
from eventbus.backends.kafka.topics import Topics
from eventbus.recovery import healing, supervisor
from eventbus.recovery.supervisor import Supervisor
from eventbus.testing import MockKafka, wait_until

Make = Callable[..., MockKafka]


def is_unhealthy(bus: EventBus) -> bool:
    return not bus.get_health_status().is_healthy


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_refused_for_a_while_the_clients_come_back_by_themselves(mock: Make, open_bus: Buses, seconds: float) -> None:
    """A1."""
    cluster = mock(3)
    bus = open_bus(cluster)
    load = Load(bus)
    load.subscribe()
    with load.running():
        clients = clients_of(bus)
        cluster.refuse()
        lasting(seconds)
        cluster.accept()
        assert load.more() < 2.0
        wait_until(lambda: bus.get_connection_state().phase is Phase.CONNECTED, 10.0)
    # Unlike Kafka the mock stores again what is sent again because the answer to it was lost as it went away.
    load.check(duplicates=20)
    assert clients_of(bus) == clients
    assert {event.how for event in load.reconnects} <= {"healed"}
    assert bool(load.reconnects) is (seconds > 2), "the longer one is an outage that callbacks are told of"
    assert not [event for event in load.errors if "none was answered" in str(event.error)], "an outage is no stall"


def test_a_black_hole_is_seen_by_the_health_check_and_heals_without_a_swap(mock: Make, open_bus: Buses) -> None:
    """A2."""
    cluster = mock(1, proxied=True)
    bus = open_bus(cluster)
    load = Load(bus)
    load.subscribe()
    with load.running():
        clients = clients_of(bus)
        cluster.proxies[0].black_hole()
        began = time.monotonic()
        wait_until(lambda: is_unhealthy(bus), 5.0)
        assert time.monotonic() - began < INTERVAL + TIMEOUT + 0.5
        lasting(1.5)
        cluster.proxies[0].accept()
        assert load.more() < 2.0
        wait_until(lambda: bus.get_connection_state().phase is Phase.CONNECTED, 10.0)
        wait_until(lambda: not is_unhealthy(bus), 10.0)
    load.check()
    assert clients_of(bus) == clients


def test_half_open_clients_are_replaced_soon(mock: Make, open_bus: Buses) -> None:
    """A3: their connections are mute for ever, while new ones work."""
    cluster = mock(1, proxied=True)
    bus = open_bus(cluster)
    load = Load(bus)
    load.subscribe()
    with load.running():
        clients = clients_of(bus)
        began = time.monotonic()
        cluster.proxies[0].half_open()
        wait_until(lambda: load.reconnects, 15.0)
        grace = healing.HEAL_PROBE + healing.HEAL_GRACE  # in which the old clients might come back
        assert time.monotonic() - began < THRESHOLD * (INTERVAL + TIMEOUT) + grace + 3.0
        load.more(timeout=10.0)
        wait_until(lambda: bus.get_statistics().in_flight < 50, 10.0)  # the rest is sent again when it is cut
        cluster.proxies[0].cut()  # what the old clients wait for: else their end takes socket.timeout.ms
    load.check(duplicates=300)
    assert [event.how for event in load.reconnects] == ["rebuilt"]
    now = clients_of(bus)
    assert not any(client in now for client in clients)


def test_lost_answers_lose_nothing_and_double_little(
    mock: Make, open_bus: Buses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A4: what arrived without an answer is sent again by a new producer, with the same id."""
    monkeypatch.setattr(supervisor, "HEAL_GRACE", 0.3)
    cluster = mock(1, proxied=True)
    bus = open_bus(cluster, threshold=1)
    load = Load(bus)
    load.subscribe()
    with load.running():
        proxy = cluster.proxies[0]
        proxy.black_hole(to_server=False, to_client=True)
        lasting(0.5)
        proxy.half_open()
        proxy.accept()
        wait_until(lambda: load.reconnects, 15.0)
        load.more()
        proxy.cut()
    load.check(duplicates=500)
    assert any(load.doubled().values()), "nothing was in flight: the test shows nothing"


def test_lost_answers_that_arrive_later_double_nothing(mock: Make, open_bus: Buses) -> None:
    """A4, self-healed: the producer numbers its batches."""
    cluster = mock(1, proxied=True)
    bus = open_bus(cluster)
    load = Load(bus)
    load.subscribe()
    with load.running():
        cluster.proxies[0].black_hole(to_server=False, to_client=True)
        lasting(1.0)
        cluster.proxies[0].accept()
        load.more()
    load.check()


def test_a_bound_that_is_reached_in_an_outage_stops_publishers_and_loses_nothing(mock: Make, open_bus: Buses) -> None:
    """A9."""
    cluster = mock(1)
    bus = open_bus(cluster, max_in_flight=200)
    load = Load(bus, threads=1)
    load.subscribe()
    bus.publish("t", b"0", key="0")
    cluster.refuse()
    accepted = 1
    began = time.monotonic()
    with pytest.raises(PublishNotSentError):
        while accepted < 1000:
            bus.publish_nowait("t", b"%d" % accepted, key="0")
            accepted += 1
    assert time.monotonic() - began < 1.0, "it does not wait"
    assert accepted == 201
    began = time.monotonic()
    with pytest.raises(PublishNotSentError):
        bus.publish("t", b"9999", key="0", timeout=0.4)
    assert 0.35 < time.monotonic() - began < 1.0
    late = threading.Thread(target=bus.publish, args=("t", b"201"), kwargs={"key": "0", "timeout": 10.0}, daemon=True)
    late.start()
    cluster.accept()
    late.join(10.0)
    assert not late.is_alive(), "there is room again"
    load.accepted["0"] = 202
    load.check()
    assert load.count == 202
    assert bus.flush(5.0).unanswered == 0


def test_while_no_candidate_connects_the_waits_grow_and_a_stop_ends_them(
    mock: Make, open_bus: Buses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A16."""
    waits: list[float] = []
    pause = Supervisor._pause

    def noting(self: Supervisor, seconds: float, *args: object) -> None:
        waits.append(seconds)
        pause(self, seconds, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Supervisor, "_pause", noting)
    cluster = mock(1)
    bus = open_bus(cluster, connect_timeout=0.3, threshold=1)
    load = Load(bus)
    load.subscribe()
    with load.running():
        clients = clients_of(bus)
        cluster.refuse()
        wait_until(lambda: len(waits) >= 3, 20.0)
        began = time.monotonic()
        assert bus.stop_health_check(5.0)
        assert time.monotonic() - began < 1.0
        assert waits[0] <= 0.05 < waits[1] <= 0.1 < waits[2] <= 0.2
        assert bus.get_connection_state().phase is Phase.DISCONNECTED
        cluster.accept()
        load.more()
    load.check()
    assert clients_of(bus) == clients
    assert load.reconnects == []


def test_a_slow_broker_is_not_answered_with_new_clients_again_and_again(
    mock: Make, open_bus: Buses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A17: each answer takes longer than a probe, and than the grace of an old session."""
    monkeypatch.setattr(supervisor, "HEAL_GRACE", 0.1)
    cluster = mock(1)
    bus = open_bus(cluster, threshold=1)
    load = Load(bus, pace=0.02)
    load.subscribe()
    with load.running():
        cluster.delay(0.7)
        lasting(4.0)
        assert is_unhealthy(bus)
        rebuilt = [event for event in load.reconnects if event.how == "rebuilt"]
        assert len(rebuilt) <= 1
        cluster.delay(0.0)
    load.check(duplicates=1000, timeout=30.0)


def test_clients_that_heal_themselves_are_not_replaced_twice_within_the_pace_limit(
    mock: Make, open_bus: Buses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A17: the limit itself; a loss for good and `reconnect()` do not ask it."""
    assert healing.REPLACE_EVERY == 30.0
    monkeypatch.setattr(supervisor, "HEAL_GRACE", 0.3)
    cluster = mock(1, proxied=True)
    bus = open_bus(cluster, threshold=1)
    load = Load(bus)
    load.subscribe()
    with load.running():
        cluster.proxies[0].half_open()
        wait_until(lambda: load.reconnects, 15.0)
        load.more()
        session = session_of(bus)
        cluster.proxies[0].half_open()
        wait_until(lambda: "not again for" in str(bus.get_connection_state().last_error), 15.0)
        assert session_of(bus) is session
        monkeypatch.setattr(healing, "REPLACE_EVERY", 0.5)
        wait_until(lambda: session_of(bus) is not session, 10.0)
        load.more()
        bus.reconnect(10.0)
        cluster.proxies[0].cut()
    load.check(duplicates=2000)


def test_one_hung_broker_of_three_does_not_stop_the_others(mock: Make, open_bus: Buses) -> None:
    """A18."""
    cluster = mock(3, proxied=True)
    cluster.create_topic("two", 2, replicas=3)
    for partition in range(2):
        cluster.set_leader("two", partition, partition + 1)
    cluster.set_coordinator("g", 1)
    bus = open_bus(cluster)
    load = Load(bus, "two")
    load.subscribe()
    with load.running():
        cluster.proxies[2].black_hole()
        gaps = [load.more(200, timeout=5.0) for _ in range(8)]
        lasting(max(0.0, 2.0 - sum(gaps)))
        assert len([event for event in load.reconnects if event.how == "rebuilt"]) <= 1
        cluster.proxies[2].accept()
    load.check(duplicates=500)
    assert max(gaps) < 3.0


def test_a_partition_without_a_leader_holds_up_no_other(mock: Make, open_bus: Buses) -> None:
    """Not even with the first publish to the topic, nor with a subscription."""
    cluster = mock(1)
    cluster.create_topic("half", 2)
    cluster.set_leader("half", 1, None)
    bus = open_bus(cluster)
    seen: list[str] = []
    bus.subscribe("half", lambda message: seen.append(message.key or ""), group="g")
    receipts = {str(key): bus.publish_async("half", b"x", key=str(key)) for key in range(20)}
    wait_until(lambda: seen, 15.0)
    stored = {key for key, receipt in receipts.items() if receipt.done()}
    assert 0 < len(stored) < 20
    assert {receipts[key].result().partition for key in stored} == {0}
    cluster.set_leader("half", 1, 1)
    assert {receipt.result(15.0).partition for receipt in receipts.values()} == {0, 1}
    wait_until(lambda: sorted(seen) == sorted(receipts), 15.0)


def test_a_subscription_that_cannot_begin_without_a_leader_holds_up_no_other(mock: Make) -> None:
    """It begins "now", and where that is only the leader knows: there it begins when the leader is back."""
    cluster = mock(1)
    cluster.create_topic("half", 2)
    seen: list[str] = []
    with EventBus(config(cluster)) as other_bus:
        stored = {other_bus.publish("half", "before", key=str(key)).partition for key in range(20)}
        assert stored == {0, 1}
    cluster.set_leader("half", 1, None)
    bus = EventBus(config(cluster))
    bus.subscribe("half", lambda message: seen.append(message.text()), group="g", start="latest")
    other = bus.subscribe("t", lambda message: seen.append(message.text()), group="other")
    with bus:
        bus.publish("t", "other")
        wait_until(lambda: seen == ["other"], 15.0)
        assert other.state is SubscriptionState.ACTIVE
        cluster.set_leader("half", 1, 1)
        key = next(key for key in map(str, range(20)) if bus.publish("half", "x", key=key).partition == 1)
        wait_until(lambda: bus.publish("half", "y", key=key) and "y" in seen, 15.0)  # the mock knows no times
        assert "before" not in seen


@pytest.mark.parametrize(
    ("code", "is_answer"), [(KafkaError._TRANSPORT, False), (KafkaError.LEADER_NOT_AVAILABLE, True)]
)
def test_a_link_that_fails_while_it_asks_says_nothing_about_the_topic(code: int, is_answer: bool) -> None:
    answer: Future[object] = Future()
    answer.set_exception(KafkaException(KafkaError(code)))
    admin = SimpleNamespace(list_offsets=lambda asked, **options: dict.fromkeys(asked, answer))
    topics = Topics(lambda: admin, KafkaConfig(brokers="a:1"))  # type: ignore[arg-type, return-value]
    if is_answer:
        assert Catalogue(topics).ends([("t", 0)], 1.0) == {}
    else:
        with pytest.raises(NotConnectedError):
            Catalogue(topics).ends([("t", 0)], 1.0)
