"""Stop tokens, deadlines, named threads: every wait ends, and says what did not."""

from __future__ import annotations

import threading
import time

import pytest

from eventbus.testing import wait_until
from eventbus.threads import Deadline, OrderedWorker, Stopped, StopToken, join_all, spawn


def test_a_deadline_never_goes_below_zero() -> None:
    deadline = Deadline(0.0)
    assert (deadline.remaining(), deadline.over, deadline.share(0.5)) == (0.0, True, 0.0)
    assert not Deadline(10.0).over
    assert 9.0 < Deadline(10.0).remaining() <= 10.0
    assert 4.0 < Deadline(10.0).share(0.5) <= 5.0
    assert Deadline(None).remaining() == threading.TIMEOUT_MAX
    assert not Deadline(None).over


def test_a_stop_wakes_everything_that_waits() -> None:
    token = StopToken()
    woken = threading.Semaphore(0)
    for number in range(3):
        spawn(f"eventbus.waiter-{number}", lambda: token.wait(30.0) and woken.release())
    token.set()
    assert all(woken.acquire(timeout=5.0) for _ in range(3))
    assert token.is_set()
    assert token.wait(0.0)
    with pytest.raises(Stopped):
        token.check()


def test_a_child_is_set_with_its_parent_and_not_the_other_way_round() -> None:
    parent = StopToken()
    first, second = parent.child(), parent.child()
    first.set()
    assert (first.is_set(), second.is_set(), parent.is_set()) == (True, False, False)
    parent.set()
    assert second.is_set()
    assert parent.child().is_set()


def test_a_released_child_is_forgotten() -> None:
    parent = StopToken()
    child = parent.child()
    parent.release(child)
    parent.release(child)
    parent.set()
    assert not child.is_set()


def test_a_stop_interrupts_only_within_the_block() -> None:
    token, calls = StopToken(), list[int]()
    with token.interrupts(lambda: calls.append(1)):
        pass
    with token.interrupts(lambda: calls.append(2)):
        token.set()
        token.set()
    with token.interrupts(lambda: calls.append(3)):
        pass
    assert calls == [2, 3]


def test_join_all_names_what_did_not_stop_and_keeps_to_one_deadline() -> None:
    release = threading.Event()
    stuck = [spawn(f"eventbus.stuck-{number}", release.wait, 20.0) for number in range(3)]
    quick = spawn("eventbus.quick", lambda: None)
    started = time.monotonic()
    assert join_all([quick, *stuck], 0.1) == ("eventbus.stuck-0", "eventbus.stuck-1", "eventbus.stuck-2")
    assert time.monotonic() - started < 0.25
    release.set()
    assert join_all(stuck, 5.0) == ()
    assert join_all([threading.current_thread()], 0.0) == ()
    assert all(thread.daemon for thread in stuck)


def test_a_worker_keeps_the_order_and_survives_every_error() -> None:
    done, errors = list[int](), list[BaseException]()
    worker = OrderedWorker("eventbus.worker", errors.append)

    def leave() -> None:
        raise SystemExit

    assert worker.submit(done.append, 1)
    worker.submit(int, "x")
    worker.submit(leave)
    worker.submit(done.append, 2)
    assert worker.close(5.0) == ()
    assert done == [1, 2]
    assert [type(error) for error in errors] == [ValueError, SystemExit]
    assert not worker.submit(done.append, 3)
    assert worker.close(5.0) == ()


def test_a_worker_without_work_has_no_thread() -> None:
    before = threading.active_count()
    worker = OrderedWorker("eventbus.idle", print)
    assert threading.active_count() == before
    assert worker.close(0.0) == ()


def test_a_worker_that_hangs_is_named() -> None:
    release, entered = threading.Event(), threading.Event()
    worker = OrderedWorker("eventbus.hangs", print)
    worker.submit(lambda: (entered.set(), release.wait(20.0)))
    assert entered.wait(5.0)
    assert worker.close(0.05) == ("eventbus.hangs",)
    release.set()
    wait_until(lambda: worker.close(0.0) == ())


def test_an_error_handler_that_fails_too_changes_nothing() -> None:
    done = list[int]()

    def broken(error: BaseException) -> None:
        raise RuntimeError("broken too")

    worker = OrderedWorker("eventbus.worker", broken)
    worker.submit(int, "x")
    worker.submit(done.append, 1)
    worker.close(5.0)
    assert done == [1]
