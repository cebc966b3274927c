"""`EventBus.wait`: until a signal or somebody's `close()`; and what becomes of the signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus import CloseReport, EventBus, NotConnectedError, Phase, StopSignals, UnsupportedError, stop_signals
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

NAME = "waiting"
QUICK = 1.0
"""Seconds in which something that waits for nothing happens, on a busy machine."""


@pytest.fixture
def bus() -> Iterator[EventBus]:
    made = EventBus(f"memory://{NAME}?group=g&close_timeout=20")
    yield made
    made.close(5.0)
    MemoryOutages(NAME).forget()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of the test's process are there again, whatever came."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    found = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert found == before


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def on_a_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def once_taken(*then: Callable[[], object]) -> threading.Thread:
    """Do something one after another on another thread, once `wait` has taken the signals."""

    def taken() -> bool:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return all(getattr(one, "__func__", None) is StopSignals._note for one in handlers)

    def do() -> None:
        wait_until(taken)
        for one in then:
            one()

    return on_a_thread(do)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_the_report_of_a_close(bus: EventBus, number: int) -> None:
    bus.open()
    helper = once_taken(lambda: send(number))
    assert bus.wait() == CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
    assert bus.get_connection_state().phase is Phase.CLOSED
    helper.join()


def test_what_runs_is_finished(bus: EventBus) -> None:
    bus.open()
    entered, release, done = threading.Event(), threading.Event(), list[str]()

    def handle(message: Any) -> None:
        entered.set()
        assert release.wait(10.0)
        done.append(message.text())

    bus.subscribe("t", handle)
    bus.publish("t", "x")
    assert entered.wait(5.0)
    helper = once_taken(send, lambda: wait_until(lambda: bus._life.gate.is_shut), release.set)
    assert bus.wait().unhandled == 0
    assert done == ["x"]
    helper.join()


def test_a_second_signal_leaves_at_once_and_tells_what_is_unfinished(bus: EventBus) -> None:
    bus.open()
    entered, release = threading.Event(), threading.Event()
    bus.subscribe("t", lambda message: (entered.set(), release.wait(30.0)))
    bus.publish("t", "x")
    assert entered.wait(5.0)
    left: list[float] = []
    helper = once_taken(
        send,
        lambda: wait_until(lambda: bus._life.gate.is_shut),
        lambda: threading.Event().wait(2 * stop_signals.TWIN),
        lambda: left.append(time.monotonic()),
        send,
    )
    report = bus.wait()
    assert time.monotonic() - left[0] < QUICK
    assert report.unhandled == 1
    assert "eventbus.bus.lane-t-0" in report.unfinished_threads
    release.set()
    helper.join()
    assert bus.close().unhandled == 0, "what runs goes on"


def test_the_same_signal_twice_at_once_is_one(bus: EventBus) -> None:
    """`timeout` sends SIGTERM to its child, and then to the group that it is in."""
    bus.open()
    entered, release = threading.Event(), threading.Event()
    bus.subscribe("t", lambda message: (entered.set(), release.wait(30.0)))
    bus.publish("t", "x")
    assert entered.wait(5.0)
    helper = once_taken(send, lambda: wait_until(lambda: bus._life.gate.is_shut), send, release.set)
    assert bus.wait() == CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
    helper.join()


def test_another_signal_right_behind_the_first_is_no_twin() -> None:
    with StopSignals() as signals:
        send(signal.SIGINT)
        wait_until(signals.asked.is_set)
        send(signal.SIGTERM)
        wait_until(signals.again.is_set)
        assert signals.name == "SIGINT"


def test_somebody_else_closes_it(bus: EventBus) -> None:
    bus.open()
    helper = once_taken(bus.close)
    assert bus.wait() == bus.close()
    helper.join()


def test_a_handler_closes_it(bus: EventBus) -> None:
    bus.open()
    bus.subscribe("t", lambda message: bus.close())
    helper = once_taken(lambda: bus.publish_nowait("t", "x"))
    assert bus.wait().unfinished_threads == bus.close().unfinished_threads
    helper.join()


def test_who_is_waited_for_at_the_end_does_not_wait_for_it(bus: EventBus) -> None:
    refused: set[str] = set()

    def wait(_: object) -> None:
        with pytest.raises(UnsupportedError, match="which waits for this handler or callback"):
            bus.wait(signals=False)
        refused.add(threading.current_thread().name)

    bus.open()
    bus.subscribe("topic", wait)
    bus.register_state_callback(wait)
    bus.publish("topic", b"x")
    bus.reconnect()
    wait_until(lambda: len(refused) == 2)


def test_a_bus_that_is_closed_is_not_waited_for(bus: EventBus) -> None:
    bus.open()
    assert bus.close() is bus.wait() is bus.wait(signals=False)


def test_a_bus_that_is_not_open_cannot_be_waited_for(bus: EventBus) -> None:
    for signals in (True, False):
        with pytest.raises(NotConnectedError, match="open"):
            bus.wait(signals=signals)
    with pytest.raises(TypeError):
        bus.wait(signals="yes")  # type: ignore[arg-type]


def test_another_thread_gets_no_signals(bus: EventBus) -> None:
    bus.open()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            bus.wait()
        except UnsupportedError as error:
            errors.append(error)

    on_a_thread(wait).join()
    assert "signals=False" in str(errors[0])
    reports: list[CloseReport] = []
    waiting = on_a_thread(lambda: reports.append(bus.wait(signals=False)))
    report = bus.close()
    waiting.join()
    assert reports == [report]


def test_an_outage_is_waited_through(bus: EventBus) -> None:
    broker = MemoryOutages(NAME)
    broker.refuse()
    bus.open(wait=False)
    assert bus.get_connection_state().phase is Phase.RECONNECTING
    helper = once_taken(
        broker.restore,
        lambda: wait_until(lambda: bus.get_connection_state().is_connected),
        broker.refuse,
        lambda: wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING),
        send,
    )
    started = time.monotonic()
    assert bus.wait().unfinished_threads == ()
    assert time.monotonic() - started < 15.0
    helper.join()
    broker.restore()


def test_signals_that_came_before_it_count(bus: EventBus) -> None:
    with StopSignals() as signals:
        send()
        bus.open(wait=False)
        assert bus.wait(signals).unhandled == 0
    with StopSignals() as signals:
        signals.ask()
        assert signals.asked.is_set() and signals.name == ""


def test_an_ignored_interrupt_stays_ignored_and_an_ignored_end_does_not() -> None:
    """A shell without job control has its background jobs ignore SIGINT; a worker that cannot be ended is of no use."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with StopSignals() as signals:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            send()
            wait_until(signals.asked.is_set)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_that_was_set_inside_stays() -> None:
    def own(number: int, frame: object) -> None:
        """Somebody's."""

    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        signal.signal(signal.SIGTERM, own)
    found = signal.signal(signal.SIGTERM, before)
    assert found is own


