"""Idle lanes take keys over from others, whole and in order; and those of one lane take turns."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from test_lanes import KEYS, Blocking, Failing, Make, Rig, batch, gate, make, of_lane

from eventbus.consuming import acknowledgements as acknowledgements_module
from eventbus.consuming import lanes as lanes_module
from eventbus.consuming import sharing as sharing_module
from eventbus.consuming.batch_lane import BatchLimits
from eventbus.consuming.dead_letters import Answered
from eventbus.consuming.lease import Lease
from eventbus.consuming.retries import Next, Tries, Verdict
from eventbus.consuming.routing import Routing
from eventbus.message import Delivery
from eventbus.testing import wait_until
from eventbus.threads import Pauses

__all__ = ["gate", "make"]

Share = Callable[[], None]


@pytest.fixture(autouse=True)
def share(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on what waits is shared soon; that a handler runs for long is no reason to move anything."""
    monkeypatch.setattr(sharing_module, "SHARED_AFTER", 1000.0)
    monkeypatch.setattr(lanes_module, "MOVES_AFTER", 1000.0)
    return lambda: monkeypatch.setattr(sharing_module, "SHARED_AFTER", 0.0)


# -- what goes, and what stays -------------------------------------------------------------------


def test_what_waits_behind_another_key_goes_to_idle_lanes(make: Make, gate: threading.Event, share: Share) -> None:
    slow, *others = of_lane(0, 3)
    handler = Blocking(gate, 0)
    rig = make(handler, concurrency=3)
    rig.lanes.put([*batch(0, key=slow), *batch(1, key=others[0]), *batch(2, key=None), *batch(3, key=slow)], rig.lease)
    rig.put(4, 5, key=others[1])
    rig.put(6, key=slow)
    assert handler.entered.wait(5.0)
    share()
    wait_until(lambda: sorted(handler.handled) == [1, 2, 4, 5])
    assert rig.lanes.backlog == 3, "the one that runs, and its key"
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled[4:] == [0, 3, 6]
    assert sorted(rig.acknowledged) == list(range(7))
    assert (rig.lanes.size, rig.lanes.is_idle) == (0, True)


def test_a_key_that_was_taken_over_stays_where_it_is_as_long_as_it_has_anything_in_hand(
    make: Make, gate: threading.Event, share: Share
) -> None:
    slow, other = of_lane(0, 2)[:2]
    handler = Blocking(gate, 0, 2)
    rig = make(handler, concurrency=2)
    rig.put(0, key=slow)
    assert handler.entered.wait(5.0)
    rig.put(1, 2, key=other)
    share()
    wait_until(lambda: handler.handled == [1])
    assert rig.lanes._routing.split_around(batch(3, key=other))[0][0] == 1
    gate.set()
    wait_until(lambda: rig.lanes.backlog == 0)
    assert handler.handled[1:] in ([0, 2], [2, 0])


def test_a_key_that_waits_for_its_retry_stays_with_all_that_is_behind_it(
    make: Make, gate: threading.Event, share: Share
) -> None:
    bad, slow, good = of_lane(0, 2)[:3]
    failing, blocking = Failing(0), Blocking(gate, 2)

    def handler(delivery: Delivery) -> None:
        failing(delivery)
        blocking(delivery)

    rig = make(handler, concurrency=2, retries=Pauses(1000.0, 1.0, 1000.0))
    rig.put(0, key=bad)
    wait_until(lambda: rig.errors)
    rig.lanes.put([*batch(2, key=slow), *batch(1, key=bad), *batch(3, key=good)], rig.lease)
    assert blocking.entered.wait(5.0)
    share()
    wait_until(lambda: blocking.handled == [3])
    assert rig.lanes._lanes[0].staying == {bad.encode(), slow.encode()}
    assert [one.token for one in rig.lanes._lanes[0].waiting(time.monotonic())] == [1]
    assert rig.lanes._lanes[1].is_idle


