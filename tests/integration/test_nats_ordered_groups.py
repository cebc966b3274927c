"""`subscribe(ordered=True)` on a real NATS server: who is active, how it changes hands, and what is refused."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from nats_operator import Operator

import eventbus
from eventbus import EventBus, Message, SubscribeError, Subscription, SubscriptionState
from eventbus.backends.nats.jetstream import session as session_module
from eventbus.backends.nats.jetstream.durables import durable_name
from eventbus.backends.nats.jetstream.ordered_durable import LEASE
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(40.0)]
ACTIVE, STANDBY, FAILED = SubscriptionState.ACTIVE, SubscriptionState.STANDBY, SubscriptionState.FAILED
ORDERED = durable_name("g", "orders.*", True)
SHARED = durable_name("g", "orders.*")

Open = Callable[..., EventBus]


@pytest.fixture
def open_bus(nats_server: NatsServer) -> Iterator[Open]:
    """`open_bus(**settings)`: a bus on the server, closed at the end."""
    with ExitStack() as stack:

        def made(**settings: Any) -> EventBus:
            bus = EventBus({"url": nats_server.url, **settings})
            stack.callback(bus.close, 5.0)
            bus.open()
            return bus

        yield made


@pytest.fixture
def operator(nats_server: NatsServer) -> Iterator[Operator]:
    with Operator(nats_server.address) as made:
        yield made


class Log:
    """What several members have handled, in order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.handled: list[tuple[str, str, int]] = []

    def of(self, member: str) -> Callable[[Message], None]:
        def handle(message: Message) -> None:
            with self.lock:
                self.handled.append((member, str(message.key), int(message.payload.strip())))

        return handle

    @property
    def numbers(self) -> set[int]:
        with self.lock:
            return {number for _, _, number in self.handled}

    def wait(self, count: int, timeout: float = 10.0) -> None:
        wait_until(lambda: len(self.numbers) >= count, timeout, message=lambda: f"{len(self.numbers)} of {count}")

    def members(self) -> set[str]:
        return {member for member, _, _ in self.handled}

    def inversions(self) -> int:
        """Of first handlings, per key."""
        newest: dict[str, int] = {}
        seen: set[int] = set()
        found = 0
        for _, key, number in self.handled:
            if number not in seen:
                seen.add(number)
                found += number < newest.get(key, -1)
                newest[key] = max(number, newest.get(key, -1))
        return found


def pause(seconds: float) -> None:
    """How long a condition lasts; nothing is synchronised by it."""
    threading.Event().wait(seconds)


def publish(bus: EventBus, start: int, stop: int, topic: str = "orders.x", keys: int = 10) -> None:
    bus.publish_many([Message(topic, str(number), key=f"k{number % keys}") for number in range(start, stop)])


def wait_state(sub: Subscription, state: SubscriptionState, timeout: float = 5.0) -> None:
    wait_until(lambda: sub.state is state, timeout, message=lambda: f"{sub!r}, wanted {state}")


def floor_of(operator: Operator, stream: str = "orders", name: str = ORDERED) -> int:
    return int(operator.call(f"CONSUMER.INFO.{stream}.{name}")["ack_floor"]["stream_seq"])


def test_one_member_is_active_the_others_stand_by_and_one_of_them_goes_on_at_once(open_bus: Open) -> None:
    log, publisher = Log(), open_bus()
    buses = {name: open_bus() for name in "ab"}
    subs = {
        name: bus.subscribe("orders.*", log.of(name), group="g", concurrency=4, ordered=True)
        for name, bus in buses.items()
    }
    publish(publisher, 0, 500)
    log.wait(500)
    (active,) = log.members()
    (other,) = set("ab") - {active}
    wait_state(subs[active], ACTIVE)
    wait_state(subs[other], STANDBY)
    assert subs[active].ordered
    wait_until(lambda: subs[active].status().lag == 0, 5.0)
    pause(LEASE)  # whoever has watched for less waits out the rest
    started = time.monotonic()
    buses[active].close()
    publish(publisher, 500, 501)
    log.wait(501)
    took = time.monotonic() - started
    assert log.handled[-1][0] == other and took < 0.5, took
    wait_state(subs[other], ACTIVE)
    assert len(log.handled) == 501  # nothing twice


