"""The one global bus: the sequence of the mission, and what may not be."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

import eventbus
from eventbus import AlreadyInitializedError, ClosedError, ConfigError, ConnectFailedError, NotInitializedError, Phase
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
    # The threads that brought the error here may still be on their way out.
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("eventbus.")], 2.0)


class Opening:
    """`initialize_from_config()` on a thread, with a broker that does not answer yet."""

    def __init__(self, wait: bool = True) -> None:
        self.broker = MemoryOutages("global")
        self.broker.freeze()
        self.ended: list[object] = []
        self._wait = wait
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            source = {"url": "memory://global", "connect_timeout": 20.0}
            self.ended.append(eventbus.initialize_from_config(source, wait=self._wait))
        except BaseException as error:
            self.ended.append(error)

    def end(self) -> object:
        """What it returned or raised, once the broker answers."""
        self.broker.restore()
        self._thread.join(5.0)
        return self.ended[0]


def opening_bus() -> eventbus.EventBus | None:
    return globals_module._last().bus


def test_while_one_is_being_opened_a_second_is_refused_and_there_is_none_to_get() -> None:
    opening = Opening()
    wait_until(opening_bus)
    with pytest.raises(AlreadyInitializedError):
        eventbus.initialize_from_config("memory://elsewhere")
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert opening.end() is eventbus.get_global()
    assert eventbus.get_global().get_connection_state().is_connected


def test_closing_it_while_it_is_being_opened_ends_the_opening() -> None:
    opening = Opening()
    bus = wait_until(opening_bus)
    wait_until(lambda: bus.get_connection_state().phase is Phase.CONNECTING)
    eventbus.close_global(5.0)
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert isinstance(opening.end(), ClosedError)
    assert bus.get_connection_state().phase is Phase.CLOSED
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert eventbus.initialize_from_config("memory://global") is eventbus.get_global()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_closing_it_around_the_making_of_the_bus_ends_the_opening(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[eventbus.EventBus] = []

    class Crossed(eventbus.EventBus):
        def __init__(self, source: object) -> None:
            super().__init__(source)  # type: ignore[arg-type]
            made.append(self)
            if moment == "before":
                assert eventbus.close_global() is None

        def open(self, timeout: float | None = None, wait: bool = True) -> None:
            super().open(timeout, wait)
            assert eventbus.close_global() is not None

    monkeypatch.setattr("eventbus.globals.EventBus", Crossed)
    with pytest.raises(ClosedError):
        eventbus.initialize_from_config("memory://global")
    assert made[0].get_connection_state().phase is Phase.CLOSED
    assert eventbus.close_global() is None


def test_a_bus_that_was_closed_is_no_global_bus_any_more() -> None:
    with eventbus.initialize_from_config("memory://global") as bus:
        assert eventbus.get_global() is bus
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert eventbus.close_global() is None
    with eventbus.initialize_from_config("memory://global") as bus:
        pass
    other = eventbus.initialize_from_config("memory://global")
    assert other is not bus
    assert other is eventbus.get_global()


def test_a_wrong_timeout_closes_nothing() -> None:
    bus = eventbus.initialize_from_config("memory://global")
    with pytest.raises(ValueError, match="timeout"):
        eventbus.close_global(-1)
    assert eventbus.get_global() is bus


def test_an_interrupted_close_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = eventbus.initialize_from_config("memory://global")
    with monkeypatch.context() as patch:
        patch.setattr(bus, "close", lambda timeout: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            eventbus.close_global()
    with pytest.raises(NotInitializedError):
        eventbus.get_global()
    assert eventbus.close_global() is not None
    assert bus.get_connection_state().phase is Phase.CLOSED


MOMENT = "opcode" if sys.version_info < (3, 12) else "line"
"""From Python 3.12 on a tracer is told of few instructions, but of every line."""


class Interrupt:
    """Calls or raises at the n-th instruction (or line) of the module's own code."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self._left = at
        self._act = act
        self.acted = False

    def __enter__(self) -> Interrupt:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if frame.f_code.co_filename != globals_module.__file__:
            return None
        frame.f_trace_opcodes = True
        return self._trace

    def _trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        if event == MOMENT:
            self._left -= 1
            if self._left < 0 and not self.acted:
                self.acted = True
                sys.settrace(None)
                self._act()
        return self._trace


def interrupt() -> None:
    raise KeyboardInterrupt


def test_interrupted_at_any_instruction_it_leaves_a_bus_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[eventbus.EventBus] = []

    class Noted(eventbus.EventBus):
        def __init__(self, source: object) -> None:
            made.append(self)
            super().__init__(source)  # type: ignore[arg-type]

    monkeypatch.setattr("eventbus.globals.EventBus", Noted)
    moment, acted = 0, True
    while acted:
        made.clear()
        with contextlib.suppress(KeyboardInterrupt), Interrupt(moment, interrupt) as injected:
            eventbus.initialize_from_config("memory://global")
        acted = injected.acted
        try:
            assert eventbus.get_global().publish("orders", b"x").confirmed, moment
        except NotInitializedError:
            assert all(bus.get_connection_state().phase in (Phase.NEW, Phase.CLOSED) for bus in made), moment
            assert eventbus.initialize_from_config("memory://global").publish("orders", b"x").confirmed, moment
        eventbus.close_global(5.0)
        moment += 1
    assert moment > 20, moment


def test_a_handler_that_closes_it_may_run_at_any_instruction() -> None:
    moment, acted = 0, True
    while acted:
        with (
            contextlib.suppress(ClosedError, NotInitializedError),
            Interrupt(moment, eventbus.close_global) as injected,
        ):
            bus = eventbus.initialize_from_config("memory://global")
            assert eventbus.get_global() is bus
            eventbus.close_global()
        acted = injected.acted
        eventbus.close_global()
        with pytest.raises(NotInitializedError):
            eventbus.get_global()
        moment += 1
    assert moment > 40, moment


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
    assert {report for report in reports if report is not None} == {
        eventbus.CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
    }
    assert eventbus.close_global() is None