class Still:
    """A lane as it stands, for whoever looks."""

    def __init__(self, *waiting: tuple[str, int], staying: Sequence[str] = ()) -> None:
        self.is_idle = not (waiting or staying)
        self.staying = set(map(str.encode, staying))
        self._waiting = [one for key, count in waiting for one in batch(*range(count), key=key)]

    def waiting(self, before: float) -> list[Delivery]:
        return self._waiting


def shares_of(*lanes: Still) -> dict[int, dict[str, int]]:
    found, ways = sharing_module.Sharing(lanes).look(1.0)  # type: ignore[arg-type]
    assert not set(found) & set(ways)
    return {place: {key.decode(): to for key, to in given.items()} for place, given in found.items()}  # type: ignore[attr-defined]


def ways_of(*lanes: Still) -> dict[int, str]:
    found, ways = sharing_module.Sharing(lanes).look(1.0)  # type: ignore[arg-type]
    assert found == {}
    return {place: key.decode() for place, key in ways.items()}  # type: ignore[attr-defined]


def test_the_largest_of_what_waits_goes_to_whoever_has_least() -> None:
    laden = Still(("a", 50), ("b", 30), ("c", 15), ("d", 1), ("e", 1), staying=["x"])
    assert shares_of(laden, Still(), Still()) == {0: {"a": 1, "b": 2}}, "the rest waits for less where it is"
    assert shares_of(laden, Still(), Still(), Still()) == {0: {"a": 1, "b": 2, "c": 3}}
    assert shares_of(Still(), laden, Still(("f", 1), staying=["x"])) == {1: {"a": 0}}, "the laden one gives first"


def test_the_key_that_runs_stays_and_all_that_waits_for_it() -> None:
    assert shares_of(Still(("a", 50), staying=["a"]), Still()) == {}
    assert shares_of(Still(("a", 50), ("b", 2), staying=["a"]), Still()) == {0: {"b": 1}}
    assert shares_of(Still(("b", 50), staying=["a"]), Still()) == {0: {"b": 1}}, "it would wait for the one that runs"


def test_much_of_one_key_makes_way_for_what_waits_behind_it() -> None:
    busy = Still(staying=["x"])
    assert ways_of(Still(("a", 50), ("b", 1), staying=["a"]), busy) == {0: "a"}
    assert ways_of(Still(("a", 5), ("b", 50), staying=["a"]), busy) == {}, "it is nearly done"
    assert ways_of(Still(("a", 50), staying=["a"]), busy) == {}, "there is nothing else"
    assert ways_of(Still(("a", 50), ("b", 1), staying=["a"])) == {}, "one lane begins everything as it comes"


def test_keys_of_one_lane_take_turns(make: Make, gate: threading.Event, share: Share) -> None:
    one, other, *_ = of_lane(0, 2)
    blocking = Blocking(gate, 0)
    order: list[str | None] = []

    def handler(delivery: Delivery) -> None:
        blocking(delivery)
        order.append(delivery.key)
        threading.Event().wait(0.004)

    rig = make(handler, concurrency=2)
    rig.put(0, key=of_lane(1, 2)[0])
    assert blocking.entered.wait(5.0)
    share()
    rig.lanes.put([*batch(*range(1, 61), key=one), *batch(*range(61, 121), key=other)], rig.lease)
    wait_until(lambda: len(order) == 120)
    assert len(rig.lanes._lanes[0]._inbox) < 10, "what made way was told once"
    changes = sum(before != after for before, after in itertools.pairwise(order))
    assert changes >= 5
    assert blocking.handled != sorted(blocking.handled)
    for key, numbers in ((one, range(1, 61)), (other, range(61, 121))):
        assert [number for number in blocking.handled if number in numbers] == list(numbers), key


def test_messages_without_a_key_go_one_by_one() -> None:
    laden = Still(staying=["a"])
    laden._waiting = batch(*range(30), key=None)
    found = sharing_module.Sharing([laden, Still(), Still()]).look(1.0)[0][0]  # type: ignore[list-item]
    assert Counter(found.values()) == {1: 10, 2: 10}
    assert set(found) <= {id(one) for one in laden._waiting}


