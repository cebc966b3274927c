"""Foreign, on NATS: whatever comes on the wire. The reader never dies of it, never spins, and holds what it may."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from rounds import chance_of, limit, rounds

from eventbus.backends.nats.core.deliveries import read_fields
from eventbus.backends.nats.jetstream.deliveries import JetStreamDelivery, sequence_of
from eventbus.backends.nats.jetstream.pubacks import parse_ack
from eventbus.backends.nats.link import wire
from eventbus.backends.nats.link.interests import refused_subject

pytestmark = pytest.mark.watchdog(limit(60.0))
INPUTS = rounds(20_000, 1_000_000)
WORDS = [
    *(b"MSG", b"HMSG", b"PING", b"PONG", b"+OK", b"-ERR", b"INFO", b"NATS/1.0", b"Nats-Msg-Id:", b"Eventbus-Key: k"),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\x00",
        b"\xff\xfe",
        b"\xc2\xa0",
        b"\x1e",
        b".",
        b">",
        b"*",
        b'"',
        b"{",
        b"}",
    ),
    *(b"0", b"1", b"2", b"7", b"12", b"-1", b"999999999999999999999", b"0x1", b"\xd9\xa3", b"503", b"100", b"408"),
    *(b"orders.new", b"_INBOX.a.r.1", b"$JS.ACK.s.c.1.2.3.4.5", b'{"error":{"code":503}}', b'{"stream":"s","seq":1}'),
    *(b"'Permissions Violation for Subscription to \"a\"'", b"x" * 200, b": ", b"NATS/1.0 404 No Messages"),
]


class Sink:
    """A route and a control callback."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.cacheable = True

    def adder(self, topic: str) -> wire.Add:
        return lambda *message: self.events.append(message)

    def control(self, line: bytes) -> None:
        self.events.append(line)


def frame(chance: random.Random) -> bytes:
    """Valid as often as not: the sizes are right, what is in them is anything."""
    payload = b"".join(chance.choices(WORDS, k=chance.randrange(4)))
    if chance.random() < 0.4:
        block = b"NATS/1.0" * chance.choice((0, 1, 1, 1)) + b"".join(chance.choices(WORDS, k=chance.randrange(6)))
        size = len(block) + len(payload)
        return b"HMSG orders.new %d %d %d\r\n%b%b\r\n" % (chance.randrange(3), len(block), size, block, payload)
    return b"MSG orders.new %d %d\r\n%b\r\n" % (chance.randrange(3), len(payload), payload)


def mutated(chance: random.Random, data: bytes) -> bytes:
    for _ in range(chance.randrange(3)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(3)
        if kind == 0:
            data = data[:place] + chance.choice(WORDS) + data[place:]
        elif kind == 1:
            data = data[:place] + data[place + chance.randrange(1, 5) :]
        else:
            data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
    return data


def inputs(name: str) -> Iterator[tuple[random.Random, bytes]]:
    chance = chance_of(name)
    for _ in range(INPUTS):
        if chance.random() < 0.2:
            yield chance, b"".join(chance.choices(WORDS, k=chance.randrange(1, 12)))
        else:
            yield chance, mutated(chance, b"".join(frame(chance) for _ in range(chance.randrange(1, 4))))


def parsed(pieces: list[bytes]) -> tuple[list[object], bool]:
    """What comes of it, and whether it broke the protocol; of what is held is seen to at each step."""
    sink = Sink()
    parser = wire.Parser({1: sink, 2: sink}, sink.control)
    read = 0
    try:
        for piece in pieces:
            read += len(piece)
            parser.feed(piece)
            assert sum(map(len, parser._parts)) <= read
            assert parser._missing <= wire.MAX_FRAME
    except wire.ProtocolError:
        return sink.events, True
    return sink.events, False


def test_the_parser_says_the_same_however_the_bytes_come() -> None:
    slowest = 0.0
    for chance, data in inputs("parser"):
        started = time.thread_time()
        whole = parsed([data])
        slowest = max(slowest, time.thread_time() - started)
        marks = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(3))})
        events, broke = parsed([data[start:end] for start, end in pairwise(marks)])
        assert broke is whole[1], data
        assert events == whole[0] or broke, data
    assert slowest < 1.0, "one input of some hundred bytes"


def test_what_is_in_messages_is_read_or_left_alone() -> None:
    for _, data in inputs("contents"):
        parse_ack(None, data)
        parse_ack(data, b"")
        text = data.decode("utf-8", "replace")
        refused_subject(text, "publish")
        for block in (data, b"NATS/1.0" + data, b"NATS/1.0\r\n" + data + b"\r\n\r\n"):
            fields = read_fields(block)
            assert all(isinstance(name, str) for name, _ in fields.raw_headers)
            dict(fields.headers)
            wire.status_of(block), wire.key_in(block), wire.source_in(block)
        with suppress(ValueError, IndexError):
            sequence_of(data)
        delivery = JetStreamDelivery.__new__(JetStreamDelivery)
        delivery.topic, delivery.payload, delivery.token, delivery._block = "t", b"", data, data
        repr((delivery.attempt, delivery.timestamp, delivery.partition, delivery.offset, delivery.id, delivery.key))


def test_a_line_without_an_end_is_not_held_for_ever() -> None:
    parser = wire.Parser({}, lambda line: None)
    with pytest.raises(wire.ProtocolError, match="a line of more than"):
        for _ in range(2 * wire.MAX_LINE // 1000):
            parser.feed(b"x" * 1000)
