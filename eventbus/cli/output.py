"""What the command line prints: tables or JSON lines on stdout, everything else on stderr; no secrets."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import TextIOWrapper
from typing import TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from ..config_fields import is_secret_option
from ..config_sources import ConfigSource

VARIABLES = "EVENTBUS_"
URL = "EVENTBUS_URL"
WIDEST = 60
"""Characters of a column, where another one follows."""
EVERY = 1.0
"""Seconds between two lines of progress."""

_URLS = ("url", "servers")
"""Settings that are URLs, with a login in them perhaps."""

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


class NotPrinted(Exception):
    """Internal: stdout takes no more; its cause says why."""


class Output:
    """Prints results on stdout and notes on stderr. What an encoding does not have is printed as escapes.

    as_json: one JSON object for each row, else a table.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._told_at = time.monotonic()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def rows(self, rows: Sequence[Row], columns: Sequence[str]) -> None:
        """Print these columns of all rows."""
        if self._as_json:
            for row in rows:
                self._print(json.dumps({name: _plain(row.get(name)) for name in columns}))
        elif rows:
            table = [[name.upper() for name in columns]] + [
                [_short(visible(row.get(name)), number == len(columns) - 1) for number, name in enumerate(columns)]
                for row in rows
            ]
            widths = [max(len(line[number]) for line in table) for number in range(len(columns))]
            for line in table:
                self._print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        self._print(end="", flush=True)

    def record(self, row: Row) -> None:
        """Print one row: a JSON object, or a line for each field."""
        if self._as_json:
            self._print(json.dumps({name: _plain(value) for name, value in row.items()}), flush=True)
        else:
            width = max(map(len, row))
            for name, value in row.items():
                text = ", ".join(map(str, value)) if isinstance(value, list) else value
                self._print(f"{name.ljust(width)}  {visible(text)}", flush=True)

    def summary(self, row: Row, text: str) -> None:
        """What was done: one JSON object on stdout, or a sentence."""
        told = json.dumps({name: _plain(value) for name, value in row.items()}) if self._as_json else visible(text)
        self._print(told, flush=True)

    def note(self, text: str) -> None:
        """Something beside the result, on stderr; what is done goes on where nobody reads that."""
        try:
            print(visible(text), file=sys.stderr, flush=True)
        except OSError:
            _silence(sys.stderr)

    def _print(self, text: str = "", end: str = "\n", flush: bool = False) -> None:
        try:
            print(text, end=end, flush=flush)
        except OSError as error:
            raise NotPrinted(str(error)) from error

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
        _silence(sys.stdout)


def _silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def visible(value: object) -> str:
    """Text that moves no cursor and colours nothing, whoever wrote it."""
    if value is None:
        return "-"
    text = value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def hidden(text: str, source: ConfigSource) -> str:
    """A text without what is secret in the settings that are used, and in those of the environment."""
    environment = {name.lower(): value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    secrets = _secrets_in_url(os.environ.get(URL, "")) | _secrets_in(environment) | _secrets_in(source)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets_in(source: object) -> set[str]:
    if isinstance(source, str):
        return _secrets_in_url(source)
    if attrs.has(type(source)):
        source = attrs.asdict(source)  # type: ignore[arg-type]
    found: set[str] = set()
    if isinstance(source, Mapping):
        for name, value in source.items():
            if name in _URLS or not isinstance(value, str):
                found |= _secrets_in(value)
            elif is_secret_option(str(name)):
                found.add(value)
    elif isinstance(source, (list, tuple)):
        found |= {secret for one in source for secret in _secrets_in(one)}
    return found - {""}


def _secrets_in_url(url: str) -> set[str]:
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
