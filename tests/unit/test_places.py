"""A partition and a timestamp that are named when publishing."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest
from fakes import given

from eventbus import Message, PublishManyError, PublishRejectedError, UnsupportedError
from eventbus.message import Delivery, place_of
from eventbus.publishing import publisher as publisher_module
from eventbus.publishing.publisher import Publisher
from eventbus.publishing.records import NO_EXTRAS, extras_of

WHEN = datetime(2024, 5, 1, 12, 0, 0, 123_000, tzinfo=timezone.utc)


def test_a_place_goes_with_the_record() -> None:
    publisher = Publisher("test", 10, 10_000, print, print, places=True)
    publisher.publish_nowait(given("t", b"", partition=2, timestamp=WHEN))
    publisher.publish_nowait(given("t", b"", partition=0))
    publisher.publish_nowait(given("t", b"", timestamp=WHEN))
    places = [(extras_of(record) or NO_EXTRAS).place for record in publisher.pending.inbox.records]
    assert places == [(2, 1714564800123), (0, 0), (-1, 1714564800123)]


@pytest.mark.parametrize(
    "place",
    [
        {"partition": -1},
        {"partition": True},
        {"partition": "0"},
        {"partition": 2**31},
        {"timestamp": datetime(2024, 5, 1)},
        {"timestamp": datetime(1970, 1, 1, tzinfo=timezone.utc)},
        {"timestamp": 1714564800.0},
    ],
)
def test_what_is_no_place_is_rejected(place: dict[str, Any]) -> None:
    publisher = Publisher("test", 10, 10_000, print, print, places=True)
    with pytest.raises(PublishRejectedError, match=f"bad {next(iter(place))}"):
        publisher.publish_nowait(given("t", b"", **place))


@pytest.mark.parametrize("place", [{"partition": 0}, {"timestamp": WHEN}])
def test_a_place_is_nothing_for_the_other_backends(place: dict[str, Any]) -> None:
    publisher = Publisher("test", 10, 10_000, print, print)
    with pytest.raises(UnsupportedError, match="only Kafka"):
        publisher.publish_nowait(given("t", b"", **place))
    with pytest.raises(PublishManyError) as caught:
        publisher.publish_many([Message("t", b"", **place)], 1.0)
    assert isinstance(caught.value.results[0].__cause__, UnsupportedError)


def test_a_received_message_goes_wherever_its_copy_goes() -> None:
    received = Delivery("t", b"", id="1", timestamp=WHEN, partition="stream", offset=7)
    for message in (received, pickle.loads(pickle.dumps(received)), copy.copy(received)):
        assert place_of(message) == (None, None)
    assert place_of(Message("t", b"", timestamp=WHEN, partition=3)) == (3, WHEN)


def test_a_key_that_was_seen_costs_a_message_nothing_and_is_told_from_others() -> None:
    publisher = Publisher("test", 10, 10_000, print, print)
    for key in ("a", "b", "a", b"a", "x" * 1000):
        publisher.publish_nowait(given("t", b"", key))
    found = [extras_of(record) for record in publisher.pending.inbox.records]
    assert [extras and extras.key for extras in found] == ["a", "b", "a", b"a", "x" * 1000]
    assert list(publisher.pending.inbox.keys) == ["a", "b"]


def test_the_memory_of_known_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "KNOWN_KEYS", 3)
    publisher = Publisher("test", 100, 10_000, print, print)
    for number in range(10):
        publisher.publish_nowait(given("t", b"", f"key{number}"))
    assert len(publisher.pending.inbox.keys) <= 3
