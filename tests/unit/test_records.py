"""Who waits for an answer: each waiter gets exactly one, and hands it to the right thread."""

from __future__ import annotations

import threading

import pytest

from eventbus import PublishNotSentError, Receipt
from eventbus.publishing.records import BatchWaiter, Claim, Confirmation, Record, SyncWaiter

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


def confirmation(number: int) -> Confirmation:
    return Record(number, "t", b""), 0, number, False


def receipt_of(one: Confirmation) -> Receipt:
    return Receipt(topic="t", id=str(one[0].number), confirmed=True, offset=one[2])


def test_a_batch_is_done_with_its_last_answer() -> None:
    batch = BatchWaiter()
    batch.answer(ERROR, 11)
    batch.confirmed([confirmation(10), confirmation(13)], receipt_of)
    assert not batch.wait(4, 0.0)
    batch.confirmed([confirmation(12)], receipt_of)
    assert batch.wait(4, 0.0)
    expected = {number: receipt_of(confirmation(number)) for number in (10, 12, 13)}
    assert batch.results(receipt_of) == {11: ERROR, **expected}
    assert BatchWaiter().wait(0, 0.0)


def test_a_batch_that_is_answered_before_anybody_waits_for_it_is_done() -> None:
    batch = BatchWaiter()
    batch.confirmed([confirmation(1)], receipt_of)
    assert batch.wait(1, 0.0)


def test_each_record_of_a_batch_has_a_claim_of_its_own() -> None:
    batch = BatchWaiter()
    batch.expect(1)
    batch.expect(2)
    assert [batch.claim(1), batch.claim(1), batch.claim(2)] == [True, False, True]
    batch.give_back(1)
    assert [batch.claim(1), batch.claim(2)] == [True, False]


def test_whoever_waits_has_to_say_what_an_answer_is_to_him() -> None:
    class Deaf(Claim):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Deaf(1)  # type: ignore[abstract]
