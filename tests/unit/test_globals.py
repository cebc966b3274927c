"""The one global bus: the sequence of the mission, and what may not be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import eventbus
from eventbus import AlreadyInitializedError, ConfigError, ConnectFailedError, NotInitializedError, Phase
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    eventbus.close_global(5.0)
    MemoryOutages("global").forget()


def test_the_sequence_of_the_mission() -> None:
    events: list[object] = []
    bus = eventbus.initialize_from_config(
        {"url": "memory://global", "health_check": {"interval": 0.05}, "reconnect": {"initial_backoff": 0.02}}
    )
    assert eventbus.get_global() is bus
    bus.start_health_check()
    bus.register_reconnect_callback(events.append)
    state = bus.get_connection_state()
    assert (state.is_connected, state.reconnect_count) == (True, 0)
    broker = MemoryOutages("global")
    broker.refuse()
    wait_until(lambda: not bus.get_connection_state().is_connected)
    broker.restore()
    wait_until(lambda: events)
    health = bus.get_health_status()
    assert (health.is_healthy, health.consecutive_failures) == (True, 0)
    assert bus.get_connection_state().reconnect_count == 1
    assert bus.stop_health_check()
    report = eventbus.close_global()
    assert report is not None
    assert report.unfinished_threads == ()
    assert bus.get_connection_state().phase is Phase.CLOSED


def test_there_is_one_at_a_time() -> None:
    eventbus.initialize_from_config("memory://global")
    with pytest.raises(AlreadyInitializedError):
        eventbus.initialize_from_config("memory://global")
    eventbus.close_global()
    assert eventbus.close_global() is None
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert eventbus.initialize_from_config("memory://global").get_connection_state().is_connected


def test_a_failure_leaves_none() -> None:
    broker = MemoryOutages("global")
    broker.refuse()
    for source, error in (("memory://global", ConnectFailedError), ("nowhere", ConfigError)):
        with pytest.raises(error):
            eventbus.initialize_from_config(source)
        with pytest.raises(NotInitializedError):
            eventbus.get_global()
    broker.restore()
    assert eventbus.initialize_from_config("memory://global")


def test_without_waiting_it_serves_when_the_broker_comes() -> None:
    broker = MemoryOutages("global")
    broker.refuse()
    bus = eventbus.initialize_from_config("memory://global", wait=False)
    assert eventbus.get_global() is bus
    broker.restore()
    assert bus.wait_connected(5.0)


def test_two_threads_get_one_bus() -> None:
    barrier, made, refused = threading.Barrier(4), list[object](), list[BaseException]()

    def run() -> None:
        barrier.wait(5.0)
        try:
            made.append(eventbus.initialize_from_config("memory://global"))
        except AlreadyInitializedError as error:
            refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    assert (len(made), len(refused)) == (1, 3)