def test_a_batch_handler_keeps_what_waits(make: Make, gate: threading.Event, share: Share) -> None:
    """Elsewhere it would wait for a whole batch."""
    entered = threading.Event()

    def handler(many: Sequence[Delivery]) -> None:
        entered.set()
        assert gate.wait(20.0)

    rig = make(handler, concurrency=2, batch=BatchLimits(1, 60.0))
    slow, other = of_lane(0, 2)[:2]
    rig.put(0, key=slow)
    assert entered.wait(5.0)
    rig.put(1, key=other)
    share()
    rig.lanes.look(time.monotonic())
    assert rig.lanes._routing.is_plain


def test_a_look_through_much_is_followed_by_a_long_rest(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.01, 0.01, 0.01])
    monkeypatch.setattr(sharing_module.time, "thread_time", lambda: next(clock))
    looks: list[str] = []

    class Noting(Still):
        def __init__(self, name: str) -> None:
            super().__init__(staying=["x"])
            self.name = name

        def waiting(self, before: float) -> list[Delivery]:
            looks.append(self.name)
            return []

    sharing = sharing_module.Sharing([Noting("one"), Noting("other")])  # type: ignore[list-item]
    for now in (0.0, 0.1, 0.19, 0.21):
        sharing.look(now)
    assert looks == ["one", "other"] * 2


def test_what_was_handled_before_a_key_went_elsewhere_does_not_bring_it_back_early() -> None:
    """It may be acknowledged later than that: what came this way is told by itself, not by how much it is."""
    (key,) = of_lane(0, 2)[:1]
    routing = Routing(2)
    before, *rest = batch(0, 1, 2, 3, key=key)
    assert routing.split_around([before, *rest])[0][0] == 0
    assert routing.split_around(rest, {key.encode(): 1})[0][0] == 1
    routing.left([before])
    routing.left(rest[:2])
    more = batch(4, key=key)
    assert routing.split_around(more)[0][0] == 1
    routing.left([*rest[2:], *more])
    assert routing.is_plain
    assert routing.split_around(batch(5, key=key))[0][0] == 0


# -- the end -------------------------------------------------------------------------------------


def test_a_drain_in_the_middle_of_it_finishes_everything(
    make: Make, monkeypatch: pytest.MonkeyPatch, share: Share
) -> None:
    share()
    monkeypatch.setattr(acknowledgements_module, "LOOK_EVERY", 0.0005)
    keys = of_lane(0, 3)
    for _ in range(30):
        handled: dict[str, list[int]] = {key: [] for key in keys}

        def handler(one: Delivery, handled: dict[str, list[int]] = handled) -> None:
            threading.Event().wait(0.0005)
            handled[one.key or ""].append(one.token)

        rig = make(handler, concurrency=3)
        for number in range(40):
            rig.put(number, key=keys[number % len(keys)])
        wait_until(lambda rig=rig: not rig.lanes._routing.is_plain)
        assert rig.lanes.finish(10.0) == ()
        assert sorted(rig.acknowledged) == list(range(40))
        assert all(numbers == sorted(numbers) for numbers in handled.values())
        assert (rig.lanes.backlog, rig.lanes.size, rig.dropped_ones) == (0, 0, [])


def test_a_stop_in_the_middle_of_it_drops_the_rest_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, share: Share
) -> None:
    share()
    monkeypatch.setattr(acknowledgements_module, "LOOK_EVERY", 0.0005)
    keys = of_lane(0, 3)
    for _ in range(30):
        rig = make(lambda one: threading.Event().wait(0.0005) and None, concurrency=3)
        for number in range(40):
            rig.put(number, key=keys[number % len(keys)])
        wait_until(lambda rig=rig: not rig.lanes._routing.is_plain)
        assert rig.lanes.stop(10.0) == ()
        assert sorted([*rig.acknowledged, *rig.dropped_ones]) == list(range(40))
        assert (rig.lanes.backlog, rig.lanes.size) == (0, 0)


# -- random schedules ----------------------------------------------------------------------------


