"""What the tests of this folder share: interrupts, children, and what a bus must still do after them."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any

from instants import Interrupted

import eventbus
from eventbus import CloseReport, EventBus, Message
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

QUICK = 0.5
"""Seconds in which a call that has nothing to wait for returns, on a busy machine."""
FLUSH = 1.0
"""Seconds that `flush()` may take when nothing is amiss."""

MakeBus = Callable[..., EventBus]
"""What the fixtures `memory_bus` and `make_bus` are: settings in, a bus out."""

_serials = count(1)


def fresh(word: str) -> str:
    """A name that no other test of this process has."""
    return f"{word}-{os.getpid()}-{next(_serials)}"


class Outages(MemoryOutages):
    """The outages of a memory broker, which knows its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def pause(seconds: float) -> None:
    """How long a condition lasts; nothing is synchronised by it."""
    threading.Event().wait(seconds)


# -- interrupts ----------------------------------------------------------------------------------


class Shooter:
    """Has a real signal come to this thread, which must be the main one, at a moment of a call.

    SIGALRM: no other thread of a busy process could be as punctual. The watchdog's timer waits meanwhile.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        """`act`: what the signal handler does."""
        self._act = act
        self._armed = False
        self._handler_before: Any = None
        self._timer_before = 0.0
        self._started = 0.0

    def run(self, call: Callable[[], object], after: float) -> None:
        """Call, and let the signal come so many seconds after its start; none when it is over before."""
        self._started, self._timer_before = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)[0]
        self._handler_before = signal.signal(signal.SIGALRM, self._handle)
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(after, 0.00001))
            call()
        finally:
            if self._armed:
                self._armed = False
                self._disarm()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            self._disarm()
            self._act()

    def _disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, self._handler_before)
        if self._timer_before:
            left = self._timer_before - (time.monotonic() - self._started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))


def interrupt_after(call: Callable[[], object], seconds: float) -> str:
    """Raise `Interrupted` out of a real signal's handler; says when, or "" when the call was over before."""
    fired: list[str] = []

    def interrupt() -> None:
        fired.append(f"after {seconds * 1000:.2f} ms")
        raise Interrupted

    with suppress(Interrupted):
        Shooter(interrupt).run(call, seconds)
    return "".join(fired)


# -- what a bus must still do --------------------------------------------------------------------


def took(call: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    started = time.monotonic()
    call()
    return time.monotonic() - started


def assert_well(bus: EventBus, topic: str, where: str) -> None:
    """The bus publishes, flushes quickly and has nothing in flight."""
    assert bus.publish(topic, b"afterwards", timeout=5.0).confirmed, where
    started = time.monotonic()
    report = bus.flush(2 * FLUSH)
    seconds = time.monotonic() - started
    assert report.unanswered == 0 and seconds < FLUSH, f"{where}: flush() took {seconds:.2f} s: {report}"

    def figures() -> tuple[int, int]:
        found = bus.get_statistics()
        return found.in_flight, found.in_flight_bytes

    wait_until(lambda: figures() == (0, 0), 2.0, message=lambda: f"{where}: in flight {figures()}, wanted none")


def assert_closed(bus: EventBus, where: str, timeout: float = 3.0) -> eventbus.CloseReport:
    """The bus, which somebody has begun to close, is closed within the time. The report may be the first close's."""
    started = time.monotonic()
    report = bus.close(timeout)
    seconds = time.monotonic() - started
    assert seconds < timeout + QUICK, f"{where}: close({timeout:g}) took {seconds:.2f} s"
    assert bus.get_connection_state().phase is eventbus.Phase.CLOSED, where
    return report


def assert_closes(bus: EventBus, where: str, timeout: float = 3.0) -> eventbus.CloseReport:
    """The bus closes in time, leaves no thread, and says that it is closed."""
    report = assert_closed(bus, where, timeout)
    assert report.unfinished_threads == (), f"{where}: {report}"
    return report


def end(bus: EventBus) -> None:
    """Close a bus after a test that may have failed: bounded, even where a lock is held for ever."""
    thread = threading.Thread(target=bus.close, args=(2.0,), name="end", daemon=True)
    thread.start()
    thread.join(4.0)


class Seen:
    """A handler that keeps what it got."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def payloads(self) -> list[bytes]:
        """In the order of arrival."""
        return [message.payload for message in self.messages]

    def wait(self, number: int, timeout: float = 10.0) -> list[bytes]:
        """The payloads, once there are so many."""
        wait_until(
            lambda: len(self.messages) >= number,
            timeout,
            message=lambda: f"{number} messages; {len(self.messages)} came",
        )
        return self.payloads


# -- children ------------------------------------------------------------------------------------


def in_child(work: Callable[[], object], timeout: float = 15.0) -> Any:
    """What `work()` returns in a forked child, which ends with it; what it raises is an AssertionError here."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            answer = (True, work())
        except BaseException as error:
            answer = (False, f"{type(error).__name__}: {error}")
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    try:
        text = _read_all(reader, timeout)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)  # it has answered, or hangs
        os.waitpid(child, 0)
    good, answer = pickle.loads(text)
    assert good, f"in the child: {answer}"
    return answer


