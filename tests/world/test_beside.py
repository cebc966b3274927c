"""Beside: one bad message, key, handler, callback, subscription among good ones: the good ones notice nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from rounds import limit
from world_support import QUICK, MakeBus, Outages, Seen, assert_closes, assert_well, fresh, took

import eventbus
from eventbus import EventBus, Message, SubscriptionState
from eventbus.testing import wait_until

pytestmark = pytest.mark.watchdog(limit(20.0))

SOON = 2.0
"""Seconds in which a neighbour's work is done."""


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What a bad one waits for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


# -- consuming -----------------------------------------------------------------------------------


def test_a_poison_message_parks_its_key_and_not_its_lane(make_bus: MakeBus) -> None:
    """concurrency=1: other keys and messages without one go on; what is behind it in its key waits."""
    bus, topic, good, tries = make_bus(), fresh("poison"), Seen(), Seen()
    bus.open()

    def handle(message: Message) -> None:
        if message.key == "bad":
            tries(message)
            raise ValueError("cannot be handled")
        good(message)

    bus.publish(topic, b"poison", key="bad")
    bus.publish(topic, b"behind it", key="bad")
    bus.subscribe(topic, handle, group="group", concurrency=1)
    tries.wait(1)
    keys = [None, *(f"good{number % 10}" for number in range(99))]
    bus.publish_many([Message(topic, str(number), key=key) for number, key in enumerate(keys)])
    good.wait(100, SOON)
    for wanted in {key for key in keys if key}:
        mine = [int(message.payload) for message in good.messages if message.key == wanted]
        assert mine == sorted(mine)
    tries.wait(3, 5.0)
    assert set(tries.payloads) == {b"poison"}, "what was behind it in its key went first"


def test_many_poison_keys_at_once_hold_nobody_up(make_bus: MakeBus) -> None:
    bus, topic, good = make_bus(), fresh("poison"), Seen()
    bus.open()

    def handle(message: Message) -> None:
        if message.payload == b"poison":
            raise ValueError("cannot be handled")
        good(message)

    bus.subscribe(topic, handle, group="group", concurrency=2)
    for number in range(50):
        bus.publish(topic, b"poison", key=f"bad{number}")
        bus.publish(topic, b"good", key=f"good{number}")
    good.wait(50, SOON)
    assert_closes(bus, "with fifty keys that wait for a retry")


def _handed_over_again(bus: EventBus, broker: str, slow: Slow, concurrency: int) -> tuple[set[bytes], set[bytes]]:
    """What was handled 0.2 s before an orderly end, and what a successor gets."""
    bus.subscribe("topic", slow, group="group", concurrency=concurrency)
    wait_until(lambda: b"slow" in slow.seen.payloads)
    threading.Event().wait(0.2)
    handled = set(slow.seen.payloads) - {b"slow"}
    bus.close(0.5)
    again = Seen()
    with EventBus(f"memory://{broker}") as successor:
        successor.subscribe("topic", again, group="group")
        wait_until(lambda: b"slow" in again.payloads, 5.0)
        threading.Event().wait(0.1)
    return handled, set(again.payloads)


class Slow:
    """A handler that waits in the message "slow"."""

    def __init__(self, blocked: threading.Event) -> None:
        self.seen = Seen()
        self._blocked = blocked

    def __call__(self, message: Message) -> None:
        """Keep it, and wait."""
        self.seen(message)
        if message.payload == b"slow":
            self._blocked.wait(20.0)


def test_what_was_handled_before_a_slow_one_of_its_key_is_acknowledged(
    memory_bus: MakeBus, outages: Outages, blocked: threading.Event
) -> None:
    bus, slow = memory_bus(), Slow(blocked)
    bus.open()
    bus.publish_many([Message("topic", text, key="key") for text in ("one", "two", "three", "slow")])
    handled, again = _handed_over_again(bus, outages.name, slow, 1)
    assert (handled, again) == ({b"one", b"two", b"three"}, {b"slow"})