def test_a_new_group_begins_at_once(open_bus: Open) -> None:
    """Nobody can have a lease, and the first pin comes with the first message, in front of any heartbeat."""
    bus, log = open_bus(), Log()
    publish(bus, 0, 10)
    started = time.monotonic()
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    log.wait(10)
    assert time.monotonic() - started < LEASE / 2


def test_unsubscribing_hands_over_what_was_not_begun_once_handlers_have_ended(open_bus: Open) -> None:
    first, second, publisher = open_bus(), open_bus(), open_bus()
    log, held, begun = Log(), threading.Event(), threading.Event()

    def handle(message: Message) -> None:
        begun.set()
        held.wait(10.0)
        log.of("first")(message)

    sub = first.subscribe("orders.*", handle, group="g", ordered=True)
    publish(publisher, 0, 100, keys=1)
    assert begun.wait(5.0)
    second.subscribe("orders.*", log.of("second"), group="g", ordered=True)
    assert not first.unsubscribe(sub, timeout=2 * LEASE)
    assert log.handled == []  # the lease was kept as long as a handler ran
    held.set()
    log.wait(100)
    assert [number for _, _, number in log.handled] == list(range(100))
    assert [member for member, _, _ in log.handled].count("first") == 1


def test_a_failing_message_keeps_its_key_and_the_acknowledgement_of_all_behind_it(
    open_bus: Open, operator: Operator
) -> None:
    bus, log, fails = open_bus(), Log(), threading.Event()
    fails.set()

    def handle(message: Message) -> None:
        if message.payload == b"10" and fails.is_set():
            raise ValueError("not yet")
        log.of("one")(message)

    bus.subscribe("orders.*", handle, group="g", concurrency=4, ordered=True)
    publish(bus, 0, 100)
    log.wait(90)  # all but k0 from 10 on
    assert not any(key == "k0" and number >= 10 for _, key, number in log.handled)
    pause(0.3)
    assert floor_of(operator) == 10
    fails.clear()
    log.wait(100)
    wait_until(lambda: floor_of(operator) == 100, 5.0)
    assert log.inversions() == 0 and len(log.handled) == 100


def test_lanes_that_stand_still_give_nothing_back(open_bus: Open) -> None:
    bus, log, go = open_bus(), Log(), threading.Event()

    def handle(message: Message) -> None:
        go.wait(10.0)
        log.of("one")(message)

    sub = bus.subscribe("orders.*", handle, group="g", concurrency=2, ordered=True)
    publish(bus, 0, 600)
    wait_until(lambda: sub.status().in_hand >= 500, 5.0)
    pause(1.5)  # an unordered one would have given back after a second
    assert sub.status().in_hand >= 500 and sub.state is ACTIVE
    go.set()
    log.wait(600)
    assert log.inversions() == 0 and len(log.handled) == 600
    assert bus.get_statistics().duplicates == 0


def test_large_messages_come_one_by_one_and_cost_nobody_his_turn(open_bus: Open) -> None:
    bus, log = open_bus(prefetch_bytes=65_536), Log()
    sizes = [100, 200_000, 100, 40_000, 300_000, 100] * 5
    for number, size in enumerate(sizes):
        bus.publish("orders.x", str(number).ljust(size), key="k")
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    log.wait(len(sizes), 20.0)
    assert [number for _, _, number in log.handled] == list(range(len(sizes)))


def test_a_pause_keeps_the_place(open_bus: Open) -> None:
    first, second, publisher, log = open_bus(), open_bus(), open_bus(), Log()
    sub = first.subscribe("orders.*", log.of("first"), group="g", ordered=True)
    publish(publisher, 0, 10)
    log.wait(10)
    standby = second.subscribe("orders.*", log.of("second"), group="g", ordered=True)
    wait_state(standby, STANDBY)
    sub.pause()
    publish(publisher, 10, 2000)
    pause(2 * LEASE)
    assert log.members() == {"first"} and sub.state is ACTIVE
    sub.resume()
    log.wait(2000)
    assert log.members() == {"first"} and log.inversions() == 0