def _read_all(reader: int, timeout: float) -> bytes:
    deadline, chunks = time.monotonic() + timeout, []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"the child hangs: no answer after {timeout:g} s"
        chunk = os.read(reader, 65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


FORKED_CALLS: dict[str, Callable[[EventBus], object]] = {
    "open": lambda bus: bus.open(timeout=1.0),
    "open(wait=False)": lambda bus: bus.open(wait=False),
    "with": lambda bus: bus.__enter__(),
    "publish": lambda bus: bus.publish("forked", b"x", timeout=1.0),
    "publish_async": lambda bus: bus.publish_async("forked", b"x", timeout=1.0),
    "publish_nowait": lambda bus: bus.publish_nowait("forked", b"x"),
    "publish_many": lambda bus: bus.publish_many([Message("forked", b"x")], timeout=1.0),
    "flush": lambda bus: bus.flush(1.0),
    "subscribe": lambda bus: bus.subscribe("forked", print, group="forked"),
    "start_health_check": lambda bus: bus.start_health_check(),
    "reconnect": lambda bus: bus.reconnect(1.0),
}
FORKED_STATUS: dict[str, Callable[[EventBus], object]] = {
    "get_connection_state": lambda bus: bus.get_connection_state(),
    "get_health_status": lambda bus: bus.get_health_status(),
    "get_reconnect_status": lambda bus: bus.get_reconnect_status(),
    "get_statistics": lambda bus: bus.get_statistics(),
    "repr": repr,
    "close": lambda bus: bus.close(1.0),
}


def wrong_in_child(bus: EventBus) -> list[str]:
    """For a forked child: what its copy of the parent's bus does otherwise than design 5 says, one line each."""
    wrong = []
    for name, call in FORKED_CALLS.items():
        started = time.monotonic()
        try:
            call(bus)
            wrong.append(f"{name}: nothing was raised")
        except eventbus.ForkedError:
            pass
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        if time.monotonic() - started > QUICK:
            wrong.append(f"{name}: took {time.monotonic() - started:.2f} s")
    for name, call in FORKED_STATUS.items():
        seconds = took(lambda call=call: call(bus))  # type: ignore[misc]
        if seconds > QUICK:
            wrong.append(f"{name}: took {seconds:.2f} s")
    state = bus.get_connection_state()
    if (state.phase.value, state.is_connected) != ("forked", False):
        wrong.append(f"phase {state.phase.value}, is_connected {state.is_connected}")
    if bus.get_health_status().is_healthy:
        wrong.append("the child's copy is healthy")
    return wrong


def wrong_once_reopened(bus: EventBus) -> list[str]:
    """For a forked child: what its copy of the parent's open bus does otherwise than a bus does, one line each."""
    wrong, seen, topic = [], Seen(), fresh("reopened")
    if not bus.publish(topic, b"x", timeout=5.0).confirmed:
        wrong.append("publish: not confirmed")
    bus.subscribe(topic, seen, group="child")
    bus.publish_nowait(topic, b"x")
    try:
        seen.wait(2, 5.0)
    except AssertionError as error:
        wrong.append(f"handled: {error}")
    report = bus.close(5.0)
    if report != CloseReport(unanswered=0, unhandled=0, unfinished_threads=()):
        wrong.append(repr(report))
    return wrong


PRELUDE = """
import os, signal, sys, threading, time, warnings
import eventbus
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads and fork
"""


def script(code: str, *arguments: str) -> list[str]:
    """The command line of a program of its own."""
    return [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *arguments]


def run_script(code: str, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a program of its own to its end."""
    command = script(code, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
