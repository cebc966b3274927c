"""What hinders a subscription: each trouble is told once, and the latest of them shown for as long as it lasts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from eventbus.backends.kafka.consuming.assignment import Assignment
from eventbus.backends.kafka.consuming.consumer_thread import ConsumerThread
from eventbus.backends.kafka.consuming.in_hand import KafkaInHand
from eventbus.backends.kafka.consuming.reader import Reader
from eventbus.backends.kafka.consuming.shared import ConsumerKey
from eventbus.consuming.subscriptions import SubscriptionState
from eventbus.errors import NotConnectedError

A, B = NotConnectedError("a is refused"), NotConnectedError("b has no leader")


class Hindered:
    """An attachment that notes what it is told: (error, whether it is news)."""

    def __init__(self) -> None:
        self.in_hand = KafkaInHand()
        self.told: list[tuple[Exception | None, bool]] = []

    def hindered(self, error: Exception | None, is_news: bool) -> None:
        self.told.append((error, is_news))


@pytest.fixture
def reader() -> Any:
    attachment: Any = Hindered()
    return Reader(attachment, {})


def test_each_trouble_is_told_once_and_the_latest_is_shown(reader: Any) -> None:
    reader.told("a", A)
    reader.told("b", B)
    reader.told("a", NotConnectedError(str(A)))
    assert reader.attachment.told == [(A, True), (B, True)]
    reader.told("b", None)
    reader.told("b", None)
    assert reader.attachment.told[2:] == [(A, False)], "shown again, and no news"
    reader.told("a", None)
    assert reader.attachment.told[3:] == [(None, False)]
    assert not reader.is_troubled


def test_a_new_state_takes_no_trouble_away(reader: Any) -> None:
    """What was told before the group had it, a partition without a leader say, lasts all the same."""
    served: list[Any] = []
    shared: Any = SimpleNamespace(on_served=lambda attachments, state: served.append(len(reader.attachment.told)))
    owner: Any = SimpleNamespace(key=ConsumerKey("g"), readers=[reader], shared=shared)
    nothing: Any = None
    reader.told("a", A)
    Assignment(nothing, owner, nothing).tell()
    assert (served, reader.attachment.told) == ([1], [(A, True), (A, False)])


def test_a_consumer_that_its_group_never_had_is_on_its_way_and_not_at_work(reader: Any) -> None:
    states: list[Any] = []
    shared: Any = SimpleNamespace(thread_name="test", on_served=lambda attachments, state: states.append(state))
    thread = ConsumerThread(ConsumerKey("g"), shared)
    thread._readers = (reader,)
    member: Any = SimpleNamespace(assignment=SimpleNamespace(is_confirmed=False))
    for _ in range(2):
        thread._failed(member, A)
    assert states == [SubscriptionState.PENDING] * 2
    assert reader.attachment.told == [(A, True), (A, False), (A, False)]
