"""Catching what a test left behind: threads, file descriptors, errors that nobody saw."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from eventbus.testing.wait import wait_until

_DESCRIPTORS = Path("/proc/self/fd")
_STANDARD = 3


class LeakGuard:
    """Fails a block that leaves something behind.

    Watched: threads whose name starts with ``prefix``, open file descriptors (where there is
    ``/proc``; the first three are left out, test runners swap them), and exceptions that ended a
    thread. What was there before the block is not counted. At the end of the block, leftovers
    have ``grace`` seconds to go. A block that raises is not checked: its own error matters more.

    While it is active it holds ``threading.excepthook`` and keeps the errors to itself, in
    :attr:`errors`; a test that provokes one on purpose clears that list. Use it on one thread.
    """

    def __init__(self, *, grace: float = 3.0, prefix: str = "eventbus") -> None:
        """Describe the guard; it begins to watch when the block is entered."""
        self.errors: list[str] = []
        self._grace = grace
        self._prefix = prefix
        self._threads: set[threading.Thread] = set()
        self._descriptors: dict[int, str] = {}
        self._old_hook: Callable[[threading.ExceptHookArgs], object] = threading.excepthook
        # Kept, as each look at a bound method makes a new one.
        self._hook = self._record

    def leftovers(self) -> list[str]:
        """Return what is left behind now, one line each, threads with what they are doing."""
        return [*self._left_threads(), *self._left_descriptors(), *self.errors]

    def check(self) -> None:
        """Wait for leftovers to go.

        Raises:
            AssertionError: some are still there after ``grace`` seconds; names each.
        """
        if not self.leftovers():
            return
        gc.collect()  # a dropped socket may sit in a cycle, with the traceback of an error
        if self.errors:
            raise AssertionError(self._report())
        wait_until(lambda: not self.leftovers(), self._grace, message=self._report)

    def __enter__(self) -> LeakGuard:
        """Take note of what is there."""
        self.errors.clear()
        self._threads = set(threading.enumerate())
        self._descriptors = open_descriptors()
        self._old_hook, threading.excepthook = threading.excepthook, self._hook
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Check, unless the block raised.

        Raises:
            AssertionError: something was left behind.
        """
        try:
            if error is None:
                self.check()
        finally:
            if threading.excepthook is self._hook:
                threading.excepthook = self._old_hook

    def _record(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        name = args.thread.name if args.thread else "(gone)"
        text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        self.errors.append(f"an unhandled error in thread {name}:\n{text}")

    def _report(self) -> str:
        lines = "\n".join(f"- {line.strip()}" for line in self.leftovers())
        return f"something was left behind:\n{lines}"

    def _left_threads(self) -> list[str]:
        return [
            f"thread {thread.name} at\n{_stack_of(thread)}"
            for thread in threading.enumerate()
            if thread not in self._threads and thread.name.startswith(self._prefix)
        ]

    def _left_descriptors(self) -> list[str]:
        return [
            f"fd {fd} -> {target}{_addresses_of(fd, target)}"
            for fd, target in sorted(open_descriptors().items())
            if self._descriptors.get(fd) != target
        ]


def open_descriptors() -> dict[int, str]:
    """Return the file descriptors of this process above 2, with what ``/proc`` says they are."""
    found = {}
    try:
        entries = os.listdir(_DESCRIPTORS)
    except OSError:
        return {}
    for entry in entries:
        try:
            target = os.readlink(_DESCRIPTORS / entry)
        except OSError:  # closed meanwhile, as the one that listed the directory
            continue
        if int(entry) >= _STANDARD:
            found[int(entry)] = target
    return found


def _stack_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)[-3:]) if frame else "  (no stack)"


def _addresses_of(fd: int, target: str) -> str:
    if not target.startswith("socket:"):
        return ""
    try:
        with socket.socket(fileno=os.dup(fd)) as twin:
            return f" {twin.getsockname()} {_peer_of(twin)}".rstrip()
    except OSError:
        return ""


def _peer_of(sock: socket.socket) -> str:
    try:
        return f"to {sock.getpeername()}"
    except OSError:
        return "(not connected)"
