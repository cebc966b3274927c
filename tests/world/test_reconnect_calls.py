"""`reconnect()` does what its docstring says in every situation, and leaves a working link working."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from rounds import limit
from world_support import QUICK, MakeBus, Outages, Seen, assert_closes, assert_well, took

import eventbus
from eventbus import EventBus, Phase
from eventbus.backends.memory import MemoryBackend
from eventbus.testing import wait_until

pytestmark = pytest.mark.watchdog(limit(20.0))

FAST = {"interval": 0.1, "timeout": 0.1, "retry_interval": 0.05}


def reconnects(bus: EventBus) -> int:
    """How often it has reconnected."""
    return bus.get_connection_state().reconnect_count


def phase_is(bus: EventBus, phase: Phase) -> Callable[[], bool]:
    """Whether it is in that phase."""
    return lambda: bus.get_connection_state().phase is phase


def assert_serves(bus: EventBus) -> None:
    """It publishes and consumes."""
    seen = Seen()
    subscription = bus.subscribe("served", seen, group=f"served-{time.monotonic_ns()}")
    assert_well(bus, "served", "after reconnect()")
    seen.wait(1, 3.0)
    assert bus.unsubscribe(subscription, 2.0)


def test_on_a_bus_that_was_not_opened_it_says_so(memory_bus: MakeBus) -> None:
    bus = memory_bus()
    with pytest.raises(eventbus.NotConnectedError, match="open"):
        bus.reconnect(1.0)
    bus.open()
    assert_serves(bus)


def test_on_a_bus_that_never_connected_it_returns_once_it_is_connected(memory_bus: MakeBus, outages: Outages) -> None:
    outages.refuse()
    bus = memory_bus(reconnect={"initial_backoff": 0.2})
    bus.open(wait=False)
    with pytest.raises(eventbus.NotConnectedError):
        bus.reconnect(0.2)
    threading.Timer(0.3, outages.restore).start()
    bus.reconnect(5.0)
    assert bus.get_connection_state().is_connected
    assert_serves(bus)


def test_while_open_is_at_work_it_waits_for_the_connection(memory_bus: MakeBus, outages: Outages) -> None:
    outages.freeze()
    bus = memory_bus()
    with ThreadPoolExecutor(2) as pool:
        opening = pool.submit(bus.open, 5.0)
        wait_until(phase_is(bus, Phase.CONNECTING))
        asked = pool.submit(bus.reconnect, 5.0)
        threading.Timer(0.2, outages.restore).start()
        opening.result(6.0)
        try:
            asked.result(6.0)
        except eventbus.NotConnectedError as error:
            assert "open" in str(error)  # or it says that the bus is not open yet
    assert_serves(bus)


@pytest.mark.parametrize("calls", [2, 8])
def test_many_at_once_all_return(make_bus: MakeBus, calls: int) -> None:
    bus = make_bus()
    bus.open()
    with ThreadPoolExecutor(calls) as pool:
        futures = [pool.submit(bus.reconnect, 5.0) for _ in range(calls)]
        for future in futures:
            future.result(6.0)
    assert 1 <= reconnects(bus) <= calls
    assert_serves(bus)


def test_a_second_call_waits_for_the_slow_reconnect_of_the_first(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus(health_check={"enabled": False})
    bus.open()
    outages.slow(0.3)
    with ThreadPoolExecutor(3) as pool:
        futures = []
        for _ in range(3):
            futures.append(pool.submit(bus.reconnect, 5.0))
            threading.Event().wait(0.1)
        for future in futures:
            future.result(6.0)
    outages.restore()
    assert_serves(bus)


def test_during_an_episode_it_waits_for_its_end(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus(health_check=FAST, reconnect={"initial_backoff": 5.0})
    bus.open()
    outages.refuse()
    wait_until(phase_is(bus, Phase.RECONNECTING))
    with pytest.raises(eventbus.NotConnectedError):
        bus.reconnect(0.2)
    threading.Timer(0.3, outages.restore).start()
    bus.reconnect(5.0)
    assert bus.get_connection_state().is_connected
    assert_serves(bus)


def test_during_an_episode_that_heals_it_replaces_the_session_all_the_same(
    memory_bus: MakeBus, outages: Outages
) -> None:
    events: list[eventbus.ReconnectEvent] = []
    bus = memory_bus(health_check=FAST, connect_timeout=1.0)
    bus.register_reconnect_callback(events.append)
    bus.open()
    outages.freeze()
    wait_until(phase_is(bus, Phase.RECONNECTING))
    threading.Timer(0.3, outages.restore).start()
    bus.reconnect(5.0)
    wait_until(lambda: "rebuilt" in [event.how for event in events], 2.0, message=lambda: f"{events}")
    assert_serves(bus)


@pytest.mark.parametrize("without", ["disabled", "stopped"])
def test_without_a_health_check_it_replaces_the_session(memory_bus: MakeBus, without: str) -> None:
    events: list[eventbus.ReconnectEvent] = []
    bus = memory_bus(health_check={"enabled": without == "stopped"})
    bus.register_reconnect_callback(events.append)
    bus.open()
    if without == "stopped":
        assert bus.stop_health_check(2.0)
    for number in range(1, 4):
        bus.reconnect(5.0)
        assert reconnects(bus) == number
        assert_serves(bus)
    wait_until(lambda: len(events) == 3)
    assert [event.how for event in events] == ["rebuilt"] * 3
    assert not bus.get_health_status().is_running
    assert_closes(bus, "without a health check")


def test_without_a_health_check_a_lost_link_comes_back_only_by_it(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus()
    bus.open()
    assert bus.stop_health_check(2.0)
    outages.refuse()
    wait_until(phase_is(bus, Phase.DISCONNECTED))
    seconds = time.monotonic()
    with pytest.raises(eventbus.NotConnectedError):
        bus.reconnect(0.3)
    assert time.monotonic() - seconds < 0.3 + QUICK
    wait_until(phase_is(bus, Phase.DISCONNECTED), 2.0)
    outages.restore()
    bus.reconnect(5.0)
    assert_serves(bus)


def test_a_healthy_link_that_cannot_be_replaced_goes_on(memory_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()
    bus.subscribe("topic", seen, group="group")
    really_connect, broken = MemoryBackend.connect, threading.Event()
    broken.set()

    def connect(self: MemoryBackend, *arguments: Any, **named: Any) -> Any:
        if broken.is_set():
            raise eventbus.ConnectFailedError("no new links today")
        return really_connect(self, *arguments, **named)

    monkeypatch.setattr(MemoryBackend, "connect", connect)
    started = time.monotonic()
    with pytest.raises(eventbus.NotConnectedError, match="no new links today"):
        bus.reconnect(0.5)
    assert time.monotonic() - started < 0.5 + QUICK
    assert bus.publish("topic", b"x", timeout=1.0).confirmed
    seen.wait(1, 2.0)
    wait_until(lambda: bus.get_connection_state().is_connected, 2.0, message="a working link is not connected")
    assert bus.get_health_status().is_healthy
    broken.clear()
    bus.reconnect(5.0)
    assert_serves(bus)


@pytest.mark.parametrize("step", ["prepare", "attach", "publish"])
def test_a_candidate_that_breaks_is_discarded_and_the_next_one_taken(
    memory_bus: MakeBus, outages: Outages, step: str
) -> None:
    bus, seen = memory_bus(reconnect={"initial_backoff": 0.05}), Seen()
    bus.open()
    subscription = bus.subscribe("topic", seen, group="group")
    outages.break_next(step)
    bus.reconnect(5.0)
    bus.publish("topic", b"x", timeout=5.0)
    seen.wait(1, 3.0)
    wait_until(lambda: subscription.state is eventbus.SubscriptionState.ACTIVE)
    assert_serves(bus)


def test_closed_meanwhile_it_says_so(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus()
    bus.open()
    outages.freeze()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(bus.reconnect, 10.0)
        threading.Event().wait(0.1)
        assert took(lambda: bus.close(1.0)) < 1.0 + QUICK
        with pytest.raises(eventbus.ClosedError):
            asked.result(2.0)
    with pytest.raises(eventbus.ClosedError):
        bus.reconnect(1.0)


def test_its_timeout_holds_on_a_frozen_broker(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus()
    bus.open()
    outages.freeze()
    started = time.monotonic()
    with pytest.raises(eventbus.NotConnectedError):
        bus.reconnect(0.3)
    assert time.monotonic() - started < 0.3 + QUICK
    outages.restore()
    wait_until(lambda: bus.get_connection_state().is_connected, 5.0)
    assert_serves(bus)


@pytest.mark.parametrize("place", ["handler", "reconnect callback", "done callback"])
def test_from_our_own_threads_it_returns_in_time(memory_bus: MakeBus, place: str) -> None:
    bus, results = memory_bus(), []
    bus.open()

    def reconnect(*_: object) -> None:
        if results:
            return  # its own event
        results.append(None)
        try:
            results[0] = took(lambda: bus.reconnect(3.0))
        except BaseException as error:
            results[0] = error

    if place == "handler":
        bus.subscribe("topic", reconnect, group="group")
        bus.publish("topic", b"x")
    elif place == "reconnect callback":
        bus.register_reconnect_callback(reconnect)
        bus.reconnect(3.0)
    else:
        future: Future[eventbus.Receipt] = bus.publish_async("topic", b"x")
        future.add_done_callback(reconnect)
    wait_until(lambda: results and results[0] is not None, 6.0)
    assert isinstance(results[0], float) and results[0] < 1.0, results
    assert_serves(bus)
