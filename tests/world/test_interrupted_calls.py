"""Interrupted: whatever instruction of a call an exception comes at, the bus goes on as if nothing had been.

Ctrl-C, SystemExit out of a signal handler, a web worker's time limit. Each round interrupts one call at an instant
drawn by chance, and then asks of the bus what it must still do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from instants import instructions_of, interrupt_at
from rounds import limit, rounds
from world_support import (
    Interrupted,
    MakeBus,
    Outages,
    Seen,
    Shooter,
    assert_closes,
    assert_well,
    fresh,
    interrupt_after,
    took,
)

import eventbus
from eventbus import EventBus, Message
from eventbus.testing import wait_until

INSTRUCTIONS = rounds(12, 250)
"""Interrupts of each call on each backend at a random instruction."""
SIGNALS = rounds(6, 250)
"""Those by a real signal at a random moment."""

pytestmark = [
    pytest.mark.watchdog(limit(40.0)),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PUBLISHES: dict[str, Callable[[EventBus, str, str], object]] = {
    "publish": lambda bus, topic, text: bus.publish(topic, text, key="key", headers={"a": "b"}, timeout=5.0),
    "publish_async": lambda bus, topic, text: bus.publish_async(topic, text, timeout=5.0),
    "publish_nowait": lambda bus, topic, text: bus.publish_nowait(topic, text),
    "publish_many": lambda bus, topic, text: bus.publish_many([Message(topic, text + end) for end in "abc"]),
}


class Interrupts:
    """Interrupts one call again and again, at an instruction or by a signal."""

    def __init__(self, how: str, chance: random.Random) -> None:
        self._how = how
        self._chance = chance
        self.number = INSTRUCTIONS if how == "instruction" else SIGNALS
        self._came = 0

    def measure(self, call: Callable[[], object], spare: Callable[[], object]) -> None:
        """Let two calls through, to know how long one is."""
        if self._how == "instruction":
            call()
            self._longest: float = instructions_of(spare)
        else:
            call()
            self._longest = max(0.0005, 1.5 * took(spare))

    def interrupt(self, call: Callable[[], object]) -> str:
        """Says where it was interrupted; "" when it was over before."""
        if self._how == "instruction":
            where = interrupt_at(call, self._chance.randint(1, int(self._longest)))
        else:
            where = interrupt_after(call, self._chance.uniform(0.0, self._longest))
        self._came += bool(where)
        return where

    def check(self) -> None:
        """It did interrupt."""
        assert self._came or self._how == "signal"


@pytest.fixture(params=["instruction", "signal"])
def interrupts(request: pytest.FixtureRequest, chance: random.Random) -> Interrupts:
    return Interrupts(request.param, chance)


@pytest.mark.parametrize("verb", PUBLISHES)
def test_an_interrupted_publish_leaves_a_bus_that_publishes_and_loses_nothing(
    make_bus: MakeBus, interrupts: Interrupts, verb: str
) -> None:
    bus, topic, seen, confirmed = make_bus(), fresh("publish"), Seen(), []
    bus.open()
    call = PUBLISHES[verb]

    def publish(text: str) -> None:
        result = call(bus, topic, text)
        confirmed.extend([text] if verb != "publish_many" else [text + end for end in "abc"])
        del result

    interrupts.measure(lambda: publish("first"), lambda: publish("second"))
    for number in range(interrupts.number):
        where = interrupts.interrupt(lambda number=number: publish(f"{number}."))  # type: ignore[misc]
        assert_well(bus, topic, f"{verb} at {where}")
    bus.subscribe(topic, seen, group="group")
    wait_until(
        lambda: {text.encode() for text in confirmed} <= set(seen.payloads),
        message=lambda: f"lost: { ({text.encode() for text in confirmed} - set(seen.payloads)) }",
    )
    counted = [payload for payload in seen.payloads if payload != b"afterwards"]
    assert len(counted) == len(set(counted)), "stored twice"
    interrupts.check()
    assert_closes(bus, verb)


@pytest.mark.parametrize("verb", ["publish", "publish_async", "publish_many"])
def test_a_publish_interrupted_while_it_waits_for_room_keeps_no_slot(
    memory_bus: MakeBus, outages: Outages, chance: random.Random, verb: str
) -> None:
    bus = memory_bus(max_in_flight=5)
    bus.open()
    outages.freeze()
    for _ in range(5):
        bus.publish_nowait("topic", b"fills the bus")
    for _ in range(rounds(6, 100)):
        where = interrupt_after(lambda: PUBLISHES[verb](bus, "topic", "waits"), chance.uniform(0.001, 0.02))
        assert where, "there was no room, and the call returned"
    outages.restore()
    assert_well(bus, "topic", f"{verb} waiting for room")
    futures = [bus.publish_async("topic", b"x", timeout=1.0) for _ in range(20)]
    assert all(future.result(5.0).confirmed for future in futures)
    assert_closes(bus, verb)


def test_an_interrupted_flush_changes_nothing(make_bus: MakeBus, interrupts: Interrupts) -> None:
    bus, topic = make_bus(), fresh("flush")
    bus.open()

    def flush() -> None:
        bus.flush(2.0)

    for _ in range(10):
        bus.publish_nowait(topic, b"x")
    interrupts.measure(flush, flush)
    for _ in range(interrupts.number):
        for _ in range(10):
            bus.publish_nowait(topic, b"x")
        where = interrupts.interrupt(flush)
        assert_well(bus, topic, f"flush at {where}")
    interrupts.check()
    assert_closes(bus, "flush")


def test_an_interrupted_subscribe_leaves_no_subscription_behind(make_bus: MakeBus, interrupts: Interrupts) -> None:
    """Who did not get it cannot end it: the same subscription made again is refused if one is left."""
    bus, topic, handler = make_bus(), fresh("subscribe"), Seen()
    bus.open()
    got: list[eventbus.Subscription] = []

    def subscribe() -> None:
        got.append(bus.subscribe(topic, handler, group="group"))

    def again() -> None:
        subscribe()
        assert bus.unsubscribe(got.pop(), 2.0)

    bus.publish(topic, b"exists")
    again()
    interrupts.measure(subscribe, lambda: None)
    assert bus.unsubscribe(got.pop(), 2.0)
    interrupts.measure(lambda: None, subscribe)
    assert bus.unsubscribe(got.pop(), 2.0)
    for number in range(interrupts.number):
        where = interrupts.interrupt(subscribe)
        assert_well(bus, topic, f"subscribe at {where}")
        if got:
            assert bus.unsubscribe(got.pop(), 2.0), where
        wait_until(lambda: _subscribed(subscribe), 2.0, message=lambda where=where: f"never again after {where}")  # type: ignore[misc]
        wanted = f"{number}".encode()
        bus.publish(topic, wanted)
        wait_until(
            lambda wanted=wanted: wanted in handler.payloads,  # type: ignore[misc]
            3.0,
            message=f"nothing is delivered after a subscribe was interrupted at {where}",
        )
        assert bus.unsubscribe(got.pop(), 2.0), where
    interrupts.check()
    assert_closes(bus, "subscribe")


def _subscribed(subscribe: Callable[[], None]) -> bool:
    try:
        subscribe()
    except eventbus.SubscribeError:
        return False  # the interrupted one is being taken back
    return True


def test_an_interrupted_unsubscribe_can_be_called_again(make_bus: MakeBus, interrupts: Interrupts) -> None:
    bus, topic, handler = make_bus(), fresh("unsubscribe"), Seen()
    bus.open()
    bus.publish(topic, b"exists")

    def end(subscription: eventbus.Subscription) -> Callable[[], None]:
        def call() -> None:
            bus.unsubscribe(subscription, 2.0)

        return call

    first, second = (bus.subscribe(topic, handler, group=name) for name in ("one", "two"))
    interrupts.measure(end(first), end(second))
    for number in range(interrupts.number):
        subscription = bus.subscribe(topic, handler, group="group")
        where = interrupts.interrupt(end(subscription))
        assert bus.unsubscribe(subscription, 2.0), where
        assert subscription.state is eventbus.SubscriptionState.CLOSED, where
        assert_well(bus, topic, f"unsubscribe at {where}")
        follower = bus.subscribe(topic, handler, group="group")
        wanted = f"{number}".encode()
        bus.publish(topic, wanted)
        wait_until(lambda wanted=wanted: wanted in handler.payloads, 3.0, message=f"nothing arrives after {where}")  # type: ignore[misc]
        assert bus.unsubscribe(follower, 2.0), where
    interrupts.check()
    assert_closes(bus, "unsubscribe")


def test_an_interrupted_close_is_done_by_the_next_one(make_bus: MakeBus, interrupts: Interrupts) -> None:
    topic = fresh("close")

    def opened() -> EventBus:
        bus = make_bus()
        bus.open()
        bus.subscribe(topic, lambda message: None)
        for _ in range(20):
            bus.publish_nowait(topic, b"x")
        return bus

    first, second = opened(), opened()
    interrupts.measure(lambda: first.close(3.0), lambda: second.close(3.0))
    for _ in range(interrupts.number):
        bus = opened()
        where = interrupts.interrupt(lambda bus=bus: bus.close(3.0))  # type: ignore[misc]
        report = assert_closes(bus, f"close at {where}")
        assert report.unanswered == 0, where
    interrupts.check()


def test_an_interrupted_open_can_be_called_again(make_bus: MakeBus, interrupts: Interrupts) -> None:
    topic = fresh("open")
    interrupts.measure(make_bus().open, make_bus().open)
    for _ in range(interrupts.number):
        bus = make_bus()
        where = interrupts.interrupt(bus.open)
        bus.open(3.0)
        assert_well(bus, topic, f"open at {where}")
        assert_closes(bus, f"open at {where}")
    interrupts.check()


OTHERS: dict[str, Callable[[EventBus], object]] = {
    "reconnect": lambda bus: bus.reconnect(3.0),
    "health check": lambda bus: (bus.stop_health_check(3.0), bus.start_health_check()),
    "wait_connected": lambda bus: bus.wait_connected(1.0),
    "status": lambda bus: (bus.get_statistics(), bus.get_connection_state(), bus.get_health_status()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_calls_that_are_interrupted_change_nothing(make_bus: MakeBus, interrupts: Interrupts, name: str) -> None:
    bus, topic, handler, call = make_bus(), fresh("others"), Seen(), OTHERS[name]
    bus.open()
    bus.subscribe(topic, handler, group="group")
    interrupts.measure(lambda: call(bus), lambda: call(bus))
    for number in range(interrupts.number):
        where = interrupts.interrupt(lambda: call(bus))
        bus.start_health_check()
        assert_well(bus, topic, f"{name} at {where}")
        wait_until(lambda: bus.get_health_status().is_running, 2.0, message=f"no health check after {where}")
        bus.publish(topic, f"{number}")
        wait_until(lambda number=number: f"{number}".encode() in handler.payloads, 3.0, message=where)  # type: ignore[misc]
        call(bus)
    interrupts.check()
    assert_closes(bus, name)


def test_calls_interrupted_one_after_the_other_on_one_bus(memory_bus: MakeBus, chance: random.Random) -> None:
    """What a single interrupt leaves may only show with the next one."""
    bus, handler = memory_bus(), Seen()
    bus.open()
    kept = bus.subscribe("kept", handler, group="group")

    def fire() -> None:
        raise Interrupted

    calls: list[Callable[[], object]] = [
        *(lambda verb=verb: PUBLISHES[verb](bus, "kept", "x") for verb in PUBLISHES),  # type: ignore[misc]
        lambda: bus.flush(1.0),
        lambda: bus.unsubscribe(bus.subscribe("other", handler, group=fresh("group")), 1.0),
        lambda: (kept.pause(), kept.resume()),
    ]
    for number in range(rounds(60, 1000)):
        with suppress(Interrupted):
            Shooter(fire).run(chance.choice(calls), chance.uniform(0.0, 0.001))
        if number % 20 == 19:
            assert_well(bus, "kept", f"round {number}")
    kept.resume()
    bus.publish("kept", b"last")
    wait_until(lambda: b"last" in handler.payloads)
    assert_closes(bus, "at the end")
