"""Who is active in an ordered group and until when, what may be acknowledged, and which durables will do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventbus.backends.nats.jetstream import ordered_terms
from eventbus.backends.nats.jetstream.conflicts import conflicts
from eventbus.backends.nats.jetstream.deliveries import OrderedDelivery, numbers_of, pin_in
from eventbus.backends.nats.jetstream.durables import Target, durable_name
from eventbus.backends.nats.jetstream.ordered_durable import Pinning, pinned, pinning_in, resets
from eventbus.backends.nats.jetstream.ordered_in_hand import OrderedInHand
from eventbus.backends.nats.jetstream.ordered_requests import KEEP, OneRequest
from eventbus.backends.nats.jetstream.ordered_terms import NEVER, Place, Tenure, Term, TimedLease, Window

T = 1.5


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ordered_terms, "now", made)
    return made


# -- the lease ------------------------------------------------------------------------------------


def test_a_lease_ends_with_time_without_anybody_saying_so(clock: Clock) -> None:
    lease = TimedLease(until=101.0)
    assert not lease.ended
    clock.time = 101.0
    assert lease.ended


def test_a_lease_that_was_seen_to_be_over_cannot_be_prolonged(clock: Clock) -> None:
    """A lane may have dropped messages because of it."""
    lease = TimedLease(until=101.0)
    clock.time = 101.0
    assert lease.ended
    lease.until = 200.0
    assert lease.ended


def test_a_lease_may_be_ended_before_its_time(clock: Clock) -> None:
    lease = TimedLease(until=200.0)
    lease.end()
    assert lease.ended


# -- tenure ---------------------------------------------------------------------------------------


def active(clock: Clock, tenure: Tenure, pin: str = "p") -> Term:
    tenure.asked(clock.time, after_an_end=True)
    term = tenure.given(pin, clock.time)
    assert term is not None
    return term


def test_the_lease_lasts_from_the_sending_of_the_request_not_from_its_answer(clock: Clock) -> None:
    tenure = Tenure(T, NEVER)
    tenure.asked(clock.time, after_an_end=True)
    clock.time += 1.0
    term = tenure.given("p", clock.time)
    assert term is not None and term.lease.until == 100.0 + T


def test_a_request_prolongs_only_once_the_server_has_shown_that_it_has_it(clock: Clock) -> None:
    tenure = Tenure(T, NEVER)
    term = active(clock, tenure)
    clock.time += 1.0
    tenure.asked(clock.time, after_an_end=False)  # the one before was given up, and may still be answered
    tenure.given("p", clock.time)
    assert term.lease.until == 100.0 + T
    tenure.answered()
    assert term.lease.until == 101.0 + T


def test_a_pin_that_comes_when_its_request_is_too_old_begins_nothing(clock: Clock) -> None:
    """The process was stopped in between: the server has pinned another one by now."""
    tenure = Tenure(T, NEVER)
    tenure.asked(clock.time, after_an_end=True)
    clock.time += 5.0
    assert tenure.given("p", clock.time) is None and tenure.term is None


def test_the_pin_of_a_term_that_is_over_is_never_taken_again(clock: Clock) -> None:
    tenure = Tenure(T, NEVER)
    term = active(clock, tenure)
    clock.time += 2.0
    assert tenure.look() and term.lease.ended and tenure.pin == ""
    tenure.asked(clock.time, after_an_end=True)
    assert tenure.given("p", clock.time) is None
    assert tenure.given("q", clock.time) is not None


def test_another_pin_ends_the_term_and_begins_one(clock: Clock) -> None:
    tenure = Tenure(T, NEVER)
    first = active(clock, tenure)
    second = active(clock, tenure, "q")
    assert first.lease.ended and not second.lease.ended and tenure.pin == "q"


def test_who_has_just_come_waits_until_any_lease_is_over_that_it_did_not_see(clock: Clock) -> None:
    tenure = Tenure(T, watching_since=clock.time)
    clock.time += 0.5
    term = active(clock, tenure)
    assert not term.is_open and term.holds_until == 100.0 + T
    assert not term.may_begin(clock.time)
    clock.time = 100.0 + T
    assert term.may_begin(clock.time) and term.is_open
    assert not term.may_begin(clock.time)  # it is said once


def test_who_has_watched_for_long_takes_over_at_once(clock: Clock) -> None:
    tenure = Tenure(T, watching_since=clock.time - T)
    assert active(clock, tenure).is_open


def test_nobody_is_waited_for_where_nobody_ever_was_active(clock: Clock) -> None:
    assert active(clock, Tenure(T, NEVER)).is_open


def test_an_interruption_ends_the_term_and_has_others_waited_for(clock: Clock) -> None:
    tenure = Tenure(T, NEVER)
    term = active(clock, tenure)
    tenure.interrupted(clock.time)
    assert term.lease.ended and not tenure.may_take_over(clock.time)
    assert not active(clock, tenure, "q").is_open
    assert tenure.may_take_over(clock.time + T)


def test_a_message_without_a_pin_is_for_nobody(clock: Clock) -> None:
    tenure = Tenure(T, NEVER)
    tenure.asked(clock.time, after_an_end=True)
    assert tenure.given("", clock.time) is None


# -- the window -----------------------------------------------------------------------------------


def test_only_what_is_done_with_all_before_it_is_acknowledged() -> None:
    window = Window()
    for number in (1, 2, 3):
        assert window.place(10 * number, number, b"t%d" % number) is Place.NEW
    window.finish(20)
    window.finish(30)
    assert window.take_done() is None
    window.finish(10)
    assert window.take_done() == (30, b"t3")
    assert window.take_done() is None and window.tokens == []


def test_a_term_begins_with_number_one_and_knows_no_gaps() -> None:
    window = Window()
    assert window.place(7, 5, b"") is Place.GAP
    assert window.place(3, 1, b"") is Place.NEW
    assert window.place(5, 3, b"") is Place.GAP
    assert window.place(4, 2, b"") is Place.NEW


def test_after_a_reset_only_new_numbers_are_acknowledged_and_nothing_is_handled_twice() -> None:
    window = Window()
    for number in (1, 2, 3):
        window.place(number, number, b"old%d" % number)
    window.finish(1)
    window.finish(2)
    window.begin_again()
    assert window.take_done() is None  # the numbers of before count no more
    assert window.place(4, 4, b"late") is Place.GAP
    assert window.place(1, 1, b"new1") is Place.KNOWN
    assert window.take_done() == (1, b"new1")
    assert [window.place(number, number, b"new%d" % number) for number in (2, 3, 4)] == [
        Place.KNOWN,
        Place.KNOWN,
        Place.NEW,
    ]
    assert window.take_done() == (2, b"new2")


def test_a_reset_that_somebody_else_asked_for_is_taken_as_it_comes() -> None:
    window = Window()
    window.place(1, 1, b"old")
    window.place(2, 2, b"old")
    assert window.place(1, 1, b"new") is Place.KNOWN
    window.finish(1)
    assert window.take_done() == (1, b"new")


def test_what_comes_again_after_ack_wait_keeps_its_first_number() -> None:
    """Acknowledged by the later one, it would make those in between count for nothing."""
    window = Window()
    window.place(1, 1, b"a")
    window.place(2, 2, b"b")
    assert window.place(1, 3, b"again") is Place.KNOWN
    assert window.place(3, 4, b"c") is Place.NEW
    window.finish(1)
    assert window.take_done() == (1, b"a")


def test_what_was_finished_before_it_came_again_counts() -> None:
    window = Window()
    window.finish(5)
    window.place(4, 1, b"a")
    window.place(5, 2, b"b")
    window.finish(4)
    assert window.take_done() == (5, b"b")


# -- requests -------------------------------------------------------------------------------------


def request(**limits: Any) -> OneRequest:
    target = Target("s", "s@1", "c", "$JS.API.CONSUMER.MSG.NEXT.s.c", 60.0, 1000, pinning=Pinning("g", T), **limits)
    return OneRequest(target, 100.0)


def test_a_request_ends_with_its_last_message() -> None:
    one = request()
    sent = json.loads(one.send(100.0, 2, 500, "p", after_an_end=True))
    assert sent == {
        "batch": 2,
        "expires": 500_000_000,
        "idle_heartbeat": 200_000_000,
        "group": "g",
        "id": "p",
        "max_bytes": 500,
    }
    assert [one.arrived(100.0), one.is_out, one.arrived(100.0), one.is_out] == [False, True, True, False]


def test_a_heartbeat_proves_a_request_and_does_not_end_it() -> None:
    one = request()
    one.send(100.0, 1, 0, "", after_an_end=True)
    assert one.heard(100.2, 100, "Idle Heartbeat", None) and one.is_out
    assert one.heard(100.5, 408, "Request Timeout", None) and not one.is_out
    assert one.heard(100.5, 409, "Batch Completed", None) and not one.is_out  # of a consumer that another server leads
    assert not one.heard(100.5, 409, "Leadership Change", None)
    assert not one.heard(100.5, 423, "Nats-Pin-Id mismatch", None)


def test_after_one_that_was_given_up_nothing_is_sure_until_the_server_speaks_of_the_next() -> None:
    one = request()
    one.send(100.0, 500, 0, "p", after_an_end=True)
    assert one.is_sure and not one.is_silent(100.9) and one.is_silent(101.1)
    one.send(101.1, 1, KEEP, "p", after_an_end=False)
    one.send(101.2, 1, KEEP, "p", after_an_end=True)
    assert not one.is_sure
    one.heard(101.3, 409, "Message Size Exceeds MaxBytes", None)
    assert one.is_sure


def test_the_first_request_is_sure_however_it_is_sent() -> None:
    one = request()
    one.send(100.0, 1, 0, "", after_an_end=False)
    assert one.is_sure


def test_a_message_that_is_larger_than_all_that_was_asked_for_is_noted() -> None:
    one = request()
    one.send(100.0, 500, 1000, "p", after_an_end=True)
    some = b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\nNats-Pending-Bytes: 400\r\n\r\n"
    one.heard(100.1, 409, "Message Size Exceeds MaxBytes", some)
    assert not one.is_too_large
    one.send(100.0, 500, 1000, "p", after_an_end=True)
    one.heard(100.1, 409, "Message Size Exceeds MaxBytes", some.replace(b"400", b"1000"))
    assert one.is_too_large
    one.send(100.0, 1, KEEP, "p", after_an_end=True)
    assert one.is_too_large
    one.send(100.0, 1, 0, "p", after_an_end=True)
    assert not one.is_too_large


def test_the_pin_wants_a_request_in_each_third_of_its_time() -> None:
    one = request()
    assert not one.is_due(100.4) and one.is_due(100.5)
    assert request(max_expires=0.3).lasts == 0.3


# -- in hand --------------------------------------------------------------------------------------


def delivery(sequence: int, stream: str = "s@1") -> OrderedDelivery:
    made = OrderedDelivery.__new__(OrderedDelivery)
    made.topic, made.payload, made._block = "t", b"", None
    made.identity, made.token = (stream, sequence), b"$JS.ACK.s.c.1.%d.%d.0.0" % (sequence, sequence)
    return made


def test_what_was_finished_in_one_term_is_not_handled_again_in_the_next(clock: Clock) -> None:
    in_hand, first, second = OrderedInHand(), TimedLease(101.0), TimedLease(200.0)
    one, two = delivery(1), delivery(2)
    assert in_hand.admit([one, two], first).fresh == [one, two]
    in_hand.finish([one])
    clock.time = 101.0
    again = in_hand.admit([delivery(1), delivery(2)], second)
    assert [found.identity for found in again.finished] == [("s@1", 1)]
    assert [found.identity for found in again.fresh] == [("s@1", 2)] and again.check
    in_hand.finish([two])  # its first copy was in a handler
    assert not in_hand.claims(again.fresh[0])


def test_what_lanes_drop_when_the_lease_is_over_is_gone_whoever_notices_first(clock: Clock) -> None:
    for notices in (True, False):
        in_hand, lease, one = OrderedInHand(), TimedLease(clock.time + 1.0), delivery(1)
        in_hand.admit([one], lease)
        clock.time += 1.0
        if notices:
            in_hand.end_lease_of("s@1")
        assert list(in_hand.drop([one], lease)) == []
        assert (len(in_hand), in_hand.count, in_hand.count_of("s@1")) == (0, 0, 0)


def test_streams_have_their_own_leases(clock: Clock) -> None:
    in_hand, left, right = OrderedInHand(), TimedLease(101.0), TimedLease(200.0)
    in_hand.admit([delivery(1, "a")], left)
    in_hand.admit([delivery(1, "b")], right)
    clock.time = 101.0
    in_hand.end_lease_of("a")
    assert (in_hand.count_of("a"), in_hand.count_of("b"), len(in_hand)) == (1, 1, 1)
    assert len(in_hand.drop([delivery(1, "b")], right)) == 1


def test_what_somebody_set_back_is_handled_again(clock: Clock) -> None:
    in_hand, lease = OrderedInHand(), TimedLease(200.0)
    in_hand.admit([delivery(1)], lease)
    in_hand.finish([delivery(1)])
    in_hand.forget_finished_of("s@1")
    assert in_hand.admit([delivery(1)], lease).fresh


# -- durables and answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "answer"),
    [
        *((version, True) for version in ("2.14.0", "2.15.1", "v3.0", "2.14.0-RC.1")),
        *((version, False) for version in ("2.13.9", "2.9", "", None, "edge")),
    ],
)
def test_which_servers_let_consumers_begin_again(version: object, answer: bool) -> None:
    assert resets(version) is answer


def test_the_durables_name_tells_the_mode() -> None:
    assert durable_name("g", "t.*") == "g=shared=t_d_s" and durable_name("g", "t.*", True) == "g=ordered=t_d_s"


def test_which_durables_keep_the_order() -> None:
    ordered = {**pinned(1_500_000_000, 60.0), "filter_subject": "t"}
    single = {"ack_policy": "explicit", "max_ack_pending": 1, "filter_subject": "t"}
    shared = {"ack_policy": "explicit", "max_ack_pending": 1000, "filter_subject": "t"}
    assert conflicts(ordered, "t", ordered=True) == conflicts(single, "t", ordered=True) == []
    assert conflicts(shared, "t") == []
    assert "max_ack_pending 1" in conflicts(shared, "t", ordered=True)[0]
    assert "not 'all'" in conflicts({**ordered, "ack_policy": "explicit"}, "t", ordered=True)[0]
    assert len(conflicts(ordered, "t")) == 2
    assert pinning_in(ordered) == Pinning("eventbus", 1.5) and pinning_in(shared) is None


def test_what_a_delivery_tells() -> None:
    assert numbers_of(b"$JS.ACK.s.c.1.17.5.1700000000.0") == (17, 5, b"1700000000")
    assert numbers_of(b"$JS.ACK.domain.account.s.c.1.17.5.1700000000.0") == (17, 5, b"1700000000")
    forged = b"NATS/1.0\r\nNats-Pin-Id: forged\r\nNats-Pin-Id: real\r\n\r\n"
    assert pin_in(forged) == "real"
    assert pin_in(None) == pin_in(b"NATS/1.0\r\nA: b\r\n\r\n") == ""
