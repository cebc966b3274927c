"""A server as a child process: killed, frozen, thawed, and never left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from eventbus.testing.wait import wait_until

_GUARDIAN = Path(__file__).with_name("guardian.py")
# The child waits for a line before it becomes the server: the guardian knows it by then, and if
# this process dies first the line never comes.
_GATE = 'read -r _ && exec "$@" </dev/null'
_READY_INTERVAL = 0.002
_TAIL = 2000
_ASKED = 10.0


class ServerUnavailable(Exception):
    """There is no such server (or tool) here, or it cannot do what was asked; says why."""


class ServerFailed(Exception):
    """A server did not start, or did not take its configuration; holds the end of its log."""


class Runs(Protocol):
    """Something that runs and writes a log."""

    @property
    def running(self) -> bool:
        """Whether it is there."""
        ...

    def log(self) -> str:
        """Everything that it wrote."""
        ...


class Host(Runs, Protocol):
    """Where a server runs: a :class:`ManagedProcess`, which says what each method promises, or docker."""

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self, timeout: float) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def close(self) -> None: ...


def wait_ready(name: str, server: Runs, probe: Callable[[], bool], timeout: float) -> float:
    """Ask ``probe`` every 2 ms until it is true; return ``time.monotonic()`` of that moment.

    Raises:
        ServerFailed: the server ended, or ``timeout`` seconds passed; holds the end of its log.
    """

    def alive() -> bool:
        return server.running

    deadline = time.monotonic() + timeout
    while alive():
        answered, now = probe(), time.monotonic()
        if answered and alive():  # else somebody else answers there
            return now
        if now >= deadline:
            raise ServerFailed(f"{name} is not ready after {timeout:g} s: {log_tail(server)}")
        time.sleep(_READY_INTERVAL)
    raise ServerFailed(f"{name} ended while it was to start: {log_tail(server)}")


@functools.lru_cache(maxsize=16)
def answer_of(program: str, *arguments: str) -> tuple[str, str]:
    """Run a program that only tells something; return what it wrote, or the reason why it does not work."""
    try:
        told = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=_ASKED)
    except (OSError, subprocess.SubprocessError) as exc:
        return "", f"{program} does not run ({exc})"
    if told.returncode:
        return "", f"{program} does not run ({(told.stderr or told.stdout).strip()[:200]})"
    return told.stdout.strip(), ""


def log_tail(server: Runs) -> str:
    """Return the end of a server's log, for error texts."""
    return server.log()[-_TAIL:].strip() or "(it wrote nothing)"


class Guardian:
    """A tiny process that ends a server and removes a directory once this process is gone."""

    def __init__(self, directory: Path, *, site_packages: bool = False) -> None:
        """Start it. ``site_packages``: it will have to end a container, by the docker SDK."""
        flags = ["-I"] if site_packages else ["-I", "-S"]
        self._process = subprocess.Popen(
            [sys.executable, *flags, str(_GUARDIAN), str(os.getpid()), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def tell(self, line: str) -> None:
        """Name what to end: ``pid N``, ``container ID`` or ``none``.

        Raises:
            ServerFailed: the guardian is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except (OSError, ValueError) as exc:
            raise ServerFailed(f"the guardian of a test server is gone: {exc}") from exc

    def close(self, timeout: float = 30.0) -> None:
        """Let it end what it was told of, remove the directory, and go. Idempotent."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout)


class ManagedProcess:
    """One command, run again and again in one temporary directory.

    The child and the directory are gone when :meth:`close` returns, or soon after this process
    has ended, however it ended. One thread at a time drives it; :meth:`log` and the properties
    may be read by any. All times are in seconds.
    """

    def __init__(self, name: str) -> None:
        """Make the directory (its name begins with ``eventbus-<name>-``); starts no child yet."""
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"eventbus-{name}-"))
        self.log_path = self.directory / "log"
        self._guardian = Guardian(self.directory)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the last child started, 0 before the first."""
        return self._child.pid if self._child else 0

    @property
    def running(self) -> bool:
        """Whether the child is there, frozen or not."""
        return self._child is not None and self._child.poll() is None

    def run(self, command: Sequence[str | Path]) -> None:
        """Run the command; its output goes to the end of the log file.

        Raises:
            ServerFailed: it is running already.
        """
        if self.running:
            raise ServerFailed(f"{self.name} is running already (pid {self.pid})")
        with self.log_path.open("ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "sh", *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self._child = child
        assert child.stdin is not None
        with child.stdin:
            self._guardian.tell(f"pid {child.pid}")
            child.stdin.write(b"\n")

    def kill(self) -> None:
        """SIGKILL, frozen or not; returns when the child is gone. Fine if it is gone already."""
        self.signal(signal.SIGKILL)
        self._reap(10.0)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end (SIGTERM, thawed first); SIGKILL after ``timeout`` seconds. Idempotent."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            self._reap(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def freeze(self) -> None:
        """SIGSTOP; returns when every thread of the child really stands still."""
        self._require_running("freeze")
        self.signal(signal.SIGSTOP)
        wait_until(lambda: self._states() <= {"T"}, 10.0, message=f"{self.name} frozen")

    def thaw(self) -> None:
        """SIGCONT; returns when the child runs again. Fine if it was not frozen."""
        self._require_running("thaw")
        self.signal(signal.SIGCONT)
        wait_until(lambda: "T" not in self._states(), 10.0, message=f"{self.name} thawed")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child; a child that is gone is left alone."""
        if self._child is not None:
            self._child.send_signal(number)

    def wait_gone(self, timeout: float) -> None:
        """Wait until the child has ended by itself.

        Raises:
            ServerFailed: it is still there after ``timeout`` seconds.
        """
        try:
            self._reap(timeout)
        except subprocess.TimeoutExpired as exc:
            raise ServerFailed(f"{self.name} still runs after {timeout:g} s") from exc

    def log(self) -> str:
        """Everything the child has written, over all its starts."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def close(self) -> None:
        """Kill the child and remove the directory. Idempotent."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._guardian.close()

    def _reap(self, timeout: float) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.wait(timeout)
            self._guardian.tell("none")

    def _require_running(self, verb: str) -> None:
        if not self.running:
            raise ServerFailed(f"cannot {verb} {self.name}: it is not running")

    def _states(self) -> set[str]:
        states = set()
        for task in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                states.add(task.read_text().rpartition(")")[2].split()[0])
        return states