def test_a_slow_handler_holds_up_no_acknowledgement_of_other_keys(
    memory_bus: MakeBus, outages: Outages, blocked: threading.Event
) -> None:
    """What came after it, too: memory acknowledges singly (design 7)."""
    bus, slow = memory_bus(), Slow(blocked)
    bus.open()
    bus.publish("topic", b"slow", key="key")
    bus.publish_many([Message("topic", str(number), key=str(number)) for number in range(20)])
    handled, again = _handed_over_again(bus, outages.name, slow, 4)
    assert handled and not handled & again


def test_a_slow_subscription_holds_up_no_other(make_bus: MakeBus, blocked: threading.Event) -> None:
    bus, slow, quick, good = make_bus(), fresh("slow"), fresh("quick"), Seen()
    bus.open()
    bus.subscribe(slow, lambda message: blocked.wait(20.0), group="group")
    bus.subscribe(quick, good, group="group")
    bus.publish_many([Message(slow, b"x", key="key") for _ in range(3000)])
    bus.publish_many([Message(quick, b"x") for _ in range(500)])
    good.wait(500, SOON)
    blocked.set()


def test_a_refused_subscription_holds_up_no_other(memory_bus: MakeBus, outages: Outages) -> None:
    outages.refuse_topic("refused")
    bus, good, late = memory_bus(health_check={"interval": 0.2, "timeout": 0.2}), Seen(), Seen()
    refused = bus.subscribe("refused", late, group="group")
    fine = bus.subscribe("fine", good, group="group")
    assert took(bus.open) < QUICK
    assert (refused.state, fine.state) == (SubscriptionState.FAILED, SubscriptionState.ACTIVE)
    assert "no permission" in str(refused.error)
    with pytest.raises(eventbus.SubscribeError):
        bus.subscribe("refused", late, group="another")
    bus.publish("refused", b"x")
    bus.publish("fine", b"x")
    good.wait(1, SOON)
    outages.cut()
    wait_until(lambda: bus.get_connection_state().reconnect_count == 1, SOON)
    bus.publish("fine", b"y")
    good.wait(2, SOON)
    assert bus.get_health_status().is_healthy
    outages.allow_topic("refused")
    late.wait(1, 10.0)
    assert refused.state is SubscriptionState.ACTIVE and refused.error is None


def test_a_paused_subscription_pauses_no_other_and_goes_on_where_it_stood(make_bus: MakeBus) -> None:
    bus, one, two, first, second = make_bus(), fresh("one"), fresh("two"), Seen(), Seen()
    bus.open()
    paused = bus.subscribe(one, first, group="group")
    bus.subscribe(two, second, group="group")
    bus.publish(one, b"before")
    first.wait(1)
    paused.pause()
    assert paused.status().paused
    bus.publish_many([Message(one, str(number)) for number in range(20)])
    bus.publish(two, b"x")
    second.wait(1, SOON)
    threading.Event().wait(0.1)
    assert first.payloads == [b"before"]
    paused.resume()
    first.wait(21, SOON)
    assert not paused.status().paused


# -- publishing and callbacks --------------------------------------------------------------------


def test_a_slow_done_callback_holds_up_nobody_s_result(make_bus: MakeBus, blocked: threading.Event) -> None:
    bus, topic, running = make_bus(), fresh("slow"), threading.Event()
    bus.open()

    def slow(future: Future[eventbus.Receipt]) -> None:
        running.set()
        blocked.wait(20.0)

    bus.publish_async(topic, b"x").add_done_callback(slow)
    assert running.wait(5.0)
    futures = [bus.publish_async(topic, b"x") for _ in range(100)]
    assert all(future.result(SOON).confirmed for future in futures)
    assert_well(bus, topic, "beside a slow done-callback")
    seconds = took(lambda: bus.close(0.5))
    assert seconds < 0.5 + QUICK


