"""A consumer process as a user starts one: `python -m eventbus consume`, its handlers, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import eventbus
from eventbus.testing import wait_until

QUICK = 5.0
"""Seconds in which a process that has nothing to wait for ends, on a busy machine; a start takes longer."""
START = 20.0
"""Seconds that an interpreter has to be there."""

PROGRAM = """
    import os
    import threading
    from pathlib import Path

    from eventbus.testing import wait_until

    HERE = Path(__file__).parent

    def note(text):
        file = os.open(HERE / "seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{text}\\n".encode())
        os.close(file)

    def handle(message):
        note(message.text())

    def hold(message):
        note("begins " + message.text())
        wait_until((HERE / "released").exists, 60.0)
        note(message.text())

    def show(message):
        print("shown", message.text())
        note(message.text())
"""


class Program:
    """A module `program` in a folder of its own, whose handlers note what they see."""

    def __init__(self, folder: Path, text: str = "") -> None:
        self.folder = folder
        self.file = folder / "program.py"
        self.write(text)

    def write(self, text: str = "") -> None:
        """Have these lines behind the usual ones."""
        new = self.folder / "new"
        new.write_text(textwrap.dedent(PROGRAM) + textwrap.dedent(text), encoding="utf-8")
        new.replace(self.file)

    def seen(self) -> list[str]:
        """What the handlers have noted, of all processes, in order."""
        try:
            return (self.folder / "seen").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def handled(self) -> Counter[str]:
        """How often each message was handled to its end."""
        return Counter(one for one in self.seen() if not one.startswith("begins "))

    def release(self) -> None:
        """Let `hold` return."""
        (self.folder / "released").touch()


class Process:
    """One `python -m eventbus`, or another module; its stderr is read all the time, unless `stderr` is given."""

    def __init__(
        self,
        program: Program,
        *words: str,
        module: str = "eventbus",
        before: Sequence[str] = (),
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = None,
        **options: Any,
    ) -> None:
        command = [*before, sys.executable, "-m", module, *words]
        self.process = subprocess.Popen(
            command,
            cwd=program.folder,
            env=environment(),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE if stderr is None else stderr,
            **options,
        )
        self.lines: list[str] = []
        self._readers = [
            self._read(pipe, lines)
            for pipe, lines in ((self.process.stderr, self.lines), (self.process.stdout, []))
            if pipe is not None
        ]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(QUICK)
        for reader in self._readers:
            reader.join(QUICK)

    @property
    def pid(self) -> int:
        """Of the process that was started: `before`, where that is given."""
        return self.process.pid

    def send(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, timeout: float = QUICK) -> int:
        """Wait for its end; the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.text}") from None
        for reader in self._readers:
            reader.join(QUICK)
        return code

    @property
    def text(self) -> str:
        """All that it has said so far."""
        return "\n".join(self.lines)

    def records(self) -> list[dict[str, Any]]:
        """The JSON lines so far."""
        return [json.loads(line) for line in tuple(self.lines)]

    def wait_said(self, text: str, timeout: float = START) -> None:
        """Wait until it has said that."""
        wait_until(lambda: text in self.text, timeout, message=lambda: f"{text!r} in:\n{self.text}")

    def wait_connected(self) -> None:
        """Wait until it has a connection."""
        self.wait_said('"phase": "connected"')

    @staticmethod
    def _read(pipe: IO[bytes], lines: list[str]) -> threading.Thread:
        def read() -> None:
            with pipe:
                for line in pipe:
                    lines.append(line.decode().rstrip("\n"))

        thread = threading.Thread(target=read)
        thread.start()
        return thread


def environment() -> dict[str, str]:
    """Of a user's shell: none of our settings, and the library as it is tested here."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTBUS_", "PYTHON"))}
    return own | {"PYTHONPATH": str(Path(eventbus.__file__).parent.parent), "TERM": "xterm"}


def consume(
    program: Program, handler: str, url: str, *words: str, topic: str = "orders.new", **options: Any
) -> Process:
    """`eventbus consume program:handler`, in the group `shop`."""
    given = ("--url", url, "--topic", topic, "--group", "shop", *words)
    return Process(program, "consume", f"program:{handler}", *given, **options)
