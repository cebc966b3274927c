"""Who waits for an answer: each waiter gets exactly one, and hands it to the right thread."""

from __future__ import annotations

import threading

import pytest

from eventbus import PublishNotSentError, Receipt
from eventbus.publishing.records import BatchWaiter, SyncWaiter

RECEIPT = Receipt(topic="t", id="1", confirmed=True)
ERROR = PublishNotSentError("full", "1")


def test_a_sync_waiter_gives_the_result_or_none_in_time() -> None:
    waiter = SyncWaiter()
    assert waiter.wait(0.01) is None
    threading.Timer(0.01, waiter.answer, [RECEIPT]).start()
    assert waiter.wait(5.0) is RECEIPT


def test_an_answer_that_comes_late_harms_nobody() -> None:
    waiter = SyncWaiter()
    assert waiter.wait(0.0) is None
    waiter.answer(RECEIPT)
    assert waiter.result is RECEIPT


def test_a_second_answer_is_noticed() -> None:
    waiter = SyncWaiter()
    waiter.answer(RECEIPT)
    with pytest.raises(RuntimeError):
        waiter.answer(RECEIPT)


def test_a_batch_is_done_with_its_last_result_and_keeps_the_first_of_each() -> None:
    batch = BatchWaiter(2)
    batch.place(1).answer(ERROR)
    batch.put(1, RECEIPT)
    assert not batch.wait(0.0)
    assert batch.missing() == [0]
    batch.place(0).answer(RECEIPT)
    assert batch.wait(0.0)
    assert batch.results == [RECEIPT, ERROR]
    assert BatchWaiter(0).wait(0.0)
