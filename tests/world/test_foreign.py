"""Foreign: what other programs write arrives unchanged and can be forwarded unchanged. Memory's part of it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from world_support import MakeBus, Seen

import eventbus
import eventbus.testing
from eventbus import EventBus, Message

KEYS = [b"\x00\x00\x00\x00\x00\x00\x00\x2a", b"\xff\xfe", "schlüssel".encode(), b" outer ", b"line\r\nbreak"]
HEADERS: list[tuple[str, bytes | None]] = [
    ("trace", b"\x00\x01\xff"),
    ("tag", b"one"),
    ("tag", b"two"),
    ("Tag", b"three"),
    ("lines", b"a\r\nb"),
]


@pytest.fixture
def bus(memory_bus: MakeBus) -> EventBus:
    bus = memory_bus()
    bus.open()
    return bus


def received(bus: EventBus, topic: str, number: int = 1) -> list[Message]:
    """What is stored there."""
    seen = Seen()
    bus.subscribe(topic, seen, group=f"reader-{topic}")
    seen.wait(number, 3.0)
    return seen.messages


@pytest.mark.parametrize("key", KEYS)
def test_a_binary_key_arrives_as_it_is_and_keeps_its_order(bus: EventBus, key: bytes) -> None:
    for number in range(5):
        bus.publish("keys", str(number), key=key)
    messages = received(bus, "keys", 5)
    assert [message.raw_key for message in messages] == [key] * 5
    assert [message.payload for message in messages] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_text_key_is_the_same_as_its_bytes(bus: EventBus) -> None:
    bus.publish("keys", b"x", key="text")
    bus.publish("keys", b"x", key=b"text")
    first, second = received(bus, "keys", 2)
    assert (first.key, first.raw_key, second.raw_key) == ("text", b"text", b"text")
    assert first.partition == second.partition


def test_repeated_and_binary_headers_arrive_in_order(bus: EventBus) -> None:
    bus.publish("headers", b"x", headers=HEADERS)
    (message,) = received(bus, "headers")
    assert list(message.raw_headers) == HEADERS


def test_a_message_that_is_published_again_is_unchanged(bus: EventBus) -> None:
    bus.publish("first", b"\x00payload", key=KEYS[0], headers=HEADERS)
    (message,) = received(bus, "first")
    again = Message("second", message.payload, key=message.raw_key, headers=message.raw_headers)
    bus.publish_many([again])
    (forwarded,) = received(bus, "second")
    assert (forwarded.payload, forwarded.raw_key) == (message.payload, message.raw_key)
    assert list(forwarded.raw_headers) == HEADERS


def test_a_received_message_itself_can_be_published_again_and_again(bus: EventBus) -> None:
    """`publish_many` takes what a handler got; its id makes a copy in the same topic a duplicate, not an error."""
    bus.publish("first", b"x", key=KEYS[0], headers=HEADERS)
    (message,) = received(bus, "first")
    (receipt,) = bus.publish_many([message])
    assert receipt.duplicate and receipt.id == message.id


def test_a_handler_s_headers_are_its_own(bus: EventBus) -> None:
    """One handler writes into them: the other one's are as published."""
    found: list[dict[str, str]] = []

    def spoil(message: Message) -> None:
        with suppress(TypeError):  # read-only will do, too
            message.headers["mine"] = "spoilt"  # type: ignore[index]

    bus.publish("headers", b"x", headers={"a": "b"})
    spoiler = Seen()
    bus.subscribe("headers", lambda message: (spoil(message), spoiler(message)), group="spoiler")
    spoiler.wait(1)
    bus.subscribe("headers", lambda message: found.append(dict(message.headers)), group="reader")
    bus.publish("headers", b"y", headers={"a": "b"})
    spoiler.wait(2)
    eventbus.testing.wait_until(lambda: len(found) == 2)
    assert found == [{"a": "b"}] * 2


def test_json_of_a_payload_that_is_too_deep_is_a_value_error(bus: EventBus) -> None:
    bus.publish("deep", b"[" * 200_000)
    (message,) = received(bus, "deep")
    with pytest.raises(ValueError):
        message.json()


def test_a_tombstone_is_unsupported_on_memory_and_none_is_a_type_error(bus: EventBus) -> None:
    with pytest.raises(eventbus.UnsupportedError):
        bus.publish("topic", eventbus.TOMBSTONE, key="key")
    with pytest.raises(TypeError):
        bus.publish("topic", None)


def test_a_message_knows_its_partition_and_offset(bus: EventBus) -> None:
    receipt = bus.publish("places", b"x", key="key")
    (message,) = received(bus, "places")
    assert (message.partition, message.offset) == (receipt.partition, receipt.offset)
    assert not message.is_tombstone


@pytest.mark.parametrize("wrong", [{"key": 5}, {"headers": [("name",)]}, {"headers": {"name": 5}}, {"headers": 7}])
def test_what_cannot_be_carried_is_refused_at_the_door(bus: EventBus, wrong: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, eventbus.PublishRejectedError)):
        bus.publish("topic", b"x", **wrong)
    assert bus.publish("topic", b"x").confirmed


def test_the_same_id_in_two_topics_is_two_messages(bus: EventBus) -> None:
    first = bus.publish("one", b"x", id="the-same")
    second = bus.publish("two", b"x", id="the-same")
    again = bus.publish("two", b"x", id="the-same")
    assert (first.duplicate, second.duplicate, again.duplicate) == (False, False, True)
