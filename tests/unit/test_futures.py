"""Receipt futures are Futures to everybody, though there is no lock in them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent import futures

import pytest

from eventbus import PublishNotSentError, Receipt
from eventbus.publishing.futures import ReceiptFuture
from eventbus.testing import wait_until
from eventbus.workers import OrderedWorker

RECEIPT = Receipt(topic="t", id="1", confirmed=True)
ERROR = PublishNotSentError("full", "1")


@pytest.fixture
def worker() -> Iterator[OrderedWorker]:
    worker = OrderedWorker("eventbus.answers", print)
    yield worker
    assert worker.close(5.0) == ()


@pytest.fixture
def made(worker: OrderedWorker) -> list[ReceiptFuture]:
    return [ReceiptFuture(number, worker, lambda waiter, number: waiter.claim(number)) for number in range(4)]


def test_they_are_completed_at_once_and_call_back_on_the_answer_thread(made: list[ReceiptFuture]) -> None:
    names: list[str] = []
    made[0].add_done_callback(lambda future: names.append(threading.current_thread().name))
    made[0].answer(RECEIPT)
    made[1].answer(ERROR)
    assert isinstance(made[0], futures.Future)
    assert made[0].done()
    assert made[0].result() is RECEIPT
    assert made[1].exception() is ERROR
    with pytest.raises(PublishNotSentError):
        made[1].result()
    wait_until(lambda: names == ["eventbus.answers"])


def test_one_callback_may_wait_for_another_future(made: list[ReceiptFuture]) -> None:
    results: list[Receipt] = []
    made[0].add_done_callback(lambda future: results.append(made[1].result(5.0)))
    made[0].answer(RECEIPT)
    made[1].answer(RECEIPT)
    wait_until(lambda: results == [RECEIPT])


def test_a_callback_that_raises_is_logged_and_the_next_answer_comes(made: list[ReceiptFuture]) -> None:
    made[0].add_done_callback(lambda future: 1 / 0)
    made[0].answer(RECEIPT)
    made[1].answer(RECEIPT)
    assert made[1].result(5.0) is RECEIPT


def test_waiting_has_a_deadline(made: list[ReceiptFuture]) -> None:
    for call in (made[0].result, made[0].exception):
        with pytest.raises(futures.TimeoutError):
            call(0.01)


def test_one_who_waits_is_not_fooled_by_the_answer_of_another(made: list[ReceiptFuture]) -> None:
    got: list[Receipt] = []
    threads = [threading.Thread(target=lambda one=one: got.append(one.result(5.0))) for one in made]
    for thread in threads:
        thread.start()
    for number, future in enumerate(made, 1):
        future.answer(RECEIPT)
        wait_until(lambda number=number: len(got) == number)
    for thread in threads:
        thread.join()


def test_the_module_functions_work(made: list[ReceiptFuture]) -> None:
    made[2].answer(RECEIPT)
    done, waiting = futures.wait(made, timeout=5.0, return_when=futures.FIRST_COMPLETED)
    assert (done, len(waiting)) == ({made[2]}, 3)
    for future in made:
        if not future.done():
            future.answer(RECEIPT)
    assert set(futures.as_completed(made, timeout=5.0)) == set(made)
    assert futures.wait(made, timeout=5.0).not_done == set()


def test_a_cancelled_one_is_cancelled_for_whoever_waits(made: list[ReceiptFuture]) -> None:
    called: list[object] = []
    made[0].add_done_callback(called.append)
    assert made[0].cancel()
    assert called == [made[0]]
    with pytest.raises(futures.CancelledError):
        made[0].result()
    with pytest.raises(futures.CancelledError):
        made[0].exception()
    assert futures.wait(made[:1], timeout=5.0).not_done == set()
    assert "ReceiptFuture" in repr(made[0])


def test_one_that_is_done_calls_back_at_once_and_cannot_be_cancelled(made: list[ReceiptFuture]) -> None:
    made[0].answer(RECEIPT)
    late: list[object] = []
    made[0].add_done_callback(late.append)
    assert late == [made[0]]
    assert not made[0].cancel()
    assert not made[0].cancelled()


def test_one_whose_message_a_client_has_runs_and_cannot_be_cancelled(made: list[ReceiptFuture]) -> None:
    assert not made[0].running()
    assert made[0].claim()
    assert made[0].running()
    assert not made[0].cancel()
    made[0].give_back()
    assert made[0].cancel()
    assert made[0].cancel()


def test_nobody_but_the_bus_completes_it(made: list[ReceiptFuture]) -> None:
    for call in (
        made[0].set_running_or_notify_cancel,
        lambda: made[0].set_result(RECEIPT),
        lambda: made[0].set_exception(ERROR),
    ):
        with pytest.raises(futures.InvalidStateError):
            call()


def test_asyncio_can_wait_for_one(made: list[ReceiptFuture]) -> None:
    async def wait() -> Receipt:
        threading.Timer(0.01, made[0].answer, [RECEIPT]).start()
        return await asyncio.wait_for(asyncio.wrap_future(made[0]), 5.0)

    assert asyncio.run(wait()) is RECEIPT


def test_each_one_who_waits_is_told_and_leaves_nothing(made: list[ReceiptFuture]) -> None:
    for _ in range(3):
        with pytest.raises(futures.TimeoutError):
            made[0].result(0.001)
    assert not made[0]._waits


def test_an_answer_that_crosses_with_a_wait_is_not_lost(worker: OrderedWorker) -> None:
    for _ in range(300):
        future, together = ReceiptFuture(1, worker, lambda waiter, number: waiter.claim(number)), threading.Barrier(2)
        answering = threading.Thread(target=lambda f=future, b=together: (b.wait(), f.answer(RECEIPT)))
        answering.start()
        together.wait()
        assert future.result(5.0) is RECEIPT
        answering.join()
