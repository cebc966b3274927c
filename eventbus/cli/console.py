"""What a running consumer tells: lines, and on a terminal a last one that is drawn again and again."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from ..threads import Alarm, join_all, spawn
from .output import visible

QUEUED = 10_000
"""Lines that wait at most for a reader who is slow; of more the oldest are dropped, and counted."""
REDRAWN = 0.25
"""Seconds between two looks at the figures: what changes faster than this cannot be read."""
LAST_LINES = 1.0
"""Seconds that the last lines have to be written in: a reader who is stuck does not hold up the end."""
ERASE = "\r\x1b[K"
NOWHERE = -1
"""The descriptor of a console whose lines are dropped."""


class Console:
    """Writes lines to a descriptor, on a thread of its own: a slow, stuck or vanished reader holds up nobody else.

    live: it is a terminal, and below the lines there is one more, which `draw` is asked for. hide: takes secrets out of
    a text. What cannot be written because nobody reads any more is dropped.
    """

    def __init__(self, descriptor: int, live: bool, hide: Callable[[str], str] = str) -> None:
        self.live = live
        self.draw: Callable[[], str] | None = None
        self._descriptor = descriptor
        self._hide = hide
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._alarm = Alarm()
        self._ended = self._broken = False
        self._shown = ""
        self._drawn_at = -REDRAWN
        self._process = os.getpid()
        self._thread = spawn("eventbus.console", self._run)

    def say(self, text: str) -> None:
        """Have a line written, or several; any thread, never blocks."""
        if os.getpid() != self._process:  # a child that a handler has forked: the thread is its parent's
            self._write(f"{text}\n")
            return
        self._lines.append(text)
        if len(self._lines) > QUEUED:
            self._lines.popleft()
            self._dropped += 1
        self._alarm.set()

    def close(self) -> None:
        """Write what waits, in bounded time, take the last line away, and end."""
        self._ended = True
        self._alarm.set()
        join_all([self._thread], LAST_LINES)

    def _run(self) -> None:
        while not self._ended:
            self._alarm.wait(REDRAWN if self.live else threading.TIMEOUT_MAX)
            self._refresh()
        self.draw = None
        self._refresh()

    def _refresh(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.insert(0, f"({dropped} lines were dropped: nobody read them in time)")
        line = self._line()
        if not lines and line == self._shown:
            return
        before = ERASE if self._shown else ""
        self._shown = line
        self._write(before + "".join(f"{one}\n" for one in lines) + line)

    def _line(self) -> str:
        """The last line: a new one, or the same if it was drawn just now."""
        draw, now = self.draw, time.monotonic()
        if not self.live or draw is None:
            return ""
        if now - self._drawn_at < REDRAWN:
            return self._shown
        self._drawn_at = now
        return self._fitted(draw())

    def _fitted(self, text: str) -> str:
        try:
            columns = os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            columns = 80
        return visible(text)[: columns - 1]

    def _write(self, text: str) -> None:
        data = self._hide(text).encode("utf-8", "backslashreplace")
        while data and not self._broken:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares the terminal has made it so
                select.select([], [self._descriptor], [], LAST_LINES)
            except OSError:  # the reader has gone, and the terminal, too, perhaps: messages are still to be handled
                self._broken = True


class Lines:
    """A text file of which each line goes to a console: so that what handlers print does not tear its last line.

    In all else it is the file that it stands for.
    """

    def __init__(self, console: Console, file: TextIO) -> None:
        self._console = console
        self._file = file
        self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Say the lines that are complete."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._console.say(line)
        return len(text)

    def flush(self) -> None:
        """Nothing to do: what is no line yet waits for its end."""

    def finish(self) -> None:
        """Say what was no line yet."""
        if self._begun:
            self.write("\n")
