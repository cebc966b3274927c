"""The writer and the publishers on a link that takes as much as the test lets it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.backends.nats.core_publisher import CorePublisher
from eventbus.backends.nats.wire import Parser
from eventbus.backends.nats.writer import Writer
from eventbus.errors import PublishRejectedError, SessionRetired
from eventbus.publishing.records import Record
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

    def sent(self, records: Any) -> None:
        self.was_sent += records

    def confirmed(self, *answer: Any) -> None:
        raise NotImplementedError

    def failed(self, record: Record, error: Exception) -> None:
        raise NotImplementedError

    def loaded(self) -> None:
        pass


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
    fields: dict[str, Any] = {"key": None, "headers": None, "id": None, "waiter": None, "topic": "a", **more}
    return Record(number=number, payload=payload, **fields)


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


def test_a_lone_message_goes_out_at_once_from_its_thread(make):
    engine = make()
    engine.publisher.publish(record(1, b"one"))
    assert payloads_in(engine.link.written) == ([b"one"], [b"PING"])


def test_a_burst_goes_out_without_anything_more(make):
    engine = make()
    for number in range(1000):
        engine.publisher.publish(record(number, b"%d" % number))
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 1000)
    payloads, pings = payloads_in(engine.link.written)
    assert payloads == [b"%d" % number for number in range(1000)]
    assert len(pings) == len(engine.writer.pongs) < 500
    while engine.writer.pongs:
        engine.pong()
    assert [one[0] for one in engine.answers.was_sent] == list(range(1000))
    assert engine.publisher.unanswered_bytes == 0


@given(st.lists(st.integers(1, 400), max_size=40), st.integers(0, 2**32))
def test_partial_writes_leave_no_gap(steps, seed):
    engine = Engine(Link(room=100))
    try:
        randomly = random.Random(seed)
        payloads = [b"%d." % number * randomly.randrange(1, 30) for number in range(60)]
        for number, payload in enumerate(payloads):
            engine.publisher.publish(record(number, payload, key="k" if number % 5 == 0 else None))
            if number % 7 == 0:
                engine.writer.write(b"+OK\r\n")
        for step in steps:
            engine.link.give(step)
        engine.link.give(10**6)
        wait_until(lambda: engine.publisher.waiting() == 0 and not engine.writer.stuck)
        wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 60)
        assert payloads_in(engine.link.written)[0] == payloads
    finally:
        engine.end()


def test_a_full_link_blocks_nobody_and_counts_bytes(make):
    engine = make(Link(room=0))
    for number in range(5000):
        engine.publisher.publish(record(number, b"x" * 100))
    assert engine.publisher.unanswered_bytes == 500_000
    assert engine.publisher.unanswered(10**9) == 5000
    assert engine.publisher.unanswered(99) == 100
    engine.link.give(10**9)
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 5000)


def test_control_frames_go_before_waiting_messages(make):
    engine = make(Link(room=0))
    engine.publisher.publish(record(1))
    engine.publisher.publish(record(2))
    engine.writer.write(b"+OK\r\n")
    engine.link.give(10**6)
    wait_until(lambda: len(payloads_in(engine.link.written)[0]) == 2)
    assert payloads_in(engine.link.written)[1][:2] == [b"PING", b"+OK"]


def test_pongs_match_pings_in_the_order_of_the_wire(make):
    engine = make(Link(room=0))
    order: list[str] = []
    engine.publisher.publish(record(1, b"first"))
    engine.writer.ping(lambda: order.append("asked"))
    engine.publisher.publish(record(2, b"second"))
    engine.link.give(10**6)
    wait_until(lambda: len(engine.writer.pongs) == 3)
    for _ in range(3):
        before = len(engine.answers.was_sent)
        engine.pong()
        order += [one[2].decode() for one in engine.answers.was_sent[before:]]
    assert order == ["first", "asked", "second"]


def test_a_send_that_fails_ends_the_link_and_keeps_the_records(make):
    engine = make()
    engine.link.error = OSError("broken pipe")
    engine.publisher.publish(record(1))
    engine.publisher.publish(record(2))
    assert engine.failures
    assert [one[0] for one in engine.publisher.abandon()] == [1, 2]


def test_abandon_returns_each_state_once_and_in_order(make):
    engine = make(Link(room=150))
    numbers = [3, 1, 2, 7, 5, 4, 6]
    for number in numbers:
        engine.publisher.publish(record(number, key="k" if number % 2 else None))
    assert [one[0] for one in engine.publisher.abandon()] == sorted(numbers)
    assert engine.publisher.abandon() == []
    for more in ({}, {"key": "k"}, {"topic": "new"}):
        with pytest.raises(SessionRetired):
            engine.publisher.publish(record(9, **more))
    while engine.writer.pongs:
        engine.pong()
    assert not engine.answers.was_sent


def test_what_is_refused_is_not_accepted(make):
    engine = make()
    for bad in (record(1, topic="a b"), record(2, key="a\nb"), record(3, b"x" * 1024 * 1024)):
        with pytest.raises(PublishRejectedError) as caught:
            engine.publisher.publish(bad)
        assert caught.value.id == f"{ORIGIN}-{bad.number:012d}"
    assert engine.publisher.unanswered(10**9) == 0


@pytest.mark.parametrize("round_", range(12))
def test_publishers_against_abandon(make, round_):
    """Whatever the moment: a record is handed back or its publisher is told, never both, never neither."""
    engine = make(Link(room=10**9 if round_ % 2 else 3000))
    accepted: list[int] = []
    ready = threading.Barrier(5)

    def publish(first: int) -> None:
        mine = []
        ready.wait()
        for number in range(first, first + 20_000):
            try:
                engine.publisher.publish((number, "a", b"x", None, None, None, None))  # type: ignore[arg-type]
            except SessionRetired:
                break
            mine.append(number)
        accepted.extend(mine)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=publish, args=(place * 100_000,)) for place in range(4)]
        for thread in threads:
            thread.start()
        ready.wait()
        wait_until(lambda: engine.publisher.unanswered(10**9) > 50 * round_)
        answered = []
        for _ in range(round_ % 4):
            if engine.writer.pongs:
                engine.pong()
        back = engine.publisher.abandon()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    answered = [one[0] for one in engine.answers.was_sent]
    assert sorted(answered + [one[0] for one in back]) == sorted(accepted)
    assert engine.publisher.abandon() == []
