"""The README's table of guarantees is what the backends declare.

To take a change over: python -m scripts.guarantees --write
"""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from eventbus.features import Features

pytest.importorskip("confluent_kafka")

from scripts.guarantees import BEGIN, END, ROWS, features_of_ours, table

README = (Path(__file__).parents[2] / "README.rst").read_text(encoding="utf-8")
NAMES = [one.name for one in attrs.fields(Features)]


def test_the_readme_has_the_table() -> None:
    found = README.partition(BEGIN)[2].partition(END)[0]
    assert found == table(features_of_ours()), "run: python -m scripts.guarantees --write"


@pytest.mark.parametrize("name", NAMES)
def test_each_feature_shows(name: str) -> None:
    """One that is declared otherwise makes another table: nothing is promised by hand."""
    for features in features_of_ours().values():
        other = attrs.evolve(features, **{name: not getattr(features, name)})
        if table({"it": features}) != table({"it": other}):
            return
    pytest.fail(f"the table does not depend on {name}")


def test_how_a_promise_is_kept_is_told_of_backends_that_there_are() -> None:
    assert {backend for row in ROWS for backend in row.how} <= set(features_of_ours())


def test_it_is_a_simple_table_of_lines_that_fit() -> None:
    lines = table(features_of_ours()).splitlines()
    assert lines[0] == lines[2] == lines[-1]
    assert all(len(line) <= len(lines[0]) <= 120 for line in lines)
    starts = [0, *(place + 2 for place, letter in enumerate(lines[0]) if lines[0][place : place + 2] == "  ")]
    assert all(line[start - 1 : start].strip() == "" for line in lines for start in starts[1:])


def test_a_promise_takes_one_line_of_the_first_column() -> None:
    """Else the rest of it would be a row of its own."""
    assert max(len(row.promise) for row in ROWS) <= table(features_of_ours()).index(" ")
