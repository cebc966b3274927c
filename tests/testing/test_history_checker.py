"""The history checker sees each broken promise: else the tests that rely on it would prove nothing."""

from __future__ import annotations

import pytest

from eventbus import EventBus, Message, Receipt
from eventbus.testing import wait_until
from eventbus.testing.history import History, out_of_order
from eventbus.testing.memory import MemoryOutages


def history(published: list[int], handled: list[int], unconfirmed: tuple[int, ...] = ()) -> History:
    made = History()
    for number in published:
        payload = made.payload("k", number)
        made.confirm(payload, Receipt(topic="t", id=str(number), confirmed=number not in unconfirmed))
    for number in handled:
        made.handler(Message("t", f"k:{number}"))
    return made


def test_a_clean_history_has_nothing_wrong() -> None:
    made = history([1, 2, 3], [1, 2, 3])
    assert made.check() == []
    assert made.all_done
    assert made.summary() == "3 published, 3 confirmed, 3 delivered, 3 handled (0 again), 0 dead letters"


def test_a_confirmed_message_that_was_not_handled_is_lost() -> None:
    made = history([1, 2, 3], [1, 3])
    assert made.check() == ["lost: confirmed, and neither handled nor a dead letter: k:2 (1)"]
    assert not made.all_done


def test_many_lost_ones_are_counted_and_a_few_shown() -> None:
    (wrong,) = history(list(range(20)), []).check()
    assert wrong.endswith("k:0, k:1, k:2, k:3, k:4 ... (20)")


def test_a_dead_letter_is_not_lost() -> None:
    made = history([1, 2], [1])
    made.deliver("k:2")
    made.undertaker(Message("dlq.g.t", "k:2"))
    assert made.check() == []
    assert made.all_done
    assert made.dead_lettered == 1


def test_what_failed_for_ever_is_lost() -> None:
    """A delivery is no end of a message."""
    made = history([1], [])

    def fails(message: Message) -> None:
        raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        made.handler_of(fails)(Message("t", "k:1"))
    assert made.check() == ["lost: confirmed, and neither handled nor a dead letter: k:1 (1)"]


def test_an_unconfirmed_message_may_be_missing() -> None:
    made = history([1, 2, 3], [1, 3], unconfirmed=(2,))
    assert made.check() == []
    assert (made.answered, made.confirmed) == (3, 2)


def test_a_message_from_nowhere_is_seen() -> None:
    assert history([1], [1, 7]).check() == ["from nowhere: handled and never published: k:7 (1)"]


def test_a_receipt_from_nowhere_is_seen() -> None:
    made = history([1], [1])
    made.confirm("k:7", Receipt(topic="t", id="7", confirmed=True))
    assert "from nowhere: confirmed and never published: k:7 (1)" in made.check()


def test_a_dead_letter_from_nowhere_is_seen() -> None:
    made = history([1], [1])
    made.deliver("k:7")
    made.undertaker(Message("dlq.g.t", "k:7"))
    assert made.check() == ["from nowhere: a dead letter and never published: k:7 (1)"]


def test_a_dead_letter_of_what_no_handler_has_seen_is_wrong() -> None:
    made = history([1, 2], [1])
    made.undertaker(Message("dlq.g.t", "k:2"))
    assert made.check() == ["a dead letter, and no handler was started with it: k:2 (1)"]


def test_what_is_handled_was_delivered() -> None:
    made = history([1], [])
    made.handle("k:1")
    assert made.check() == ["handled, and no handler was started with it: k:1 (1)"]


def test_what_came_late_is_out_of_order() -> None:
    made = history([1, 2, 3], [1, 3, 2])
    assert made.check() == ["out of order: k:2 was handled for the first time after k:3"]
    assert made.check(ordered=False) == []


def test_order_is_of_each_key_alone() -> None:
    assert out_of_order([("a", 2), ("b", 1), ("a", 3), ("b", 2)]) == []
    assert out_of_order([("a", 2), ("b", 1), ("b", 0), ("a", 1)]) == [("b", 0, 1), ("a", 1, 2)]


def test_a_repeat_of_something_older_is_no_disorder() -> None:
    made = history([1, 2, 3], [1, 2, 1, 2, 3])
    assert made.check() == []
    assert made.duplicates() == {("k", 1): 2, ("k", 2): 2}
    assert "3 handled (2 again)" in made.summary()


def test_a_duplicate_of_what_was_acknowledged_is_seen() -> None:
    made = history([1, 2], [1, 2])
    made.settle()
    made.handler(Message("t", "k:1"))
    assert made.check() == ["handled again after it was acknowledged: k:1 (1)"]
    assert made.check(once=False) == []
    assert made.duplicates() == {("k", 1): 2}


@pytest.mark.parametrize(("copies", "wrong"), [(2, 0), (3, 1)])
def test_each_subscription_gets_its_copy(copies: int, wrong: int) -> None:
    assert len(history([1], [1, 1]).check(copies=copies)) == wrong


def test_a_backend_is_held_to_what_it_promises() -> None:
    core = EventBus("nats://127.0.0.1:1?jetstream=false").features
    jetstream = EventBus("nats://127.0.0.1:1").features
    swapped = history([1, 2], [2, 1])
    assert swapped.check_promised(jetstream) == []
    assert len(swapped.check_promised(jetstream, ordered=True)) == 1
    assert len(swapped.check_promised(core)) == 1
    again = history([1], [1])
    again.settle()
    again.handler(Message("t", "k:1"))
    assert again.check_promised(core) == []
    assert len(again.check_promised(jetstream)) == 1


def test_a_bus_under_it() -> None:
    made = History()
    with EventBus("memory://history") as bus:
        bus.subscribe("orders", made.handler, group="g")
        for number in range(10):
            payload = made.payload("k", number)
            made.confirm(payload, bus.publish("orders", payload, key="k"))
        wait_until(lambda: made.all_done)
    MemoryOutages("history").forget()
    assert made.check() == []