def test_a_handler_that_cannot_be_put_back_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    real = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGINT else real(number))
    with pytest.raises(UnsupportedError, match="SIGINT"), StopSignals():
        raise AssertionError("not reached")
    assert real(signal.SIGTERM) is before


def test_without_a_call_no_signal_is_taken_over() -> None:
    code = (
        "import signal, eventbus\n"
        "with eventbus.EventBus('memory://x') as bus:\n"
        "    bus.subscribe('t', print, group='g')\n"
        "    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,"
        " signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["True", "True"]


FORKING = """
import os, signal, sys, threading, eventbus

children = []

def handle(message):
    child = os.fork()
    if not child:
        default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        os.write(1, b"child has its own\\n" if default else b"child has ours\\n")
        threading.Event().wait(30)
        os._exit(1)
    children.append(child)

bus = eventbus.EventBus("memory://fork?group=g")
with eventbus.StopSignals() as signals:
    bus.open()
    bus.subscribe("t", handle)
    bus.publish("t", "x")
    sys.stdin.readline()
    os.kill(children[0], signal.SIGTERM)
    print("child ended by", os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print(bus.wait(signals).unhandled, signals.name, flush=True)
"""


def test_a_child_that_is_forked_inside_ends_by_a_signal_as_ever() -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert started.stdin is not None and started.stdout is not None
    with started:
        assert started.stdout.readline() == "child has its own\n"
        started.stdin.write("go on\n")
        assert started.stdout.readline() == f"child ended by {-signal.SIGTERM}\n"
        assert started.stdout.readline() == "0 SIGTERM\n"


@pytest.mark.parametrize("on_fork", ["reopen", "raise"])
def test_in_a_forked_child_it_waits_for_the_child_s_own(on_fork: str) -> None:
    code = f"""
import os, signal, threading, eventbus
bus = eventbus.EventBus("memory://fork?on_fork={on_fork}")
bus.open()
child = os.fork()
if not child:
    try:
        with eventbus.StopSignals() as signals:
            signals.ask()
            print(bus.wait(signals).unhandled, flush=True)
    except eventbus.ForkedError as error:
        print(type(error).__name__, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(bus.get_connection_state().phase.value, flush=True)
bus.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["0" if on_fork == "reopen" else "ForkedError", "connected"]
