"""An exception at any instruction of a call that publishes costs nothing but that call."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from instants import OURS, Instants, Interrupted

from eventbus import EventBus, Message, PublishNotSentError
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages


def interrupted_at(number: int, call: Callable[[], object]) -> bool:
    """Make a call and raise before the so-manieth instruction of ours; False when it ended before that."""

    def interrupt() -> None:
        raise Interrupted

    instants = Instants(number, interrupt, OURS)
    with suppress(Interrupted, PublishNotSentError):
        instants.run(call)
    return instants.count >= number


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus("memory://interrupted?max_messages=1000&max_in_flight=2000") as bus:
        bus.publish("t", b"first")
        yield bus


def verbs(bus: EventBus) -> dict[str, Callable[[], object]]:
    return {
        "publish": lambda: bus.publish("t", b"x", timeout=5.0),
        "publish in vain": lambda: bus.publish("t", b"x", timeout=0.0),
        "publish_async": lambda: bus.publish_async("t", b"x"),
        "publish_nowait": lambda: bus.publish_nowait("t", b"x"),
        "publish_nowait, large": lambda: bus.publish_nowait("t", b"x" * 5000, key="k"),
        "publish_many": lambda: bus.publish_many([Message("t", b"x")] * 2),
        "flush": lambda: bus.flush(5.0),
        "cancel": lambda: bus.publish_async("t", b"x").cancel(),
    }


def check(bus: EventBus) -> None:
    started = time.monotonic()
    assert bus.publish("t", b"next", timeout=5.0).confirmed
    assert bus.flush(5.0).unanswered == 0
    assert time.monotonic() - started < 1.0
    statistics = bus.get_statistics()
    assert (statistics.in_flight, statistics.in_flight_bytes) == (0, 0)


@pytest.mark.parametrize("verb", verbs(None))  # type: ignore[arg-type]
def test_an_interrupt_at_any_instruction_of_a_call_costs_that_call_alone(bus: EventBus, verb: str) -> None:
    call = verbs(bus)[verb]
    number = 1
    while interrupted_at(number, call):
        check(bus)
        number += 1
    assert number > 20, "nothing was interrupted"
    check(bus)


def test_an_interrupt_at_any_instruction_of_a_wait_for_room_costs_that_call_alone() -> None:
    outages = MemoryOutages("crowded")
    with EventBus("memory://crowded?max_in_flight=1") as bus:
        number, more = 1, True
        while more:
            outages.freeze()
            bus.publish_nowait("t", b"fills the bus")
            more = interrupted_at(number, lambda: bus.publish("t", b"waits", timeout=0.005))
            outages.restore()
            wait_until(lambda: not bus.get_statistics().in_flight, 1.0)
            assert not bus._pending._bell._waiting
            check(bus)
            number += 3
        assert number > 100


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signals_at_random_instants_cost_one_call_each(bus: EventBus) -> None:
    armed: list[int] = []

    def give_up(*_: object) -> None:
        if armed:
            raise Interrupted

    def limited(seconds: float, call: Callable[[], object]) -> None:
        armed.append(1)
        until = time.monotonic() + 0.2  # Python ignores what is raised while an object is being freed
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            while time.monotonic() < until:
                call()
        finally:
            armed.clear()

    before = signal.signal(signal.SIGALRM, give_up)
    calls = list(verbs(bus).values())
    try:
        for number in range(300):
            with suppress(Interrupted, PublishNotSentError):
                limited(0.00001 * (1 + number % 60), calls[number % len(calls)])
            armed.clear()
            check(bus)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")
def test_a_signal_handler_may_publish_on_top_of_any_call(bus: EventBus) -> None:
    published: list[int] = []

    def publish(*_: object) -> None:
        bus.publish_nowait("t", b"from a handler")
        bus.publish_async("t", b"from a handler").cancel()
        bus.publish("t", b"from a handler", timeout=5.0)
        bus.flush(5.0)
        published.append(1)

    before = signal.signal(signal.SIGALRM, publish)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        began = time.monotonic()
        while (took := time.monotonic() - began) < 2.0 or (len(published) <= 100 and took < 30.0):
            for call in verbs(bus).values():
                with suppress(PublishNotSentError):
                    call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(published) > 100
    check(bus)


def test_what_was_accepted_and_whose_call_ended_before_the_sender_was_woken_is_sent_all_the_same() -> None:
    with EventBus("memory://asleep") as bus:
        bus.publish("t", b"first")
        wait_until(lambda: bus._quick[0].idle)
        bus._quick[0].records.append((next(bus._pending.numbers), "t", b"x", None, None))  # and then a Interrupted
        wait_until(lambda: bus.get_statistics().confirmed == 2, 2.0)


def test_cancelling_tells_the_truth_whenever_it_comes(bus: EventBus) -> None:
    outcomes = set()
    stored: list[bytes] = []
    bus.subscribe("told", lambda message: stored.append(message.payload), group="g")
    futures = {}
    for number in range(500):
        payload = b"%d" % number
        future = bus.publish_async("told", payload)
        for _ in range(number % 7):
            threading.get_ident()
        futures[payload] = (future, future.cancel())
    bus.flush(5.0)
    wait_until(lambda: len(stored) == sum(not cancelled for _, cancelled in futures.values()))
    for payload, (future, cancelled) in futures.items():
        outcomes.add(cancelled)
        assert cancelled == (payload not in stored) == future.cancelled()
        assert future.done()
    assert True in outcomes
