"""The parser: whole or in pieces, valid or not, it never hangs and raises nothing but ProtocolError."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.backends.nats.core.deliveries import read_fields
from eventbus.backends.nats.link import wire
from eventbus.backends.nats.link.wire import Parser, ProtocolError


class Sink:
    """A route and a control callback that note everything."""

    def __init__(self, cacheable: bool = True) -> None:
        self.cacheable = cacheable
        self.events: list[tuple] = []

    def adder(self, topic: str) -> wire.Add:
        return lambda *message: self.events.append(message)

    def control(self, line: bytes) -> None:
        self.events.append((line,))


def parse(*pieces: bytes, cacheable: bool = True) -> list[tuple]:
    sink = Sink(cacheable)
    parser = Parser({1: sink, 2: sink}, sink.control)
    for piece in pieces:
        parser.feed(piece)
    return sink.events


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(marks)]


subjects = st.text("abcXYZ019_-", min_size=1, max_size=12)
payloads = st.binary(max_size=300) | st.sampled_from([b"", b"\r\n", b"MSG a 1 2\r\nhi\r\n", b"x" * 5000])


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, tuple]:
    """A valid frame, and what it must come out as."""
    kind = draw(st.sampled_from(["MSG", "HMSG", "control"]))
    if kind == "control":
        line = draw(st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'x'", b'INFO {"a": "%b"}' % (b"b" * 5000)]))
        return line + b"\r\n", (line,)
    topic, payload, sid = draw(subjects), draw(payloads), draw(st.sampled_from([1, 2]))
    reply = draw(st.none() | subjects.map(str.encode))
    address = f"{topic} {sid}".encode() + (b" " + reply if reply else b"")
    if kind == "MSG":
        return b"MSG %b %d\r\n%b\r\n" % (address, len(payload), payload), (topic, reply, None, payload)
    block = wire.header_block(
        "id", draw(st.none() | subjects), draw(st.lists(st.tuples(subjects, subjects.map(str.encode)), max_size=3))
    )
    sizes = b"%d %d" % (len(block), len(block) + len(payload))
    return b"HMSG %b %b\r\n%b%b\r\n" % (address, sizes, block, payload), (topic, reply, block, payload)


@given(st.lists(frames(), max_size=12), st.lists(st.integers(0, 10**6), max_size=30), st.booleans())
def test_any_pieces_give_the_same_as_the_whole(made, cuts, cacheable):
    data = b"".join(frame for frame, _ in made)
    expected = [event for _, event in made]
    assert parse(data, cacheable=cacheable) == expected
    assert parse(*pieces_of(data, cuts), cacheable=cacheable) == expected


@given(st.lists(frames(), min_size=1, max_size=4))
def test_frames_may_come_one_byte_at_a_time(made):
    data = b"".join(frame for frame, _ in made)
    assert parse(*(data[position : position + 1] for position in range(len(data)))) == [event for _, event in made]


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_arbitrary_bytes_raise_nothing_but_a_protocol_error(pieces):
    with suppress(ProtocolError):
        parse(*pieces)


WORDS = b"MSG HMSG INFO PING -ERR a 1 2 12 -1 1e9 {} ' 99999999999999999999".split()
words = st.sampled_from([*WORDS, b" ", b"\r\n", b"\n", b"\r", b"\xff", b"\x00", b"NATS/1.0\r\n\r\n"])


@given(st.lists(words, max_size=60).map(b"".join), st.lists(st.integers(0, 10**6), max_size=10))
def test_almost_valid_bytes_raise_nothing_but_a_protocol_error(data, cuts):
    with suppress(ProtocolError):
        parse(*pieces_of(data, cuts))


@given(frames(), st.integers(0, 10**6), st.binary(min_size=1, max_size=3))
def test_damaged_frames_raise_nothing_but_a_protocol_error(frame, where, damage):
    data = frame[0]
    position = where % len(data)
    with suppress(ProtocolError):
        parse(data[:position] + damage + data[position + len(damage) :], b"PING\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"MSG a 1 2\r\nabc\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 b c 2\r\n",
        b"MSG a x 2\r\nab\r\n",
        b"MSG a 1 -2\r\n",
        b"MSG a 1 +2\r\nab\r\n",
        b"MSG a 1 1_0\r\n",
        b"MSG a 1 %d\r\n" % (wire.MAX_FRAME + 1),
        b"HMSG a 1 5 3\r\n",
        b"x" * (wire.MAX_LINE + 1),
        b"INFO " + b"x" * (wire.MAX_LINE + 1),
        b"PING\n",
    ],
)
def test_what_breaks_the_protocol(data):
    with pytest.raises(ProtocolError):
        parse(data)


@pytest.mark.parametrize(
    ("frame", "topic", "headers", "payload"),
    [
        (b"HMSG a 1 0 3\r\nabc\r\n", "a", [], b"abc"),
        (b"HMSG a 1 5 10\r\nhelloworld\r\n", "a", [], b"world"),
        (b"HMSG a 1 14 17\r\nX-Trace: 1\r\n\r\nabc\r\n", "a", [("X-Trace", b"1")], b"abc"),
        (b"HMSG a 1 12 12\r\nHTTP/1.0\r\n\r\n\r\n", "a", [], b""),
        (b"HMSG a 1 12 12\r\nNATS/1.0abcd\r\n", "a", [], b""),
        (b"HMSG a 1 14 14\r\nNATS/1.0\r\nA: 1\r\n", "a", [("A", b"1")], b""),
        (b"MSG a\x0bb 1 3\r\nabc\r\n", "a\x0bb", [], b"abc"),
        (b"MSG\ta\x0c\rb\t 1 3\r\nabc\r\n", "a\x0c\rb", [], b"abc"),
        (b"MSG a\x7f\x01b 1 3\r\nabc\r\n", "a\x7f\x01b", [], b"abc"),
        (b"MSG %b 1 3\r\nabc\r\n" % (b"a" * 10_000), "a" * 10_000, [], b"abc"),
    ],
)
def test_what_a_stranger_may_send_costs_no_link(frame, topic, headers, payload):
    for pieces in ((frame,), (frame[:9], frame[9:])):
        ((seen, reply, block, body),) = parse(*pieces)
        assert (seen, reply, body) == (topic, None, payload)
        assert list(wire.parse_raw_headers(block or b"")) == headers


def test_a_long_info_in_many_pieces():
    line = b"INFO {" + b" " * 500_000 + b"}"
    data = line + b"\r\n"
    assert parse(*(data[start : start + 1000] for start in range(0, len(data), 1000))) == [(line,)]


def test_an_endless_line_in_small_pieces_ends():
    with pytest.raises(ProtocolError):
        parse(*[b"xy"] * wire.MAX_LINE)


def test_messages_for_a_route_that_is_gone_are_dropped():
    sink = Sink()
    routes = {1: sink}
    parser = Parser(routes, sink.control)
    parser.feed(b"MSG a 1 1\r\nx\r\n" * 2)
    del routes[1]
    parser.forget()
    parser.feed(b"MSG a 1 1\r\nx\r\nPING\r\n")
    assert sink.events == [("a", None, None, b"x")] * 2 + [(b"PING",)]


def test_the_line_cache_is_bounded():
    sink = Sink()
    parser = Parser({1: sink}, sink.control)
    for number in range(10_000):
        parser.feed(b"MSG t%d 1 1\r\nx\r\n" % number)
    assert len(sink.events) == 10_000
    assert len(parser._cache) <= 2048


# -- frames and headers ---------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["", "a b", "a\tb", "a\r\nPUB b 0", "a\nb", "a\x00b", "a\x7f", " a"])
def test_subjects_that_would_break_a_frame_are_refused(subject):
    with pytest.raises(ValueError, match="bad subject"):
        wire.pub(subject)
    with pytest.raises(ValueError, match="bad subject"):
        wire.sub(subject, 1)


def test_frames_are_as_the_protocol_has_them():
    assert wire.pub("a.b", b"xy", "r") == b"PUB a.b r 2\r\nxy\r\n"
    assert wire.sub("a.*", 3, "team") == b"SUB a.* team 3\r\n"
    assert wire.unsub(3) == b"UNSUB 3\r\n"


@given(
    st.text(max_size=40),
    st.none() | st.text(max_size=20) | st.binary(max_size=20),
    st.lists(st.tuples(st.text(max_size=10), st.none() | st.binary(max_size=20)), max_size=4),
)
def test_no_header_breaks_out_of_its_line(message_id, key, headers):
    try:
        block = wire.header_block(message_id, key, headers)
    except (ValueError, UnicodeEncodeError):
        return
    lines = block.split(b"\r\n")
    assert lines[0] == b"NATS/1.0"
    assert len(lines) == 1 + 1 + (key is not None) + len(headers) + 2
    assert b"\n" not in block.replace(b"\r\n", b"")
    raw = list(wire.parse_raw_headers(block))
    assert raw[len(raw) - len(headers) :] == headers
    assert wire.key_in(block) == (key.encode() if isinstance(key, str) else key)


@pytest.mark.parametrize("key", [b"\xff", b"a\r\nb", b"a\0b", b" a", b"a\t", "a\nb", (42).to_bytes(8, "big")])
def test_a_key_that_is_no_text_is_refused(key):
    with pytest.raises(ValueError):
        wire.header_block("id", key, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("h", value) for value in (None, b"\r", b"\n", b"\0", b" a", b"a\t", b"\x01")),
        *((name, b"v") for name in ("", "a:b", "a\nb", " a", "a ", "Nats-Rollup", "Eventbus-Key", "NATS-x", "\ud800")),
    ],
)
def test_a_header_that_nats_cannot_carry_is_refused(name, value):
    with pytest.raises(ValueError):
        wire.header_block("id", None, ((name, value),))


def test_what_another_program_wrote_is_read_and_written_byte_for_byte():
    pairs = (("X-Tag", b"one"), ("X-Tag", b"two"), ("x-tag", b""), ("my name", b"Andr\xe9"), ("sp", b"\xa0x\xc2\xa0"))
    block = b"NATS/1.0\r\n" + b"".join(b"%b:%b\r\n" % (name.encode(), value) for name, value in pairs) + b"\r\n"
    assert tuple(wire.parse_raw_headers(block)) == pairs
    assert tuple(wire.parse_raw_headers(wire.header_block("id", None, pairs)))[1:] == pairs


def test_only_blanks_and_tabs_pad_a_value():
    block = b"NATS/1.0\r\nA: \t\xc2\xa0x\xe2\x80\xa8\t \r\nEventbus-Key:  \xe3\x80\x80k \r\nno header\r\n:x\r\n\r\n"
    assert wire.parse_headers(block) == {"A": "\u00a0x\u2028", "Eventbus-Key": "\u3000k"}
    assert wire.key_in(block) == "\u3000k".encode()
    assert wire.parse_headers(b"NATS/1.0\r\nb\xff\xc3\xa4: 1\r\n\r\n") == {"b\\xffä": "1"}
    assert wire.key_in(b"NATS/1.0\r\nX: Eventbus-Key: k\r\n\r\n") is None


def test_headers_come_back():
    block = wire.header_block("id-1", "kä", (("A", b"1"), ("B-c", b"x: y"), ("A", b"2")))
    assert wire.parse_headers(block) == {"Nats-Msg-Id": "id-1", "Eventbus-Key": "kä", "A": "1", "B-c": "x: y"}


@given(st.binary(max_size=100))
def test_reading_headers_and_statuses_never_fails(block):
    wire.parse_headers(block)
    wire.status_of(block)
    wire.key_in(block)
    read_fields(block)


def test_a_status_is_read_from_the_first_line():
    assert wire.status_of(b"NATS/1.0 503\r\n\r\n") == (503, "")
    assert wire.status_of(b"NATS/1.0 409 Consumer Deleted\r\nA: b\r\n\r\n") == (409, "Consumer Deleted")
    assert wire.status_of(b"NATS/1.0\r\nA: b\r\n\r\n") == (0, "")
    assert wire.status_of(None) == (0, "")
