"""Swaps: a session is replaced under load, again and again. Nothing stops, is lost, or changes its order."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from attrs import frozen
from rounds import limit, rounds
from world_support import MakeBus, Outages, Seen, assert_closes

import eventbus
from eventbus import EventBus, Message
from eventbus.backends.memory.session import MemorySession
from eventbus.testing import NatsServer, wait_until

pytestmark = pytest.mark.watchdog(limit(40.0))

BACK = 1.0
"""Seconds from the server's return to the end of the swap."""


@contextmanager
def saturating(bus: EventBus, topic: str, threads: int, payload: bytes = b"x") -> Iterator[None]:
    """Threads that publish as fast as the bus takes it, until the end of the block."""
    stop, errors = threading.Event(), []

    def publish() -> None:
        while not stop.is_set():
            try:
                bus.publish_nowait(topic, payload)
            except eventbus.PublishNotSentError:
                stop.wait(0.0005)
            except BaseException as error:
                errors.append(error)
                return

    publishers = [threading.Thread(target=publish, daemon=True) for _ in range(threads)]
    for publisher in publishers:
        publisher.start()
    try:
        yield
    finally:
        stop.set()
        for publisher in publishers:
            publisher.join(5.0)
    assert not errors, errors


def _back(bus: EventBus, number: int, where: str) -> float:
    """Wait for a reconnect; how long it took."""
    started = time.monotonic()
    wait_until(
        lambda: bus.get_connection_state().reconnect_count >= number and bus.get_connection_state().is_connected,
        8.0,
        message=lambda: f"{where}: {bus.get_connection_state().phase.value}",
    )
    return time.monotonic() - started


def test_a_swap_under_saturating_publishers_is_over_in_a_second_on_memory(outages: Outages) -> None:
    bus = EventBus(f"memory://{outages.name}?max_messages=10000")
    bus.open()
    try:
        with saturating(bus, "topic", 4):
            for number in range(1, rounds(15, 300) + 1):
                threading.Event().wait(0.05)
                outages.cut()
                seconds = _back(bus, number, f"swap {number}")
                assert seconds < BACK, f"swap {number} took {seconds:.2f} s"
        assert bus.flush(5.0).unanswered == 0
        found = bus.get_statistics()
        assert (found.in_flight, found.unknown, found.rejected) == (0, 0, 0)
        assert_closes(bus, "after the swaps")
    finally:
        bus.close(1.0)


