"""The memory broker: what only it does, and its bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus import EventBus, EventBusConfig, MemoryConfig, PublishNotSentError
from eventbus.backends.base import SessionContext
from eventbus.backends.memory import MemoryBackend
from eventbus.backends.memory.broker import forget_broker
from eventbus.backends.memory.groups import Progress
from eventbus.backends.memory.topics import Topic
from eventbus.errors import ConnectFailedError
from eventbus.publishing.records import Record
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
    told: Any = {"answers": None, **dict.fromkeys(("on_lost", "on_error", "on_served", "on_refused"), print)}
    return SessionContext(bus="x", timeout=timeout, stop=stop, **told)


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


def test_an_unsubscribed_handler_that_runs_keeps_its_own_partition_only(open_bus) -> None:
    one, two = open_bus(), open_bus()
    release, entered = threading.Event(), threading.Event()
    mine: list[str] = []
    others: list[str] = []

    def slow(message) -> None:
        entered.set()
        release.wait(20.0)
        mine.append(message.text())

    for number in range(80):
        one.publish("t", str(number), key=f"k{number % 40}")
    sub = one.subscribe("t", slow, group="g")
    assert entered.wait(5.0)
    two.subscribe("t", lambda message: others.append(message.text()), group="g")
    assert not one.unsubscribe(sub, timeout=0.1)
    partitions = [one.publish("t", f"new{number}", key=f"k{number}").partition for number in range(40)]
    kept = partitions[0]
    free = [number for number in range(40) if partitions[number] != kept]
    expected = {text for number in free for text in (str(number), str(number + 40), f"new{number}")}
    wait_until(lambda: set(others) == expected)
    release.set()
    wait_until(lambda: len(others) == 119)
    assert mine == ["0"]
    for number in range(40):
        of_key = [str(number), str(number + 40), f"new{number}"]
        assert [text for text in others if text in of_key] == (of_key[1:] if number == 0 else of_key)


def test_lag_is_exact_and_looks_at_no_message(open_bus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = open_bus(partitions=2, max_messages=60)
    go, running = threading.Semaphore(0), threading.Event()

    def handler(message) -> None:
        running.set()
        go.acquire(timeout=20.0)

    sub = bus.subscribe("t", handler, group="g")
    for number in range(50):
        bus.publish("t", str(number), key=f"k{number}")
    assert running.wait(5.0)
    with monkeypatch.context() as patched:
        patched.setattr(Topic, "entries_from", lambda *arguments: pytest.fail("every message is looked at"))
        assert sub.status().lag == 50
    for _ in range(20):
        go.release()
    wait_until(lambda: sub.status().lag == 30)
    for number in range(25):  # the oldest are dropped meanwhile
        bus.publish("t", str(number), key=f"k{number}")
    assert sub.status().lag == 55
    bus.reconnect(5.0)  # what is in hand comes again
    wait_until(lambda: sub.status().lag == 55)
    for _ in range(60):
        go.release()
    wait_until(lambda: sub.status().lag == 0)


def test_lag_after_a_rewind_leaves_out_what_is_finished() -> None:
    topic = Topic("t", 1)
    for number in range(6):
        topic.add(Record(number, "t", b"", None, None), str(number))  # type: ignore[arg-type]
    progress = Progress(topic, 0)
    for offset in range(4):
        progress.marks[0].hand_out(offset)
    progress.marks[0].finish(2)
    assert progress.lag == 5
    progress.marks[0].rewind()
    assert progress.lag == 5
    topic.drop_below(1)
    assert progress.lag == 4