def test_a_pattern_reads_several_streams_each_in_order(open_bus: Open) -> None:
    publisher, log = open_bus(), Log()
    for number, topic in enumerate(["a.x", "b.x", "c.x"]):
        publisher.publish(topic, str(number), key=topic)
    buses = [open_bus(), open_bus()]
    for name, bus in zip("pq", buses, strict=True):
        bus.subscribe("*.x", log.of(name), group="g", concurrency=4, ordered=True)
    for start in range(3, 303, 3):
        for number, topic in enumerate(["a.x", "b.x", "c.x"], start):
            publisher.publish(topic, str(number), key=topic)
    log.wait(303)
    publisher.publish("late.x", "303", key="late")  # a stream that comes later joins
    log.wait(304)
    buses[0].close()
    for number in range(304, 404):
        publisher.publish("a.x", str(number), key="a.x")
    log.wait(404)
    assert log.inversions() == 0 and len(log.handled) == 404


def test_a_link_that_is_replaced_loses_nothing_and_keeps_the_order(open_bus: Open) -> None:
    bus, publisher, log = open_bus(), open_bus(), Log()
    sub = bus.subscribe("orders.*", log.of("one"), group="g", concurrency=4, ordered=True)
    for start in range(0, 1000, 250):
        publish(publisher, start, start + 250)
        bus.reconnect()
    log.wait(1000, 15.0)
    wait_state(sub, ACTIVE)
    assert log.inversions() == 0
    assert len(log.handled) == 1000  # what comes again inside one process is known


def test_acknowledgements_of_a_former_member_that_come_too_late_are_healed(open_bus: Open, operator: Operator) -> None:
    """They are numbered as before the reset, and would have the server ignore all with lower numbers."""
    bus, log = open_bus(), Log()
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    publish(bus, 0, 10)
    log.wait(10)
    wait_until(lambda: floor_of(operator) == 10, 5.0)
    publish(bus, 10, 11)
    log.wait(11)
    operator.send(b"PUB $JS.ACK.orders.%b.1.11.5000.1700000000000000000.0 4\r\n+ACK\r\n" % ORDERED.encode())
    publish(bus, 11, 40)
    log.wait(40)
    wait_until(lambda: floor_of(operator) == 40, 10.0, message=lambda: str(floor_of(operator)))
    assert len(log.handled) == 40


def test_what_an_operator_sets_back_is_handled_again(open_bus: Open, operator: Operator) -> None:
    bus, log = open_bus(), Log()
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    publish(bus, 0, 20)
    log.wait(20)
    wait_until(lambda: floor_of(operator) == 20, 5.0)
    pause(LEASE)  # until that was seen
    operator.call(f"CONSUMER.RESET.orders.{ORDERED}", seq=11)
    wait_until(lambda: len(log.handled) == 30, 10.0, message=lambda: str(len(log.handled)))
    assert [number for _, _, number in log.handled[20:]] == list(range(10, 20))


def test_a_durable_that_is_deleted_is_made_again_where_the_group_stood(open_bus: Open, operator: Operator) -> None:
    bus, log = open_bus(), Log()
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    publish(bus, 0, 100)
    log.wait(100)
    operator.call(f"CONSUMER.DELETE.orders.{ORDERED}")
    publish(bus, 100, 200)
    log.wait(200)
    assert log.inversions() == 0 and len(log.handled) == 200


def test_foreign_messages_with_a_pin_of_their_own_are_read(open_bus: Open, operator: Operator) -> None:
    bus, log = open_bus(), Log()
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    head = b"NATS/1.0\r\nNats-Pin-Id: forged\r\n\r\n"
    for number in range(10):
        payload = b"%d" % number
        operator.send(b"HPUB orders.x %d %d\r\n%b%b\r\n" % (len(head), len(head) + len(payload), head, payload))
    log.wait(10)
    assert [number for _, _, number in log.handled] == list(range(10))


