"""The bus as a whole on the memory broker: statistics, bounds, outages by configuration, processes."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventbus import (
    ClosedError,
    ErrorEvent,
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    MemoryConfig,
    NotConnectedError,
    Phase,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    RetryConfig,
    SubscriptionState,
)
from eventbus.consuming.consumers import Consumers
from eventbus.recovery import lifecycle
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

NAME = "bus-unit"
Make = Callable[..., EventBus]


@pytest.fixture
def broker() -> Iterator[MemoryOutages]:
    made = MemoryOutages(NAME)
    yield made
    made.restore()
    made.forget()


@pytest.fixture
def make(broker: MemoryOutages) -> Iterator[Make]:
    buses: list[EventBus] = []

    def made(**settings: object) -> EventBus:
        settings.setdefault("health_check", HealthCheckConfig(interval=0.05, timeout=0.1, retry_interval=0.02))
        bus = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), **settings))
        buses.append(bus)
        return bus

    yield made
    broker.restore()
    for bus in buses:
        bus.close(5.0)


def test_every_statistic_changes(make: Make, broker: MemoryOutages) -> None:
    bus, failed = make(max_in_flight=100, retry=RetryConfig(initial_backoff=0.001)), list[str]()
    bus.open()
    before = bus.get_statistics()
    assert not any(getattr(before, field) for field in before.__slots__ if field != "__weakref__")

    def handler(message) -> None:
        if message.text() == "bad" and len(failed) < 2:
            failed.append(message.text())
            raise ValueError("not yet")

    sub = bus.subscribe("t", handler, group="g")
    for text in ("good", "bad"):
        bus.publish("t", text)
    wait_until(lambda: bus.get_statistics().handled == 2)
    statistics = bus.get_statistics()
    assert (statistics.published, statistics.confirmed, statistics.delivered) == (2, 2, 2)
    assert (statistics.failed, statistics.retried) == (2, 2)
    broker.freeze()
    with pytest.raises(PublishUnknownError):
        bus.publish("t", b"12345", timeout=0.01)
    statistics = bus.get_statistics()
    assert (statistics.in_flight, statistics.in_flight_bytes, statistics.published) == (1, 5, 3)
    broker.restore()
    wait_until(lambda: bus.get_statistics().handled == 3)
    bus.reconnect(5.0)
    assert bus.get_statistics().reconnects >= 1
    broker.freeze()
    for error in (PublishRejectedError("too large", "x"), OSError("gone")):
        bus.publish_nowait("t", b"")
        wait_until(lambda: bus._pending.ledger.records)
        bus._pending.failed(next(iter(bus._pending.ledger.records.values())), error)
    assert (bus.get_statistics().rejected, bus.get_statistics().unknown) == (1, 1)
    consumption = bus._consumers.subscriptions.consumption(sub)
    assert consumption is not None
    consumption.in_hand.duplicates += 1
    consumption.dropped_count += 1
    assert (bus.get_statistics().duplicates, bus.get_statistics().dropped) == (1, 1)


def test_on_outage_raise_fails_at_once(make: Make, broker: MemoryOutages) -> None:
    bus = make(on_outage="raise")
    bus.open()
    bus.publish("t", "x")
    broker.refuse()
    wait_until(lambda: not bus.get_connection_state().is_connected)
    started = time.monotonic()
    for verb in (bus.publish, bus.publish_async, bus.publish_nowait):
        with pytest.raises(PublishNotSentError, match="on_outage"):
            verb("t", b"x")
    assert time.monotonic() - started < 0.2
    broker.restore()
    assert bus.wait_connected(5.0)
    bus.publish("t", "x")


def test_publishing_is_bounded_while_there_is_no_answer(make: Make, broker: MemoryOutages) -> None:
    bus = make(max_in_flight=3)
    bus.open()
    broker.freeze()
    futures = [bus.publish_async("t", "x") for _ in range(3)]
    with pytest.raises(PublishNotSentError, match="no room"):
        bus.publish_nowait("t", b"x")
    with pytest.raises(PublishNotSentError, match="no room"):
        bus.publish("t", "x", timeout=0.05)
    with pytest.raises(PublishNotSentError, match="no room"):
        bus.publish_async("t", "x", timeout=0.05)
    waiting = threading.Thread(target=bus.publish, args=("t", "x"))
    waiting.start()
    broker.restore()
    waiting.join(5.0)
    assert not waiting.is_alive()
    assert [future.result(5.0).confirmed for future in futures] == [True] * 3


def test_a_publish_that_times_out_pokes_the_health_check(make: Make, broker: MemoryOutages) -> None:
    bus = make(health_check=HealthCheckConfig(interval=30.0, timeout=0.05, retry_interval=30.0))
    bus.open()
    broker.freeze()
    with pytest.raises(PublishUnknownError):
        bus.publish("t", "x", timeout=0.01)
    wait_until(lambda: bus.get_health_status().consecutive_failures == 1, 2.0)


def test_health_check_failure_handling(make: Make, broker: MemoryOutages, caplog: pytest.LogCaptureFixture) -> None:
    """Failure: ERROR and count + 1; threshold: WARNING with both numbers; success: INFO, and the count is 0."""
    bus, errors = make(), list[ErrorEvent]()
    bus.register_error_callback(errors.append)
    with caplog.at_level(logging.INFO, "eventbus"):
        bus.open()
        broker.freeze()
        wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING)
        assert bus.get_health_status().consecutive_failures == 3
        broker.restore()
        wait_until(lambda: bus.get_health_status().is_healthy)
    assert bus.get_health_status().consecutive_failures == 0
    probes = [record for record in caplog.records if "health probe failed" in record.getMessage()]
    assert [record.levelname for record in probes] == ["ERROR"] * 3
    threshold = [record for record in caplog.records if "threshold" in record.getMessage()]
    assert [(record.levelname, "3 failed probes" in record.getMessage()) for record in threshold] == [("WARNING", True)]
    assert "the threshold of 3" in threshold[0].getMessage()
    back = [record for record in caplog.records if "connected again" in record.getMessage()]
    assert [record.levelname for record in back] == ["INFO"]
    wait_until(lambda: len(errors) >= 3)  # told on a thread of its own
    assert [event.source for event in errors] == ["health"] * 3


def test_a_close_during_reconnect_is_what_reconnect_tells(make: Make, broker: MemoryOutages) -> None:
    bus = make()
    bus.open()
    broker.refuse()
    with ThreadPoolExecutor(1) as pool:
        reconnected = pool.submit(bus.reconnect, 10.0)
        wait_until(lambda: bus.get_connection_state().phase is Phase.RECONNECTING)
        bus.close(5.0)
        with pytest.raises(ClosedError):
            reconnected.result(5.0)


def test_open_twice_and_use_as_a_context(make: Make) -> None:
    bus = make()
    with bus:
        bus.open()
        assert bus.get_connection_state().is_connected
        assert "memory: connected" in repr(bus)
    assert bus.get_connection_state().phase is Phase.CLOSED


def test_before_open_publishing_says_so(make: Make) -> None:
    bus = make()
    for verb in (bus.publish, bus.publish_async, bus.publish_nowait):
        with pytest.raises(PublishNotSentError, match="open"):
            verb("t", b"x")
    with pytest.raises(NotConnectedError, match="open"):
        bus.start_health_check()


def test_a_future_s_callback_may_call_the_bus_and_raise(make: Make) -> None:
    bus, done = make(), list[object]()
    bus.open()

    def callback(future) -> None:
        done.append(bus.publish("t", "from a callback"))
        raise SystemExit

    bus.publish_async("t", "x").add_done_callback(callback)
    wait_until(lambda: done)
    assert bus.publish_async("t", "y").result(5.0).confirmed


# -- other processes -----------------------------------------------------------------------------


def run(code: str) -> subprocess.CompletedProcess[str]:
    head = """
        import os, sys, threading, time
        import eventbus
        from eventbus.testing.memory import MemoryOutages
        bus = eventbus.EventBus("memory://p")
        bus.open()
        bus.subscribe("t", print, group="g")
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("outage", ["restore", "refuse", "freeze"])
def test_after_stop_health_check_alone_a_process_exits(outage: str) -> None:
    done = run(
        f"""
        MemoryOutages("p").{outage}()
        started = time.monotonic()
        bus.stop_health_check()
        sys.stdout.write(str(time.monotonic() - started) + "\\n")
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < 1.0


def test_whichever_thread_opens_it_without_waiting_may_publish_at_once(make: Make, broker: MemoryOutages) -> None:
    """As the first requests of a web worker, that come together."""
    for _ in range(30):
        bus, start, failed = make(), threading.Barrier(4), list[Exception]()

        def request(bus: EventBus = bus, start: threading.Barrier = start, failed: list[Exception] = failed) -> None:
            start.wait(5.0)
            try:
                bus.open(wait=False)
                bus.publish("t", b"x", timeout=5.0)
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=request) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
        bus.close()
        assert failed == []


@pytest.mark.parametrize(("timeout", "least"), [(10.0, 8.5), (2.0, 1.1)])
def test_close_leaves_handlers_its_time_but_what_the_steps_behind_them_need(
    timeout: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, bus = list[float](), EventBus("memory://time-of-handlers")
    bus.open()
    finish = Consumers.finish

    def noting(self: Consumers, seconds: float) -> tuple[str, ...]:
        given.append(seconds)
        return finish(self, seconds)

    monkeypatch.setattr(Consumers, "finish", noting)
    assert bus.close(timeout).unfinished_threads == ()
    assert least < given[0] < timeout


def test_the_health_check_is_stopped_where_no_thread_can_be_started_any_more(
    make: Make, broker: MemoryOutages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of the interpreter, from an exit function of a web worker."""

    def no_thread(*args: object, **kwargs: object) -> None:
        raise RuntimeError("can't start new thread")

    broker.refuse_topic("t")
    bus = make()
    sub = bus.subscribe("t", lambda message: None, group="g")
    bus.open()
    wait_until(lambda: sub.error is not None)
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "spawn", no_thread)
        assert bus.stop_health_check()
    broker.allow_topic("t")
    bus.start_health_check()  # with threads again it goes on
    wait_until(lambda: sub.state is SubscriptionState.ACTIVE)
