"""Keyed lanes: order per key, bounded, and nothing disappears in them."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from eventbus.consuming import acknowledgements as acknowledgements_module
from eventbus.consuming import lane_queue as lane_queue_module
from eventbus.consuming import lanes as lanes_module
from eventbus.consuming import parked as parked_module
from eventbus.consuming.acknowledgements import Acknowledgements
from eventbus.consuming.batch_lane import BatchLimits
from eventbus.consuming.budget import Budget
from eventbus.consuming.dead_letters import Answered
from eventbus.consuming.lanes import Lanes
from eventbus.consuming.lease import Lease
from eventbus.consuming.parked import lane_key, lane_of
from eventbus.consuming.retries import Next, Tries, Verdict
from eventbus.message import Delivery
from eventbus.testing import wait_until
from eventbus.threads import Pauses


def batch(*numbers: int, key: str | None = "k") -> list[Delivery]:
    made = []
    for number in numbers:
        one = Delivery("t", str(number), key=key)
        one.identity, one.token = number, number
        made.append(one)
    return made


SOON = Pauses(0.01, 2.0, 0.05)


class Rig:
    """Lanes, and what they tell."""

    def __init__(
        self,
        handler: Callable[[Delivery], object] | None = None,
        concurrency: int = 1,
        high: int = 100,
        high_bytes: int = 1 << 30,
        budget: Budget | None = None,
        takes_back: bool = False,
        retries: Pauses = SOON,
        handler_timeout: float | None = None,
        batch: BatchLimits | None = None,
    ):
        self.retries = retries
        self.verdicts: list[Verdict] = []
        self.letters: list[tuple[int, int, Answered]] = []
        self.overdue_ones: list[tuple[int, str]] = []
        self.handled: list[int] = []
        self.acknowledged: list[int] = []
        self.dropped_ones: list[int] = []
        self.errors: list[BaseException] = []
        self.pauses: list[float] = []
        self.returned: list[int] = []
        self.delays: list[float] = []
        self.finished: set[int] = set()
        self.failures: list[Exception] = []
        self.room = 0
        self.lease = Lease()
        self.acknowledgements = Acknowledgements("eventbus.test.acknowledgements")
        self.lanes = Lanes(
            "eventbus.test.lane",
            concurrency,
            handler or self._handle,
            self,
            self.acknowledgements,
            high,
            high_bytes,
            budget or Budget(1 << 30),
            takes_back,
            handler_timeout,
            batch,
        )

    def put(self, *numbers: int, key: str | None = "k", check: bool = False) -> bool:
        return self.lanes.put(batch(*numbers, key=key), self.lease, check)

    def _handle(self, delivery: Delivery) -> None:
        self.handled.append(delivery.token)

    def begin(self) -> None: ...

    def look(self, now: float) -> None: ...

    def claims(self, delivery: Delivery) -> bool:
        return delivery.token not in self.finished

    def failed(self, delivery: Delivery, error: BaseException, tries: Tries, quiet: bool = False) -> Verdict:
        self.errors.append(error)
        verdict = self.verdicts.pop(0) if self.verdicts else Verdict(Next.AGAIN, self.pause_after(tries.failures + 1))
        self.pauses.append(verdict.pause)
        return verdict

    def pause_after(self, failures: int) -> float:
        return self.retries.after(failures)

    def leave(self, delivery: Delivery, error: BaseException, attempts: int, answered: Answered) -> None:
        self.letters.append((delivery.token, attempts, answered))

    def left_behind(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged.extend(delivery.token for delivery in deliveries)

    def overdue(self, delivery: Delivery, seconds: float, stack: str) -> None:
        self.overdue_ones.append((delivery.token, stack))

    def done(self, deliveries: Sequence[Delivery]) -> None:
        if self.failures:
            raise self.failures.pop()
        self.acknowledged.extend(delivery.token for delivery in deliveries)

    def dropped(self, deliveries: Sequence[Delivery], lease: Lease) -> None:
        self.dropped_ones.extend(delivery.token for delivery in deliveries)

    def given_back(self, deliveries: Sequence[Delivery], lease: Lease, delay: float) -> None:
        self.returned.extend(delivery.token for delivery in deliveries)
        self.delays.append(delay)

    def has_room(self) -> None:
        self.room += 1

    def end(self) -> None:
        self.lanes.stop(5.0)
        assert self.acknowledgements.close(5.0) == ()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def make(gate: threading.Event) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def made(*arguments: object, **options: object) -> Rig:
        rigs.append(Rig(*arguments, **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield made
    gate.set()
    for rig in rigs:
        rig.end()


Make = Callable[..., Rig]


class Blocking:
    """A handler that says where it is, and waits where it is told to."""

    def __init__(self, gate: threading.Event, *numbers: int) -> None:
        self.entered = threading.Event()
        self.handled: list[int] = []
        self._gate = gate
        self._numbers = numbers

    def __call__(self, delivery: Delivery) -> None:
        if delivery.token in self._numbers:
            self.entered.set()
            assert self._gate.wait(20.0)
        self.handled.append(delivery.token)


class Failing:
    """A handler that fails for these numbers, so many times (or until told otherwise)."""

    def __init__(self, *numbers: int, times: int = 1 << 30, error: type[BaseException] = ValueError) -> None:
        self.handled: list[int] = []
        self.tries: list[int] = []
        self.left = dict.fromkeys(numbers, times)
        self._error = error

    def __call__(self, delivery: Delivery) -> None:
        self.tries.append(delivery.token)
        if self.left.get(delivery.token, 0) > 0:
            self.left[delivery.token] -= 1
            raise self._error("not yet")
        self.handled.append(delivery.token)


# -- order and bounds ----------------------------------------------------------------------------


def test_no_thread_before_the_first_delivery(make: Make) -> None:
    rig = make()
    assert rig.put()
    assert rig.lanes.finish(1.0) == ()


def test_what_was_put_is_handled_in_order_and_done(make: Make) -> None:
    rig = make()
    for start in range(0, 30, 3):
        assert rig.put(start, start + 1, start + 2)
    assert rig.lanes.finish(5.0) == ()
    assert rig.handled == rig.acknowledged == list(range(30))
    assert (rig.dropped_ones, rig.lanes.backlog, rig.lanes.size) == ([], 0, 0)


def test_a_key_stays_on_its_lane_and_others_pass_it(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler, concurrency=2)
    rig.put(1, 2, key="slow")
    assert handler.entered.wait(5.0)
    for key in ("a", "b", "c", "d"):  # one of them is on the other lane
        rig.put(3, key=key)
    wait_until(lambda: 3 in handler.handled)
    assert 2 not in handler.handled


def test_without_keys_the_lanes_take_turns(make: Make) -> None:
    barrier = threading.Barrier(3)
    rig = make(lambda delivery: barrier.wait(5.0) and None, concurrency=3)
    rig.put(1, 2, 3, key=None)
    assert rig.lanes.finish(5.0) == ()
    assert sorted(rig.acknowledged) == [1, 2, 3]


def test_keys_may_be_bytes_that_are_no_text() -> None:
    assert lane_of("k", 7) == lane_of(b"k", 7)
    assert 0 <= lane_of(b"\xff\xfe", 3) < 3
    one = Delivery("t", b"", key="k")
    assert lane_key(one) in ("k", b"k")


def test_full_lanes_say_so_and_ask_for_more_at_half(make: Make) -> None:
    slots = threading.Semaphore(0)
    rig = make(lambda delivery: slots.acquire(timeout=20.0) and None, high=10)
    assert rig.put(*range(9))
    assert not rig.put(9)
    assert not rig.put()
    slots.release(10)
    wait_until(lambda: rig.room == 1)
    assert rig.put()
    assert rig.lanes.finish(5.0) == ()
    assert rig.room == 1


def test_bytes_fill_the_lanes_too(make: Make, gate: threading.Event) -> None:
    rig = make(Blocking(gate, 1), high_bytes=1000)
    large = Delivery("t", bytes(1000), key="k")
    large.token = 1
    assert not rig.lanes.put([large], rig.lease)
    gate.set()
    wait_until(lambda: rig.room == 1)
    assert rig.lanes.size == 0


def test_bytes_of_all_subscriptions_together_fill_each(make: Make, gate: threading.Event) -> None:
    budget = Budget(1000)
    one, other = make(Blocking(gate, 1), budget=budget), make(budget=budget)
    large = Delivery("t", bytes(1000), key="k")
    large.token = 1
    assert not one.lanes.put([large], one.lease)
    assert not other.put(2)
    wait_until(lambda: other.acknowledged == [2])
    wait_until(lambda: other.room == 1)  # with nothing in hand it may have one, whatever the others have
    assert other.lanes.room == 1 and other.lanes.room_bytes == 0
    gate.set()
    wait_until(lambda: one.lanes.room_bytes > 0)


def test_bytes_are_asked_for_by_half_of_what_is_free_and_by_shares(make: Make, gate: threading.Event) -> None:
    rig = make(Blocking(gate, 1), high_bytes=8000, budget=Budget(10_000, lambda: 4))
    assert rig.lanes.room_bytes == 2500
    large = Delivery("t", bytes(6000), key="k")
    large.token = 1
    assert not rig.lanes.wait_for_room()
    assert rig.lanes.put([large], rig.lease)
    assert rig.lanes.room_bytes == 1000
    assert rig.lanes.wait_for_room()
    gate.set()
    wait_until(lambda: rig.room == 1)


def test_a_subscription_whose_bytes_all_wait_for_a_retry_is_stuck(make: Make) -> None:
    def fail(delivery: Any) -> None:
        raise RuntimeError("poison")

    rig = make(fail, high_bytes=1000)
    large = Delivery("t", bytes(1000), key="k")
    large.token = 1
    assert not rig.lanes.is_stuck
    assert not rig.lanes.put([large], rig.lease)
    wait_until(lambda: rig.lanes.is_stuck)


# -- acknowledging -------------------------------------------------------------------------------


def test_what_is_done_is_acknowledged_while_the_next_handler_runs(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 4)
    rig = make(handler)
    rig.put(1, 2, 3, 4)
    assert handler.entered.wait(5.0)
    wait_until(lambda: rig.acknowledged == [1, 2, 3], 1.0)
    assert rig.lanes.backlog == 1
    gate.set()
    wait_until(lambda: rig.acknowledged == [1, 2, 3, 4])


def test_so_it_is_after_a_long_rest(make: Make, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.consuming.acknowledgements.GO_ON", 0.02)
    handler = Blocking(gate, 3)
    rig = make(handler)
    rig.put(1)
    wait_until(lambda: rig.acknowledgements.asleep)
    rig.put(2, 3)
    wait_until(lambda: rig.acknowledged == [1, 2], 1.0)


def test_the_backlog_counts_what_is_not_handled_and_no_more(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 3)
    rig = make(handler)
    rig.put(1, 2, 3, 4, 5)
    assert handler.entered.wait(5.0)
    assert rig.lanes.backlog == rig.lanes.unhandled == 3


def test_a_failing_acknowledgement_keeps_nothing_in_hand_and_the_lane_goes_on(make: Make) -> None:
    """What stayed in hand would be renewed for ever and never come again."""
    rig = make()
    rig.failures.append(OSError("the link broke"))
    rig.put(1, 2)
    wait_until(lambda: rig.dropped_ones == [1, 2])
    rig.put(3)
    wait_until(lambda: rig.acknowledged == [3])
    wait_until(lambda: rig.lanes.backlog == 0)


# -- failing handlers ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_fails_in_any_way_is_called_again_and_the_lane_lives(
    make: Make, error: type[BaseException]
) -> None:
    handler = Failing(2, times=3, error=error)
    rig = make(handler)
    rig.put(1, 2, 3)
    wait_until(lambda: rig.acknowledged == [1, 2, 3])
    assert handler.tries == [1, 2, 2, 2, 2, 3]
    assert [type(one) for one in rig.errors] == [error] * 3
    assert rig.pauses == [0.01, 0.02, 0.04]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_retry_parks_its_key_and_all_others_go_on(make: Make, concurrency: int) -> None:
    handler = Failing(1)
    rig = make(handler, concurrency=concurrency)
    rig.put(1, 2, key="bad")
    rig.put(3, 4, key="good")
    rig.put(5, 6, key=None)
    rig.put(7, key="bad")
    wait_until(lambda: sorted(handler.handled) == [3, 4, 5, 6])
    assert rig.lanes.backlog == 3
    handler.left.clear()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert [one for one in handler.handled if one in (1, 2, 7)] == [1, 2, 7]
    assert rig.lanes.size == 0


def test_without_a_key_a_retry_parks_its_message_alone(make: Make) -> None:
    handler = Failing(1)
    rig = make(handler)
    rig.put(1, 2, 3, key=None)
    wait_until(lambda: rig.acknowledged == [2, 3])
    assert rig.lanes.backlog == 1
    handler.left.clear()
    wait_until(lambda: rig.acknowledged == [2, 3, 1])


def test_what_is_parked_does_not_fill_the_lanes(make: Make) -> None:
    handler = Failing(*range(10))
    rig = make(handler, high=10)
    assert not rig.put(*range(10))
    wait_until(lambda: rig.room >= 1)
    assert rig.put(10, key="other")
    wait_until(lambda: handler.handled == [10])


def test_a_returned_coroutine_is_a_failure_and_closed(make: Make) -> None:
    async def coroutine() -> None: ...

    made = []

    def handler(delivery: Delivery) -> object:
        if len(made) < 2:
            made.append(coroutine() if made else (one for one in "x"))
            return made[-1]
        return None

    rig = make(handler)
    rig.put(1)
    wait_until(lambda: rig.acknowledged == [1])
    assert ["generator" in str(error) or "coroutine" in str(error) for error in rig.errors] == [True, True]
    assert all(isinstance(error, TypeError) for error in rig.errors)


# -- a lane that stands still --------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "MOVES_AFTER", 0.05)
    monkeypatch.setattr(lanes_module, "GIVES_BACK_AFTER", 0.05)
    monkeypatch.setattr(lane_queue_module, "WAITING", 4)


@pytest.mark.usefixtures("impatient")
def test_what_is_too_much_for_a_lane_that_stands_still_is_given_back(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler, takes_back=True)
    rig.put(1, key="slow")
    assert handler.entered.wait(5.0)
    rig.put(2, 3, key="a")
    rig.put(4, key="slow")
    rig.lanes.put([*batch(5, key=None), *batch(6, key="b"), *batch(7, key="a"), *batch(8, key="slow")], rig.lease)
    wait_until(lambda: rig.returned == [5, 6], 2.0)
    assert not rig.put(), "while all lanes stand still no more is wanted"
    rig.put(9, key="c")
    wait_until(lambda: rig.returned == [5, 6, 9], 2.0)
    assert rig.delays == [1.0, 2.0]
    assert rig.lanes.backlog == 6
    gate.set()
    wait_until(lambda: rig.room >= 1)
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled == [1, 4, 8, 2, 3, 7]
    assert (rig.lanes.size, rig.dropped_ones) == (0, [])


@pytest.mark.usefixtures("impatient")
def test_where_nothing_is_taken_back_it_is_kept(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.put(*range(1, 20), key=None)
    assert handler.entered.wait(5.0)
    rig.put(*range(20, 40), key=None)
    assert not gate.wait(0.2)
    assert rig.returned == []
    gate.set()
    wait_until(lambda: handler.handled == list(range(1, 40)))


KEYS = [f"k{number}" for number in range(40)]


def of_lane(lane: int, lanes: int) -> list[str]:
    return [key for key in KEYS if lane_of(key, lanes) == lane]


@pytest.mark.usefixtures("impatient")
def test_what_waits_for_one_lane_goes_through_the_others(make: Make, gate: threading.Event) -> None:
    """What was begun with the slow one, what was queued behind it, and what comes later; but for its own key."""
    slow, *others = of_lane(0, 3)
    handler = Blocking(gate, 0)
    rig = make(handler, concurrency=3)
    behind = [*batch(0, key=slow), *batch(1, key=others[0]), *batch(2, key=None), *batch(3, key=slow)]
    rig.lanes.put(behind, rig.lease)
    assert handler.entered.wait(5.0)
    rig.put(4, 5, key=others[1])
    rig.put(6, key=slow)
    wait_until(lambda: sorted(handler.handled) == [1, 2, 4, 5])
    for number in range(7, 27):
        rig.put(number, key=others[number % len(others)])
    wait_until(lambda: len(handler.handled) == 24)
    assert rig.lanes.backlog == 3, "the slow one and its key"
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled[24:] == [0, 3, 6]
    assert sorted(rig.acknowledged) == list(range(27))
    assert rig.lanes.size == 0


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_stays_with_a_lane_is_not_put_again_and_again(make: Make, gate: threading.Event, concurrency: int) -> None:
    handler = Blocking(gate, 0)
    rig = make(handler, concurrency=concurrency, high=1000, takes_back=True)
    for number in range(100):
        rig.put(number, key="slow")
    assert handler.entered.wait(5.0)
    assert not gate.wait(0.4)  # twenty looks
    assert max(len(lane._inbox) for lane in rig.lanes._lanes) < 110
    gate.set()
    wait_until(lambda: handler.handled == list(range(100)))
    assert rig.delays == [], "nothing was given back"


@pytest.mark.usefixtures("impatient")
def test_a_key_that_makes_a_detour_comes_back_in_order(make: Make) -> None:
    """Lanes stand still again and again, at random; each key's messages are handled once, in order."""
    chance = random.Random(5)
    slow_ones = set(chance.sample(range(3000), 12))
    handled: dict[str, list[int]] = {key: [] for key in KEYS}

    def handler(delivery: Delivery) -> None:
        if delivery.token in slow_ones:
            threading.Event().wait(0.15)
        assert delivery.key is not None
        handled[delivery.key].append(delivery.token)

    rig = make(handler, concurrency=4, high=100_000)
    numbers = iter(range(3000))
    put: dict[str, list[int]] = {key: [] for key in KEYS}
    while True:
        part = [(number, chance.choice(KEYS)) for number in itertools.islice(numbers, 7)]
        if not part:
            break
        for number, key in part:
            put[key].append(number)
        rig.lanes.put([one for number, key in part for one in batch(number, key=key)], rig.lease)
        if not part[0][0] % 100:
            threading.Event().wait(0.03)
    wait_until(lambda: rig.lanes.backlog == 0, 20.0)
    assert handled == put
    assert sorted(rig.acknowledged) == list(range(3000))
    assert rig.lanes.size == 0
    wait_until(lambda: rig.lanes._routing.is_plain)