def test_lanes_that_share_all_the_time_keep_each_key_in_order(
    make: Make, monkeypatch: pytest.MonkeyPatch, share: Share
) -> None:
    """With threads: hundreds of times a key changes its lane while others fail and are tried again."""
    share()
    monkeypatch.setattr(acknowledgements_module, "LOOK_EVERY", 0.0002)
    monkeypatch.setattr(sharing_module, "REST", 0)
    monkeypatch.setattr(sharing_module, "MUCH", 2)
    keys, chance, shared = of_lane(1, 5), random.Random(7), Counter[int]()
    look = sharing_module.Sharing.look

    def counted(self: sharing_module.Sharing, now: float) -> tuple[sharing_module.Shares, sharing_module.Ways]:
        found = look(self, now)
        shared[0] += sum(map(len, found[0].values()))
        return found

    monkeypatch.setattr(sharing_module.Sharing, "look", counted)
    handled: dict[str, list[int]] = {key: [] for key in keys}
    fails = set(chance.sample(range(6000), 300))

    def handler(delivery: Delivery) -> None:
        if not delivery.token % 7:
            threading.Event().wait(0.001)
        if delivery.token in fails:
            fails.discard(delivery.token)
            raise ValueError("once")
        handled[delivery.key or ""].append(delivery.token)

    rig = make(handler, concurrency=5, high=100_000)
    put: dict[str, list[int]] = {key: [] for key in keys}
    for start in range(0, 6000, 6):
        numbers = [(number, chance.choice(keys)) for number in range(start, start + 6)]
        for number, key in numbers:
            put[key].append(number)
        rig.lanes.put([one for number, key in numbers for one in batch(number, key=key)], rig.lease)
        wait_until(lambda: rig.lanes.backlog < 100, 20.0)
    wait_until(lambda: rig.lanes.is_idle, 20.0)
    assert handled == put
    assert sorted(rig.acknowledged) == list(range(6000))
    assert rig.lanes.size == 0
    wait_until(lambda: rig.lanes._routing.is_plain)
    assert shared[0] > 100, "nothing was tried"


