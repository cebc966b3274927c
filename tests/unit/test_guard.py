"""Dead letters stop leaving when most messages would become one, and go on when a handler works again."""

from __future__ import annotations

import random
import time

from eventbus import GuardConfig
from eventbus.consuming.guard import Guard


def guard(**settings: object) -> Guard:
    return Guard(GuardConfig(**settings), "t")  # type: ignore[arg-type]


def fail(one: Guard, times: int) -> int:
    return sum(one.lets_leave(one.place) for _ in range(times))


def test_a_handler_that_always_fails_loses_no_more_than_the_least() -> None:
    one = guard()
    assert fail(one, 100) == 19
    assert one.holds
    assert "19 of the last 20 messages" in str(one.error)


def test_some_poison_among_good_ones_leaves() -> None:
    one = guard()
    for _ in range(1000):
        one.succeeded(3)
        assert one.lets_leave(one.place)
    assert one.error is None


def test_only_the_last_messages_count() -> None:
    one = guard(window=40, least=10)
    one.succeeded(100_000)
    assert fail(one, 100) == 20, "half of the window"


def test_what_leaves_late_counts_beside_those_among_which_it_came() -> None:
    one, places = guard(), []
    for _ in range(150):
        one.succeeded(99)
        places.append(one.place)
    assert all(map(one.lets_leave, places)), "one in a hundred, all behind the last of the others"
    places = [one.place for _ in range(150)]
    assert sum(map(one.lets_leave, places)) == 100 - 2, "half of the window, two of the others among them"


def test_in_whatever_order_they_leave_they_count_as_well() -> None:
    one, places = guard(), []
    for _ in range(100):
        places += [one.place, one.place]
        one.succeeded(1)
    random.Random(1).shuffle(places)
    assert sum(map(one.lets_leave, places)) < 100, "two of three fail"
    other, places = guard(), []
    for _ in range(100):
        places += [other.place, other.place]
        other.succeeded(3)
    random.Random(1).shuffle(places)
    assert all(map(other.lets_leave, places)), "two of five fail"


def test_it_tries_again_and_holds_on_for_longer_each_time() -> None:
    one = guard(initial_pause=10.0, max_pause=30.0)
    fail(one, 20)
    now = time.monotonic()
    assert not one.look(now + 9.0)
    for pause in (10.0, 20.0, 30.0, 30.0):
        assert one.look(now + pause + 1.0)
        assert not one.holds
        assert not one.lets_leave(one.place), "what is tried stays as well"
        assert one.holds
        now = time.monotonic()


def test_the_first_success_of_a_trial_ends_it_and_no_other() -> None:
    one = guard()
    fail(one, 20)
    assert not one.succeeded(1), "a handler that ran as it began to hold"
    assert one.holds
    assert one.look(time.monotonic() + 11.0)
    assert one.succeeded(1)
    assert (one.error, one.holds) == (None, False)
    assert fail(one, 100) == 19, "it counts anew"


def test_it_can_be_switched_off() -> None:
    one = guard(enabled=False)
    assert fail(one, 1000) == 1000
