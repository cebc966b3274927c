"""Messages, ids and the rules at the door."""

from __future__ import annotations

from datetime import datetime, timezone
from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Message
from eventbus.message import (
    IdMint,
    check_group,
    check_headers,
    check_pattern,
    check_topic,
    encode_payload,
    matches,
)

PARTS = st.text("abcAZ09_-", min_size=1, max_size=3)
TOPICS = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.tuples(st.lists(st.one_of(PARTS, st.just("*")), max_size=4), st.booleans()).map(
    lambda made: ".".join([*made[0], *([">"] if made[1] or not made[0] else [])])
)


@given(TOPICS)
def test_good_topics_are_taken(topic: str) -> None:
    assert check_topic(topic) == check_pattern(topic) == topic
    assert matches(topic, topic)


@given(st.text(max_size=12))
def test_no_text_gets_through_that_could_inject_a_protocol_line(text: str) -> None:
    try:
        check_topic(text)
    except ValueError as error:
        assert str(error)
    else:
        assert set(text) <= set(ascii_letters + digits + "._-")
        assert all(text.split("."))


def model_matches(pattern: list[str], topic: list[str]) -> bool:
    if pattern == [">"]:
        return bool(topic)
    if not pattern or not topic:
        return pattern == topic
    return pattern[0] in ("*", topic[0]) and model_matches(pattern[1:], topic[1:])


@given(PATTERNS, TOPICS)
def test_wildcards_mean_what_they_mean_in_nats(pattern: str, topic: str) -> None:
    assert check_pattern(pattern) == pattern
    assert matches(pattern, topic) == model_matches(pattern.split("."), topic.split("."))


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [(">", "dlq.g.t", False), ("*.>", "dlq.g.t", False), ("dlq.>", "dlq.g.t", True), ("dlq.g.t", "dlq.g.t", True)],
)
def test_dead_letters_match_only_those_who_ask_for_them(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@pytest.mark.parametrize("topic", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a*", "a" * 181, "ä", None, 1, "*", ">"])
def test_bad_topics(topic: object) -> None:
    with pytest.raises(ValueError, match="bad topic"):
        check_topic(topic)


@pytest.mark.parametrize("pattern", ["", "a*", "*a", ">.a", "a.>.b", ">>", "a.", "**", None])
def test_bad_patterns(pattern: object) -> None:
    with pytest.raises(ValueError, match="bad topic pattern"):
        check_pattern(pattern)


@pytest.mark.parametrize("group", ["", "a b", "g" * 65, "a..b", None])
def test_bad_groups(group: object) -> None:
    with pytest.raises(ValueError, match="bad group"):
        check_group(group)


def test_headers_are_copied_and_checked() -> None:
    given_headers = {"A-b": "x", "empty": "", "tab": "a\tb"}
    checked = check_headers(given_headers)
    assert checked == given_headers
    assert checked is not given_headers


@pytest.mark.parametrize(
    "headers",
    [
        *({"a": value} for value in ("b\r\nc", "\x00", " x")),
        *({name: ""} for name in ("a b", "", "a:", "NATS-x", "eventbus-x")),
        {"A": "", "a": ""},
    ],
)
def test_bad_headers(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        check_headers(headers)


@given(st.binary(max_size=20))
def test_bytes_stay_as_they_are(data: bytes) -> None:
    assert encode_payload(data) == encode_payload(bytearray(data)) == encode_payload(memoryview(data)) == data


def test_payloads() -> None:
    assert encode_payload("ä") == "ä".encode()
    assert encode_payload({"a": [1, None]}) == b'{"a":[1,null]}'
    with pytest.raises(TypeError, match="None"):
        encode_payload(None)
    with pytest.raises(TypeError):
        encode_payload(object())
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for bad in (float("inf"), deep, "\ud800"):
        with pytest.raises(ValueError):
            encode_payload(bad)
    while deep:  # taking it apart by recursion would overflow in turn
        deep = deep.pop()  # type: ignore[assignment]


def test_a_message_is_a_value() -> None:
    one = Message("t", {"a": 1}, key="k", headers={"h": "v"}, id="1")
    two = Message("t", b'{"a":1}', key="k", headers={"h": "v"}, id="1", timestamp=datetime.now(timezone.utc), attempt=2)
    assert one == two
    assert hash(one) == hash(two)
    assert one != Message("t", {"a": 1}, key="other", id="1")
    assert (one == "t") is False
    assert (one.json(), one.text(), one.attempt, one.timestamp) == ({"a": 1}, '{"a":1}', 1, None)
    assert "secret" not in repr(Message("t", "secret"))


def test_ids_are_unique_and_of_one_length() -> None:
    one, two = IdMint(), IdMint()
    ids = {mint.id_of(mint.next_number()) for mint in (one, two) for _ in range(1000)}
    assert len(ids) == 2000
    assert {len(id) for id in ids} == {29}
    assert one.origin != two.origin
