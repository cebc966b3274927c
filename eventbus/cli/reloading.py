"""Development: a process that starts again when a file of its program has changed."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable

from .. import log
from ..threads import StopToken, join_all, spawn

logger = log.get(__name__)

LOOK = 0.5
"""Seconds between two looks at all files: one of a thousand files takes some milliseconds."""

_Stamp = tuple[int, int, int]


class Watch:
    """Looks at the files of all imported modules, those imported later included, until one has changed.

    on_change(): called then, once, on a thread of its own. more: other files, those of a module that cannot be
    imported say.
    """

    def __init__(self, on_change: Callable[[], object], more: Iterable[str] = ()) -> None:
        self.changed = ""
        """The file that has changed; "" before."""
        self._on_change = on_change
        self._more = tuple(more)
        self._stop = StopToken()
        self._stamps: dict[str, _Stamp] = {}
        self._look()
        self._thread = spawn("eventbus.reload", self._run)

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        join_all([self._thread], LOOK)

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            self.changed = self._look()
            if self.changed:
                self._on_change()
                return

    def _look(self) -> str:
        """The first file that has changed since it was first seen."""
        for path in {*_module_files(), *self._more}:
            try:
                found = os.stat(path)
            except OSError:  # an editor is about to put another one in its place
                continue
            stamp = found.st_mtime_ns, found.st_size, found.st_ino
            if self._stamps.setdefault(path, stamp) != stamp:
                return path
        return ""


def files_of(error: BaseException) -> set[str]:
    """The files that have to do with an exception: those that it went through, and where the syntax is wrong."""
    found = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    while isinstance(error, SyntaxError) and error.filename:
        return found | {error.filename}
    return found


def start_again() -> None:
    """Put the same program, with the same arguments, in the place of this process. Does not return."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _module_files() -> set[str]:
    # A copy in one step: other threads import meanwhile.
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file for file in files if isinstance(file, str)}
