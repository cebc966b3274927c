"""Log records as JSON lines, or as text for a terminal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime, timezone
from typing import TextIO, cast

from .console import Console, Lines
from .output import visible

LEVELS = ("debug", "info", "warning", "error")

_ALWAYS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
"""What every record has; the rest came with `extra=`."""


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (ISO 8601, UTC), level, logger, message, the fields of `extra=`, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _ALWAYS | fields.keys()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; what would move the cursor is escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several."""
        return "\n".join(visible(line) for line in super().format(record).split("\n"))


class ConsoleHandler(logging.Handler):
    """Gives records to a console; never blocks."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written."""
        try:
            self._console.say(self.format(record))
        except Exception:  # somebody's arguments that do not fit their text: as every handler of logging does
            self.handleError(record)


@contextmanager
def logging_to(console: Console, level: str) -> Iterator[None]:
    """Within the block log records go to a console, unless the program has set up its logging itself.

    So do the lines that are printed, where they would tear the console's last line.
    """
    if logging.root.handlers:
        yield
        return
    handler = ConsoleHandler(console)
    handler.setFormatter(TextFormatter() if console.live else JsonFormatter())
    before = logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(level.upper())
    try:
        with _printing_to(console):
            yield
    finally:
        logging.root.removeHandler(handler)
        logging.root.setLevel(before)


@contextmanager
def _printing_to(console: Console) -> Iterator[None]:
    printed = sys.stdout
    if not (console.live and printed is not None and printed.isatty()):
        yield
        return
    lines = Lines(console, printed)
    with redirect_stdout(cast(TextIO, lines)):
        yield
    lines.finish()
