"""The one global bus: the sequence of the mission, and what may not be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import eventbus
from eventbus import AlreadyInitializedError, ConfigError, ConnectFailedError, NotInitializedError, Phase
from eventbus import globals as globals_module
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    eventbus.close_global(5.0)
    MemoryOutages("global").forget()


def test_the_sequence_of_the_mission() -> None:
    events: list[eventbus.ReconnectEvent] = []
    bus = eventbus.initialize_from_config(
        {"url": "memory://global", "health_check": {"interval": 0.05}, "reconnect": {"initial_backoff": 0.02}}
    )
    assert eventbus.get_global() is bus
    bus.start_health_check()
    bus.register_reconnect_callback(events.append)
    state = bus.get_connection_state()
    assert (state.phase, state.is_connected, state.reconnect_count) == (Phase.CONNECTED, True, 0)
    broker = MemoryOutages("global")
    broker.refuse()
    wait_until(lambda: not bus.get_connection_state().is_connected)
    assert not bus.get_health_status().is_healthy
    broker.restore()
    wait_until(lambda: events)
    assert (events[0].reconnect_count, events[0].how) == (1, "rebuilt")
    wait_until(lambda: bus.get_health_status().is_healthy)
    health = bus.get_health_status()
    assert (health.is_running, health.consecutive_failures) == (True, 0)
    assert bus.get_connection_state().reconnect_count == 1
    assert bus.stop_health_check()
    assert not bus.get_health_status().is_running
    assert bus.publish("orders", "still connected").confirmed
    assert eventbus.close_global() == eventbus.CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
    assert bus.get_connection_state().phase is Phase.CLOSED
    with pytest.raises(NotInitializedError, match="initialize_from_config"):
        eventbus.get_global()


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


def test_a_failed_start_leaves_no_thread_and_a_closed_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[eventbus.EventBus] = []

    class Noted(eventbus.EventBus):
        def __init__(self, source: object) -> None:
            super().__init__(source)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr("eventbus.globals.EventBus", Noted)
    MemoryOutages("global").refuse()
    with pytest.raises(ConnectFailedError):
        eventbus.initialize_from_config("memory://global")
    assert made[0].get_connection_state().phase is Phase.CLOSED
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("eventbus.")] == []


def test_while_one_is_being_opened_a_second_is_refused_and_there_is_none_to_get() -> None:
    broker, failed = MemoryOutages("global"), list[BaseException]()
    broker.freeze()

    def run() -> None:
        try:
            eventbus.initialize_from_config({"url": "memory://global", "connect_timeout": 20.0})
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: globals_module._opening)
    with pytest.raises(AlreadyInitializedError):
        eventbus.initialize_from_config("memory://elsewhere")
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert eventbus.close_global() is None
    broker.restore()
    thread.join(5.0)
    assert failed == []
    assert eventbus.get_global().get_connection_state().is_connected


def test_it_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URL", "memory://global?name=from-the-environment")
    assert eventbus.initialize_from_config().config.name == "from-the-environment"


def test_many_closes_at_once_close_it_once() -> None:
    eventbus.initialize_from_config("memory://global")
    barrier, reports = threading.Barrier(4), list[object]()
    threads = [
        threading.Thread(target=lambda: (barrier.wait(5.0), reports.append(eventbus.close_global()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    assert len(reports) == 4
    assert reports.count(None) == 3