# -- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_a_group_does_not_change_its_mode_unasked(open_bus: Open, operator: Operator, ordered: bool) -> None:
    first, second, log = open_bus(), open_bus(), Log()
    first.subscribe("orders.*", log.of("first"), group="g", ordered=ordered)
    there = ORDERED if ordered else SHARED
    with pytest.raises(SubscribeError, match=f"ordered={ordered}.*delete durable '{there}' of stream 'orders'"):
        second.subscribe("orders.*", log.of("second"), group="g", ordered=not ordered)
    second.subscribe("orders.*", log.of("other"), group="other", ordered=not ordered)  # another group may
    publish(first, 0, 10)
    wait_until(lambda: len(log.handled) == 20, 5.0)
    first.close()
    operator.call(f"CONSUMER.DELETE.orders.{there}")  # as the error says
    second.subscribe("orders.*", log.of("second"), group="g", ordered=not ordered)


def test_the_wrong_mode_is_a_failed_subscription_where_nobody_waits_for_it(
    open_bus: Open, nats_server: NatsServer
) -> None:
    open_bus().subscribe("orders.*", print, group="g")
    with ExitStack() as stack:
        bus = EventBus(nats_server.url)
        stack.callback(bus.close, 5.0)
        sub = bus.subscribe("orders.*", print, group="g", ordered=True)
        bus.open()
        wait_state(sub, FAILED)
        assert "ordered=False" in str(sub.error)


def test_a_broadcast_copy_is_not_ordered(open_bus: Open) -> None:
    with pytest.raises(SubscribeError, match="needs a group"):
        open_bus().subscribe("orders.*", print, group=eventbus.BROADCAST, ordered=True)


def test_core_nats_says_that_it_cannot(nats_server: NatsServer) -> None:
    bus = EventBus({"url": nats_server.url, "jetstream": False})
    with pytest.raises(eventbus.UnsupportedError, match="stores messages"):
        bus.subscribe("orders.*", print, group="g", ordered=True)


def test_a_durable_of_a_name_that_was_given_must_keep_the_order(open_bus: Open, operator: Operator) -> None:
    operator.make_stream("orders", "orders.>")
    config = {"durable_name": "mine", "ack_policy": "explicit", "filter_subject": "orders.*"}
    operator.call("CONSUMER.CREATE.orders.mine.orders.*", stream_name="orders", config=config, action="create")
    with pytest.raises(SubscribeError, match="max_ack_pending 1"):
        open_bus(durable="mine").subscribe("orders.*", print, group="g", ordered=True)


def test_the_lease_may_be_set(open_bus: Open, operator: Operator) -> None:
    bus, log = open_bus(consumer={"priority_timeout": 500_000_000}), Log()
    bus.subscribe("orders.*", log.of("one"), group="g", ordered=True)
    bus.subscribe("orders.*", log.of("two"), group="shared")
    publish(bus, 0, 10)
    wait_until(lambda: len(log.handled) == 20, 5.0)
    assert operator.call(f"CONSUMER.INFO.orders.{ORDERED}")["config"]["priority_timeout"] == 500_000_000


# -- older servers --------------------------------------------------------------------------------


def test_servers_that_know_no_reset_give_one_message_at_a_time(
    open_bus: Open, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "resets", lambda version: False)
    log, fails = Log(), itertools.count()

    def handle(message: Message) -> None:
        if message.payload == b"50" and next(fails) < 2:
            raise ValueError("twice")
        log.of("a")(message)

    first, second = open_bus(), open_bus()
    first.subscribe("orders.*", handle, group="g", concurrency=4, ordered=True)
    second.subscribe("orders.*", log.of("b"), group="g", concurrency=4, ordered=True)
    config = operator.call(f"CONSUMER.INFO.orders.{ORDERED}")["config"]
    assert (config["max_ack_pending"], config["ack_policy"]) == (1, "explicit")
    publish(first, 0, 300)
    log.wait(300, 20.0)
    second.close()
    publish(first, 300, 400)
    log.wait(400, 20.0)
    assert [number for _, _, number in log.handled] == list(range(400))
    monkeypatch.undo()  # the server is a newer one from now on: what is there is read as it is
    open_bus().subscribe("orders.*", log.of("c"), group="g", ordered=True)
    publish(first, 400, 500)
    log.wait(500, 20.0)
    assert [number for _, _, number in log.handled] == list(range(500))
