"""Keyed lanes: order per key, bounded, and nothing disappears in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from eventbus.consuming.lanes import Lanes
from eventbus.message import Delivery
from eventbus.testing import wait_until


def batch(*numbers: int, key: str | None = "k") -> list[Delivery]:
    made = []
    for number in numbers:
        one = Delivery("t", str(number), key=key)
        one.identity, one.token = number, number
        made.append(one)
    return made


class Rig:
    def __init__(self, handler: Callable[[Delivery], object] | None = None, concurrency: int = 1, high: int = 100):
        self.handled: list[int] = []
        self.done: list[int] = []
        self.dropped: list[int] = []
        self.room = 0
        self.go_on = True
        self.lanes = Lanes(
            "eventbus.test.lane",
            concurrency,
            handler=handler or self._handle,
            failed=lambda delivery, error: self.go_on,
            done=lambda deliveries: self._note(self.done, deliveries),
            dropped=lambda deliveries: self._note(self.dropped, deliveries),
            has_room=self._has_room,
            high=high,
        )

    def _handle(self, delivery: Delivery) -> None:
        self.handled.append(delivery.token)

    def _note(self, into: list[int], deliveries: Sequence[Delivery]) -> None:
        into.extend(delivery.token for delivery in deliveries)

    def _has_room(self) -> None:
        self.room += 1


def test_no_thread_before_the_first_delivery() -> None:
    rig = Rig()
    assert rig.lanes.put([])
    assert rig.lanes.finish(1.0) == ()


def test_what_was_put_is_handled_in_order_and_done() -> None:
    rig = Rig()
    for start in range(0, 30, 3):
        assert rig.lanes.put(batch(start, start + 1, start + 2))
    assert rig.lanes.finish(5.0) == ()
    assert rig.handled == rig.done == list(range(30))
    assert (rig.dropped, rig.lanes.backlog) == ([], 0)


def test_a_key_stays_on_its_lane_and_others_pass_it() -> None:
    gate, entered, passed = threading.Event(), threading.Event(), threading.Event()

    def handler(delivery: Delivery) -> None:
        if delivery.key == "slow":
            entered.set()
            gate.wait(20.0)
        else:
            passed.set()

    rig = Rig(handler, concurrency=2)
    rig.lanes.put(batch(1, 2, key="slow"))
    assert entered.wait(5.0)
    for key in ("a", "b", "c", "d"):  # one of them is on the other lane
        rig.lanes.put(batch(3, key=key))
    assert passed.wait(5.0)
    gate.set()
    assert rig.lanes.finish(5.0) == ()


def test_without_keys_the_lanes_take_turns() -> None:
    barrier = threading.Barrier(3)
    rig = Rig(lambda delivery: barrier.wait(5.0), concurrency=3)
    rig.lanes.put(batch(1, 2, 3, key=None))
    assert rig.lanes.finish(5.0) == ()
    assert sorted(rig.done) == [1, 2, 3]


def test_full_lanes_say_so_and_ask_for_more_at_half() -> None:
    gate = threading.Semaphore(0)
    rig = Rig(lambda delivery: gate.acquire(timeout=20.0), high=10)
    assert rig.lanes.put(batch(*range(9)))
    assert not rig.lanes.put(batch(9))
    assert not rig.lanes.put([])
    gate.release(10)
    wait_until(lambda: rig.room == 1)
    assert rig.lanes.put([])
    assert rig.lanes.finish(5.0) == ()
    assert rig.room == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_fails_in_any_way_does_not_end_the_lane(error: type[BaseException]) -> None:
    def handler(delivery: Delivery) -> None:
        if delivery.token == 2:
            raise error

    rig = Rig(handler)
    rig.lanes.put(batch(1, 2, 3))
    assert rig.lanes.finish(5.0) == ()
    assert rig.done == [1, 2, 3]


def test_when_a_stop_ends_a_failing_one_it_and_the_rest_are_dropped() -> None:
    def handler(delivery: Delivery) -> None:
        if delivery.token == 2:
            raise ValueError

    rig = Rig(handler)
    rig.go_on = False
    rig.lanes.put(batch(1, 2, 3))
    rig.lanes.put(batch(4))
    assert rig.lanes.finish(5.0) == ()
    assert (rig.done, rig.dropped) == ([1], [2, 3, 4])


def test_stop_starts_nothing_more_and_names_what_runs() -> None:
    gate, entered = threading.Event(), threading.Event()

    def handler(delivery: Delivery) -> None:
        entered.set()
        gate.wait(20.0)

    rig = Rig(handler)
    rig.lanes.put(batch(1, 2))
    rig.lanes.put(batch(3))
    assert entered.wait(5.0)
    assert rig.lanes.stop(0.05) == ("eventbus.test.lane-0",)
    gate.set()
    assert rig.lanes.stop(5.0) == ()
    assert (rig.done, rig.dropped, rig.lanes.backlog) == ([1], [2, 3], 0)


def test_what_comes_after_the_end_is_dropped_not_forgotten() -> None:
    rig = Rig()
    rig.lanes.put(batch(1))
    assert rig.lanes.finish(5.0) == ()
    assert not rig.lanes.put(batch(2, 3))
    assert (rig.dropped, rig.lanes.backlog) == ([2, 3], 0)


def test_discard_drops_what_was_not_started_and_takes_what_comes_after() -> None:
    gate, entered = threading.Event(), threading.Event()

    def handler(delivery: Delivery) -> None:
        entered.set()
        gate.wait(20.0)

    rig = Rig(handler)
    rig.lanes.put(batch(1, 2))
    assert entered.wait(5.0)
    rig.lanes.put(batch(3))
    rig.lanes.discard()
    rig.lanes.put(batch(4))
    gate.set()
    assert rig.lanes.finish(5.0) == ()
    assert (rig.done, rig.dropped) == ([1, 4], [2, 3])


def test_a_failing_acknowledgement_keeps_nothing_in_hand_and_the_lane_goes_on() -> None:
    """What stayed in hand would be renewed for ever and never come again."""
    rig, failures = Rig(), [OSError("the link broke")]

    def done(deliveries: Sequence[Delivery]) -> None:
        if failures:
            raise failures.pop()
        rig.done.extend(one.token for one in deliveries)

    rig.lanes._done = done
    rig.lanes.put(batch(1, 2))
    wait_until(lambda: rig.dropped == [1, 2])
    rig.lanes.put(batch(3))
    wait_until(lambda: rig.done == [3])
    wait_until(lambda: rig.lanes.backlog == 0)
    assert rig.lanes.stop(5.0) == ()


def test_what_is_stale_is_dropped_and_the_rest_handled_in_order() -> None:
    entered, gate = threading.Event(), threading.Event()
    handled: list[int] = []

    def handler(delivery: Delivery) -> None:
        entered.set()
        assert gate.wait(10.0)
        handled.append(delivery.token)

    rig = Rig(handler)
    rig.lanes.put(batch(0, 1, 2, 3))
    rig.lanes.put(batch(4, 5))
    assert entered.wait(5.0)
    rig.lanes.discard({1, 3, 5, 7})
    rig.lanes.put(batch(7))
    gate.set()
    assert rig.lanes.finish(5.0) == ()
    assert handled == [0, 2, 4, 7], "what came after the discard is not looked at"
    assert rig.dropped == [1, 3, 5]
    assert sorted(rig.done) == [0, 2, 4, 7]


def of(token: str, *numbers: int, key: str = "k") -> list[Delivery]:
    made = batch(*numbers, key=key)
    for one in made:
        one.token = token
    return made


def test_nothing_overtakes_what_was_dropped() -> None:
    """It comes again: what was put behind it before the lane has dropped it, comes after it then."""
    entered, gate = threading.Event(), threading.Event()
    handled: list[str] = []
    dropped: list[str] = []

    def handler(delivery: Delivery) -> None:
        entered.set()
        assert gate.wait(10.0)
        handled.append(delivery.text())

    def drop(deliveries: Sequence[Delivery]) -> None:
        dropped.extend(one.text() for one in deliveries)
        if dropped == ["1"]:  # a last one, before the owner knows
            rig.lanes.put(of("a", 6))

    rig = Rig(handler)
    rig.lanes._dropped = drop
    rig.lanes.put(of("a", 0, 1))
    rig.lanes.put([*of("b", 2), *of("a", 3)])
    assert entered.wait(5.0)
    rig.lanes.discard({"a"})
    rig.lanes.put([*of("a", 4), *of("b", 5)])
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert dropped == ["1", "3", "4", "6"]
    rig.lanes.put(of("a", 1, 3))
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handled == ["0", "2", "5", "1", "3"]
    assert rig.lanes.stop(5.0) == ()


def test_what_one_lane_drops_is_no_concern_of_the_others() -> None:
    """Else what one drops would have the other drop, for ever."""
    gates = {"x": threading.Event(), "d": threading.Event()}
    started: list[str] = []
    handled: list[str] = []

    def handler(delivery: Delivery) -> None:
        started.append(delivery.text())
        assert gates[delivery.key or ""].wait(10.0)
        handled.append(delivery.text())

    rig = Rig(handler, concurrency=2)
    assert len(rig.lanes._split([*of("a", 0, key="x"), *of("a", 0, key="d")])) == 2
    rig.lanes.put([*of("a", 1, 2, key="x"), *of("a", 3, 4, key="d")])
    wait_until(lambda: sorted(started) == ["1", "3"])  # taken from the queue is not yet begun
    rig.lanes.discard({"a"})
    gates["x"].set()
    wait_until(lambda: rig.lanes.backlog == 2)
    rig.lanes.put([*of("a", 2, key="x"), *of("a", 5, key="d")])
    wait_until(lambda: rig.lanes.backlog == 3)
    gates["d"].set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert sorted(handled) == ["1", "2", "3"]
    assert rig.dropped == ["a"] * 3, "2, 4, and 5 behind it"
    assert rig.lanes.stop(5.0) == ()
