"""What is in hand: a redelivery is neither started twice nor acknowledged with an old token."""

from __future__ import annotations

from eventbus.consuming.inhand import InHand
from eventbus.message import Delivery


def delivery(identity: int, token: str = "first") -> Delivery:
    made = Delivery("t", b"")
    made.identity, made.token = identity, token
    return made


def test_new_ones_are_admitted_once() -> None:
    hand = InHand()
    fresh, again = hand.admit([delivery(1), delivery(2), delivery(1, "second")])
    assert ([one.identity for one in fresh], again) == ([1, 2], [])
    assert (len(hand), hand.duplicates) == (2, 1)


def test_a_redelivery_of_what_is_in_hand_renews_its_token() -> None:
    hand = InHand()
    fresh, _ = hand.admit([delivery(1)])
    assert hand.admit([delivery(1, "renewed")]) == ([], [])
    assert [one.token for one in hand.snapshot()] == ["renewed"]
    assert [one.token for one in hand.finish(fresh)] == ["renewed"]
    assert len(hand) == 0


def test_a_redelivery_of_what_was_finished_is_to_be_acknowledged_at_once() -> None:
    hand = InHand()
    hand.finish(hand.admit([delivery(1)])[0])
    fresh, again = hand.admit([delivery(1, "second")])
    assert (fresh, [one.token for one in again]) == ([], ["second"])
    hand.forget_finished()
    assert len(hand.admit([delivery(1, "third")])[0]) == 1


def test_what_was_dropped_may_come_again() -> None:
    hand = InHand()
    fresh, _ = hand.admit([delivery(1)])
    assert len(hand.drop([*fresh, delivery(9)])) == 1
    assert hand.finish(fresh) == []
    assert len(hand.admit([delivery(1)])[0]) == 1


def test_only_so_many_finished_are_remembered() -> None:
    hand = InHand(remembered=2)
    hand.finish(hand.admit([delivery(number) for number in (1, 2, 3)])[0])
    fresh, again = hand.admit([delivery(number) for number in (1, 2, 3)])
    assert ([one.identity for one in fresh], [one.identity for one in again]) == ([1], [2, 3])
