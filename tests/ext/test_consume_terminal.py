"""`eventbus consume` on a terminal: the live line, what handlers print above it, and Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from consume_support import QUICK, START, Process, Program, consume

from eventbus import EventBus
from eventbus.cli.console import REDRAWN
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(90)]

OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
"""Makes stdin's terminal the one whose Ctrl-C comes here."""
COLUMNS = 100


class Terminal:
    """A terminal, and all that was written on it."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.openpty()
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        self._data = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        return self._data.decode()

    def lines(self) -> list[str]:
        """What stands on it, as far as it is drawn without moving up."""
        return [re.split("\r\x1b\\[K|\r", line.rstrip("\r"))[-1] for line in self.text.split("\n")]

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def start(self, program: Program, url: str, *words: str) -> Process:
        """Consume with `show` on this terminal, as its foreground process."""
        options = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        before = [sys.executable, "-c", OWN]
        return consume(program, "show", url, *words, before=before, start_new_session=True, **options)

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join(QUICK)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self._data += data
        except OSError:  # nobody has the other end any more
            return


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_the_live_line_and_what_is_printed_above_it(
    program: Program, terminal: Terminal, nats_server: NatsServer
) -> None:
    with terminal.start(program, nats_server.url) as process:
        wait_until(lambda: "CONNECTED" in terminal.lines()[-1], START)
        with EventBus(nats_server.url) as bus:
            bus.publish("orders.new", "1")
        wait_until(lambda: "handled 1" in terminal.lines()[-1], START)
        assert "shown 1" in terminal.lines(), "a line of its own"
        nats_server.kill()
        wait_until(lambda: "RECONNECTING" in terminal.lines()[-1], START)
        nats_server.start()
        wait_until(lambda: terminal.lines()[-1].startswith("CONNECTED"), START)
        terminal.press(b"\x03")
        assert process.end() == 0
        wait_until(lambda: terminal.lines()[-1] == "", message=lambda: terminal.text[-500:])
    assert "closed: all that was in hand is handled" in terminal.lines()[-2]
    assert "{" not in terminal.text, "no JSON for people"
    drawn = re.findall("\r\x1b\\[K([^\n\r]*)", terminal.text)
    assert max(len(line) for line in drawn if line.startswith("CONNECTED")) < COLUMNS


def test_ctrl_c_twice_leaves_a_handler_behind(program: Program, terminal: Terminal, nats_server: NatsServer) -> None:
    program.write("show = hold\n")
    with EventBus(nats_server.url) as bus:
        bus.publish("orders.new", "1")
    with terminal.start(program, nats_server.url) as process:
        wait_until(lambda: program.seen() == ["begins 1"], START)
        terminal.press(b"\x03")
        wait_until(lambda: "once more to leave at once" in terminal.lines()[-1])
        subprocess.run(["sleep", "0.3"], check=True)  # longer than twins are apart
        terminal.press(b"\x03")
        assert process.end() == 1
    assert "left are 1 messages in hand" in terminal.text


def test_json_lines_on_a_terminal(program: Program, terminal: Terminal, nats_server: NatsServer) -> None:
    with terminal.start(program, nats_server.url, "--json") as process:
        wait_until(lambda: '"phase": "connected"' in terminal.text, START)
        process.send()
        assert process.end() == 0
    assert "\x1b" not in terminal.text


def test_it_is_redrawn_a_few_times_a_second_at_most(
    program: Program, terminal: Terminal, nats_server: NatsServer
) -> None:
    with terminal.start(program, nats_server.url) as process, EventBus(nats_server.url) as bus:
        wait_until(lambda: "CONNECTED" in terminal.lines()[-1], START)
        begun = time.monotonic()
        for number in range(2000):
            bus.publish_nowait("orders.new", str(number))
        wait_until(lambda: "handled 2,000" in terminal.lines()[-1], START)
        seconds = time.monotonic() - begun
        process.send()
        assert process.end() == 0
    drawn = set(re.findall("CONNECTED[^\n\r]*", terminal.text))
    assert 2 <= len(drawn) <= seconds / REDRAWN + 5
