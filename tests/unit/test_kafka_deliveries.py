"""Nothing in a message from Kafka makes reading it raise, and nothing of it is lost."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from eventbus.message import Delivery, parts_of

pytest.importorskip("confluent_kafka")

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE

from eventbus.backends.kafka.consuming.deliveries import KafkaDelivery
from eventbus.backends.kafka.consuming.header_fields import fields_of, fields_of_all

NOW = 1_700_000_000_000


class Stored:
    """What confluent-kafka hands out."""

    def __init__(self, key: Any = None, value: Any = b"x", headers: Any = None, time: Any = None) -> None:
        self.key, self.value, self.headers = (lambda: key), (lambda: value), (lambda: headers)
        self.timestamp = lambda: time or (TIMESTAMP_CREATE_TIME, NOW)
        self.partition, self.offset, self.topic = (lambda: 3), (lambda: 7), (lambda: "t")


def delivery(**stored: Any) -> KafkaDelivery:
    made = KafkaDelivery.__new__(KafkaDelivery)
    made.topic, made.message = "t", Stored(**stored)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("milliseconds", [NOW * 1000, NOW * 10**6, 2**63 - 1, -(2**63)])
def test_a_timestamp_that_is_no_date_is_none(milliseconds: int) -> None:
    message = delivery(time=(TIMESTAMP_CREATE_TIME, milliseconds))
    assert message.timestamp is None
    assert pickle.loads(pickle.dumps(message)) == message


def test_a_timestamp_that_is_a_date_is_one() -> None:
    moment = delivery().timestamp
    assert moment is not None
    assert moment.isoformat() == "2023-11-14T22:13:20+00:00"
    assert delivery(time=(TIMESTAMP_NOT_AVAILABLE, -1)).timestamp is None


def test_all_but_our_id_is_what_was_stored() -> None:
    headers = [("a", b"1"), ("Eventbus-Id", b"id-1"), ("a", None), ("b", b"\xff")]
    message = delivery(key=b"\xff\x00", headers=headers)
    others = (("a", b"1"), ("a", None), ("b", b"\xff"))
    assert (message.raw_key, message.key, message.id) == (b"\xff\x00", "\\xff\x00", "id-1")
    assert (message.raw_headers, dict(message.headers)) == (others, {"a": "", "b": "\\xff"})
    assert (message.partition, message.offset) == (3, 7)
    assert parts_of(message) == ("t", b"x", b"\xff\x00", others, "id-1")
    again = pickle.loads(pickle.dumps(message))
    assert not isinstance(again, Delivery)
    assert (again, again.partition, again.offset) == (message, 3, 7)


@pytest.mark.parametrize("headers", [None, [], [("Eventbus-Id", b"id-1")]])
def test_without_key_and_headers_there_are_none(headers: Any) -> None:
    message = delivery(headers=headers)
    assert (message.raw_key, message.key, message.raw_headers, message.headers) == (None, None, (), {})


def test_a_null_value_is_a_tombstone_and_an_empty_one_is_not() -> None:
    null, empty = delivery(value=None), delivery(value=b"")
    assert (null.payload, null.is_tombstone, empty.payload, empty.is_tombstone) == (b"", True, b"", False)
    assert pickle.loads(pickle.dumps(null)).is_tombstone


class Broken(Stored):
    """Raises when its headers are read for the first time, as one does whose first name is not UTF-8."""

    def __init__(self) -> None:
        super().__init__(headers=[("seen", b"v")])
        self.headers, self._there = self._fail, self.headers

    def _fail(self) -> Any:
        self.headers = self._there
        raise SystemError from UnicodeDecodeError("utf-8", b"bad\xff", 3, 4, "invalid start byte")


@pytest.mark.parametrize("places", [(), (0,), (3,), (0, 1, 3)])
def test_the_headers_of_many_are_those_of_each(places: tuple[int, ...]) -> None:
    messages: list[Any] = [Stored(headers=[("n", b"1"), ("n", None)]), Stored(), Stored(headers=[]), Stored()]
    for place in places:
        messages[place] = Broken()
    found = fields_of_all(messages)
    assert [list(fields) for fields in found] == [list(fields_of(message)) for message in messages]
    assert fields_of_all([]) == []
