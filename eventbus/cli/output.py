"""What the command line prints: tables or JSON lines on stdout, everything else on stderr; no secrets."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import parse_qsl, unquote, urlsplit

from ..config_fields import is_secret_option

URL = "EVENTBUS_URL"
WIDEST = 60
"""Characters of a column, where another one follows."""
EVERY = 1.0
"""Seconds between two lines of progress."""

Row = Mapping[str, object]


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add `--url` to a command line."""
    parser.add_argument("--url", help=f"where the broker is; {URL} without it")


def positive_seconds(text: str) -> float:
    """A number of seconds on a command line, more than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds, more than 0, not {text!r}")
    return number


class Output:
    """as_json: one JSON object for each row, else a table."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._told_at = time.monotonic()

    def rows(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Print these columns of all rows."""
        if self._as_json:
            for row in rows:
                print(json.dumps({name: _plain(row.get(name)) for name in columns}))
        elif rows:
            table = [[name.upper() for name in columns]] + [
                [_short(visible(row.get(name)), number == len(columns) - 1) for number, name in enumerate(columns)]
                for row in rows
            ]
            widths = [max(len(line[number]) for line in table) for number in range(len(columns))]
            for line in table:
                print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        sys.stdout.flush()

    def record(self, row: Row) -> None:
        """Print one row: a JSON object, or a line for each field."""
        if self._as_json:
            print(json.dumps({name: _plain(value) for name, value in row.items()}))
        else:
            width = max(map(len, row))
            for name, value in row.items():
                text = ", ".join(map(str, value)) if isinstance(value, list) else value
                print(f"{name.ljust(width)}  {visible(text)}")
        sys.stdout.flush()

    def summary(self, row: Row, text: str) -> None:
        """What was done: one JSON object on stdout, or a sentence."""
        print(json.dumps({name: _plain(value) for name, value in row.items()}) if self._as_json else visible(text))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Something beside the result, on stderr."""
        print(visible(text), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Say on stderr how far it is, once a second at most, and not within the first."""
        now = time.monotonic()
        if now - self._told_at >= EVERY:
            self._told_at = now
            self.note(text)


def flush_printed() -> None:
    """Have on stdout what was printed; if nobody reads it any more, the interpreter does not complain at its end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def visible(value: object) -> str:
    """Text that moves no cursor and colours nothing, whoever wrote it."""
    if value is None:
        return "-"
    text = value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def hidden(text: str, url: str | None) -> str:
    """A text without what is secret in the URL that is used."""
    for secret in sorted(_secrets_of(url or os.environ.get(URL, "")), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets_of(url: str) -> set[str]:
    found: set[str] = set()
    _, _, rest = url.partition("://")
    place = rest.partition("?")[0].partition("/")[0]
    for part in place.split(","):
        login = part.rpartition("@")[0]
        found.add(login)
        found.add(login.partition(":")[2])
    try:
        query = parse_qsl(urlsplit(url).query)
    except ValueError:
        query = []
    found |= {value for name, value in query if is_secret_option(name)}
    return {one for secret in found for one in (secret, unquote(secret)) if one}


def _short(text: str, is_last: bool) -> str:
    return text if is_last or len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