def test_a_done_callback_may_wait_for_another_future(make_bus: MakeBus) -> None:
    bus, topic = make_bus(), fresh("waiting")
    bus.open()
    results: list[object] = []

    def wait_for_another(future: Future[eventbus.Receipt]) -> None:
        try:
            results.append(bus.publish_async(topic, b"another").result(SOON).confirmed)
            results.append(bus.publish(topic, b"and one", timeout=SOON).confirmed)
        except BaseException as error:
            results.append(error)

    bus.publish_async(topic, b"x").add_done_callback(wait_for_another)
    wait_until(lambda: len(results) == 2, 5.0, message=lambda: f"{results}")
    assert results == [True, True]


def test_a_failing_callback_takes_nothing_from_the_others(memory_bus: MakeBus) -> None:
    bus, events = memory_bus(), []
    bus.open()

    def fail(event: object) -> None:
        raise ValueError("a failing callback")

    for register in (bus.register_reconnect_callback, bus.register_error_callback, bus.register_state_callback):
        register(fail)
    bus.register_reconnect_callback(events.append)
    bus.publish_async("topic", b"x").add_done_callback(fail)
    bus.reconnect(5.0)
    wait_until(lambda: events, SOON)
    assert bus.publish_async("topic", b"x").result(SOON).confirmed
    assert_well(bus, "topic", "beside failing callbacks")
    assert_closes(bus, "beside failing callbacks")


@pytest.mark.parametrize("kind", ["error", "state", "reconnect"])
def test_a_blocked_callback_holds_up_nothing_but_callbacks(
    memory_bus: MakeBus, outages: Outages, blocked: threading.Event, kind: str
) -> None:
    bus, seen, running = memory_bus(), Seen(), threading.Event()
    bus.open()

    def block(event: object) -> None:
        running.set()
        blocked.wait(20.0)

    def handle(message: Message) -> None:
        if message.payload == b"bad":
            raise ValueError("a failing handler")
        seen(message)

    getattr(bus, f"register_{kind}_callback")(block)
    bus.subscribe("topic", handle, group="group")
    bus.publish("topic", b"bad", key="bad")
    bus.reconnect(5.0)
    assert running.wait(5.0)
    for number in range(3):
        outages.cut()
        wait_until(lambda number=number: bus.get_connection_state().reconnect_count >= 2 + number, SOON)  # type: ignore[misc]
    bus.publish("topic", b"good", key="good")
    seen.wait(1, SOON)
    assert_well(bus, "topic", f"beside a blocked {kind} callback")
    assert took(lambda: bus.close(0.5)) < 0.5 + QUICK


def test_a_rejected_message_takes_nothing_from_the_others(memory_bus: MakeBus) -> None:
    """Of those published together only the bad one fails, at the door."""
    bus, seen = memory_bus(), Seen()
    bus.open()
    bus.subscribe("topic", seen, group="group")
    with pytest.raises((ValueError, eventbus.PublishError)):
        bus.publish("bad topic", b"x")
    with pytest.raises((TypeError, ValueError, eventbus.PublishError)):
        bus.publish("topic", object())
    futures = [bus.publish_async("topic", str(number)) for number in range(50)]
    assert all(future.result(SOON).confirmed for future in futures)
    seen.wait(50, SOON)
    assert_well(bus, "topic", "beside what was refused")


def test_handlers_that_unsubscribe_each_other_do_not_wait_for_each_other(memory_bus: MakeBus) -> None:
    bus, met, seconds = memory_bus(), threading.Barrier(2), []
    bus.open()
    subscriptions: list[eventbus.Subscription] = []

    def handle(message: Message) -> None:
        met.wait(5.0)
        other = subscriptions[1 if message.topic == "one" else 0]
        seconds.append(took(lambda: bus.unsubscribe(other, 3.0)))

    subscriptions += [bus.subscribe(topic, handle, group="group") for topic in ("one", "two")]
    bus.publish("one", b"x")
    bus.publish("two", b"x")
    wait_until(lambda: len(seconds) == 2, 10.0)
    assert max(seconds) < QUICK
