"""librdkafka's own log lines, on their way into `logging`."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from typing import NamedTuple

from .... import log
from ....forks import let_go_in_child
from ....threads import drained, spawn

logger = log.get(__name__)

REPEAT_AFTER = 30.0
"""Seconds before a line that differs from an earlier one in numbers only is written again."""
_MOST_LINES = 1_000
_MOST_TEXTS = 256
_TOLD_OTHERWISE = frozenset({"FAIL", "ERROR", "FATAL", "BRKFAIL"})
"""Facilities of what `error_cb` says too."""
_THREAD = re.compile(r"^\[thrd:[^\]]*\]: (?:\[[^\]]*\]: )?")
_MEANS_NOTHING = re.compile(r"is a (?:producer|consumer) property and will be ignored|: retrying$")
_NUMBER = re.compile(r"\d+")


class Line(NamedTuple):
    """One line, as librdkafka gave it."""

    level: int
    facility: str
    client: str
    text: str


class ClientLog:
    """The `logger` of clients: it only takes note, within the poll that serves the line, under whatever locks.

    A thread that lives for as long as there is something to write hands the lines to `logging`: no handler of
    somebody else's holds up a poll. Where lines come faster than they are written the oldest are dropped.
    """

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=_MOST_LINES)
        self._busy = False
        self._seen: dict[tuple[str, str, str], float] = {}
        self._repeats = 0

    def log(self, level: int, form: str, facility: str, client: str, text: str) -> None:
        """Called by confluent_kafka, for each line. Never raises, never waits."""
        self._lines.append(Line(level, facility, client, text))
        if not self._busy:
            self._busy = True
            try:
                spawn("eventbus.kafka-log", self._write)
            except RuntimeError:  # the interpreter ends
                self._busy = False

    def forked(self) -> None:
        """This is a forked child: the parent writes its lines."""
        self._lines.clear()
        self._busy = False

    def _write(self) -> None:
        while True:
            for line in drained(self._lines):
                self._tell(line)
            self._busy = False
            if not self._lines:
                return
            self._busy = True

    def _tell(self, line: Line) -> None:
        level = level_of(line)
        if not logger.isEnabledFor(level):
            return
        text, now = _THREAD.sub("", line.text), time.monotonic()
        kind = (line.client, line.facility, _NUMBER.sub("#", text))
        if now - self._seen.get(kind, -REPEAT_AFTER) < REPEAT_AFTER:
            self._repeats += 1
            return
        if len(self._seen) >= _MOST_TEXTS:
            self._seen.clear()
        self._seen[kind] = now
        repeats, self._repeats = self._repeats, 0
        more = f" ({repeats} repeats not shown)" if repeats else ""
        logger.log(level, "%s: %s: %s%s", line.client, line.facility, text, more)


def level_of(line: Line) -> int:
    """The level of a line: what is told by an error, or means nothing, is for debugging; the worst is a warning."""
    if line.facility in _TOLD_OTHERWISE or _MEANS_NOTHING.search(line.text):
        return logging.DEBUG
    return min(line.level, logging.WARNING)


CLIENT_LOG = ClientLog()
"""The one of this process."""

let_go_in_child(CLIENT_LOG.forked)
