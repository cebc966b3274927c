"""What answers of Kafka to a publish mean, and what a topic's configuration tells before it is asked."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError

from eventbus.backends.kafka.publishing.limits import CLOCKS, Limits, Topic, size_of
from eventbus.backends.kafka.publishing.verdicts import VERDICTS, Verdict, forbids, stored_nothing, verdict_of
from eventbus.message import TOMBSTONE
from eventbus.publishing.records import Extras, Record

CODES = {name: code for name in dir(KafkaError) if isinstance(code := getattr(KafkaError, name), int)}


def test_every_code_of_the_library_has_a_verdict() -> None:
    assert len(CODES) > 150
    assert [name for name, code in CODES.items() if code not in VERDICTS] == []


@pytest.mark.parametrize(
    ("verdict", "names"),
    [
        (Verdict.ALONE, "INVALID_RECORD MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE INVALID_TIMESTAMP POLICY_VIOLATION"),
        (Verdict.ALONE, "UNSUPPORTED_VERSION INVALID_REQUEST UNSUPPORTED_COMPRESSION_TYPE INVALID_MSG_SIZE"),
        (Verdict.TOPIC, "TOPIC_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED TOPIC_EXCEPTION"),
        (Verdict.GONE, "UNKNOWN_TOPIC_OR_PART UNKNOWN_TOPIC_ID _UNKNOWN_TOPIC _UNKNOWN_PARTITION"),
        (Verdict.WAIT, "_MSG_TIMED_OUT _PURGE_QUEUE _PURGE_INFLIGHT _TRANSPORT OUT_OF_ORDER_SEQUENCE_NUMBER"),
        (Verdict.WAIT, "PRODUCER_FENCED UNKNOWN_PRODUCER_ID NOT_ENOUGH_REPLICAS UNKNOWN KAFKA_STORAGE_ERROR"),
    ],
)
def test_the_verdicts(verdict: Verdict, names: str) -> None:
    assert [name for name in names.split() if verdict_of(KafkaError(CODES[name])) is not verdict] == []


def test_a_code_that_nobody_knows_is_waited_out_and_may_be_stored() -> None:
    unknown = KafkaError(12_345)
    assert verdict_of(unknown) is Verdict.WAIT
    assert not stored_nothing(unknown)


def test_what_stored_nothing() -> None:
    nothing = "_PURGE_QUEUE INVALID_RECORD UNKNOWN_TOPIC_OR_PART NOT_ENOUGH_REPLICAS TOPIC_AUTHORIZATION_FAILED"
    perhaps = "_PURGE_INFLIGHT _MSG_TIMED_OUT REQUEST_TIMED_OUT NOT_ENOUGH_REPLICAS_AFTER_APPEND UNKNOWN _TRANSPORT"
    assert [name for name in nothing.split() if not stored_nothing(KafkaError(CODES[name]))] == []
    assert [name for name in perhaps.split() if stored_nothing(KafkaError(CODES[name]))] == []


def test_what_forbids_a_producer() -> None:
    assert forbids(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "x", fatal=True))
    assert not forbids(KafkaError(KafkaError.TOPIC_EXCEPTION))
    assert not forbids(KafkaError(KafkaError._FATAL))


# -- configuration -------------------------------------------------------------------------------


def record(payload: bytes = b"x", **extras: Any) -> Record:
    return Record(1, "t", payload, Extras(**extras) if extras else None, None)


def refusal(limits: Limits, one: Record, *, partitions: int = 3, compressed: bool = False) -> str | None:
    return Topic(partitions, limits, time.monotonic()).refusal(one, compressed)


def test_a_configuration_is_read() -> None:
    config = {
        "max.message.bytes": "5000",
        "cleanup.policy": "delete,compact",
        "message.timestamp.before.max.ms": str(2**63 - 1),
        "message.timestamp.after.max.ms": "3600000",
    }
    assert Limits.of(config) == Limits(largest=5000, needs_key=True, oldest=None, newest=3600.0)
    assert Limits.of(config | {"message.timestamp.type": "LogAppendTime"}).newest is None
    assert Limits.of({}) == Limits()
    assert Limits.of({"max.message.bytes": "many"}) == Limits()


def test_a_compacted_topic_needs_keys() -> None:
    limits = Limits(needs_key=True)
    assert "needs a key" in str(refusal(limits, record()))
    assert refusal(limits, record(key="")) is None
    assert refusal(limits, record(TOMBSTONE, key=b"\xff")) is None


def test_a_message_may_be_as_large_as_the_topic_takes() -> None:
    one = record(bytes(1000), key="k", headers=(("a", b"b"), ("n", None)))
    size = size_of(one)
    assert refusal(Limits(largest=size), one) is None
    said = str(refusal(Limits(largest=size - 1), one))
    assert f"takes {size} bytes" in said
    assert str(size - 1) in said
    assert refusal(Limits(largest=size - 1), one, compressed=True) is None, "who knows"


def test_a_place_that_the_topic_does_not_have_is_refused() -> None:
    now = int(time.time() * 1000)
    limits = Limits(oldest=60.0, newest=60.0)
    margin = int(CLOCKS * 1000)
    for place, words in (
        ((3, 0), "no partition 3: the topic has 3"),
        ((-1, now + 61_000 + margin), "after.max.ms allows 60 s"),
        ((-1, now - 61_000 - margin), "before.max.ms allows 60 s"),
    ):
        assert words in str(refusal(limits, record(place=place)))
    for place in ((2, 0), (-1, now + 60_000), (-1, now - 60_000)):
        assert refusal(limits, record(place=place)) is None
    assert refusal(Limits(), record(place=(0, 1))) is None