@pytest.mark.usefixtures("impatient")
def test_a_slow_retry_is_a_lane_that_stands_still_too(make: Make, gate: threading.Event) -> None:
    slow, other = of_lane(0, 2)[:2]
    tries = itertools.count()
    handled: list[int] = []

    def handler(delivery: Delivery) -> None:
        if delivery.token == 0:
            if not next(tries):
                raise ValueError("the first time")
            gate.wait(10.0)
        handled.append(delivery.token)

    rig = make(handler, concurrency=2)
    rig.put(0, key=slow)
    wait_until(lambda: next(tries) > 1, 5.0)
    rig.put(1, key=other)
    rig.put(2, key=slow)
    wait_until(lambda: handled == [1])
    gate.set()
    wait_until(lambda: handled == [1, 0, 2])


# -- leases --------------------------------------------------------------------------------------


def test_under_an_ended_lease_nothing_more_is_started(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.put(1, 2)
    rig.put(3)
    assert handler.entered.wait(5.0)
    rig.lease.end()
    rig.lease = Lease()
    rig.put(2, 3, 4)
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled == rig.acknowledged == [1, 2, 3, 4]
    assert rig.dropped_ones == [2, 3]


def test_one_that_ran_when_the_lease_ended_is_not_started_again(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.put(1, 2)
    assert handler.entered.wait(5.0)
    rig.lease.end()
    rig.lease = Lease()
    rig.finished.add(1)  # by then
    rig.put(1, 2, 3, check=True)
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled == [1, 2, 3]


def test_what_one_lease_drops_is_no_concern_of_another(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.put(1, 2)
    other = Lease()
    rig.lanes.put(batch(10, 11), other)
    assert handler.entered.wait(5.0)
    rig.lease.end()
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled == [1, 10, 11]


def test_retries_end_at_once_with_the_lease(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Failing(1)
    rig = make(handler, retries=Pauses(60.0, 2.0, 60.0))
    rig.put(1, 2)
    rig.put(3, key="other")
    wait_until(lambda: handler.handled == [3])
    rig.lease.end()
    wait_until(lambda: rig.dropped_ones == [1, 2], 2.0)
    assert (rig.lanes.backlog, rig.lanes.size) == (0, 0)
    rig.lease = Lease()
    handler.left.clear()
    rig.put(1, 2)
    wait_until(lambda: handler.handled == [3, 1, 2], 2.0)


def test_a_failure_of_one_that_is_not_ours_any_more_is_not_tried_again(make: Make, gate: threading.Event) -> None:
    entered = threading.Event()

    def handler(delivery: Delivery) -> None:
        entered.set()
        assert gate.wait(20.0)
        raise ValueError

    rig = make(handler)
    rig.put(1)
    assert entered.wait(5.0)
    rig.lease.end()
    gate.set()
    wait_until(lambda: rig.dropped_ones == [1])
    assert rig.lanes.backlog == 0


# -- pausing -------------------------------------------------------------------------------------


def test_a_pause_keeps_what_was_fetched_and_its_order(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.put(1, 2, 3)
    assert handler.entered.wait(5.0)
    rig.lanes.pause()
    assert not rig.put(4)
    gate.set()
    wait_until(lambda: rig.acknowledged == [1])
    assert not rig.put(5)
    assert rig.lanes.backlog == 4
    rig.lanes.resume()
    wait_until(lambda: rig.acknowledged == [1, 2, 3, 4, 5])
    wait_until(lambda: rig.room)
    assert rig.put(6)


# -- the end -------------------------------------------------------------------------------------


def test_at_the_end_what_fails_is_given_back_and_counted(make: Make) -> None:
    handler = Failing(2)
    rig = make(handler)
    rig.put(1, 2, 3)
    rig.put(4, key="other")
    rig.lanes.begin_finish()
    assert rig.lanes.finish(5.0) == ()
    assert (sorted(rig.acknowledged), rig.dropped_ones) == ([1, 4], [2, 3])
    assert (rig.lanes.backlog, rig.lanes.unhandled) == (0, 2)
    assert rig.lanes.handed_over == 0, "one was tried, and the other one waits for it"


@pytest.mark.parametrize("batch", [None, BatchLimits(1, 10.0)])
def test_what_no_handler_was_started_for_is_counted_apart(
    make: Make, gate: threading.Event, batch: BatchLimits | None
) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler if batch is None else lambda many: handler(many[0]), batch=batch)  # type: ignore[index]
    rig.put(1, 2)
    rig.put(3)
    assert handler.entered.wait(5.0)
    rig.lanes.begin_finish()
    rig.lanes.start_no_more()
    gate.set()
    assert rig.lanes.stop(5.0) == ()
    assert (rig.acknowledged, rig.dropped_ones) == ([1], [2, 3])
    assert (rig.lanes.unhandled, rig.lanes.handed_over) == (2, 2)


def test_stop_starts_nothing_more_and_names_what_runs(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.put(1, 2)
    rig.put(3)
    assert handler.entered.wait(5.0)
    assert rig.lanes.stop(0.05) == ("eventbus.test.lane-0",)
    gate.set()
    assert rig.lanes.stop(5.0) == ()
    assert (rig.acknowledged, rig.dropped_ones, rig.lanes.backlog) == ([1], [2, 3], 0)
    assert rig.lanes.unhandled == 0, "what an unsubscribe gives back is not counted"


def test_what_comes_after_the_end_is_dropped_not_forgotten(make: Make) -> None:
    rig = make()
    rig.put(1)
    assert rig.lanes.finish(5.0) == ()
    assert not rig.put(2, 3)
    assert (rig.dropped_ones, rig.lanes.backlog) == ([2, 3], 0)


def test_many_failing_keys_cost_no_more_each(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [0]

    class Counted(parked_module.ParkedKey):
        @property
        def due(self) -> float:  # type: ignore[override]
            looks[0] += 1
            return self._due

        @due.setter
        def due(self, at: float) -> None:
            self._due = at

    monkeypatch.setattr(parked_module, "ParkedKey", Counted)
    done = threading.Event()

    def handler(delivery: Delivery) -> None:
        if delivery.token < 1000:
            raise ValueError
        done.set()

    rig = make(handler, high=10_000, retries=Pauses(60.0, 1.0, 60.0))
    for number in range(1001):
        rig.put(number, key=f"k{number}")
    assert done.wait(20.0)
    assert looks[0] <= 10 * 1000


def test_what_fails_again_and_again_leaves_room_for_all_else(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def handler(delivery: Delivery) -> None:
        if delivery.token < 50:
            raise ValueError
        done.set()

    rig = make(handler, retries=Pauses(0.0, 1.0, 0.0))
    for number in range(50):
        rig.put(number, key=f"k{number}")
    wait_until(lambda: len(rig.errors) > 200)
    rig.put(50, key="good")
    assert done.wait(5.0)


def test_a_stop_drops_at_once_what_no_handler_was_started_for(make: Make, gate: threading.Event) -> None:
    handler = Blocking(gate, 1)
    rig = make(handler)
    rig.lanes.put([*batch(1, key="a"), *batch(2, key="b"), *batch(3, key="a"), *batch(4, key=None)], rig.lease)
    rig.put(5, key="a")
    rig.put(6, key="c")
    assert handler.entered.wait(5.0)
    assert rig.lanes.stop(0.0) != ()
    assert rig.dropped_ones == [2, 4, 6], "all but those that keep their order behind the one that runs"
    assert rig.lanes.backlog == 3
    gate.set()
    assert rig.lanes.stop(5.0) == ()
    assert (handler.handled, rig.acknowledged) == ([1], [1])
    assert rig.dropped_ones == [2, 4, 6, 3, 5]
    assert (rig.lanes.backlog, rig.lanes.size, rig.lanes.is_idle) == (0, 0, True)


@pytest.mark.parametrize("started", [0, 1])
def test_without_a_thread_messages_are_given_back_and_asked_for_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    monkeypatch.setattr(lanes_module, "START_AGAIN", 0.05)
    spawn, left = lanes_module.spawn, [started]

    def starts(name: str, target: Callable[[], object]) -> threading.Thread:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return spawn(name, target)

    monkeypatch.setattr(lanes_module, "spawn", starts)
    rig = make(concurrency=2)
    assert not rig.put(1, 2, key=None)
    assert (rig.returned, rig.lanes.backlog, rig.lanes.size) == ([1, 2], 0, 0)
    wait_until(lambda: rig.room == 1)
    left[0] = 2
    assert rig.put(1, 2, key=None)
    wait_until(lambda: sorted(rig.acknowledged) == [1, 2])


def test_without_anybody_to_ask_later_messages_may_come_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(acknowledgements_module, "spawn", fails)
        rig = make()
        assert rig.put(1)
        assert rig.returned == [1]
    assert rig.put(1)
    wait_until(lambda: rig.acknowledged == [1])


def test_a_dead_letter_that_is_answered_behind_the_end_is_what_its_answer_says(make: Make) -> None:
    rig = make(Failing(1, 2, 3))
    rig.verdicts = [Verdict(Next.LEAVE, 0.0) for _ in range(3)]
    rig.put(1, 4, key="a")
    rig.put(2, key="b")
    rig.put(3, key="c")
    wait_until(lambda: len(rig.letters) == 3)
    (_, _, stored), (_, _, refused), (_, _, answered_in_time) = rig.letters
    answered_in_time(None)
    wait_until(lambda: rig.acknowledged == [3])
    assert rig.lanes.finish(5.0) == ()
    assert (rig.dropped_ones, rig.lanes.unhandled) == ([4], 2), "only what waited behind it is given up"
    stored(None)
    refused(ValueError("no broker"))
    assert (rig.acknowledged, rig.dropped_ones, rig.lanes.is_idle) == ([3, 1], [4, 2], True)
