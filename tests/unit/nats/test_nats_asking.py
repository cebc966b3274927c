"""Many questions at a time: each has its answer, none pays for another, and nothing is asked for ever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventbus.backends.nats.jetstream import asking as asking_module
from eventbus.backends.nats.jetstream.asking import ApiError, Asking, Call, Pipeline
from eventbus.backends.nats.link.requests import Forbidden, NoResponders, Reply, Waiting
from eventbus.errors import NotConnectedError
from eventbus.threads import Deadline

Script = Callable[[str, int], Any]
"""`script(subject, time)`: what the n-th call with this subject is answered; None: nothing."""


class Link:
    """Answers each request on a thread of its own, as the script says, after `delay` seconds."""

    def __init__(self, script: Script, delay: float = 0.0) -> None:
        self._script = script
        self._delay = delay
        self.asked: list[str] = []
        self.waiting: set[str] = set()
        self.lost = False

    def ask(self, subject: str, payload: bytes, told: Callable[[Waiting], object]) -> str:
        if self.lost:
            raise NotConnectedError("the link is gone")
        self.asked.append(subject)
        answer = self._script(subject, self.asked.count(subject))
        token = f"{len(self.asked)}"
        self.waiting.add(token)
        if answer is not None:
            waiting = Waiting(subject, told)
            threading.Timer(self._delay, self._answer, (waiting, answer)).start()
        return token

    @staticmethod
    def _answer(waiting: Waiting, answer: Any) -> None:
        if isinstance(answer, Exception):
            waiting.fail(answer)
        elif isinstance(answer, bytes):
            waiting.answer(Reply(answer, b""))
        else:
            waiting.answer(Reply(None, json.dumps(answer).encode()))

    def forget_request(self, token: str) -> None:
        self.waiting.discard(token)

    def hint(self) -> str:
        return ""


def refusal(number: int) -> dict[str, Any]:
    return {"error": {"code": 400, "err_code": number, "description": "no"}}


def question(*subjects: str) -> Asking[list[Any]]:
    answers = []
    for subject in subjects:
        answers.append((yield Call(subject)))
    return answers


def run(link: Link, questions: dict[Any, Any], timeout: float = 5.0, grace: float | None = None) -> dict[Any, Any]:
    answers = Pipeline(link, Deadline(timeout), grace).run(questions)  # type: ignore[arg-type]
    assert not link.waiting, "nobody waits any more"
    return answers


def test_the_calls_of_all_share_their_round_trips() -> None:
    link = Link(lambda subject, time: {"is": subject}, delay=0.1)
    started = time.monotonic()
    answers = run(link, {number: question(f"a{number}", f"b{number}", f"c{number}") for number in range(100)})
    assert time.monotonic() - started < 1.5
    assert answers[7] == [{"is": "a7"}, {"is": "b7"}, {"is": "c7"}]


def test_more_than_may_be_under_way_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "AT_ONCE", 3)
    link = Link(lambda subject, time: {"is": subject})
    assert len(run(link, {number: question(f"a{number}") for number in range(10)})) == 10


def test_the_same_call_of_several_is_made_once() -> None:
    link = Link(lambda subject, time: {"is": subject}, delay=0.05)
    answers = run(link, {number: question("same", f"own{number}") for number in range(5)})
    assert link.asked.count("same") == 1
    assert [answer[0] for answer in answers.values()] == [{"is": "same"}] * 5


def test_what_passes_is_asked_again_and_what_does_not_is_raised_where_it_was_asked() -> None:
    def script(subject: str, time: int) -> Any:
        return {"passes": refusal(10008) if time < 3 else {"n": time}, "never": refusal(10059)}.get(
            subject, Forbidden("x")
        )

    def careful() -> Asking[str]:
        try:
            yield Call("never")
        except ApiError as error:
            return f"caught {error.number}"
        return "not reached"

    answers = run(Link(script), {1: question("passes"), 2: question("never"), 3: question("denied"), 4: careful()})
    assert answers[1] == [{"n": 3}]
    assert isinstance(answers[2], ApiError)
    assert isinstance(answers[3], Forbidden)
    assert answers[4] == "caught 10059"


def test_what_nobody_answers_is_asked_again_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "ONE_TRY", 0.05)
    link = Link(lambda subject, time: {} if time > 2 and subject == "late" else None)
    started = time.monotonic()
    answers = run(link, {1: question("late"), 2: question("silent")}, timeout=0.8)
    assert 0.7 < time.monotonic() - started < 2.0
    assert answers[1] == [{}]
    assert isinstance(answers[2], NotConnectedError)
    assert "no answer to silent" in str(answers[2])
    assert link.asked.count("silent") < 8, "each time it waits for twice as long"


def test_no_responders_is_an_answer_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "ONE_TRY", 0.2)
    link = Link(lambda subject, time: b"NATS/1.0 503\r\n\r\n")
    started = time.monotonic()
    answers = run(link, {1: question("nobody")})
    assert time.monotonic() - started < 2.0
    assert "nobody answers nobody" in str(answers[1])


@pytest.mark.parametrize("is_new", [True, False])
def test_who_was_just_made_is_asked_again_where_nobody_answers_yet(is_new: bool) -> None:
    """The other servers of a cluster hear of a consumer a moment after it was made."""
    link = Link(lambda subject, time: {} if time == 3 else b"NATS/1.0 503\r\n\r\n")

    def asking() -> Asking[Any]:
        return (yield Call("consumer", is_json=False, is_new=is_new))

    answer = run(link, {1: asking()})[1]
    assert (answer, link.asked.count("consumer")) == ({}, 3) if is_new else isinstance(answer, NoResponders)


def test_one_that_is_long_in_coming_holds_up_the_others_for_its_grace_only() -> None:
    link = Link(lambda subject, time: None if subject == "silent" else {})
    started = time.monotonic()
    answers = run(link, {1: question("quick"), 2: question("silent")}, grace=0.2)
    assert time.monotonic() - started < 2.0
    assert answers[1] == [{}]
    assert isinstance(answers[2], NotConnectedError)


def test_a_link_that_is_gone_ends_all_of_them() -> None:
    link = Link(lambda subject, time: NotConnectedError("cut"))
    answers = run(link, {1: question("a"), 2: question("b")})
    assert all(isinstance(answer, NotConnectedError) for answer in answers.values())
    link.lost = True
    assert isinstance(run(link, {1: question("a")})[1], NotConnectedError)


def test_what_is_no_json_is_nobodys_answer() -> None:
    link = Link(lambda subject, time: b"NATS/1.0\r\n\r\n" if time == 1 else {"n": time})
    assert run(link, {1: question("odd")}) == {1: [{"n": 2}]}
