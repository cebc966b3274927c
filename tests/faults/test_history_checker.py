"""The history checker sees each broken promise: else the outage tests would prove nothing."""

from __future__ import annotations

import pytest
from history import History

from eventbus import Message, Receipt


def history(published: list[int], handled: list[int], unconfirmed: tuple[int, ...] = ()) -> History:
    made = History()
    for number in published:
        payload = made.payload("k", number)
        if number not in unconfirmed:
            made.confirm(payload, Receipt(topic="t", id=str(number), confirmed=True))
    for number in handled:
        made.handler(Message("t", f"k:{number}"))
    return made


def test_a_clean_history_has_nothing_wrong() -> None:
    assert history([1, 2, 3], [1, 2, 3]).check() == []


def test_a_confirmed_message_that_was_not_handled_is_lost() -> None:
    assert "confirmed and not handled: k:2" in history([1, 2, 3], [1, 3]).check()[0]


def test_an_unconfirmed_message_may_be_missing() -> None:
    assert history([1, 2, 3], [1, 3], unconfirmed=(2,)).check() == []


def test_a_message_from_nowhere_is_seen() -> None:
    assert "never published: k:7" in history([1], [1, 7]).check()[0]


def test_what_came_late_is_out_of_order() -> None:
    assert "out of order: k:2" in history([1, 2, 3], [1, 3, 2]).check()[0]
    assert history([1, 2, 3], [1, 3, 2]).check(ordered=False) == []


def test_a_repeat_of_something_older_is_no_disorder() -> None:
    assert history([1, 2, 3], [1, 2, 1, 2, 3]).check() == []


def test_a_duplicate_of_what_was_acknowledged_is_seen() -> None:
    made = history([1, 2], [1, 2])
    made.settle()
    made.handler(Message("t", "k:1"))
    assert "acknowledged: k:1" in made.check()[0]
    assert made.duplicates() == {("k", 1): 2}


@pytest.mark.parametrize(("copies", "wrong"), [(2, 0), (3, 1)])
def test_each_subscription_gets_its_copy(copies: int, wrong: int) -> None:
    assert len(history([1], [1, 1]).check(copies=copies)) == wrong
