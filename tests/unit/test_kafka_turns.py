"""Whose turn it is to serve delivery reports: one thread's at a time, and the reports thread's whenever it can."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("confluent_kafka")

from eventbus.backends.kafka.publishing.serving import Turns
from eventbus.testing import wait_until
from eventbus.threads import Alarm


def test_what_one_thread_serves_is_told_before_another_one_serves() -> None:
    served: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def half() -> None:
        begun.set()
        assert go_on.wait(5.0)
        served.append("all")

    turns = Turns(lambda: served.append("told"), Alarm())
    thread = threading.Thread(target=turns.serve, args=[half])
    thread.start()
    assert begun.wait(5.0)
    turns.serve_if_free(lambda: served.append("too early"))
    assert served == []
    go_on.set()
    thread.join(5.0)
    turns.serve_if_free(lambda: served.append("next"))
    assert served == ["all", "told", "next", "told"]


def test_who_fails_in_his_turn_does_not_keep_it() -> None:
    served: list[str] = []
    turns = Turns(lambda: served.append("told"), Alarm())
    for serve in (turns.serve, turns.serve_if_free):
        with pytest.raises(ZeroDivisionError):
            serve(lambda: 1 / 0)
    turns.serve_if_free(lambda: served.append("next"))
    assert served == ["next", "told"]


def test_the_reports_thread_stays_away_while_the_sender_serves_and_comes_back_at_once() -> None:
    turns = Turns(lambda: None, Alarm())
    assert not turns.stay_away()
    back: list[float] = []

    def reports() -> None:
        assert turns.stay_away()
        back.append(time.monotonic())

    turns.sender_begins()
    thread = threading.Thread(target=reports)
    thread.start()
    wait_until(lambda: turns._waits)
    ended = time.monotonic()
    turns.sender_ends()
    thread.join(5.0)
    assert back[0] - ended < 0.5
    assert not turns.stay_away()


def test_the_reports_thread_stays_away_from_a_producer_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.backends.kafka.publishing.serving._NAP", 0.0)
    turns = Turns(lambda: None, Alarm())
    turns.end()
    turns.sender_begins()
    turns.sender_ends()
    assert turns.stay_away()