def test_an_asked_for_swap_under_saturating_publishers_is_over_in_a_second(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.open()
    with saturating(bus, f"swap-{time.monotonic_ns()}", 2):
        for number in range(rounds(4, 100)):
            threading.Event().wait(0.02)
            started = time.monotonic()
            bus.reconnect(5.0)
            seconds = time.monotonic() - started
            assert seconds < BACK, f"reconnect() {number} took {seconds:.2f} s"
    assert bus.flush(10.0).unanswered == 0


@pytest.mark.nats
def test_a_swap_under_saturating_publishers_is_over_in_a_second_on_nats(nats_server: NatsServer) -> None:
    bus = EventBus(nats_server.url)
    bus.open()
    try:
        bus.publish("topic", b"x")
        with saturating(bus, "topic", 2):
            for number in range(1, rounds(3, 300) + 1):
                threading.Event().wait(0.1)
                nats_server.kill()
                wait_until(lambda: not bus.get_connection_state().is_connected)
                nats_server.start()
                seconds = _back(bus, number, f"swap {number}")
                assert seconds < BACK, f"swap {number} took {seconds:.2f} s after the server's return"
        assert bus.flush(20.0).unanswered == 0
    finally:
        bus.close(3.0)


def test_attachments_that_take_their_time_leave_no_message_in_hand(
    memory_bus: MakeBus, outages: Outages, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the thread that attaches had lost the processor before or behind the attachment."""
    really_attach = MemorySession.attach

    def attach(self: MemorySession, *arguments: Any, **named: Any) -> None:
        threading.Event().wait(chance.choice([0.0, 0.005, 0.02]))
        really_attach(self, *arguments, **named)
        threading.Event().wait(chance.choice([0.0, 0.005, 0.02]))

    bus, seen, other = memory_bus(), Seen(), Seen()
    bus.open()
    monkeypatch.setattr(MemorySession, "attach", attach)
    subscription = bus.subscribe("topic", seen, group="group", concurrency=2)
    second = bus.subscribe("other", other, group="group")
    total = 0
    for number in range(1, rounds(20, 300) + 1):
        bus.publish_many([Message("topic", f"{total + one}", key=str(one % 7)) for one in range(1500)])
        total += 1500
        bus.publish("other", b"x")
        outages.cut()
        _back(bus, number, f"swap {number}")
        if number % 5 == 0:
            wait_until(
                lambda total=total: len(set(seen.payloads)) == total,  # type: ignore[misc]
                5.0,
                message=lambda total=total, number=number: (  # type: ignore[misc]
                    f"{len(set(seen.payloads))} of {total} after swap {number}"
                ),
            )
    other.wait(rounds(20, 300))
    for one in (subscription, second):
        wait_until(lambda one=one: one.status().in_hand == 0, 3.0, message=lambda one=one: f"{one.status()}")  # type: ignore[misc]
    late = bus.subscribe("topic", Seen(), group="late")
    wait_until(lambda: late.state is eventbus.SubscriptionState.ACTIVE)
    assert_closes(bus, "after the swaps")


@frozen
class Call:
    """One call of a handler."""

    member: int
    key: str
    number: int
    began: float
    ended: float


class Group:
    """Two members of a group, whose handlers note when they ran."""

    def __init__(self, buses: list[EventBus]) -> None:
        self.calls: list[Call] = []
        self.order: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        for member, bus in enumerate(buses):
            bus.subscribe("topic", self._handler(member), group="group", concurrency=2)

    def _handler(self, member: int) -> Any:
        def handle(message: Message) -> None:
            began, number = time.monotonic(), int(message.payload)
            with self._lock:
                self.order.append((message.key or "", number))
            threading.Event().wait(0.0005)
            self.calls.append(Call(member, message.key or "", number, began, time.monotonic()))

        return handle

    def inversions(self) -> list[str]:
        """Where a key's first handlings went backwards."""
        last: dict[str, int] = defaultdict(lambda: -1)
        seen: set[int] = set()
        wrong = []
        for key, number in self.order:
            if number in seen:
                continue
            seen.add(number)
            if number < last[key]:
                wrong.append(f"key {key}: {number} after {last[key]}")
            last[key] = max(last[key], number)
        return wrong

    def handled_twice_without_need(self, swaps: list[tuple[float, float]]) -> list[int]:
        """What was handled again though its first handler did not run at a swap (or had ended just before)."""
        first: dict[int, Call] = {}
        for call in sorted(self.calls, key=lambda call: call.began):
            first.setdefault(call.number, call)
        again = [number for number, calls in Counter(call.number for call in self.calls).items() if calls > 1]
        return [
            number
            for number in again
            if not any(first[number].began < end and first[number].ended + 0.05 > start for start, end in swaps)
        ]


@pytest.mark.parametrize("how", ["cut", "reconnect", "half_open"])
def test_swaps_under_a_group_of_two_lose_nothing_and_keep_the_order(
    outages: Outages, chance: random.Random, how: str
) -> None:
    quick = {"interval": 0.1, "timeout": 0.1, "retry_interval": 0.05}
    settings = {"url": f"memory://{outages.name}", "health_check": quick, "reconnect": {"failure_threshold": 1}}
    buses = [EventBus({**settings, "name": name}) for name in ("one", "two")]
    swaps: list[tuple[float, float]] = []
    with buses[0], buses[1], EventBus({**settings, "name": "publisher"}) as publisher:
        group, stop, published = Group(buses), threading.Event(), 0

        def publish() -> None:
            nonlocal published
            with suppress(eventbus.ClosedError):  # a test that fails closes it
                while not stop.wait(0.002):
                    for _ in range(5):
                        with suppress(eventbus.PublishNotSentError):  # it may be away itself until there is no room
                            publisher.publish_nowait("topic", str(published), key="abcdefgh"[published % 8])
                            published += 1

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        for _ in range(rounds(1, 60) if how == "half_open" else rounds(20, 300)):  # a second each, or less
            threading.Event().wait(chance.uniform(0.0, 0.03))
            member = chance.choice(buses)
            counts = [bus.get_connection_state().reconnect_count for bus in buses]
            started = time.monotonic()
            if how == "reconnect":
                member.reconnect(5.0)
            else:
                getattr(outages, how)()
                for bus, count in zip(buses, counts, strict=True):
                    _back(bus, count + 1, how)
            swaps.append((started, time.monotonic()))
        stop.set()
        thread.join(5.0)
        assert publisher.flush(5.0).unanswered == 0
        wait_until(
            lambda: len({call.number for call in group.calls}) == published,
            10.0 + published / 2000,  # what has piled up while they were away is still to be handled
            message=lambda: f"lost: {published - len({call.number for call in group.calls})} of {published}",
        )
    assert group.inversions() == []
    assert group.handled_twice_without_need(swaps) == []
