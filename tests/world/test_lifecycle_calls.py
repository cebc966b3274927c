"""Opening, stopping and closing that cross each other: each ends what it says, and leaves nothing behind."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import pytest
from instants import interrupt_at
from rounds import chance_of, rounds
from world_support import in_child, interrupt_after

import eventbus
from eventbus import EventBus, Phase
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Python swallows what a signal handler raises while the collector calls back; the searches know that it may."""
AWAY = "memory://lifecycle?reconnect.initial_backoff=5&reconnect.max_backoff=5"


@pytest.fixture
def broker() -> MemoryOutages:
    made = MemoryOutages("lifecycle")
    made.restore()
    return made


def threads_of_ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("eventbus.")]


def test_close_ends_a_reconnect_that_runs_without_a_health_check(broker: MemoryOutages) -> None:
    bus = EventBus(f"{AWAY}&health_check.enabled=false")
    bus.open()
    broker.refuse()
    ended: list[BaseException] = []

    def reconnect() -> None:
        try:
            bus.reconnect(20.0)
        except eventbus.EventBusError as error:
            ended.append(error)

    caller = threading.Thread(target=reconnect)
    caller.start()
    wait_until(lambda: bus.get_reconnect_status().attempt)
    assert bus.close(2.0).unfinished_threads == ()
    caller.join(2.0)
    broker.restore()
    assert isinstance(ended[0], eventbus.ClosedError)
    wait_until(lambda: not threads_of_ours(), 2.0)


@pytest.mark.parametrize("how", ["open", "reconnect"])
def test_stop_health_check_ends_what_reconnects_without_one(broker: MemoryOutages, how: str) -> None:
    bus = EventBus(f"{AWAY}&health_check.enabled=false")
    ended: list[BaseException] = []
    if how == "open":
        broker.refuse()
        bus.open(wait=False)
    else:
        bus.open()
        broker.refuse()

        def reconnect() -> None:
            try:
                bus.reconnect(20.0)
            except eventbus.EventBusError as error:
                ended.append(error)

        threading.Thread(target=reconnect).start()
    wait_until(lambda: bus.get_reconnect_status().attempt)
    assert bus.stop_health_check(2.0)
    wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED, 2.0)
    wait_until(lambda: how == "open" or ended, 2.0)
    broker.restore()
    assert not bus.wait_connected(0.5)
    bus.reconnect(5.0)
    assert bus.publish("t", b"x").confirmed
    bus.close(2.0)


def test_a_with_that_a_signal_interrupts_leaves_no_open_bus() -> None:
    chance, interrupted = chance_of("with"), list[EventBus]()
    for number in range(rounds(60, 500)):
        bus = EventBus(f"memory://with-{number}")
        if interrupt_after(bus.__enter__, chance.uniform(0.00002, 0.003)):
            interrupted.append(bus)
        else:
            bus.close(2.0)
    assert interrupted

    def is_left(bus: EventBus) -> bool:
        return bus.get_connection_state().phase is not Phase.NEW

    with suppress(AssertionError):
        wait_until(lambda: not any(map(is_left, interrupted)), 2.0)
    left = [bus for bus in interrupted if is_left(bus)]
    for bus in left:
        bus.close(2.0)
    # An alarm may come as the call has returned: it is open then, and nothing in here could know.
    assert len(left) <= len(interrupted) // 10, f"{left} of {len(interrupted)}"
    wait_until(lambda: not threads_of_ours(), 5.0, message=lambda: f"{interrupted} interrupted: {threads_of_ours()}")


def test_a_with_that_is_interrupted_at_any_instruction_leaves_no_open_bus() -> None:
    number, step = 1, rounds(7, 1)
    while where := interrupt_at((bus := EventBus(f"memory://at-{number}")).__enter__, number):
        wait_until(lambda bus=bus: bus.get_connection_state().phase is Phase.NEW, 5.0, message=lambda: where)
        number += step
    assert number > 100
    assert bus.get_connection_state().is_connected
    bus.close(2.0)
    wait_until(lambda: not threads_of_ours(), 5.0, message=lambda: f"{number} interrupted: {threads_of_ours()}")


def test_an_interrupted_subscribe_before_open_leaves_no_subscription() -> None:
    chance, interrupted = chance_of("before open"), 0
    for number in range(rounds(100, 1000)):
        bus, seen = EventBus(f"memory://before-{number}"), threading.Semaphore(0)
        if interrupt_after(lambda bus=bus: bus.subscribe("t", print, group="g"), chance.uniform(0.00002, 0.0006)):  # type: ignore[misc]
            interrupted += 1
            try:
                bus.subscribe("t", lambda message, seen=seen: seen.release(), group="g")
            except eventbus.SubscribeError:  # the alarm came as the call returned: it was made
                continue
            with bus:
                bus.publish_many([eventbus.Message("t", str(one)) for one in range(16)])
                assert all(seen.acquire(timeout=2.0) for _ in range(16)), f"round {number}: somebody else has them"
    assert interrupted


def test_a_bus_whose_open_failed_has_living_callbacks_in_a_forked_child(broker: MemoryOutages) -> None:
    """As `--preload` does it with the broker down."""
    bus, phases = EventBus("memory://lifecycle"), []
    bus.register_state_callback(lambda state: phases.append(state.phase.value))
    broker.refuse()
    with pytest.raises(eventbus.ConnectFailedError):
        bus.open(0.2)
    wait_until(lambda: phases == ["connecting", "new"])

    def work() -> tuple[str, ...]:
        phases.clear()
        bus.open(2.0)
        wait_until(lambda: phases == ["connecting", "connected"], 2.0)
        return bus.close(2.0).unfinished_threads

    assert in_child(work) == ()
    bus.close(1.0)


def test_flush_on_a_bus_that_is_not_open_returns_at_once() -> None:
    started = time.monotonic()
    bus = EventBus("memory://lifecycle")
    assert bus.flush().unanswered == 0
    assert time.monotonic() - started < 1.0
    bus.close(1.0)


def test_a_log_handler_that_publishes_does_not_hold_up_recovery(broker: MemoryOutages) -> None:
    class Publishing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(eventbus.EventBusError):
                bus.publish("log", record.getMessage())

    bus, handler = EventBus("memory://lifecycle"), Publishing(logging.WARNING)
    bus.open()
    logging.getLogger("eventbus").addHandler(handler)
    try:
        broker.cut()
        wait_until(lambda: bus.get_connection_state().reconnect_count == 1, 5.0)
        assert bus.publish("t", b"x").confirmed
    finally:
        logging.getLogger("eventbus").removeHandler(handler)
        bus.close(2.0)
