"""What hinders a subscription: each trouble is told once, and the latest of them shown for as long as it lasts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from eventbus.backends.kafka.consuming.assignment import Assignment
from eventbus.backends.kafka.consuming.in_hand import KafkaInHand
from eventbus.backends.kafka.consuming.reader import Reader
from eventbus.backends.kafka.consuming.shared import ConsumerKey
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
    shared = SimpleNamespace(on_served=lambda attachments, state: served.append(len(reader.attachment.told)))
    owner: Any = SimpleNamespace(key=ConsumerKey("g"), readers=[reader], shared=shared)
    nothing: Any = None
    reader.told("a", A)
    Assignment(nothing, owner, nothing).tell()
    assert (served, reader.attachment.told) == ([1], [(A, True), (A, False)])
