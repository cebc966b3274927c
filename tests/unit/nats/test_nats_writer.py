"""The writer and the publishers on a link that takes as much as the test lets it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.backends.nats.core.publisher import CorePublisher
from eventbus.backends.nats.link.wire import Parser
from eventbus.backends.nats.link.writer import Writer
from eventbus.errors import PublishRejectedError
from eventbus.publishing.records import Extras, Record
from eventbus.testing import wait_until

ORIGIN = "0123456789abcdef"


class Link:
    """A transport that takes `room` bytes and then nothing."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.written = bytearray()
        self.error: OSError | None = None
        self._changed = threading.Condition()

    def send(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            raise self.error
        size = int(min(len(data), self.room))
        self.written += data[:size]
        self.room -= size
        return size

    def give(self, room: float) -> None:
        with self._changed:
            self.room += room
            self._changed.notify_all()

    def wait_writable(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.room > 0 or self.error is not None, 0.01)

    def receive(self) -> bytes:
        raise NotImplementedError

    def shutdown(self) -> None:
        self.error = OSError("shut down")
        self.give(0)

    def close(self) -> None:
        pass


class Answers:
    """Notes what was answered."""

    origin = ORIGIN

    def __init__(self) -> None:
        self.was_sent: list[Any] = []
        self.was_failed: list[tuple[Record, Exception]] = []

    def sent(self, records: Any) -> None:
        self.was_sent += records

    def returned(self, record: Record, cause: str) -> None:
        pass

    def given(self, record: Record) -> bool:
        return True

    def failed(self, record: Record, error: Exception) -> None:
        self.was_failed.append((record, error))


class Engine:
    """A core publisher with its writer thread."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.answers = Answers()
        self.failures: list[BaseException] = []
        self.writer = Writer(link, self.failures.append)
        self.publisher = CorePublisher(self.writer, self.answers, 1024 * 1024)
        self.thread = threading.Thread(target=self.writer.run)
        self.thread.start()

    def pong(self) -> None:
        with self.writer.lock:
            on_pong = self.writer.pongs.popleft()
        on_pong()

    def end(self) -> None:
        with self.writer.lock:
            self.writer.close()
        self.link.give(1)
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def make() -> Iterator[Any]:
    engines: list[Engine] = []

    def start(link: Link | None = None) -> Engine:
        engines.append(Engine(link or Link()))
        return engines[-1]

    yield start
    for engine in engines:
        engine.end()


def record(number: int, payload: bytes = b"x", **more: Any) -> Record:
    topic = more.pop("topic", "a")
    return Record(number, topic, payload, Extras(**more) if more else None)


class _Route:
    cacheable = False

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def adder(self, topic: str) -> Any:
        return lambda topic, reply, block, payload: self.payloads.append(payload)


def payloads_in(written: bytes) -> tuple[list[bytes], list[bytes]]:
    """The payloads and control lines of what was written."""
    route, lines = _Route(), []
    Parser({1: route}, lines.append).feed(bytes(written).replace(b"HPUB a ", b"HMSG a 1 "))
    return route.payloads, lines


def test_a_lone_message_goes_out_at_once(make):
    engine = make()
    engine.publisher.publish([record(1, b"one")])
    assert payloads_in(engine.link.written) == ([b"one"], [b"PING"])


def test_a_burst_goes_out_without_anything_more(make):
    engine = make()
    for number in range(1000):
        engine.publisher.publish([record(number, b"%d" % number)])
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 1000)
    payloads, pings = payloads_in(engine.link.written)
    assert payloads == [b"%d" % number for number in range(1000)]
    assert len(pings) == len(engine.writer.pongs)
    while engine.writer.pongs:
        engine.pong()
    assert [one[0] for one in engine.answers.was_sent] == list(range(1000))


@given(st.lists(st.integers(1, 400), max_size=40), st.integers(0, 2**32))
def test_partial_writes_leave_no_gap(steps, seed):
    engine = Engine(Link(room=100))
    try:
        randomly = random.Random(seed)
        payloads = [b"%d." % number * randomly.randrange(1, 30) for number in range(60)]
        for number, payload in enumerate(payloads):
            engine.publisher.publish([record(number, payload, key="k" if number % 5 == 0 else None)])
            if number % 7 == 0:
                engine.writer.write(b"+OK\r\n")
        for step in steps:
            engine.link.give(step)
        engine.link.give(10**6)
        wait_until(lambda: not engine.writer.stuck)
        wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 60)
        assert payloads_in(engine.link.written)[0] == payloads
    finally:
        engine.end()


def test_a_full_link_blocks_nobody(make):
    engine = make(Link(room=0))
    for number in range(5000):
        assert engine.publisher.publish([record(number, b"x" * 100)]) == 1
    engine.link.give(10**9)
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 5000)


def test_control_frames_go_before_waiting_messages(make):
    engine = make(Link(room=0))
    engine.publisher.publish([record(1)])
    engine.publisher.publish([record(2)])
    engine.writer.write(b"+OK\r\n")
    engine.link.give(10**6)
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 2)
    assert payloads_in(engine.link.written)[1][:2] == [b"PING", b"+OK"]


def test_pongs_match_pings_in_the_order_of_the_wire(make):
    engine = make(Link(room=0))
    order: list[str] = []
    engine.publisher.publish([record(1, b"first")])
    engine.writer.ping(lambda: order.append("asked"))
    engine.publisher.publish([record(2, b"second")])
    engine.link.give(10**6)
    wait_until(lambda: len(engine.writer.pongs) == 3)
    for _ in range(3):
        before = len(engine.answers.was_sent)
        engine.pong()
        order += [one[2].decode() for one in engine.answers.was_sent[before:]]
    assert order == ["first", "asked", "second"]


def test_large_batches_go_out_in_pieces_and_in_order(make):
    engine = make()
    payloads = [b"%d." % number * (number % 100) * 100 for number in range(1000)]
    assert engine.publisher.publish([record(number, payload) for number, payload in enumerate(payloads)]) == 1000
    written, pings = payloads_in(engine.link.written)
    assert written == payloads
    assert len(pings) > 10


def test_a_send_that_fails_ends_the_link_and_takes_nothing_more(make):
    engine = make()
    engine.link.error = OSError("broken pipe")
    assert engine.publisher.publish([record(1)]) == 1
    assert engine.publisher.publish([record(2)]) == 0
    assert engine.failures


def test_retired_it_takes_and_sends_nothing_and_still_hears_the_server(make):
    engine = make(Link(room=50))
    assert engine.publisher.publish([record(1)]) == 1
    assert engine.publisher.publish([record(2), record(3, key="k")]) == 2
    engine.publisher.retire()
    for more in ({}, {"key": "k"}, {"topic": "new"}):
        assert engine.publisher.publish([record(9, **more)]) == 0
    engine.link.give(10**6)
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 1)
    while engine.writer.pongs:
        engine.pong()
    assert [one[0] for one in engine.answers.was_sent] == [1]


def test_what_is_refused_is_said_and_the_others_go_out(make):
    engine = make()
    bad = [record(1, topic="a b"), record(2, key="a\nb"), record(3, b"x" * 1024 * 1024)]
    assert engine.publisher.publish([bad[0], record(4, b"four"), *bad[1:], record(5, b"five")]) == 5
    assert [one for one, _ in engine.answers.was_failed] == bad
    for one, error in engine.answers.was_failed:
        assert isinstance(error, PublishRejectedError)
        assert error.id == f"{ORIGIN}-{one.number:012d}"
    assert payloads_in(engine.link.written)[0] == [b"four", b"five"]
