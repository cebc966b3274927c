"""Several ways at once: the first that gets there wins, none is cut off early, and nothing of the others is left."""

from __future__ import annotations

import threading
import time

import pytest

from eventbus.backends.nats.link import race as race_module
from eventbus.backends.nats.link.race import Race
from eventbus.testing import wait_until
from eventbus.threads import Deadline, Stopped, StopToken


@pytest.fixture
def given_back() -> list[str]:
    return []


@pytest.fixture
def race(given_back: list[str], monkeypatch: pytest.MonkeyPatch) -> Race[str]:
    monkeypatch.setattr(race_module, "STAGGER", 0.05)
    return Race("eventbus.test-race", given_back.append)


def hanging(stop: StopToken) -> str:
    stop.wait(20.0)
    raise TimeoutError("hung")


def failing(stop: StopToken) -> str:
    raise ConnectionRefusedError("refused")


def test_the_first_that_gets_there_wins_and_those_that_hang_end(race: Race[str]) -> None:
    started = time.monotonic()
    race.add([hanging, hanging, lambda stop: "third"])
    assert race.run(Deadline(5.0), StopToken()) == ("third", [])
    assert time.monotonic() - started < 2.0
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "eventbus.test-race"])


def test_a_failure_starts_the_next_one_at_once_and_all_are_told(race: Race[str]) -> None:
    race.add([failing] * 3)
    prize, failures = race.run(Deadline(5.0), StopToken())
    assert (prize, [str(error) for error in failures]) == (None, ["refused"] * 3)


def test_a_slow_one_may_still_win(race: Race[str]) -> None:
    def slow(stop: StopToken) -> str:
        stop.wait(0.3)
        return "slow"

    race.add([slow, hanging])
    assert race.run(Deadline(5.0), StopToken()) == ("slow", [])


def test_what_comes_too_late_is_given_back(race: Race[str], given_back: list[str]) -> None:
    released = threading.Event()

    def late(stop: StopToken) -> str:
        released.wait(5.0)
        return "late"

    race.add([late, lambda stop: "first"])
    assert race.run(Deadline(5.0), StopToken()) == ("first", [])
    released.set()
    wait_until(lambda: given_back == ["late"])


def test_ways_that_are_found_on_the_way_are_tried_first(race: Race[str]) -> None:
    def finds(stop: StopToken) -> str:
        race.add([lambda stop: "found"])
        raise ConnectionRefusedError("the first address")

    race.add([finds, hanging])
    assert race.run(Deadline(5.0), StopToken())[0] == "found"


def test_a_stop_ends_it_at_once(race: Race[str]) -> None:
    stop = StopToken()
    threading.Timer(0.05, stop.set).start()
    race.add([hanging] * 3)
    started = time.monotonic()
    with pytest.raises(Stopped):
        race.run(Deadline(20.0), stop)
    assert time.monotonic() - started < 2.0


def test_the_deadline_ends_it(race: Race[str]) -> None:
    race.add([hanging])
    assert race.run(Deadline(0.1), StopToken()) == (None, [])
