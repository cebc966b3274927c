"""What is in hand: a redelivery is neither started twice nor acknowledged with an old token."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eventbus.consuming.in_hand import InHandByIdentity
from eventbus.consuming.lease import Lease
from eventbus.message import Delivery


def delivery(identity: int, token: str = "first") -> Delivery:
    made = Delivery("t", b"")
    made.identity, made.token = identity, token
    return made


def admit(hand: InHandByIdentity, batch: list[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
    admitted = hand.admit(batch, hand.lease)
    assert not admitted.check
    return admitted.fresh, admitted.finished


def test_new_ones_are_admitted_once() -> None:
    hand = InHandByIdentity()
    fresh, again = admit(hand, [delivery(1), delivery(2), delivery(1, "second")])
    assert ([one.identity for one in fresh], again) == ([1, 2], [])
    assert (len(hand), hand.duplicates) == (2, 1)


def test_a_redelivery_of_what_is_in_hand_renews_its_token() -> None:
    hand = InHandByIdentity()
    fresh, _ = admit(hand, [delivery(1)])
    assert admit(hand, [delivery(1, "renewed")]) == ([], [])
    assert [one.token for one in hand.snapshot()] == ["renewed"]
    assert [one.token for one in hand.finish(fresh)] == ["renewed"]
    assert len(hand) == 0


def test_a_redelivery_of_what_was_finished_is_to_be_acknowledged_at_once() -> None:
    hand = InHandByIdentity()
    hand.finish(admit(hand, [delivery(1)])[0])
    fresh, again = admit(hand, [delivery(1, "second")])
    assert (fresh, [one.token for one in again]) == ([], ["second"])
    hand.forget_finished()
    assert len(admit(hand, [delivery(1, "third")])[0]) == 1


def test_what_was_dropped_may_come_again() -> None:
    hand = InHandByIdentity()
    fresh, _ = admit(hand, [delivery(1)])
    assert len(hand.drop([*fresh, delivery(9)], hand.lease)) == 1
    assert hand.finish(fresh) == []
    assert len(admit(hand, [delivery(1)])[0]) == 1


def test_what_is_dropped_under_a_lease_that_is_over_is_forgotten_and_not_given_back() -> None:
    hand = InHandByIdentity()
    fresh, _ = admit(hand, [delivery(1), delivery(2)])
    hand.lease.end()  # nobody has come with another one yet
    assert list(hand.drop(fresh[:1], hand.lease)) == []
    before = hand.lease
    hand.end_lease()
    assert list(hand.drop(fresh[1:], before)) == []
    assert hand.count == 0, "others have them: they never come again"


def test_only_so_many_finished_are_remembered() -> None:
    hand = InHandByIdentity(remembered=2)
    hand.finish(admit(hand, [delivery(number) for number in (1, 2, 3, 4, 5)])[0])
    fresh, again = admit(hand, [delivery(number) for number in (1, 2, 3, 4, 5)])
    assert ([one.identity for one in fresh], [one.identity for one in again]) == ([1, 2, 3], [4, 5])


def test_what_is_in_hand_is_shown_oldest_first_whatever_was_renewed() -> None:
    hand = InHandByIdentity()
    admit(hand, [delivery(1), delivery(2), delivery(3)])
    admit(hand, [delivery(1, "renewed")])
    assert [(one.identity, one.token) for one in hand.snapshot()] == [(1, "renewed"), (2, "first"), (3, "first")]


def test_what_came_under_a_lease_that_is_over_is_handled_again_unless_it_is_done_meanwhile() -> None:
    hand = InHandByIdentity()
    admit(hand, [delivery(1), delivery(2), delivery(3)])
    hand.finish([delivery(1)])
    old = hand.lease
    hand.end_lease()
    assert old.ended
    assert not hand.snapshot(), "nothing to renew"
    assert not hand.drop([delivery(3)], old), "its giving back is nobody's business any more"
    admitted = hand.admit([delivery(1, "new"), delivery(2, "new"), delivery(3, "new")], hand.lease)
    assert ([one.identity for one in admitted.finished], [one.identity for one in admitted.fresh]) == ([1], [2, 3])
    assert admitted.check
    assert hand.claims(delivery(2))
    assert [one.token for one in hand.finish([delivery(2)])] == ["new"]
    assert not hand.claims(delivery(2)), "the handler that ran when the lease ended has finished it"
    assert not hand.drop([delivery(3)], old)
    assert hand.claims(delivery(3))
    assert [one.token for one in hand.drop([delivery(3)], hand.lease)] == ["new"]


def test_another_lease_ends_the_one_before() -> None:
    hand, first, second = InHandByIdentity(), Lease(), Lease()
    hand.admit([delivery(1)], first)
    assert hand.admit([delivery(1)], second).check
    assert (first.ended, second.ended, len(hand)) == (True, False, 1)


BATCHES = st.lists(st.integers(0, 9), max_size=6)
REMEMBERED = 4


class Hand(RuleBasedStateMachine):
    """Two plain lists in place of what must be fast: what is held, with its newest token, and what was finished."""

    def __init__(self) -> None:
        super().__init__()
        self.hand = InHandByIdentity(remembered=REMEMBERED)
        self.held: list[tuple[int, str]] = []
        self.finished: list[int] = []
        self.duplicates = 0
        self.tokens = 0

    def batch(self, identities: list[int]) -> list[Delivery]:
        self.tokens += 1
        return [delivery(identity, f"{self.tokens}-{place}") for place, identity in enumerate(identities)]

    @rule(identities=BATCHES)
    def admit(self, identities: list[int]) -> None:
        batch = self.batch(identities)
        fresh, again = [], []
        for one in batch:
            place = next((place for place, held in enumerate(self.held) if held[0] == one.identity), None)
            if place is not None:
                self.held[place] = (one.identity, one.token)
                self.duplicates += 1
            elif one.identity in self.finished:
                again.append(one)
                self.duplicates += 1
            else:
                self.held.append((one.identity, one.token))
                fresh.append(one)
        shown, done_before = admit(self.hand, batch)
        assert list(map(id, shown)) == list(map(id, fresh))
        assert list(map(id, done_before)) == list(map(id, again))

    def take_out(self, identities: list[int]) -> list[tuple[int, str]]:
        taken = []
        for identity in identities:
            found = next((held for held in self.held if held[0] == identity), None)
            if found is not None:
                self.held.remove(found)
                taken.append(found)
        return taken

    @rule(identities=BATCHES)
    def finish(self, identities: list[int]) -> None:
        done = self.hand.finish(self.batch(identities))
        taken = self.take_out(identities)
        assert [(one.identity, one.token) for one in done] == taken
        self.finished += [identity for identity, _ in taken]
        if len(self.finished) > 2 * REMEMBERED:  # forgotten many at a time, never the newest
            self.finished = self.finished[-REMEMBERED:]

    @rule(identities=BATCHES)
    def drop(self, identities: list[int]) -> None:
        dropped = self.hand.drop(self.batch(identities), self.hand.lease)
        assert [(one.identity, one.token) for one in dropped] == self.take_out(identities)

    @rule()
    def forget(self) -> None:
        self.hand.forget_finished()
        self.finished = []

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert [(one.identity, one.token) for one in self.hand.snapshot()] == self.held
        assert (len(self.hand), self.hand.duplicates) == (len(self.held), self.duplicates)


TestHand = Hand.TestCase
