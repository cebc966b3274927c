"""`wait_until` returns what came true, in time, and says what did not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from eventbus.testing import wait_until


def test_it_returns_the_true_value_at_once() -> None:
    started = time.monotonic()
    assert wait_until(lambda: "here") == "here"
    assert time.monotonic() - started < 0.1


def test_it_sees_a_change_soon() -> None:
    answers: Iterator[object] = iter([0, None, "", [], 7])
    assert wait_until(lambda: next(answers), 5.0) == 7


def test_it_sees_what_another_thread_does() -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.set, name="eventbus.testing.setter", daemon=True)
    thread.start()
    assert wait_until(event.is_set, 5.0)
    thread.join(5.0)


def test_the_error_names_message_deadline_and_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the bus is up .*last answer 0"):
        wait_until(lambda: 0, 0.05, message="the bus is up")


def test_the_message_can_show_the_state_at_the_deadline() -> None:
    seen: list[int] = []
    with pytest.raises(AssertionError, match=r"asked \d+ times"):
        wait_until(lambda: seen.append(1), 0.05, message=lambda: f"asked {len(seen)} times")
    assert len(seen) > 2


def test_without_a_message_the_condition_is_named() -> None:
    def the_cow_flies() -> bool:
        return False

    with pytest.raises(AssertionError, match="the_cow_flies"):
        wait_until(the_cow_flies, 0.01)


def test_a_timeout_of_zero_asks_once() -> None:
    asked: list[int] = []
    with pytest.raises(AssertionError):
        wait_until(lambda: asked.append(1), 0.0)
    assert asked == [1]


def test_an_error_of_the_condition_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0)