class Play(Rig):
    """Lanes whose threads are played by one: in the middle of a handler, or of what it tells, come steps of others.

    What comes is delivered again when its lease ends, as far as it is not acknowledged; without a key it may be
    handled twice then.
    """

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        super().__init__(self._run, chance.randint(2, 4), high=1 << 20, retries=Pauses(0.0, 1.0, 0.0))
        self.lanes._running = len(self.lanes._lanes)  # nobody starts them
        self.sharing, self.lanes._sharing = self.lanes._sharing, SimpleNamespace(look=self._found)  # type: ignore[assignment]
        self.keys = [*chance.sample(KEYS, chance.randint(2, 6)), None]
        self.count = chance.randint(10, 60)
        self.numbers = iter(range(self.count))
        self.key_of: dict[int, str | None] = {}
        self.unfinished: dict[int, None] = {}
        self.ends: Counter[int] = Counter()
        self.running: set[str] = set()
        self.at_work: set[int] = set()
        self.wrong: list[str] = []
        self.depth = self.shared = self.leases = 0
        self.ahead = 0.0
        self.looks = False

    def play(self) -> None:
        """To the end, and say whether it was well."""
        while len(self.ends) < self.count or not self.lanes.is_idle:
            self._step()
            assert not self.wrong, self.wrong
        self.lanes.look(time.monotonic())
        assert [one for one, ends in self.ends.items() if ends > 1 and self._comes_once(one)] == []
        assert (self.lanes.backlog, self.lanes.size, self.lanes._routing.is_plain) == (0, 0, True)

    def _comes_once(self, number: int) -> bool:
        return not self.leases or self.key_of[number] is not None

    def _step(self) -> None:
        """One of all that can happen."""
        kind = self.chance.random()
        if kind < 0.15:
            self._put()
        elif kind < 0.35:
            self._look()
        elif kind < 0.37:
            self.lanes.pause()
        elif kind < 0.4:
            self.lanes.resume()
        elif kind < 0.41:
            self._end_lease()
        elif kind < 0.45 and self.letters:
            _, _, answered = self.letters.pop(0)
            answered(OSError("no") if self.chance.random() < 0.3 else None)
        else:
            self._one_of(self.chance.randrange(len(self.lanes._lanes)))

    def _more(self) -> None:
        """Something of others comes in between."""
        if self.depth < 4:
            self.depth += 1
            for _ in range(self.chance.choice((0, 0, 1, 1, 2, 4))):
                self._step()
            self.depth -= 1

    def _put(self) -> None:
        numbers = list(itertools.islice(self.numbers, self.chance.randint(1, 6)))
        for number in numbers:
            self.key_of[number] = self.chance.choice(self.keys)
            self.unfinished[number] = None
        self._deliver(numbers)

    def _deliver(self, numbers: Sequence[int], check: bool = False) -> None:
        self.lanes.put([one for number in numbers for one in batch(number, key=self.key_of[number])], self.lease, check)

    def _look(self) -> None:
        """As the one thread does that looks."""
        if not self.looks:
            self.looks = True
            self.ahead += self.chance.choice((0.0, 0.0, 2000.0))  # handlers that run stand still
            self.lanes.look(time.monotonic() + 1.0 + self.ahead)
            self.looks = False

    def _found(self, now: float) -> tuple[sharing_module.Shares, sharing_module.Ways]:
        """Lanes get on before they give what was found."""
        found = self.sharing.look(now)
        self.shared += len(found[0]) + len(found[1])
        self._more()
        return found

    def _end_lease(self) -> None:
        self.lease.end()
        self.leases += 1
        self.lease = Lease()
        self._deliver(sorted(set(self.key_of).difference(self.acknowledged)), check=True)

    def _one_of(self, place: int) -> None:
        """A lane sees to what is next, unless it stands in the middle of it."""
        lane = self.lanes._lanes[place]
        if place in self.at_work:
            return
        if len(lane._inbox) == 0:  # it would wait
            lane.nudge()
        self.at_work.add(place)
        lane._one()
        self.at_work.discard(place)

    def _run(self, delivery: Delivery) -> None:
        number, key = delivery.token, delivery.key
        if number not in self.unfinished and self._comes_once(number):
            self.wrong.append(f"{number} of {key} comes after its end")
        first = next((one for one in self.unfinished if self.key_of[one] == key), number)
        if key is not None and (number != first or key in self.running):
            self.wrong.append(f"{number} of {key} runs beside {sorted(self.running)}, before {first}")
        self.running.add(key or "")
        self._more()
        self.running.discard(key or "")
        if self.chance.random() < 0.15:
            raise ValueError("not yet")
        self._end_of(number)

    def _end_of(self, number: int) -> None:
        self.ends[number] += 1
        self.unfinished.pop(number, None)

    def claims(self, delivery: Delivery) -> bool:
        self._more()
        self.lanes.flush()
        return delivery.token not in self.acknowledged

    def failed(self, delivery: Delivery, error: BaseException, tries: Tries, quiet: bool = False) -> Verdict:
        self._more()
        return Verdict(self.chance.choice((Next.AGAIN, Next.AGAIN, Next.LEAVE, Next.DROP)))

    def leave(self, delivery: Delivery, error: BaseException, attempts: int, answered: Answered) -> None:
        super().leave(delivery, error, attempts, answered)
        self._more()

    def left_behind(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            self._end_of(one.token)
        super().left_behind(deliveries)
        self._more()

    def done(self, deliveries: Sequence[Delivery]) -> None:
        super().done(deliveries)
        self._more()

    def dropped(self, deliveries: Sequence[Delivery], lease: Lease) -> None:
        super().dropped(deliveries, lease)
        self._more()


ROUNDS = 2000


@pytest.mark.parametrize("part", range(4))
def test_no_schedule_turns_a_key_round_or_loses_anything(
    part: int, monkeypatch: pytest.MonkeyPatch, share: Share
) -> None:
    """Keys fail, are parked, become dead letters, are paused, come again, and change lanes at any moment."""
    share()
    monkeypatch.setattr(sharing_module, "REST", 0)
    monkeypatch.setattr(sharing_module, "MUCH", 2)
    shared = 0
    for seed in range(part * ROUNDS // 4, (part + 1) * ROUNDS // 4):
        play = Play(seed)
        try:
            play.play()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        shared += play.shared
    assert shared > 1000, "nothing was tried"
