"""Every interleaving of a lane that works with another one that takes over what waits for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import pytest
from race_explorer import UNTIL_FOUND, explore

from eventbus.consuming.acknowledgements import Acknowledgements
from eventbus.consuming.budget import Budget
from eventbus.consuming.entries import Entry
from eventbus.consuming.lane import Lane
from eventbus.consuming.lanes import Lanes
from eventbus.consuming.lease import Lease
from eventbus.consuming.parked import lane_of
from eventbus.consuming.retries import Next, Tries, Verdict
from eventbus.message import Delivery

KEY = next(key for key in map(str, range(20)) if lane_of(key, 2) == 0)
"""Of the first of two lanes."""


class Shared:
    """Two lanes without threads: what waits for the first one goes over to the second one.

    batches: of one key. fails: numbers whose handler fails the first time.
    """

    lane: type[Lane] = Lane

    def __init__(self, batches: Sequence[Sequence[int]] = ((0, 1),), fails: Sequence[int] = ()) -> None:
        self.fails = set(fails)
        self.handled: list[int] = []
        self.acknowledged: list[int] = []
        self.lanes = Lanes(
            "eventbus.test.lane",
            2,
            self._handle,
            self,
            Acknowledgements("test"),
            100,
            1000,
            Budget(1000),  # type: ignore[arg-type]
        )
        self.lanes._lanes = [self.lane(self.lanes, self._handle, self) for _ in range(2)]  # type: ignore[arg-type]
        self.lanes._running, self.lease = 2, Lease()
        for numbers in batches:
            self.lanes.put([*map(made, numbers)], self.lease)

    def _handle(self, delivery: Delivery) -> None:
        if delivery.token in self.fails:
            self.fails.discard(delivery.token)
            raise ValueError("once")
        self.handled.append(delivery.token)

    # -- what lanes tell

    def failed(self, delivery: Delivery, error: BaseException, tries: Tries, quiet: bool = False) -> Verdict:
        return Verdict(Next.AGAIN, 1000.0)

    def done(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += [one.token for one in deliveries]

    def has_room(self) -> None: ...

    # -- the threads

    def work(self) -> None:
        """As the first lane's thread."""
        work_off(self.lanes._lanes[0])

    def take_over(self) -> None:
        """As the thread that looks."""
        self.lanes._move({}, {0: {KEY.encode(): 1}}, {})

    def take_over_and_work(self) -> None:
        """As that one and then the second lane's."""
        self.take_over()
        work_off(self.lanes._lanes[1])

    # -- what came of it

    def is_well(self) -> bool:
        """Each message is handled once, or behind what waits for its retry; in order; and nothing is left over."""
        for lane in self.lanes._lanes:
            work_off(lane)
            lane.flush()
        parked = [
            one.token for lane in self.lanes._lanes for key in lane._keys.waiting.values() for _, one, _ in key.messages
        ]
        return (
            [*self.handled, *parked] == [0, 1]
            and sorted(self.acknowledged) == self.handled
            and self.lanes.backlog == len(parked)
            and (bool(parked) or self.lanes._routing.is_plain)
        )


def made(number: int) -> Delivery:
    one = Delivery("t", b"x", key=KEY)
    one.identity = one.token = number
    return one


def work_off(lane: Lane) -> None:
    while len(lane._inbox):
        lane._one()


class CarelessLane(Lane):
    """Gives what waits without a look at what runs meanwhile."""

    def _cut_off(self) -> list[Entry] | None:
        entry, cut, end = self._entry, self._position + 1, self._cut
        self.held = set[Hashable](self._keys.waiting)
        if cut < end:
            self._cut = cut
        rest = entry.batch[cut:end]
        return [Entry(entry.lease, rest, len(rest), False, 0.0)] if rest else []


class CarelessShared(Shared):
    lane = CarelessLane


class HastyLane(Lane):
    """Has done with what has failed before its key is parked."""

    def _fail(self, entry: Entry, delivery: Delivery, error: BaseException, quiet: bool = False) -> None:
        self._pass_over(self._position + 1)
        super()._fail(entry, delivery, error, quiet)


class HastyShared(Shared):
    lane = HastyLane


def finds_a_race(setup: Callable[[], Shared], *workers: Callable[[Shared], object]) -> None:
    """The broken twin is seen: the exploration of the real thing could have failed."""
    with pytest.raises(AssertionError, match=r"Race condition|illegal move"):
        explore(setup, *workers, invariant=Shared.is_well, seconds=UNTIL_FOUND, preemptions=1)


def test_what_is_taken_over_while_its_lane_works_is_handled_once_and_in_order() -> None:
    workers = Shared.work, Shared.take_over_and_work
    explore(Shared, *workers, invariant=Shared.is_well, preemptions=1)
    finds_a_race(CarelessShared, *workers)


def test_what_waits_behind_a_failure_stays_with_it() -> None:
    def failing(kind: type[Shared]) -> Callable[[], Shared]:
        return lambda: kind([[0], [1]], fails=[0])

    workers = Shared.work, Shared.take_over
    explore(failing(Shared), *workers, invariant=Shared.is_well, preemptions=1)
    finds_a_race(failing(HastyShared), *workers)
