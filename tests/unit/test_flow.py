"""What a subscription has in hand, end to end on memory: bounded, measured, paused, and no neighbour pays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from eventbus import BROADCAST, EventBus, EventBusConfig, MemoryConfig, Message, SubscriptionState
from eventbus.backends.memory.broker import forget_broker
from eventbus.consuming import handling
from eventbus.testing import wait_until

Make = Callable[..., EventBus]
NAME = "flow"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def make(gate: threading.Event) -> Iterator[Make]:
    buses: list[EventBus] = []

    def made(partitions: int = 4, **options: object) -> EventBus:
        backend = MemoryConfig(name=NAME, partitions=partitions)
        buses.append(EventBus(EventBusConfig(backend=backend, **options)))  # type: ignore[arg-type]
        buses[-1].open()
        return buses[-1]

    yield made
    gate.set()
    for bus in buses:
        bus.close()
    forget_broker(NAME)


def fail_for(*payloads: bytes) -> Callable[[Message], None]:
    def handler(message: Message) -> None:
        if message.payload in payloads:
            raise ValueError("poison")

    return handler


def test_one_failing_message_stops_its_key_and_nothing_else(make: Make) -> None:
    bus = make()
    bus.subscribe("t", fail_for(b"poison"), group="g")
    bus.publish("t", "poison", key="bad")
    bus.publish_many([Message("t", str(number), key=f"k{number % 7}") for number in range(3000)])
    wait_until(lambda: bus.get_statistics().handled == 3000)
    assert bus.close().unhandled == 1


def test_ever_so_many_behind_a_failing_key_hold_up_no_other(make: Make) -> None:
    """Memory acknowledges singly: there is no prefix that everything would wait for."""
    bus = make(partitions=1)
    bus.subscribe("t", fail_for(b"poison"), group="g")
    bus.publish_many([Message("t", "poison" if number == 0 else "", key="bad") for number in range(12_000)])
    bus.publish_many([Message("t", str(number), key=f"k{number % 7}") for number in range(300)])
    wait_until(lambda: bus.get_statistics().handled == 300)
    assert bus.close().unhandled == 12_000


def test_the_status_is_measured(make: Make, gate: threading.Event) -> None:
    bus, entered = make(), threading.Event()

    def handler(message: Message) -> None:
        entered.set()
        assert gate.wait(20.0)
        if message.payload == b"0":
            raise ValueError("not this one")

    sub = bus.subscribe("t", handler, group="g")
    idle = sub.status()
    assert (idle.state, idle.in_hand, idle.oldest_in_hand, idle.lag) == (SubscriptionState.ACTIVE, 0, None, 0)
    bus.publish_many([Message("t", str(number), key="k") for number in range(3)])
    assert entered.wait(5.0)
    wait_until(lambda: sub.status().in_hand == 3)
    busy = sub.status()
    assert (busy.lag, busy.paused, busy.last_error, busy.error) == (3, False, None, None)
    wait_until(lambda: (sub.status().oldest_in_hand or 0.0) > 0.05)
    gate.set()
    wait_until(lambda: str(sub.status().last_error) == "not this one")
    assert sub.status().in_hand == 3
    bus.close()
    assert sub.status().state is SubscriptionState.CLOSED


def test_a_paused_subscription_keeps_what_it_has_and_takes_no_more(make: Make) -> None:
    bus, handled = make(prefetch=8), []
    sub = bus.subscribe("t", lambda message: handled.append(int(message.payload)), group="g")
    sub.pause()
    bus.publish_many([Message("t", str(number), key="k") for number in range(2000)])
    wait_until(lambda: sub.status().in_hand)
    status = sub.status()
    assert status.paused
    assert (handled, status.lag) == ([], 2000)
    assert status.in_hand <= 256, "a batch, and no more"
    sub.resume()
    wait_until(lambda: len(handled) == 2000)
    assert handled == list(range(2000))
    wait_until(lambda: sub.status().lag == 0)
    assert not sub.status().paused


def test_pausing_one_subscription_pauses_no_other(make: Make) -> None:
    bus, got = make(), threading.Event()
    bus.subscribe("t", lambda message: None, group=BROADCAST).pause()
    bus.subscribe("t", lambda message: got.set(), group="g")
    bus.publish("t", "x")
    assert got.wait(5.0)


def test_whether_a_thread_runs_a_handler_is_known_by_what_it_does(make: Make) -> None:
    bus, other, seen = make(), make(), []

    def handler(message: Message) -> None:
        threading.current_thread().name = "nothing to see here"
        seen.append((handling.current_subscription(), bus._consumers.is_handling(), other._consumers.is_handling()))

    sub = bus.subscribe("t", handler, group="g")
    bus.publish("t", "x")
    wait_until(lambda: seen)
    assert seen == [(sub, True, False)]
    assert handling.current_subscription() is None
    assert not bus._consumers.is_handling()


def test_an_id_is_one_message_inside_one_topic(make: Make) -> None:
    bus = make()
    assert not bus.publish("new", "x", id="1").duplicate
    assert not bus.publish("paid", "x", id="1").duplicate
    assert bus.publish("new", "x", id="1").duplicate


def test_unsubscribing_from_a_handler_waits_for_no_other_handler(make: Make, gate: threading.Event) -> None:
    bus, entered, answers = make(), threading.Event(), []

    def hang(message: Message) -> None:
        entered.set()
        assert gate.wait(20.0)

    hanging = bus.subscribe("hang", hang, group="g")
    bus.subscribe("end", lambda message: answers.append(bus.unsubscribe(hanging, timeout=20.0)), group="g")
    bus.publish("hang", "x")
    assert entered.wait(5.0)
    bus.publish("end", "x")
    wait_until(lambda: answers == [False], 2.0)
    report = bus.close(timeout=0.3)
    assert report.unhandled == 1
    assert any("lane-hang" in name for name in report.unfinished_threads)
