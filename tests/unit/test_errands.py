"""Errands: a call is made once and whole, whatever becomes of its caller."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from instants import OURS, Instants, Interrupted

from eventbus.errands import Errands, NotInTime
from eventbus.testing import wait_until
from eventbus.threads import Alarm, Bell, Deadline, StopToken, works_for

OWNER = object()


@pytest.fixture
def errands() -> Iterator[Errands]:
    made = Errands("eventbus.test", OWNER)
    made.start()
    made.start()
    yield made
    made.run_last(lambda: None)
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("eventbus.test")])


def test_it_runs_elsewhere_and_returns_or_raises(errands: Errands) -> None:
    assert errands.run("look", lambda stop: (threading.current_thread().name, works_for(OWNER)), 5.0) == (
        "eventbus.test.look",
        True,
    )
    assert not works_for(OWNER)
    with pytest.raises(ZeroDivisionError):
        errands.run("fail", lambda stop: 1 / 0, 5.0)


@pytest.mark.parametrize("end", ["stop", "run_last"])
def test_a_start_that_comes_late_leaves_no_thread_behind(errands: Errands, end: str) -> None:
    """One whose caller was interrupted, and whose thread the processor came round to only after the end."""
    if end == "stop":
        errands.stop()
    else:
        errands.run_last(lambda: None)
        wait_until(lambda: not errands.running)
    errands._begin()
    assert not errands.running


def test_before_the_start_it_has_a_thread_of_its_own_too() -> None:
    name = Errands("eventbus.test", OWNER).run("look", lambda stop: threading.current_thread().name, 5.0)
    assert name == "eventbus.test.look"


def test_the_last_one_runs_though_the_dispatcher_has_just_been_let_go(errands: Errands) -> None:
    ran = threading.Event()
    errands.stop()
    errands.run_last(ran.set)
    assert ran.wait(5.0)


def test_one_that_does_not_end_is_stopped_and_undone(errands: Errands) -> None:
    undone: list[object] = []

    def slow(stop: StopToken) -> str:
        stop.wait(20.0)
        return "late"

    with pytest.raises(NotInTime, match=r"slow\(\) did not end"):
        errands.run("slow", slow, 0.01, undone.append)
    wait_until(lambda: undone == ["late"])


def test_a_caller_that_is_interrupted_leaves_nothing_half_done(errands: Errands) -> None:
    """At every instruction that a caller runs: the call was made and undone, or was never made."""
    made: list[int] = []
    undone: list[int] = []

    def interrupt() -> None:
        raise Interrupted

    number, finished = 0, False
    while not finished:
        number += 3

        def call(stop: StopToken, number: int = number) -> int:
            made.append(number)
            return number

        instants = Instants(number, interrupt, OURS)
        with suppress(Interrupted):
            instants.run(lambda call=call: errands.run("count", call, 5.0, undone.append))  # type: ignore[misc]
        finished = instants.count < number
    assert number > 100
    wait_until(lambda: len(made) <= len(undone) + 2)  # the one that came through, and one interrupted as it returned
    assert errands.run("after", lambda stop: 1, 5.0) == 1


def test_a_signal_handler_may_ask_on_top_of_a_call_that_asks(errands: Errands) -> None:
    answers: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: answers.append(errands.run("inner", lambda stop: 1, 5.0)))
    try:
        for _ in range(50):
            main = threading.main_thread().ident
            assert main is not None
            errands.run("outer", lambda stop, main=main: signal.pthread_kill(main, signal.SIGUSR1), 5.0)
        wait_until(lambda: len(answers) == 50)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_bell_wakes_all_and_forgets_those_who_left() -> None:
    bell, flag = Bell(), []
    assert not bell.wait_for(lambda: flag, Deadline(0.01))
    assert not bell._waiting
    woken = threading.Semaphore(0)
    threads = [
        threading.Thread(target=lambda: bell.wait_for(lambda: flag, Deadline(20.0)) and woken.release())
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(bell._waiting) == 3)
    flag.append(1)
    bell.ring()
    assert all(woken.acquire(timeout=5.0) for _ in range(3))
    for thread in threads:
        thread.join(5.0)


def test_an_alarm_keeps_a_call_that_comes_early_and_takes_many_as_one() -> None:
    alarm = Alarm()
    assert not alarm.wait(0.0)
    alarm.set()
    alarm.set()
    assert alarm.wait(0.0)
    assert not alarm.wait(0.0)
