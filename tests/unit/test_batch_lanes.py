"""Lanes whose handler takes batches: what they gather is never lost, started twice, or overtaken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from test_lanes import Rig, batch

from eventbus.consuming.arguments import Arguments
from eventbus.consuming.batch_lane import BatchLimits
from eventbus.consuming.batches import Batch
from eventbus.errors import BatchError
from eventbus.testing import wait_until


class Keeper:
    """A batch handler that waits where it is told to."""

    def __init__(self, *stops: int) -> None:
        self.stops = set(stops)
        self.got: list[list[int]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.errors: dict[int, BaseException] = {}

    def __call__(self, batch: Batch) -> None:
        numbers = [int(one.text()) for one in batch]
        self.got.append(numbers)
        if self.stops & set(numbers):
            self.entered.set()
            assert self.gate.wait(20.0)
        if any(number in self.errors for number in numbers):
            raise BatchError({place: self.errors[one] for place, one in enumerate(numbers) if one in self.errors})


@pytest.fixture
def make() -> Iterator[Any]:
    rigs: list[tuple[Rig, Keeper]] = []

    def made(size: int, seconds: float, *stops: int, **options: Any) -> tuple[Rig, Keeper]:
        keeper = Keeper(*stops)
        rigs.append((Rig(keeper, batch=BatchLimits(size, seconds), **options), keeper))  # type: ignore[arg-type]
        return rigs[-1]

    yield made
    for rig, keeper in rigs:
        keeper.gate.set()
        rig.end()


def test_it_waits_for_a_full_batch_and_no_longer_than_it_may(make: Any) -> None:
    rig, keeper = make(3, 60.0)
    rig.put(1, 2)
    rig.put(3, 4)
    wait_until(lambda: rig.acknowledged == [1, 2, 3])
    assert (keeper.got, rig.lanes.backlog) == ([[1, 2, 3]], 1)
    rig.put(5, 6, 7)
    wait_until(lambda: rig.acknowledged == [1, 2, 3, 4, 5, 6])
    other, short = make(3, 0.01)
    other.put(1)
    wait_until(lambda: other.acknowledged == [1])
    assert short.got == [[1]]


def test_full_lanes_wait_for_no_more(make: Any) -> None:
    rig, keeper = make(1000, 60.0, high=10)
    rig.put(*range(10))
    wait_until(lambda: rig.acknowledged == list(range(10)))
    assert keeper.got == [list(range(10))]


def test_full_lanes_take_what_is_there_already(make: Any) -> None:
    rig, keeper = make(4, 60.0, 1, high=6)
    rig.put(1, 2, 3, 4)
    assert keeper.entered.wait(5.0)
    rig.put(5, 6)
    assert not rig.put(7, 8)
    keeper.gate.set()
    wait_until(lambda: rig.acknowledged == list(range(1, 9)))
    assert keeper.got == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_the_end_handles_what_is_there(make: Any) -> None:
    rig, keeper = make(4, 60.0, 1)
    rig.put(1, 2, 3, 4, 5, 6)
    assert keeper.entered.wait(5.0)
    rig.put(7)
    keeper.gate.set()
    assert rig.lanes.finish(5.0) == ()
    assert rig.acknowledged == [1, 2, 3, 4, 5, 6, 7]
    assert keeper.got == [[1, 2, 3, 4], [5, 6, 7]]


def test_a_stop_drops_what_no_handler_was_started_for(make: Any) -> None:
    rig, keeper = make(2, 60.0, 1)
    rig.put(1, 2, 3)
    rig.put(4)
    assert keeper.entered.wait(5.0)
    rig.put(5)
    assert rig.lanes.stop(0.0) != ()
    keeper.gate.set()
    assert rig.lanes.stop(5.0) == ()
    assert rig.acknowledged == [1, 2]
    assert sorted(rig.dropped_ones) == [3, 4, 5]
    assert rig.lanes.is_idle


def test_a_pause_keeps_what_was_gathered(make: Any) -> None:
    rig, keeper = make(3, 0.01)
    rig.lanes.pause()
    rig.put(1, 2)
    rig.put(3, 4)
    wait_until(lambda: rig.lanes.backlog == 4)
    assert not keeper.got
    rig.lanes.resume()
    wait_until(lambda: rig.acknowledged == [1, 2, 3, 4])


def test_what_is_not_ours_any_more_is_in_no_batch(make: Any) -> None:
    rig, keeper = make(3, 60.0)
    rig.put(1, 2)
    first, rig.lease = rig.lease, type(rig.lease)()
    first.end()
    rig.put(3)
    wait_until(lambda: rig.dropped_ones == [1, 2])
    wait_until(lambda: rig.acknowledged == [3])
    assert keeper.got == [[3]]


def test_a_parked_key_stays_out_of_the_next_batches(make: Any) -> None:
    rig, keeper = make(2, 0.01)
    keeper.errors = {1: ValueError("not yet")}
    rig.lanes.put([*batch(1, key="a"), *batch(2, key="b")], rig.lease)
    wait_until(lambda: len(rig.errors) >= 2)
    rig.lanes.put([*batch(3, key="a"), *batch(4, key="b")], rig.lease)
    wait_until(lambda: rig.acknowledged == [2, 4])
    keeper.errors = {}
    wait_until(lambda: rig.acknowledged == [2, 4, 1, 3])


def test_a_handler_that_names_what_is_not_there_has_failed_whole(make: Any) -> None:
    rig, _ = make(2, 0.01)
    seen: list[int] = []

    def handler(given: Batch) -> None:
        seen.append(len(given))
        if len(given) > 1:
            raise BatchError({7: ValueError("which one?")})

    for lane in rig.lanes._lanes:
        lane._batch_handler.handler = handler
        lane._batch_handler._links = None
    rig.put(1, 2)
    wait_until(lambda: rig.acknowledged == [1, 2])
    assert seen == [2, 1, 1]
    assert "has 2 messages" in str(rig.errors[0])


def test_keys_of_a_batch_that_stands_still_are_overtaken_by_nothing(make: Any) -> None:
    rig, keeper = make(2, 0.0, 1, concurrency=2)
    rig.lanes.put(batch(1, 2, key="a"), rig.lease)
    assert keeper.entered.wait(5.0)
    rig.lanes.put(batch(*range(3, 30), key="a"), rig.lease)
    for name in "bcdefgh":
        rig.lanes.put(batch(100 + ord(name), key=name), rig.lease)
    wait_until(lambda: {100 + ord(name) for name in "bcdefgh"} <= set(rig.acknowledged))
    assert not {1, 2, *range(3, 30)} & set(rig.acknowledged)
    keeper.gate.set()
    wait_until(lambda: [one for one in rig.acknowledged if one < 100] == list(range(1, 30)))


@pytest.mark.parametrize("told", ["claims", "done"])
def test_keys_of_a_batch_stay_before_and_behind_its_handler_too(
    make: Any, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """What has failed holds its key before anything of it may go elsewhere."""
    rig, keeper = make(2, 0.0)
    keeper.errors[2] = ValueError("once")
    lane, tell, taken = rig.lanes._lanes[0], getattr(rig, told), []

    def look(given: Any) -> Any:
        taken.extend(lane.take_back())
        keeper.errors.clear()
        return tell(given)

    monkeypatch.setattr(rig, told, look)
    rig.lanes.put([*batch(1, key="a"), *batch(2, key="b"), *batch(3, key="b")], rig.lease, check=True)
    wait_until(lambda: rig.acknowledged == [1, 2, 3] or taken)
    assert taken == []


@pytest.mark.parametrize(
    "given", [3, (0, 1.0), (1.5, 1.0), (True, 1), (5, -1), (5, "x"), (5,), (5, float("inf")), "ab"]
)
def test_wrong_limits_are_refused_at_the_door(given: object) -> None:
    with pytest.raises(ValueError, match="batch"):
        Arguments("t", print, batch=given).check()


@pytest.mark.parametrize("given", [3, {0: "no error"}, {"0": ValueError()}])
def test_a_batch_error_takes_places_and_exceptions(given: Any) -> None:
    with pytest.raises(TypeError, match="places"):
        BatchError(given)


class Odd(BatchError):
    def __init__(self) -> None:
        pass


def test_a_batch_error_that_names_nothing_is_a_success_alone_as_in_a_batch(make: Any) -> None:
    rig, _ = make(2, 0.01)
    failed: list[int] = []

    def handler(given: Batch) -> None:
        if len(given) > 1 and not failed:
            failed.append(1)
            raise BatchError({0: ValueError("not yet")})
        raise Odd if len(failed) % 2 else BatchError({})

    for lane in rig.lanes._lanes:
        lane._batch_handler.handler = handler
        lane._batch_handler._links = None
    rig.put(1, 2)
    wait_until(lambda: sorted(rig.acknowledged) == [1, 2])


def test_bytes_are_none_when_what_came_again_was_finished_already(make: Any) -> None:
    rig, _ = make(4, 0.01)
    rig.finished = {2, 3}
    rig.put(1, 2, 3, 4, check=True)
    wait_until(lambda: rig.acknowledged == [1, 4])
    wait_until(lambda: rig.lanes.is_idle)
    assert rig.lanes.size == 0


def test_a_wait_without_end_ends_no_lane(make: Any) -> None:
    rig, _ = make(2, 1e10)
    rig.put(1)
    rig.put(2)
    wait_until(lambda: rig.acknowledged == [1, 2])
