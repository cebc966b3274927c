"""What is done in a quick way on NATS does what the slow way would do."""

from __future__ import annotations

import sys

import pytest

from eventbus.backends.nats.jetstream.in_hand import NatsInHand
from eventbus.backends.nats.jetstream.pubacks import PubAck, Verdict, parse_ack
from eventbus.backends.nats.link import wire
from eventbus.backends.nats.link.transport import RECEIVE
from eventbus.message import Delivery

MAPPED = 128 * 1024
"""Bytes from which on glibc maps what is allocated (`M_MMAP_THRESHOLD`)."""


def test_what_is_read_at_a_time_is_less_than_the_c_library_maps_anew() -> None:
    assert sys.getsizeof(b"") + RECEIVE < MAPPED


class Taken:
    """Takes what comes to sid 7."""

    cacheable = False

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.messages: list[tuple[str, bytes | None, bytes | None, bytes]] = []
        self.parser = wire.Parser({7: self}, self.lines.append)

    def adder(self, topic: str) -> wire.Add:
        return lambda *message: self.messages.append(message)


@pytest.mark.parametrize("line", [b"MSG a  7 3", b" MSG a 7 3", b"MSG a 7 3 ", b"MSG\ta\t7\t3", b"MSG a \t 7 3"])
def test_a_line_with_more_than_one_space_each_says_the_same(line: bytes) -> None:
    taken = Taken()
    taken.parser.feed(line + b"\r\nabc\r\n")
    assert taken.messages == [("a", None, None, b"abc")]


@pytest.mark.parametrize("line", [b"MSG a\n7 3", b"MSG a 7 3\n", b"\nMSG a 7 3"])
def test_a_line_feed_is_no_space(line: bytes) -> None:
    with pytest.raises(wire.ProtocolError, match="line feed"):
        Taken().parser.feed(line + b"\r\nabc\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a +7 3",
        b"MSG a 7 -3",
        b"MSG a 7 3_0",
        b"MSG a 0x7 3",
        b"HMSG a 7 +12 15",
        b"HMSG a 7 12 1.5",
        b"MSG a " + b"7" * 40 + b" 3",
        b"MSG a 7 " + b"0" * 40 + b"3",
    ],
)
def test_what_is_no_number_ends_the_link(line: bytes) -> None:
    with pytest.raises(wire.ProtocolError, match="bad number"):
        Taken().parser.feed(line + b"\r\nNATS/1.0\r\n\r\nabc\r\n")


def test_an_answer_that_is_made_the_quick_way_is_the_same_as_another_one() -> None:
    quick = parse_ack(None, b'{"stream":"orders", "seq":7, "duplicate":true}')
    assert type(quick) is PubAck
    assert (
        quick
        == PubAck(Verdict.STORED, "orders", 7, True)
        == parse_ack(None, b'{"seq":7, "duplicate":true, "stream":"orders"}')
    )


# -- what is finished, a batch at a time ----------------------------------------------------------------


def delivery(number: int, token: str = "first") -> Delivery:
    made = Delivery("t", b"x")
    made.identity, made.token = ("stream", number, b"0"), token
    return made


def test_what_is_finished_twice_in_one_batch_is_acknowledged_once() -> None:
    in_hand, one = NatsInHand(), delivery(1)
    in_hand.admit([one, delivery(2)], in_hand.lease)
    assert in_hand.finish([one, one, delivery(3)]) == [one]
    assert len(in_hand) == 1


def test_what_came_again_under_another_lease_is_finished_with_its_newest_token() -> None:
    in_hand = NatsInHand()
    in_hand.admit([delivery(1), delivery(2), delivery(3)], in_hand.lease)
    in_hand.end_lease()
    in_hand.admit([delivery(2, "second")], in_hand.lease)
    done = in_hand.finish([delivery(1), delivery(2), delivery(4)])
    assert [(one.identity[1], one.token) for one in done] == [(1, "first"), (2, "second")]  # type: ignore[index]
    assert in_hand.count == 1


def test_what_was_in_hand_when_an_era_began_is_finished_as_one_of_before() -> None:
    in_hand = NatsInHand()
    in_hand.admit([delivery(1)], in_hand.lease)
    in_hand.begin_era()
    in_hand.admit([delivery(2)], in_hand.lease)
    in_hand.finish([delivery(1), delivery(2)])
    again = [delivery(1), delivery(2)]
    # Of this era, and given for the first time: somebody has set the consumer back.
    assert in_hand.admit(again, in_hand.lease).finished == again[:1]
