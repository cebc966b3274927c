"""Messages, ids and the rules at the door."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from string import ascii_letters, digits
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import TOMBSTONE, Message, Tombstone
from eventbus.fields import check_headers, check_key
from eventbus.message import (
    Delivery,
    IdMint,
    check_group,
    check_id,
    check_pattern,
    check_topic,
    encode_payload,
    matches,
    parts_of,
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


def test_headers_become_pairs_of_bytes() -> None:
    assert check_headers({"A-b": "ä", "empty": "", "tab": "a\tb", "raw": b"\r\n\xff"}) == (
        ("A-b", "ä".encode()),
        ("empty", b""),
        ("tab", b"a\tb"),
        ("raw", b"\r\n\xff"),
    )
    assert check_headers({}) == check_headers([]) == ()


def test_pairs_may_repeat_and_what_is_raw_in_them_is_carried_as_it_is() -> None:
    pairs = (("tag", b"1"), ("tag", b" 2\n"), ("TAG", None), ("my näme", b""), ("", b"x"), ("Nats-Stream", b"s"))
    assert check_headers(pairs) == check_headers(list(pairs)) == check_headers(iter(pairs)) == pairs
    assert check_headers([("tag", "1"), ["tag", "2"]]) == (("tag", b"1"), ("tag", b"2"))


@pytest.mark.parametrize(
    "headers",
    [
        *([pair] for pair in ("ab", ("a",), ("a", "b", "c"), 7, None, {"a": "b"})),
        *([("a b", "text")], [("a", "b\r\nc")], [("Nats-X", "text")], [("a", 7)], [(b"a", b"b")]),
        *([("Eventbus-Id", b"x")], [("a\0b", b"x")], [("\ud800", None)], [(7, None)]),
        *("ab", b"ab", 7),
    ],
)
def test_bad_pairs(headers: object) -> None:
    with pytest.raises(ValueError, match="header"):
        check_headers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        *({"a": value} for value in ("b\r\nc", "\x00", " x")),
        *({name: ""} for name in ("a b", "", "a:", "NATS-x", "eventbus-x")),
        {"A": "", "a": ""},
        {"A": b"", "a": ""},
        {"a b": b"x"},
        {"a": None},
    ],
)
def test_bad_headers_are_refused(headers: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="header"):
        check_headers(headers)


@given(st.binary(max_size=20))
def test_bytes_stay_as_they_are(data: bytes) -> None:
    assert encode_payload(data) == encode_payload(bytearray(data)) == encode_payload(memoryview(data)) == data


def test_payloads_are_encoded_or_refused() -> None:
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
    ids = {mint.id_of(next(mint.numbers)) for mint in (one, two) for _ in range(1000)}
    assert len(ids) == 2000
    assert {len(id) for id in ids} == {29}
    assert one.origin != two.origin


UNSAFE = [chr(code) for code in (*range(9), *range(10, 32), *range(0x7F, 0xA0))]
"""All control characters but the tab: CR, LF and NUL among them, and NEL, a line end to some."""
LINES = ["\u2028", "\u2029", "\u00a0", "\ufeff", "\u202e"]
"""Line ends and blanks to Unicode, mere bytes to a protocol."""
NOT_TEXT: list[object] = [None, 1, 1.5, True, ["a"], ("a",), object()]


@pytest.mark.parametrize("check", [check_topic, check_pattern, check_group, check_id])
@pytest.mark.parametrize("unsafe", [*UNSAFE, *LINES, " ", "\t", "ä", "\ud800", "\uff21"])
def test_nothing_but_plain_ascii_is_a_name(check: Callable[[object], str], unsafe: str) -> None:
    for text in (f"a{unsafe}b", f"{unsafe}a", f"a{unsafe}", unsafe):
        with pytest.raises(ValueError, match=r"^bad"):
            check(text)


def test_a_message_takes_no_headers_that_are_none() -> None:
    for wrong in (5, object(), len):
        with pytest.raises(TypeError, match="headers must be a mapping or"):
            Message("t", b"", headers=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_no_control_character_gets_into_a_key_or_a_header(unsafe: str) -> None:
    for text in (f"a{unsafe}b", f"{unsafe}a", f"a{unsafe}", unsafe):
        with pytest.raises(ValueError, match=r"^key"):
            check_key(text)
        with pytest.raises(ValueError, match="value of header 'h'"):
            check_headers({"h": text})
        with pytest.raises(ValueError, match="bad header name"):
            check_headers({text: "v"})


@pytest.mark.parametrize("line", LINES)
def test_what_only_looks_like_a_line_end_is_carried_in_values_and_refused_in_names(line: str) -> None:
    assert check_key(f"a{line}b") == f"a{line}b"
    assert check_headers({"h": f"a{line}b"}) == (("h", f"a{line}b".encode()),)
    with pytest.raises(ValueError, match="bad header name"):
        check_headers({f"a{line}b": "v"})


@given(st.one_of(st.text(max_size=30), st.text("a\r\n\0 \t\x7f\x85\u2028", max_size=6)))
def test_what_passes_as_a_key_cannot_end_a_line_and_survives_a_strip(text: str) -> None:
    try:
        checked = check_key(text)
    except ValueError:
        return
    assert checked == text == text.strip(" \t") == text.encode().decode()
    assert not set(text) & set(UNSAFE)


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=4))
def test_what_passes_as_headers_can_be_written_as_lines_and_read_again(headers: dict[str, str]) -> None:
    try:
        checked = check_headers(headers)
    except ValueError as error:
        assert "header" in str(error)
        return
    block = b"\r\n".join(b"%b: %b" % (name.encode(), value) for name, value in checked if value is not None)
    lines = block.split(b"\r\n") if block else []
    read = dict(tuple(part.strip(b" \t").decode() for part in line.split(b":", 1)) for line in lines)
    assert read == headers


@pytest.mark.parametrize("value", NOT_TEXT)
def test_only_text_is_a_name_and_only_text_or_bytes_a_key_or_a_header(value: object) -> None:
    for check in (check_topic, check_pattern, check_group, check_id):
        with pytest.raises(ValueError, match=r"^bad"):
            check(value)
    with pytest.raises(ValueError, match="key must be a str"):
        check_key(value)
    with pytest.raises(ValueError, match="value of header 'h' must be a str"):
        check_headers({"h": value})
    if not isinstance(value, list):
        with pytest.raises(ValueError, match="bad header name"):
            check_headers({value: "v"})
    if not isinstance(value, (list, tuple)):
        with pytest.raises(ValueError, match="headers must be a mapping or"):
            check_headers(value)


@pytest.mark.parametrize(
    ("check", "longest"), [(check_topic, 180), (check_pattern, 180), (check_group, 64), (check_id, 128)]
)
def test_a_name_may_be_so_long_and_no_longer(check: Callable[[object], str], longest: int) -> None:
    assert check("a" * longest) == "a" * longest
    with pytest.raises(ValueError, match=r"^bad") as caught:
        check("a" * (longest + 1))
    assert str(longest) in str(caught.value)
    with pytest.raises(ValueError, match="1000000") as caught:
        check("a" * 1_000_000)
    assert len(str(caught.value)) < 300, "a text for people"
    with pytest.raises(ValueError, match=r"^bad"):
        check("")


def test_a_header_name_may_be_so_long_and_no_longer() -> None:
    assert check_headers({"a" * 128: "v"})
    with pytest.raises(ValueError, match="bad header name"):
        check_headers({"a" * 129: "v"})
    with pytest.raises(ValueError, match="1000000 characters") as caught:
        check_headers({"h": "\n" * 1_000_000})
    assert len(str(caught.value)) < 300, "a text for people"


@given(st.text("".join(map(chr, range(33, 127))), min_size=1, max_size=128))
def test_every_visible_ascii_text_is_an_id(text: str) -> None:
    assert check_id(text) == text


@given(TOPICS, st.lists(st.sampled_from(["a", "*", ">", "", "b", "dlq"]), min_size=1, max_size=4).map(".".join))
def test_matching_never_fails_and_covers_what_a_regular_expression_covers(topic: str, pattern: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError:
        return
    parts = [r"[^.]+" if part == "*" else ".+" if part == ">" else re.escape(part) for part in pattern.split(".")]
    covered = re.fullmatch(r"\.".join(parts), topic) is not None
    hidden = topic.partition(".")[0] == "dlq" != pattern.partition(".")[0]
    assert matches(pattern, topic) is (covered and not hidden)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_json_value_comes_out_as_it_went_in(value: object) -> None:
    if value is None or isinstance(value, str):
        value = [value]
    assert Message("t", value).json() == value


@given(st.text())
def test_a_text_comes_out_as_it_went_in(text: str) -> None:
    try:
        assert Message("t", text).text() == text
    except UnicodeEncodeError:
        assert any("\ud800" <= character <= "\udfff" for character in text)


def test_a_payload_that_is_no_text_or_no_json_says_so() -> None:
    with pytest.raises(UnicodeDecodeError):
        Message("t", b"\xff").text()
    with pytest.raises(ValueError):
        Message("t", b"{").json()


KEYS = st.sampled_from([None, "", "k", b"k", b"\xff", "\\xff"])
HEADERS = st.sampled_from(
    [None, {}, (), {"h": "v"}, [("h", b"v")], [("h", b"v"), ("h", b"v")], {"h": b"\xff"}, [("h", None)], {"h": ""}]
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["t", "u"]),
    st.sampled_from([b"", b"x", "x", [1], TOMBSTONE]),
    key=KEYS,
    headers=HEADERS,
    id=st.sampled_from([None, "1"]),
    attempt=st.sampled_from([1, 2]),
    partition=st.sampled_from([None, 3, "orders"]),
    offset=st.sampled_from([None, 0]),
)


@given(MESSAGES, MESSAGES)
def test_equal_messages_have_one_hash_and_different_ones_differ_in_a_part(one: Message, two: Message) -> None:
    def parts(message: Message) -> tuple[object, ...]:
        what = message.payload, message.is_tombstone, message.id
        return (message.topic, *what, message.raw_key, message.raw_headers)

    assert (one == two) is (parts(one) == parts(two)) is not (one != two)
    assert one != two or hash(one) == hash(two)


@given(MESSAGES)
def test_a_message_can_be_copied_and_sent_to_another_process(message: Message) -> None:
    for again in (pickle.loads(pickle.dumps(message)), copy.deepcopy(message), copy.copy(message)):
        assert again == message
        assert parts_of(again) == parts_of(message)
        assert (again.attempt, again.timestamp) == (message.attempt, message.timestamp)
        assert (again.partition, again.offset) == (message.partition, message.offset)
        assert again.is_tombstone is message.is_tombstone


@given(MESSAGES)
def test_a_received_message_is_published_as_it_was_stored(message: Message) -> None:
    received = Delivery(message.topic, message.payload, key=message.raw_key, headers=message.raw_headers, id=message.id)
    topic, payload, key, headers, id = parts_of(received)
    assert (topic, payload, key, id) == (message.topic, message.payload, message.raw_key, message.id)
    assert headers == (message.raw_headers or None)
    assert key is None or check_key(key) == message.raw_key
    assert headers is None or check_headers(headers) == message.raw_headers
    assert encode_payload(payload) is payload


def test_a_delivery_leaves_its_session_s_token_behind_when_it_is_sent_elsewhere() -> None:
    delivery = Delivery("t", b"x", id="1", attempt=3)
    delivery.identity, delivery.token = 1, threading.Lock()  # what no other process can use
    again = pickle.loads(pickle.dumps(delivery))
    assert not isinstance(again, Delivery)
    assert (again, again.attempt) == (Message("t", b"x", id="1"), 3)


def test_what_is_no_text_is_shown_with_escapes_and_kept_as_it_is() -> None:
    message = Message("t", b"", key=b"\xff\x00", headers=[("h", b"caf\xe9"), ("h", "last"), ("null", None)])
    assert (message.key, message.raw_key) == ("\\xff\x00", b"\xff\x00")
    assert message.headers == {"h": "last", "null": ""}
    assert message.raw_headers == (("h", b"caf\xe9"), ("h", b"last"), ("null", None))
    assert Message("t", b"", headers={"h": b"caf\xe9"}).headers == {"h": "caf\\xe9"}
    text = Message("t", b"", key="ä", headers={"h": "ö"})
    assert (text.key, text.raw_key, text.raw_headers) == ("ä", "ä".encode(), (("h", "ö".encode()),))
    nothing = Message("t", b"")
    assert (nothing.key, nothing.raw_key, nothing.headers, nothing.raw_headers) == (None, None, {}, ())


@pytest.mark.parametrize("headers", [None, {"h": "v"}, [("h", "v")]])
def test_the_headers_of_a_message_cannot_be_written_by_accident(headers: Any) -> None:
    message = Message("t", b"", headers=headers)
    with pytest.raises(TypeError):
        message.headers["a"] = "b"  # type: ignore[index]


def test_a_message_does_not_follow_the_mapping_that_it_was_made_of() -> None:
    given_headers = {"h": "v"}
    message = Message("t", b"", headers=given_headers)
    given_headers["h"] = "changed"
    assert message.headers == {"h": "v"}


def test_a_tombstone_is_empty_and_is_told_from_what_is_merely_empty() -> None:
    tombstone, empty = Message("t", TOMBSTONE, key="k"), Message("t", b"", key="k")
    assert (tombstone.is_tombstone, empty.is_tombstone, Message("t", Tombstone()).payload is TOMBSTONE) == (1, 0, 1)
    assert tombstone != empty
    assert (tombstone.payload, tombstone.text(), repr(TOMBSTONE)) == (b"", "", "TOMBSTONE")
    assert "TOMBSTONE" in repr(tombstone)
    with pytest.raises(ValueError):
        tombstone.json()
    for again in (pickle.loads(pickle.dumps(TOMBSTONE)), copy.copy(TOMBSTONE), copy.deepcopy(TOMBSTONE)):
        assert again is TOMBSTONE


def test_json_that_is_nested_too_deeply_is_a_value_error() -> None:
    depth = 100_000
    with pytest.raises(ValueError):
        Message("t", b"[" * depth + b"]" * depth).json()


def test_a_received_id_is_not_held_to_our_rule() -> None:
    assert check_id("an id of another program, with blanks", received=True)
    with pytest.raises(ValueError):
        check_id("an id of another program, with blanks")


def test_a_repr_names_the_message_and_shows_no_payload() -> None:
    shown = repr(Message("orders.new", "s3cret", key="k", headers={"h": "hidden"}, id="7"))
    assert shown == "<Message 'orders.new' id='7' key='k' attempt=1 6 bytes>"
