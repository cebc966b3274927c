"""What is done in a forked child is done to its end, whatever signals arrive meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventbus import forks
from eventbus.forks import take_all


def step(taken: list[str], name: str, *errors: BaseException) -> Callable[[], None]:
    """One that is ended by these, one at a time."""
    left = list(errors)

    def take() -> None:
        taken.append(name)
        if left:
            raise left.pop(0)

    return take


@pytest.mark.parametrize("interrupts", [1, 2, 3])
def test_a_step_that_is_interrupted_is_taken_again_and_the_others_are_taken(interrupts: int) -> None:
    taken: list[str] = []
    raised = [KeyboardInterrupt(number) for number in range(interrupts)]
    with pytest.raises(KeyboardInterrupt) as caught:
        take_all(iter([step(taken, "a"), step(taken, "b", *raised), step(taken, "c"), step(taken, "d")]))
    assert caught.value is raised[-1]
    assert taken == ["a", *["b"] * (interrupts + 1), "c", "d"]


def test_one_that_ends_itself_each_time_does_not_hold_up_the_others() -> None:
    taken: list[str] = []

    def end() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        take_all([end, step(taken, "a")])
    assert taken == ["a"]


def test_one_that_fails_is_told_and_not_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[str] = []
    take_all([step(taken, "a", ValueError("a bug")), step(taken, "b", KeyError("b")), step(taken, "c")])
    assert taken == ["a", "b", "c"]
    assert "a bug" in caplog.text
    taken.clear()
    with pytest.raises(KeyboardInterrupt):
        take_all([step(taken, "a", KeyboardInterrupt(), ValueError("behind it")), step(taken, "b")])
    assert taken == ["a", "a", "b"]


def test_what_is_begun_anew_is_not_begun_once_more_because_one_step_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(forks, "_letting_go", [step(taken, "let go")])
    monkeypatch.setattr(forks, "_beginning", [])
    steps = [step(taken, "begin"), step(taken, "go on", KeyboardInterrupt()), step(taken, "the last")]
    forks.begin_in_child(lambda: steps)
    with pytest.raises(KeyboardInterrupt):
        forks._after_fork_in_child()
    assert taken == ["let go", "begin", "go on", "go on", "the last"]
