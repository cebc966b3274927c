"""A dead letter that is not answered keeps its message, and that is shown."""

from __future__ import annotations

import time
from typing import Any

import pytest

from eventbus.consuming.dead_letters import Answered, DeadLetters
from eventbus.consuming.failing import UNANSWERED_FOR, Failing, Plan
from eventbus.consuming.subscriptions import Subscription
from eventbus.errors import PublishRejectedError
from eventbus.message import Delivery
from eventbus.names import OUR_NAMES
from eventbus.state import ErrorEvent


class Letterbox:
    """Keeps what is put into it, and says nothing until it is told to."""

    def __init__(self) -> None:
        self.answered: list[Answered] = []
        self.cause = ""

    def __call__(self, *letter: Any) -> Any:
        self.answered.append(letter[-1])
        return lambda: self.cause


@pytest.fixture
def letterbox() -> Letterbox:
    return Letterbox()


@pytest.fixture
def told() -> list[ErrorEvent]:
    return []


@pytest.fixture
def failing(letterbox: Letterbox, told: list[ErrorEvent]) -> Failing:
    sub = Subscription("t", group="g", concurrency=1, start="earliest")
    plan = Plan(dead_letters=DeadLetters("g", None, OUR_NAMES, letterbox))
    return Failing(sub, plan, told.append, gives_back=False)


def leave(failing: Failing, delivery: Delivery | None = None) -> list[Exception | None]:
    answers: list[Exception | None] = []
    failing.leave(delivery or Delivery("t", b"x"), ValueError("no"), 5, answers.append)
    return answers


def test_one_without_an_answer_for_long_is_told_once_and_shown_until_it_has_one(
    failing: Failing, letterbox: Letterbox, told: list[ErrorEvent]
) -> None:
    answers, now = leave(failing), time.monotonic()
    failing.look(now)
    assert failing.error is None
    failing.look(now + UNANSWERED_FOR)
    failing.look(now + 2 * UNANSWERED_FOR)
    assert "dead letters wait, and their messages with them: no answer for 3 s" in str(failing.error)
    assert [event.error for event in told] == [failing.error]
    letterbox.answered[0](None)
    failing.look(now + 2 * UNANSWERED_FOR)
    assert (failing.error, failing.stored, answers) == (None, 1, [None])


def test_a_cause_that_is_known_is_told_at_once(failing: Failing, letterbox: Letterbox) -> None:
    letterbox.cause = "the stream is full"
    leave(failing)
    failing.look(time.monotonic())
    assert "the stream is full" in str(failing.error)


def test_an_answer_that_comes_at_once_leaves_nothing_behind(failing: Failing, letterbox: Letterbox) -> None:
    letterbox.answered = _Prompt()
    assert leave(failing) == [None]
    failing.look(time.monotonic() + 2 * UNANSWERED_FOR)
    assert failing.error is None


def test_one_whose_message_is_no_longer_ours_is_not_waited_for(failing: Failing, letterbox: Letterbox) -> None:
    delivery = Delivery("t", b"x")
    leave(failing, delivery)
    failing.forget([delivery])
    failing.look(time.monotonic() + 2 * UNANSWERED_FOR)
    assert failing.error is None


def test_a_refusal_that_comes_after_the_message_was_given_up_is_not_shown_for_ever(
    failing: Failing, letterbox: Letterbox, told: list[ErrorEvent]
) -> None:
    delivery, refusal = Delivery("t", b"x"), PublishRejectedError("too large")
    answers = leave(failing, delivery)
    failing.forget([delivery])
    letterbox.answered[0](refusal)
    assert (failing.error, told, answers) == (None, [], [refusal])


def test_a_refusal_is_shown_until_the_message_is_given_up(
    failing: Failing, letterbox: Letterbox, told: list[ErrorEvent]
) -> None:
    delivery, refusal = Delivery("t", b"x"), PublishRejectedError("too large")
    leave(failing, delivery)
    letterbox.answered[0](refusal)
    assert (failing.error, [event.error for event in told]) == (refusal, [refusal])
    failing.forget([delivery])
    assert failing.error is None


class _Prompt(list[Answered]):
    def append(self, answered: Answered) -> None:
        answered(None)
