"""The integration for Django: each promise in a process of its own, on SQLite and on PostgreSQL."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from django_support import environment, told_by

from eventbus.testing import PostgresServer

pytest.importorskip("django")

SOURCE = Path(__file__).with_name("django_scenarios.py")


def names_of(decorator: str) -> list[str]:
    """The scenarios under a decorator; importing them here would set up Django in this process."""
    functions = [node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [one.name for one in functions if decorator in map(ast.unparse, one.decorator_list)]


def run(name: str, **env: str) -> None:
    """Run a scenario: it must end well, with nothing on stderr but what is logged."""
    _, errors = told_by(str(SOURCE), name, env=environment(**env))
    for trouble in ("Warning:", "Exception ignored", "Exception in thread"):
        assert trouble not in errors


@pytest.mark.parametrize("name", names_of("scenario"))
def test_each_promise_that_needs_no_database_is_kept(name: str) -> None:
    run(name, DATABASE_URL="sqlite:///nowhere/shop.sqlite3")


@pytest.mark.parametrize("name", names_of("with_database"))
def test_each_promise_is_kept_on_sqlite(name: str, tmp_path: Path) -> None:
    run(name, DATABASE_URL=f"sqlite://{tmp_path}/shop.sqlite3")


@pytest.mark.postgres
def test_each_promise_is_kept_on_postgresql(postgres_server: PostgresServer) -> None:
    """All in turn, for each empties the tables that it needs."""
    for name in names_of("with_database"):
        run(name, DATABASE_URL=postgres_server.url)


def test_nothing_is_left_out() -> None:
    assert len(names_of("scenario")) > 10
    assert len(names_of("with_database")) > 5
