"""Stop tokens, deadlines, named threads: every wait ends, and says what did not."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from functools import partial
from queue import Empty, SimpleQueue

import pytest

from eventbus.testing import wait_until
from eventbus.threads import (
    Deadline,
    Mailbox,
    Pauses,
    Stopped,
    StopToken,
    drained,
    interruptibly,
    join_all,
    seconds,
    spawn,
)
from eventbus.workers import Helpers, OrderedWorker


def test_pauses_grow_up_to_the_longest_however_often_one_pauses() -> None:
    assert [Pauses(1.0, 2.0, 30.0).after(times) for times in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert Pauses(1.0, 2.0, 30.0).after(10**6) == 30.0
    assert Pauses(0.0, 2.0, 30.0).after(10**6) == 0.0


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


def test_a_child_that_is_not_needed_is_forgotten() -> None:
    parent = StopToken()
    child = parent.child()
    parent.forget(child)
    parent.forget(child)
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


@pytest.mark.parametrize("timeout", [0.0, 1e-9, 1e-7, 1e-6])
def test_a_wait_ends_in_time_however_short_that_is(timeout: float) -> None:
    """`queue.SimpleQueue` does not keep this promise: a thread that waited there hung after some 5,000 such waits."""

    def wait() -> None:
        for _ in range(10_000):
            with pytest.raises(Empty):
                Mailbox[int]().take(timeout)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(30.0)
    assert not thread.is_alive()


def test_a_mailbox_keeps_what_comes_from_everybody_in_order_and_wakes_who_waits() -> None:
    box, taken = Mailbox[tuple[int, int]](), list[tuple[int, int]]()
    threads = [
        threading.Thread(target=lambda mine=mine: [box.put((mine, number)) for number in range(2_000)])
        for mine in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(taken) < 8_000:
        taken.append(box.take(5.0))
    for thread in threads:
        thread.join(5.0)
    assert all([number for owner, number in taken if owner == mine] == list(range(2_000)) for mine in range(4))
    threading.Timer(0.05, box.put, args=[(9, 9)]).start()
    assert box.take() == (9, 9)
    with pytest.raises(Empty):
        box.take(0.0)


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


# -- timeouts ------------------------------------------------------------------------------------


def test_no_timeout_means_the_default_and_none_is_longer_than_a_lock_can_wait() -> None:
    assert seconds(None, 7.0) == 7.0
    assert seconds(0, 7.0) == 0
    assert seconds(1.5, 7.0) == 1.5
    assert seconds(math.inf, 7.0) == threading.TIMEOUT_MAX
    assert seconds(10**9 * 10.0**9, 7.0) == threading.TIMEOUT_MAX


@pytest.mark.parametrize("bad", [-1, -0.001, math.nan, -math.inf, True, False, "1", b"1", [1]])
def test_what_is_no_time_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="timeout"):
        seconds(bad, 7.0)  # type: ignore[arg-type]


# -- stops ---------------------------------------------------------------------------------------


def test_a_stop_reaches_the_whole_tree_below_it_and_nothing_above() -> None:
    root = StopToken()
    branches = [root.child() for _ in range(3)]
    leaves = [branch.child() for branch in branches for _ in range(3)]
    branches[0].set()
    assert [leaf.is_set() for leaf in leaves] == [True] * 3 + [False] * 6
    assert not root.is_set()
    root.set()
    assert all(token.is_set() for token in (*branches, *leaves))


def test_a_callback_that_raises_neither_fails_the_stop_nor_keeps_it_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token, calls = StopToken(), list[int]()

    def broken() -> None:
        raise OSError("the socket was closed already")

    with token.interrupts(broken), token.interrupts(lambda: calls.append(1)):
        child = token.child()
        with caplog.at_level(logging.ERROR, "eventbus.threads"):
            token.set()
    assert calls == [1]
    assert child.is_set()
    assert "the socket was closed already" in caplog.text
    entered = list[int]()
    with token.interrupts(broken):
        entered.append(1)
    assert entered == [1]


def test_an_error_in_the_block_comes_out_and_the_callback_is_gone() -> None:
    token, calls = StopToken(), list[int]()
    with pytest.raises(KeyError), token.interrupts(lambda: calls.append(1)):
        raise KeyError
    token.set()
    assert calls == []


def test_a_callback_may_use_the_token_that_calls_it() -> None:
    token, seen = StopToken(), list[bool]()

    def look() -> None:
        token.set()
        with token.interrupts(lambda: seen.append(token.child().is_set())):
            pass

    with token.interrupts(look):
        token.set()
    assert seen == [True]


def test_no_child_and_no_block_is_missed_by_a_stop_that_comes_at_the_same_time() -> None:
    for _ in range(200):
        token, barrier = StopToken(), threading.Barrier(2)
        setter = threading.Thread(target=lambda token=token, barrier=barrier: (barrier.wait(5.0), token.set()))
        setter.start()
        barrier.wait(5.0)
        child, called = token.child(), threading.Event()
        with token.interrupts(called.set):
            assert called.wait(5.0)
        setter.join(5.0)
        assert child.is_set()


def test_a_child_that_is_not_needed_costs_nothing() -> None:
    token = StopToken()
    for _ in range(100):
        token.forget(token.child())
        with token.interrupts(print):
            pass
    assert len(token._callbacks) == 0


# -- joining -------------------------------------------------------------------------------------


def test_join_all_logs_what_did_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    stuck = spawn("eventbus.stuck", release.wait, 20.0)
    with caplog.at_level(logging.WARNING, "eventbus.threads"):
        join_all([stuck], 0.01)
    assert "still running after 0.0 s: eventbus.stuck" in caplog.text
    release.set()
    assert join_all([stuck], 5.0) == ()


def test_a_worker_can_be_closed_by_a_call_of_its_own() -> None:
    closed = list[object]()
    worker = OrderedWorker("eventbus.worker", print)
    worker.submit(lambda: closed.append(worker.close(5.0)))
    wait_until(lambda: closed)
    assert closed == [()], "it does not wait for itself"
    assert worker.close(5.0) == ()


def test_a_call_that_was_accepted_runs_and_one_that_was_not_does_not_whoever_closes_meanwhile() -> None:
    for _ in range(50):
        worker, barrier, ran = OrderedWorker("eventbus.worker", print), threading.Barrier(3), list[tuple[int, int]]()
        accepted: list[tuple[int, int]] = []

        def submit(lane: int, worker=worker, barrier=barrier, ran=ran, accepted=accepted) -> None:
            barrier.wait(5.0)
            for number in range(20):
                if worker.submit(ran.append, (lane, number)):
                    accepted.append((lane, number))

        threads = [threading.Thread(target=submit, args=(lane,)) for lane in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait(5.0)
        worker.close(5.0)
        for thread in threads:
            thread.join(5.0)
        assert worker.close(5.0) == ()
        assert sorted(ran) == sorted(accepted)
        assert all(
            [call for call in ran if call[0] == lane] == sorted(call for call in ran if call[0] == lane)
            for lane in (0, 1)
        )


class CrossedQueue(SimpleQueue):  # type: ignore[type-arg]
    """While a call is on its way in, another thread closes the worker, as far as it gets."""

    def __init__(self, closer: threading.Thread) -> None:
        self.closer = closer

    def put(self, entry: object) -> None:  # type: ignore[override]
        if entry is not None:
            self.closer.start()
            self.closer.join(0.05)
        super().put(entry)


def test_a_close_that_crosses_a_submit_comes_behind_it() -> None:
    done = list[int]()
    worker = OrderedWorker("eventbus.worker", print)
    closer = threading.Thread(target=worker.close, args=(5.0,))
    worker._calls = CrossedQueue(closer)
    assert worker.submit(done.append, 1)
    closer.join(5.0)
    assert worker.close(5.0) == ()
    assert done == [1]


def test_even_a_system_exit_while_reporting_leaves_the_worker_at_work() -> None:
    done = list[int]()

    def leave(error: BaseException) -> None:
        raise SystemExit

    worker = OrderedWorker("eventbus.worker", leave)
    worker.submit(int, "x")
    worker.submit(done.append, 1)
    assert worker.close(5.0) == ()
    assert done == [1]


def test_a_call_that_cannot_be_interrupted_is_left_behind_by_a_stop() -> None:
    stop, over = StopToken(), threading.Event()
    spawn("eventbus.stopper", stop.set)
    with pytest.raises(Stopped):
        interruptibly("eventbus.long", lambda: over.wait(10.0), 30.0, stop)
    over.set()


def test_a_call_that_cannot_be_interrupted_gives_its_result_its_error_or_no_answer_in_time() -> None:
    over = threading.Event()
    assert interruptibly("eventbus.short", lambda: 42, 5.0, StopToken()) == 42
    with pytest.raises(ZeroDivisionError):
        interruptibly("eventbus.wrong", lambda: 1 // 0, 5.0, StopToken())
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        interruptibly("eventbus.long", lambda: over.wait(10.0), 0.05, StopToken())
    over.set()
    stopped = StopToken()
    stopped.set()
    with pytest.raises(Stopped):
        interruptibly("eventbus.never", lambda: pytest.fail("it began"), 5.0, stopped)


def test_what_fails_unheard_keeps_nothing_alive() -> None:
    """A client that a call was stopped in ends with the call, and not when the collector comes."""

    class Client:
        def ask(self, answer: threading.Event) -> None:
            answer.wait(5.0)
            raise OSError("closed")

    client, answer = Client(), threading.Event()
    left = weakref.ref(client)
    gc.disable()
    try:
        with pytest.raises(TimeoutError):
            interruptibly("eventbus.asking", partial(client.ask, answer), 0.01, StopToken())
        del client
        answer.set()
        wait_until(lambda: left() is None)
    finally:
        gc.enable()


def test_an_exception_while_entries_are_taken_out_leaves_them_in_and_in_order() -> None:
    class Interrupted(deque[int]):
        def popleft(self) -> int:
            if self[0] == 3:
                raise KeyboardInterrupt
            return super().popleft()

    found = Interrupted([1, 2, 3, 4])
    with pytest.raises(KeyboardInterrupt):
        drained(found)
    assert list(found) == [1, 2, 3, 4]


def test_helpers_work_side_by_side_on_as_few_threads_as_that_takes() -> None:
    helpers, barrier = Helpers("eventbus.helpers", print), threading.Barrier(4)
    for _ in range(3):  # one after another: one thread will do
        done = threading.Event()
        assert helpers.submit(done.set)
        assert done.wait(5.0)
        wait_until(lambda: not any(helpers._busy))
    assert [thread.name for thread in threading.enumerate() if "helpers" in thread.name] == ["eventbus.helpers-0"]
    for _ in range(3):
        helpers.submit(barrier.wait, 5.0)
    barrier.wait(5.0)
    assert helpers.close(5.0) == ()
    assert not helpers.submit(print)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_a_call_forks_ends_with_it_and_makes_none_of_the_calls_behind_it() -> None:
    reader, writer = os.pipe()
    worker, queued, children = OrderedWorker("eventbus.forks", print), threading.Event(), list[int]()

    def fork() -> None:
        queued.wait(5.0)
        children.append(os.fork())

    worker.submit(fork)
    worker.submit(os.write, writer, b"x")
    queued.set()
    wait_until(lambda: children)
    wait_until(lambda: os.waitpid(children[0], os.WNOHANG)[0] == children[0])
    assert worker.close(5.0) == ()
    os.close(writer)
    assert os.read(reader, 10) == b"x"
    os.close(reader)
