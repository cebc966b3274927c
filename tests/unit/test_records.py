"""Who waits for an answer: each waiter gets exactly one, and hands it to the right thread."""

from __future__ import annotations

import threading

from eventbus import PublishNotSentError, Receipt
from eventbus.publishing.records import BatchWaiter, SyncWaiter

RECEIPT = Receipt(topic="t", id="1", confirmed=True)
ERROR = PublishNotSentError("full", "1")


def test_a_sync_waiter_gives_the_result_or_none_in_time() -> None:
    waiter = SyncWaiter(1)
    assert waiter.wait(0.01) is None
    threading.Timer(0.01, waiter.answer, [RECEIPT]).start()
    assert waiter.wait(5.0) is RECEIPT


def test_an_answer_that_comes_late_harms_nobody() -> None:
    waiter = SyncWaiter(1)
    assert waiter.wait(0.0) is None
    waiter.answer(RECEIPT)
    assert waiter.result is RECEIPT


def test_a_claim_is_won_once_until_it_is_given_back() -> None:
    waiter = SyncWaiter(1)
    assert [waiter.claim(), waiter.claim()] == [True, False]
    waiter.give_back()
    assert [waiter.claim(), waiter.claim()] == [True, False]


def test_a_batch_is_done_with_its_last_result() -> None:
    batch = BatchWaiter(2)
    batch.place(1, 11).answer(ERROR)
    assert not batch.wait(0.0)
    batch.place(0, 10).answer(RECEIPT)
    assert batch.wait(0.0)
    assert batch.results == [RECEIPT, ERROR]
    assert BatchWaiter(0).wait(0.0)
