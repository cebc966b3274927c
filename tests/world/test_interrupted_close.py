"""Interrupted: `close()` from a signal handler, a handler, a callback, and the end of a program that forgot it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import pytest
from instants import OURS, Instants
from rounds import limit, rounds
from world_support import QUICK, MakeBus, Outages, Seen, Shooter, assert_closed, run_script, script, took

import eventbus
from eventbus import EventBus
from eventbus.testing import NatsServer, wait_until

pytestmark = pytest.mark.watchdog(limit(30.0))

BUSY: dict[str, Callable[[EventBus, int], object]] = {
    "publish": lambda bus, _: bus.publish("topic", b"x", timeout=1.0),
    "publish_async": lambda bus, _: bus.publish_async("topic", b"x", timeout=1.0),
    "publish_nowait": lambda bus, _: bus.publish_nowait("topic", b"x"),
    "flush": lambda bus, _: (bus.publish_nowait("topic", b"x"), bus.flush(1.0)),
    "subscribe": lambda bus, number: bus.subscribe(f"other.{number}", lambda message: None, group="group"),
    "status": lambda bus, _: (bus.get_statistics(), bus.get_connection_state(), bus.get_health_status()),
    "reconnect": lambda bus, _: bus.reconnect(1.0),
}


@pytest.mark.parametrize("busy", BUSY)
def test_close_in_a_signal_handler_on_top_of_a_call_returns_in_time(
    outages: Outages, chance: random.Random, busy: str
) -> None:
    """The interrupted call may hold what the closer needs: it is closed at the latest when that call goes on."""
    url = f"memory://{outages.name}?max_messages=10000"
    for number in range(rounds(10, 300)):
        # Nothing of a round is kept: else the collector's walks through all of them are measured.
        bus, took_in_handler = EventBus(url), []
        bus.open()
        bus.subscribe("topic", lambda message: None, group="group")

        def close(bus: EventBus = bus, seconds: list[float] = took_in_handler) -> None:
            seconds.append(took(lambda: bus.close(0.3)))

        def work(bus: EventBus = bus) -> None:
            for call in range(1_000_000):
                BUSY[busy](bus, call)
                if bus.get_connection_state().phase is eventbus.Phase.CLOSED:
                    return

        with suppress(eventbus.ClosedError, eventbus.PublishError, eventbus.NotConnectedError):
            Shooter(close).run(work, chance.uniform(0.0005, 0.01))
        assert took_in_handler and took_in_handler[0] < 0.3 + 2 * QUICK, f"round {number}: {took_in_handler}"
        assert_closed(bus, f"{busy}, round {number}")


def test_close_on_top_of_publish_nowait_loses_nothing_without_a_word(memory_bus: MakeBus) -> None:
    """At any instruction, as in a signal handler: what the call has accepted is confirmed, or it is refused."""
    number, over = 0, False
    while not over:
        number += 1
        bus, reports = memory_bus(), list[eventbus.CloseReport]()
        bus.open()
        bus.publish("topic", b"so that it is known")
        instants = Instants(number, lambda bus=bus, reports=reports: reports.append(bus.close(2.0)), OURS)
        with suppress(eventbus.ClosedError):
            instants.run(lambda bus=bus: bus.publish_nowait("topic", b"x"))  # type: ignore[misc]
        over = instants.count < number
        assert_closed(bus, instants.fired_in)
        found = bus.get_statistics()
        assert (found.in_flight, found.published) == (0, found.confirmed), f"{instants.fired_in}: {found} {reports}"
    assert number > 20


def test_close_on_top_of_flush_leaves_it_nothing_to_wait_for(memory_bus: MakeBus) -> None:
    number, over = 0, False
    while not over:
        number += 3
        bus = memory_bus()
        bus.open()
        instants = Instants(number, lambda bus=bus: bus.close(2.0), OURS)  # type: ignore[misc]
        started = time.monotonic()
        with suppress(eventbus.ClosedError):
            instants.run(lambda bus=bus: bus.flush(5.0))  # type: ignore[misc]
        assert time.monotonic() - started < 3.0, instants.fired_in
        over = instants.count < number
    assert number > 50


def test_close_in_a_signal_handler_on_top_of_close(memory_bus: MakeBus, chance: random.Random) -> None:
    for number in range(rounds(20, 300)):
        bus, inner = memory_bus(), []
        bus.open()
        bus.subscribe("topic", lambda message: None, group="group")
        for _ in range(50):
            bus.publish_nowait("topic", b"x")
        shooter = Shooter(lambda bus=bus, inner=inner: inner.append(took(lambda: bus.close(0.3))))  # type: ignore[misc]
        seconds = took(lambda: shooter.run(lambda: bus.close(2.0), chance.uniform(0.0, 0.002)))  # noqa: B023
        assert seconds < 2.0 + QUICK and all(one < 0.3 + QUICK for one in inner), (number, seconds, inner)
        assert_closed(bus, f"round {number}")


@pytest.mark.parametrize("call", ["publish_nowait", "status", "publish"])
def test_calls_in_a_signal_handler_end_in_time(memory_bus: MakeBus, chance: random.Random, call: str) -> None:
    bus = memory_bus()
    bus.open()
    for _ in range(rounds(20, 500)):
        inner: list[float] = []
        shooter = Shooter(lambda inner=inner: inner.append(took(lambda: BUSY[call](bus, 0))))  # type: ignore[misc]
        until = time.monotonic() + 0.004

        def work(until: float = until) -> None:
            while time.monotonic() < until:
                bus.publish_nowait("topic", b"x")
                bus.get_statistics()

        shooter.run(work, chance.uniform(0.0, 0.003))
        assert all(seconds < QUICK for seconds in inner), inner
    assert bus.flush(1.0).unanswered == 0


def test_ctrl_c_in_a_with_block_ends_it_in_time(make_bus: MakeBus, chance: random.Random) -> None:
    """As the main thread of a script that is busy publishing; `__exit__` closes the bus, wherever it was."""

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    for number in range(rounds(8, 300)):
        bus = make_bus()

        def work(bus: EventBus = bus, topic: str = f"ctrl-c-{number}") -> None:
            with bus:
                bus.subscribe(topic, lambda message: None)
                while True:
                    bus.publish_nowait(topic, b"x")
                    bus.publish(topic, b"x", timeout=1.0)

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            Shooter(ctrl_c).run(work, chance.uniform(0.0, 0.03))
        assert time.monotonic() - started < 3.0, f"round {number}"
        assert_closed(bus, f"round {number}")


WORKER = """
bus = eventbus.EventBus(sys.argv[1])
def end(*_):
    started = time.monotonic()
    report = bus.close(2.0)
    print("closed", time.monotonic() - started < 2.5, report.unanswered, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
bus.open()
running = threading.Event()
def handle(message):
    running.set()
    threading.Event().wait(0.05)
bus.subscribe("jobs.in", handle, group="workers")
print("ready", flush=True)
while True:
    bus.publish("jobs.in", b"x")
"""


def test_a_worker_that_closes_in_its_sigterm_handler_ends_in_time(
    backend: NatsServer | None, chance: random.Random
) -> None:
    url = backend.url if backend else "memory://worker"
    for _ in range(rounds(2, 40)):
        with subprocess.Popen(script(WORKER, url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
            try:
                assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
                threading.Event().wait(chance.uniform(0.0, 0.2))
                os.kill(worker.pid, signal.SIGTERM)
                out, err = worker.communicate(timeout=8.0)
            finally:
                worker.kill()
        assert (out, worker.returncode) == ("closed True 0\n", 0), (out, err)


def _from_handler(bus: EventBus, close: Callable[[], None]) -> None:
    bus.subscribe("topic", lambda message: close(), group="group")
    bus.publish("topic", b"x")


def _from_reconnect_callback(bus: EventBus, close: Callable[[], None]) -> None:
    bus.register_reconnect_callback(lambda event: close())
    bus.reconnect(5.0)


def _from_state_callback(bus: EventBus, close: Callable[[], None]) -> None:
    bus.register_state_callback(lambda state: close() if state.is_connected else None)
    bus.reconnect(5.0)


def _from_done_callback(bus: EventBus, close: Callable[[], None]) -> None:
    def done(future: Future[eventbus.Receipt]) -> None:
        close()

    bus.publish_async("topic", b"x").add_done_callback(done)


def _from_error_callback(bus: EventBus, close: Callable[[], None]) -> None:
    def fail(message: eventbus.Message) -> None:
        raise ValueError("a failing handler")

    bus.register_error_callback(lambda event: close())
    bus.subscribe("topic", fail, group="group")
    bus.publish("topic", b"x")


PLACES = [_from_handler, _from_reconnect_callback, _from_state_callback, _from_done_callback, _from_error_callback]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.removeprefix("_"))
def test_close_from_our_own_threads_returns_in_time_and_closes(
    make_bus: MakeBus, place: Callable[[EventBus, Callable[[], None]], None]
) -> None:
    bus = make_bus()
    bus.open()
    seconds: list[float] = []
    errors: list[BaseException] = []

    def close() -> None:
        try:
            seconds.append(took(lambda: bus.close(2.0)))
        except BaseException as error:
            errors.append(error)

    with suppress(eventbus.ClosedError, eventbus.NotConnectedError):  # reconnect() itself, closed meanwhile
        place(bus, close)
    wait_until(lambda: seconds or errors, 5.0)
    assert not errors and seconds[0] < 2.0 + QUICK
    wait_until(lambda: bus.get_connection_state().phase is eventbus.Phase.CLOSED, 3.0)
    assert bus.close(1.0).unfinished_threads == ()


# -- the end of a program ------------------------------------------------------------------------

ENDS = {"falls off its end": "", "sys.exit": "sys.exit(0)", "an error": "raise SystemExit(3)"}


@pytest.mark.nats
@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends_without_close_has_sent_what_it_accepted(nats_server_shared: NatsServer, end: str) -> None:
    topic = f"exit.{abs(hash(end))}"
    ended = run_script(
        f"""
        bus = eventbus.EventBus(sys.argv[1])
        bus.open()
        bus.publish("{topic}", b"first")
        for number in range(300):
            bus.publish_nowait("{topic}", str(number))
        futures = [bus.publish_async("{topic}", "async-%d" % number) for number in range(100)]
        {ENDS[end]}
        """,
        nats_server_shared.url,
    )
    assert ended.returncode == (3 if end == "an error" else 0), ended.stderr
    seen = Seen()
    with EventBus(nats_server_shared.url) as bus:
        bus.subscribe(topic, seen, group="reader")
        wait_until(
            lambda: len(set(seen.payloads)) == 401, 3.0, message=lambda: f"stored {len(set(seen.payloads))} of 401"
        )
    assert "close()" in ended.stderr, f"no warning: {ended.stderr!r}"
    assert "Traceback" not in ended.stderr, ended.stderr


AWAY = {
    "connected": ("", 1.0),
    "health check stopped": ("bus.stop_health_check(2.0)", 1.0),
    "broker refuses": ("outages.refuse()", 1.0),
    "broker frozen": ("outages.freeze()", 1.0),
    "broker refuses, health check stopped": ("bus.stop_health_check(2.0); outages.refuse()", 8.0),
    "broker frozen, health check stopped": ("outages.freeze(); bus.stop_health_check(2.0)", 8.0),
    "a handler runs": ("bus.subscribe('t', lambda m: time.sleep(60), group='g'); time.sleep(0.2)", 1.0),
}


@pytest.mark.parametrize("state", AWAY)
def test_a_program_that_ends_without_close_ends_in_bounded_time_and_says_so(state: str) -> None:
    """At most `close_timeout`; at most a second after `stop_health_check()` or without a session."""
    happens, close_timeout = AWAY[state]
    ended = run_script(
        f"""
        outages = MemoryOutages("exit")
        bus = eventbus.EventBus("memory://exit?close_timeout={close_timeout}")
        bus.open()
        bus.publish("t", b"x")
        {happens}
        for _ in range(100):
            bus.publish_nowait("t", b"x")
        ended = time.monotonic()
        os.write(1, f"{{ended}}".encode())
        """,
        timeout=20.0,
    )
    seconds = time.monotonic() - float(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert seconds < 2.5, f"the end took {seconds:.1f} s"
    if state == "health check stopped":  # an end that the README shows: it speaks only of what was left
        assert ended.stderr == ""
    else:
        assert "close()" in ended.stderr, f"no warning: {ended.stderr!r}"


def test_a_program_that_closed_its_bus_ends_in_silence() -> None:
    ended = run_script(
        """
        with eventbus.EventBus("memory://exit") as bus:
            bus.publish("t", b"x")
        other = eventbus.EventBus("memory://never-opened")
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
