"""Receipt futures are Futures to everybody, though they make their Condition late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures

import pytest

from eventbus import PublishNotSentError, Receipt
from eventbus.publishing.futures import ReceiptFuture
from eventbus.testing import wait_until
from eventbus.threads import OrderedWorker

RECEIPT = Receipt(topic="t", id="1", confirmed=True)
ERROR = PublishNotSentError("full", "1")


@pytest.fixture
def worker() -> Iterator[OrderedWorker]:
    worker = OrderedWorker("eventbus.answers", print)
    yield worker
    assert worker.close(5.0) == ()


@pytest.fixture
def made(worker: OrderedWorker) -> list[ReceiptFuture]:
    return [ReceiptFuture(worker) for _ in range(4)]


def test_they_are_completed_on_the_answer_thread(made: list[ReceiptFuture]) -> None:
    names: list[str] = []
    made[0].add_done_callback(lambda future: names.append(threading.current_thread().name))
    made[0].answer(RECEIPT)
    made[1].answer(ERROR)
    assert isinstance(made[0], futures.Future)
    assert made[0].result(5.0) is RECEIPT
    assert made[1].exception(5.0) is ERROR
    with pytest.raises(PublishNotSentError):
        made[1].result()
    wait_until(lambda: names == ["eventbus.answers"])


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


def test_a_cancelled_one_stays_cancelled_when_the_answer_comes(made: list[ReceiptFuture]) -> None:
    assert made[0].cancel()
    made[0].answer(RECEIPT)
    made[1].answer(RECEIPT)
    assert made[1].result(5.0) is RECEIPT
    with pytest.raises(futures.CancelledError):
        made[0].result()
    assert "ReceiptFuture" in repr(made[0])


def test_one_that_nobody_asked_has_no_condition_and_its_result(made: list[ReceiptFuture]) -> None:
    made[0].answer(RECEIPT)
    made[1].answer(ERROR)
    made[2].answer(RECEIPT)
    assert made[2].result(5.0) is RECEIPT
    assert made[0].done()
    assert made[0].result() is RECEIPT
    assert made[0]._made is None
    assert made[1].exception() is ERROR
    late: list[object] = []
    made[0].add_done_callback(late.append)
    assert late == [made[0]]
    assert not made[0].cancel()


def test_an_answer_that_crosses_with_a_wait_is_not_lost(worker: OrderedWorker) -> None:
    for _ in range(300):
        future, together = ReceiptFuture(worker), threading.Barrier(2)
        answering = threading.Thread(target=lambda f=future, b=together: (b.wait(), f.answer(RECEIPT)))
        answering.start()
        together.wait()
        assert future.result(5.0) is RECEIPT
        answering.join()
