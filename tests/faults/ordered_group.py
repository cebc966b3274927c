"""An ordered group at work: processes of their own as its members, a publisher, and what became of each message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import eventbus
from eventbus import EventBus
from eventbus.testing import wait_until
from eventbus.testing.history import out_of_order

GROUP = "g"
KEYS = 50
LANES = 8
MEMBER = """
import json, os, signal, sys, threading, time
import eventbus

settings, path, topic, lanes, pause = json.loads(sys.argv[1])
out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
end = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: end.set())

def handle(message):
    # One write for each: what a killed process has handled is known.
    place = f"{message.partition} {message.key} {message.offset}"
    os.write(out, f"{time.monotonic()} {place} {message.text()}\\n".encode())
    if pause:
        time.sleep(pause)

with eventbus.EventBus(settings) as bus:
    bus.subscribe(topic, handle, group="g", concurrency=lanes, ordered=True)
    end.wait()
"""


class Handled(NamedTuple):
    """One start of a handler. at: by `time.monotonic`, the same in all processes."""

    at: float
    stream: str
    key: str
    offset: int
    payload: str
    member: int


class Member:
    """A process of the group."""

    def __init__(
        self, settings: Mapping[str, Any], path: Path, number: int, *, topic: str, lanes: int = LANES, pause: float
    ) -> None:
        self.number = number
        self.path = path
        job = json.dumps([settings, str(path), topic, lanes, pause])
        command = [sys.executable, "-c", textwrap.dedent(MEMBER), job]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def handled(self) -> list[Handled]:
        """All that it has begun to handle, in order of its lanes' writes."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            at, stream, key, offset, payload = line.split()
            found.append(Handled(float(at), stream, key, int(offset), payload, self.number))
        return found

    @property
    def size(self) -> int:
        """Grows with each message."""
        with suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10.0)

    def close(self) -> None:
        """In an orderly way."""
        self.process.terminate()
        self.process.wait(20.0)

    def end(self) -> None:
        """Whatever it does."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.kill()
        self.process.wait(10.0)


class OrderedGroup:
    """Two members, or as many as are started, and one publisher of `rate` messages a second."""

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        rate: float = 1000.0,
        topics: tuple[str, ...] = ("work.x",),
        pattern: str = "work.*",
        pause: float = 0.0,
        window: int = 1000,
    ) -> None:
        self.members: list[Member] = []
        self.confirmed: set[str] = set()
        self._folder = folder
        self._rate = rate
        self._topics = topics
        self._settings = {"url": url, "consumer": {"max_ack_pending": window}}
        self._pattern, self._pause = pattern, pause
        self._stop = threading.Event()
        self._bus = EventBus(url)
        self._publisher = threading.Thread(target=self._publish, name="publisher")

    @contextmanager
    def at_work(self, members: int = 2) -> Iterator[OrderedGroup]:
        """Publish, with so many members, until the end of the block."""
        self._bus.open()
        try:
            for _ in range(members):
                self.start()
            self._publisher.start()
            wait_until(lambda: any(member.size for member in self.members), 15.0)
            yield self
        finally:
            self.finish_publishing()
            for member in self.members:
                member.end()
            self._bus.close()

    def start(self) -> Member:
        """One member more."""
        number = len(self.members)
        path = self._folder / f"member-{number}"
        member = Member(self._settings, path, number, topic=self._pattern, pause=self._pause)
        self.members.append(member)
        return member

    @property
    def active(self) -> Member:
        """The member that is at work now."""
        before = {member.number: member.size for member in self.members}
        grown: list[Member] = []

        def found() -> bool:
            grown[:] = [one for one in self.members if one.size > before.get(one.number, 0)]
            return bool(grown)

        wait_until(found, 10.0)
        return grown[0]

    def takes_over(
        self, after: Callable[[], object], *others: Member, timeout: float = 15.0, from_its_end: bool = False
    ) -> float:
        """Do something to the group; the seconds until one of these members, or any, begins a handler after that.

        from_its_end: what is done takes its time, and counts only once it is done.
        """
        started = time.monotonic()
        after()
        done = time.monotonic()
        members = others or tuple(self.members)
        before = {member.number: member.size for member in members}
        wait_until(lambda: any(member.size > before[member.number] for member in members), timeout)
        first = min(one.at for member in members for one in member.handled() if one.at > started)
        return max(0.0, first - (done if from_its_end else started))

    def finish_publishing(self) -> None:
        """Publish no more."""
        self._stop.set()
        if self._publisher.ident is not None:
            self._publisher.join(30.0)

    def drained(self, timeout: float = 30.0) -> list[Handled]:
        """All that was handled, in order, once all that was confirmed is among it."""
        self.finish_publishing()

        def missing() -> set[str]:
            return self.confirmed - {one.payload for member in self.members for one in member.handled()}

        wait_until(lambda: not missing(), timeout, message=lambda: f"{len(missing())} of {len(self.confirmed)} missing")
        return sorted(one for member in self.members for one in member.handled())

    def _publish(self) -> None:
        number, started = 0, time.monotonic()
        while not self._stop.is_set():
            topic = self._topics[number % len(self._topics)]
            try:
                self._bus.publish(topic, f"{number}", key=f"k{number % KEYS}")
            except eventbus.PublishError:
                pass
            else:
                self.confirmed.add(str(number))
            number += 1
            self._stop.wait(max(0.0, started + number / self._rate - time.monotonic()))


def inversions(handled: list[Handled]) -> list[str]:
    """Messages that were handled for the first time after a later one of their stream and key."""
    places = (((one.stream, one.key), one.offset) for one in handled)
    return [f"{key}: {offset} after {newest}" for key, offset, newest in out_of_order(places)]


def again(handled: list[Handled]) -> int:
    """How many were handled more often than once."""
    return len(handled) - len({(one.stream, one.offset) for one in handled})
