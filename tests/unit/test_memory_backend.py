"""The memory broker: what only it does, and its bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from eventbus import EventBus, EventBusConfig, MemoryConfig, PublishNotSentError
from eventbus.backends.base import SessionContext
from eventbus.backends.memory import MemoryBackend
from eventbus.backends.memory.broker import forget_broker
from eventbus.errors import ConnectFailedError
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages
from eventbus.threads import StopToken

NAME = "memory-unit"


@pytest.fixture
def broker() -> Iterator[MemoryOutages]:
    made = MemoryOutages(NAME)
    yield made
    made.restore()
    made.forget()


@pytest.fixture
def open_bus(broker: MemoryOutages) -> Iterator[Callable[..., EventBus]]:
    buses: list[EventBus] = []

    def make(**backend: object) -> EventBus:
        if backend and not buses:
            forget_broker(NAME)  # the first one to ask sets the bounds
        bus = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME, **backend), name=f"m{len(buses)}"))
        buses.append(bus)
        bus.open()
        return bus

    yield make
    for bus in buses:
        bus.close(5.0)
    forget_broker(NAME)


def test_a_message_stored_as_the_fetching_thread_goes_to_sleep_is_seen(open_bus) -> None:
    bus = open_bus()
    got: list[str] = []
    bus.subscribe("t", lambda message: got.append(message.text()), group="g")
    session = bus._supervisor.session
    original, late = session._fetch, list[str]()

    def fetch() -> bool:
        more = original()
        if not more and not late and bus.get_statistics().delivered == 1:
            late.append("late")
            bus.publish("t", "late")  # after the last look, before the sleep
        return more

    session._fetch = fetch
    bus.publish("t", "first")
    wait_until(lambda: late)
    wait_until(lambda: got == ["first", "late"])


def test_the_oldest_that_every_group_has_go_first_and_then_it_is_full(open_bus, release: threading.Event) -> None:
    bus = open_bus(max_messages=10, partitions=2)
    entered = threading.Event()

    def handler(message) -> None:
        if message.text() == "25":
            entered.set()
            assert release.wait(20.0)

    bus.subscribe("t", handler, group="g")
    for number in range(25):
        bus.publish("t", str(number))
        wait_until(lambda number=number: bus.get_statistics().handled > number)
    bus.publish("t", "25")
    assert entered.wait(5.0)
    with pytest.raises(PublishNotSentError, match="10 messages are kept") as caught:
        for number in range(26, 60):
            bus.publish("t", str(number))
    assert caught.value.id
    release.set()
    wait_until(lambda: bus.get_statistics().handled == bus.get_statistics().delivered)
    bus.publish("t", "again")


def test_groups_move_partitions_only_when_nothing_is_in_hand(open_bus) -> None:
    one, two = open_bus(partitions=1), open_bus(partitions=1)
    release, entered = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(message) -> None:
        entered.set()
        release.wait(20.0)
        order.append(f"one:{message.text()}")

    one.subscribe("t", slow, group="g")
    for number in range(3):
        one.publish("t", str(number), key="k")
    assert entered.wait(5.0)
    two.subscribe("t", lambda message: order.append(f"two:{message.text()}"), group="g")
    one.publish("t", "3", key="k")
    assert order == []
    release.set()
    wait_until(lambda: len(order) == 4)
    assert [entry[4:] for entry in order] == ["0", "1", "2", "3"]


def test_lost_state_begins_anew(broker: MemoryOutages, open_bus) -> None:
    bus = open_bus()
    got: list[str] = []
    bus.subscribe("t", lambda message: got.append(message.text()), group="g")
    bus.publish("t", "1", id="same")
    wait_until(lambda: got == ["1"])
    broker.lose_state()
    wait_until(lambda: bus.get_connection_state().reconnect_count == 1)
    receipt = bus.publish("t", "2", id="same")
    assert (receipt.duplicate, receipt.offset) == (False, 0)
    wait_until(lambda: got == ["1", "2"])


def test_buses_of_other_names_do_not_meet(open_bus) -> None:
    bus, got = open_bus(), list[str]()
    with EventBus("memory://elsewhere") as other:
        other.subscribe("t", lambda message: got.append(message.text()), group="g")
        bus.publish("t", "here")
        other.publish("t", "there")
        wait_until(lambda: got)
    assert got == ["there"]
    MemoryOutages("elsewhere").forget()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


def context(timeout: float, stop: StopToken) -> SessionContext:
    return SessionContext(bus="x", timeout=timeout, stop=stop, answers=None, on_lost=print, on_error=print)  # type: ignore[arg-type]


def test_connect_and_reachable_keep_to_the_contract(broker: MemoryOutages) -> None:
    backend, stop = MemoryBackend(MemoryConfig(name=NAME)), StopToken()
    assert backend.reachable(0.1, stop)
    for outage in (broker.refuse, broker.freeze, lambda: broker.slow(5.0)):
        outage()
        assert not backend.reachable(0.02, stop)
        with pytest.raises(ConnectFailedError):
            backend.connect(context(0.02, stop))
        broker.restore()
    broker.freeze()
    stop.set()
    assert not backend.reachable(5.0, stop), "never raises, a stop ends it"


def test_an_unknown_step_to_break_at_is_refused(broker: MemoryOutages) -> None:
    with pytest.raises(ValueError, match="unknown step"):
        broker.break_next("nowhere")


def test_bytes_in_flight_are_counted_and_given_back(broker: MemoryOutages, open_bus) -> None:
    bus = open_bus()
    broker.freeze()
    for _ in range(5):
        bus.publish_nowait("t", b"12345")
    assert (bus.get_statistics().in_flight, bus.get_statistics().in_flight_bytes) == (5, 25)
    broker.restore()
    assert bus.flush(5.0).unanswered == 0
    assert (bus.get_statistics().in_flight, bus.get_statistics().in_flight_bytes) == (0, 0)
