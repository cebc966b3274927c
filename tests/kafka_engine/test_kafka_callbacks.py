"""Users call the bus from wherever it calls them, and programs end as they like: no hang, and no abort of the process.

librdkafka ends the process when its client is polled, flushed or closed inside a delivery callback: so most of this
runs in a process of its own, whose exit code is looked at.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from confluent_kafka import KafkaError
from kafka_engine_support import session_of

from eventbus import EventBus
from eventbus.testing import MockKafka, wait_until

Make = Callable[..., MockKafka]
HERE = Path(__file__).parent
LONGEST = 20.0

PREAMBLE = """
import faulthandler, sys, threading, time
faulthandler.dump_traceback_later(15.0, exit=True)
sys.path.insert(0, {here!r})
from types import SimpleNamespace
from eventbus import *
from kafka_engine_support import config
from eventbus.testing import wait_until
bus = EventBus(config(SimpleNamespace(bootstrap={bootstrap!r}), {options}))
bus.open()
seen, errors = [], []
bus.register_error_callback(errors.append)
"""
"""The bus of each program, and what it sees."""


class Program:
    """A process that has a bus on the mock."""

    def __init__(self, mock: MockKafka, code: str, options: str = "") -> None:
        text = PREAMBLE.format(here=str(HERE), bootstrap=mock.bootstrap, options=options) + dedent(code)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def wait_ready(self) -> float:
        """Until it prints a line; the time."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == b"ready\n", line + self.process.stdout.read()
        return time.monotonic()

    def ends_well(self) -> None:
        output, _ = self.process.communicate(timeout=LONGEST)
        assert self.process.returncode == 0, output.decode()


@contextmanager
def running(mock: MockKafka, code: str, options: str = "") -> Iterator[Program]:
    program = Program(mock, code, options)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


def runs(mock: MockKafka, code: str, options: str = "") -> None:
    with running(mock, code, options) as program:
        program.ends_well()


def stored(mock: MockKafka) -> int:
    """How many messages are in the topic t."""
    with EventBus(mock.url) as bus:
        ends = session_of(bus)._catalogue.ends([("t", partition) for partition in range(3)], 5.0)
    return sum(ends.values())


def test_from_handlers_and_done_callbacks_everything_may_be_called(mock: Make) -> None:
    """A11."""
    runs(
        mock(1),
        """
        def done(future):
            bus.publish("t", b"from done", key="x", timeout=5.0)
            bus.flush(0.2)
            seen.append("done")

        def handle(message):
            if message.payload == b"begin":
                bus.publish("t", b"from handler", timeout=5.0)
                bus.publish_async("t", b"async").add_done_callback(done)
                bus.publish_nowait("t", b"nowait")
                bus.flush(0.2)
            seen.append(message.payload)

        bus.subscribe("t", handle, group="g")
        bus.publish("t", b"begin")
        wait_until(lambda: {b"from handler", b"from done", b"nowait", b"async", "done"} <= set(seen), 10.0)
        assert errors == [], errors
        assert bus.close(5.0).unanswered == 0
        """,
    )


@pytest.mark.parametrize("place", ["handler", "done", "error", "reconnect"])
def test_a_close_from_any_callback_ends_the_bus(mock: Make, place: str) -> None:
    """A11: it does not wait for the thread that it was called on, and publishing says that it is closed."""
    runs(
        mock(1),
        f"""
        place = {place!r}
        closed = threading.Event()

        def close(*args):
            began = time.monotonic()
            bus.close(3.0)
            assert time.monotonic() - began < 4.0
            closed.set()

        if place == "handler":
            bus.subscribe("t", close, group="g")
            bus.publish("t", b"")
        elif place == "done":
            bus.publish_async("t", b"").add_done_callback(close)
        elif place == "error":
            bus.register_error_callback(close)
            bus.publish_nowait("nowhere", b"")
        else:
            bus.register_reconnect_callback(close)
            try:
                bus.reconnect(10.0)
            except (NotConnectedError, ClosedError):
                pass  # the callback was faster than the call
        assert closed.wait(10.0)
        bus.close(3.0)  # a handler's only begins
        try:
            bus.publish("t", b"late")
        except ClosedError:
            pass
        else:
            raise AssertionError("it is not closed")
        """,
    )


def test_publishing_from_error_callbacks_with_many_failures_queued(mock: Make) -> None:
    """A12."""
    cluster = mock(1)
    with running(
        cluster,
        """
        def publish_on(event):
            if event.source == "publish":
                bus.publish_nowait("t", b"instead")
                try:
                    seen.append(bus.publish("t", b"instead", timeout=5.0))
                except PublishRejectedError as error:  # it met the last of the broker's errors
                    seen.append(error)

        bus.register_error_callback(publish_on)
        bus.publish("t", b"")
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(10):
            bus.publish_nowait("t", b"", key=str(number))
            bus.publish_async("t", b"", key=str(number)).add_done_callback(lambda future: bus.flush(0.1))
        wait_until(lambda: len(seen) >= 1, 10.0)
        bus.close(5.0)
        """,
    ) as program:
        program.wait_ready()
        cluster.push_errors("Produce", *[KafkaError.INVALID_RECORD] * 15)
        assert program.process.stdin is not None
        program.process.stdin.write(b"go\n")
        program.process.stdin.flush()
        program.ends_well()


@pytest.mark.parametrize("link", ["healthy", "refusing", "silent"])
def test_a_program_that_forgets_to_close_ends_in_time(mock: Make, link: str) -> None:
    """At once where the broker answers, within `close_timeout` where it does not: what was accepted has that time."""
    cluster = mock(1, proxied=True)
    with running(
        cluster,
        """
        bus.subscribe("t", lambda message: seen.append(message), group="g")
        for number in range(100):
            bus.publish_nowait("t", b"")
        wait_until(lambda: seen, 10.0)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(1000):
            bus.publish_nowait("t", b"")
        """,
        "close_timeout=1.0",
    ) as program:
        program.wait_ready()
        if link == "refusing":
            cluster.proxies[0].refuse()
        elif link == "silent":
            cluster.proxies[0].black_hole()
        assert program.process.stdin is not None
        program.process.stdin.write(b"go\n")
        program.process.stdin.flush()
        began = time.monotonic()
        program.ends_well()
        assert time.monotonic() - began < 3.0


def test_a_close_stores_what_was_accepted(mock: Make) -> None:
    """A25."""
    cluster = mock(1)
    runs(
        cluster,
        """
        for number in range(1000):
            bus.publish_nowait("t", b"")
        report = bus.close(5.0)
        assert report.unanswered == 0 and report.unfinished_threads == (), report
        """,
    )
    wait_until(lambda: stored(cluster) == 1000, 5.0)
