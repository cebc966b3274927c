"""Text made of bytes remembers them: what a handler was shown can be published again, and nothing is bent."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Message
from eventbus.fields import (
    FirstShown,
    ShownHeaders,
    ShownText,
    check_headers,
    check_key,
    shown,
    shown_headers,
    shown_name,
)

VALUES = st.none() | st.binary(max_size=8)
FIELDS = st.lists(st.tuples(st.sampled_from(["a", "A", "b", "ü", "x y", "n\udcff"]), VALUES), max_size=5).map(tuple)


@given(st.binary(max_size=12))
def test_a_key_that_was_shown_is_its_bytes(data: bytes) -> None:
    text = shown(data)
    checked = check_key(text)
    assert (checked if isinstance(checked, bytes) else checked.encode()) == data
    for again in (copy.copy(text), copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert again == text
        assert Message("t", b"", key=again).raw_key == data


@pytest.mark.parametrize("data", [b"", b"plain", "schön".encode(), b"a\tb", b"\\xff", "日本".encode()])
def test_plain_text_is_a_plain_str(data: bytes) -> None:
    assert type(shown(data)) is str


@pytest.mark.parametrize("data", [b"\xff", b"\x00", b"a\nb", b" a", b"a ", b"\x7f"])
def test_what_is_no_plain_text_remembers_what_it_is(data: bytes) -> None:
    text = shown(data)
    assert isinstance(text, ShownText)
    assert text.raw == data
    assert type(text + "") is str, "what is made of it is text like any other"


@given(FIELDS)
def test_headers_that_were_shown_are_what_they_were_made_of(fields: tuple[tuple[str, bytes | None], ...]) -> None:
    headers = shown_headers(fields)
    assert dict(headers) == {shown_name(name): "" if value is None else shown(value) for name, value in fields}
    assert len(headers) == len(list(headers))
    assert Message("t", b"", headers=headers).raw_headers == fields
    assert pickle.loads(pickle.dumps(headers)) == headers
    if all(name.isprintable() for name, _ in fields):
        assert check_headers(headers) == fields
    else:
        with pytest.raises(ValueError, match="not valid Unicode"):
            check_headers(headers)


def test_single_values_remember_too() -> None:
    headers = shown_headers((("a", b"\xff"), ("b", None), ("c", b"x")))
    assert check_headers({**headers, "d": "new"}) == (("a", b"\xff"), ("b", None), ("c", b"x"), ("d", b"new"))
    assert check_headers(headers | {"c": "y"}) == (("a", b"\xff"), ("b", None), ("c", b"y"))
    assert check_headers(list(headers.items())) == (("a", b"\xff"), ("b", None), ("c", b"x"))


def test_the_last_value_of_a_name_is_shown_or_the_first() -> None:
    fields = (("t", b"1"), ("u", None), ("t", b"2"))
    assert ShownHeaders(fields)["t"] == "2"
    assert FirstShown(fields)["t"] == "1"
    with pytest.raises(KeyError):
        ShownHeaders(fields)["v"]
    with pytest.raises(TypeError):
        ShownHeaders(fields)["t"] = "3"  # type: ignore[index]


@pytest.mark.parametrize("name", ["plain", "ü", "\udcff", "\ud800", "a\udc80b"])
def test_any_name_can_be_shown(name: str) -> None:
    assert shown_name(name).isprintable()
    assert name.isprintable() == (shown_name(name) == name)
