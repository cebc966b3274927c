"""The main job, live: a real server is killed with -9 three times under load and frozen once.

A publisher (4 threads, 20 keys, every publish confirmed) and a group of two subscriber processes, all on
default settings. Ends with a table; exit code 1 if anything confirmed was lost, or out of order where the
backend promises order. `make demo` runs it; it takes less than a minute.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import eventbus
from eventbus.testing import KafkaServer, NatsServer, wait_until

KEYS = 20
THREADS = 4
TOPIC = "orders.new"
GROUP = "shop"
PAUSE = 0.004
"""Seconds between two publishes of a thread: load, not saturation."""
KILLS = (1.0, 3.0, 0.3)
"""Seconds that the server stays away after each kill -9."""
FREEZE = {"nats": 14.0, "kafka": 22.0}
"""Seconds; the default health check needs up to 13, with Kafka 21, to reach its threshold."""
CALM = 2.5
"""Seconds of load between two outages."""


class Outage:
    """One outage and what was seen of it. Times are `time.monotonic`, the same clock in all processes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = time.monotonic()
        self.noticed: float | None = None
        self.answering: float | None = None
        self.handled: float | None = None

    def row(self) -> str:
        """A line of the table."""
        times = (
            (self.answering or 0) - self.began,
            (self.noticed - self.began) if self.noticed else None,
            (self.handled - self.answering) if self.handled and self.answering else None,
        )
        cells = ["-" if value is None else f"{max(value, 0.0):.3f} s" for value in times]
        return f"  {self.name:<22}{cells[0]:>12}{cells[1]:>14}{cells[2]:>16}"


class Story:
    """Everything that was confirmed and handled, and the outages."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.confirmed: set[tuple[str, int]] = set()
        self.handled: Counter[tuple[str, int]] = Counter()
        self.inversions = 0
        self.outages: list[Outage] = []
        self.errors: Counter[str] = Counter()
        self._last: dict[str, int] = {}

    def confirm(self, key: str, number: int) -> None:
        """A receipt came."""
        with self.lock:
            self.confirmed.add((key, number))

    def handle(self, key: str, number: int, at: float) -> None:
        """A subscriber's handler was called at that time."""
        with self.lock:
            first = not self.handled[key, number]
            self.handled[key, number] += 1
            if first:
                self.inversions += number < self._last.get(key, -1)
                self._last[key] = number
            outage = self.outages[-1] if self.outages else None
            if outage and outage.answering and outage.handled is None and at > outage.answering:
                outage.handled = at

    def moved(self, state: eventbus.ConnectionState) -> None:
        """The publisher's bus changed its phase."""
        with self.lock:
            if self.outages and state.phase is eventbus.Phase.RECONNECTING and self.outages[-1].noticed is None:
                self.outages[-1].noticed = time.monotonic()

    def begin(self, name: str) -> Outage:
        """An outage begins now."""
        outage = Outage(name)
        with self.lock:
            self.outages.append(outage)
        return outage

    def missing(self) -> set[tuple[str, int]]:
        """Confirmed and not handled (yet)."""
        with self.lock:
            return self.confirmed - self.handled.keys()


def publish_until(bus: eventbus.EventBus, story: Story, keys: list[str], over: threading.Event) -> None:
    """Publish for these keys in turn; what is not confirmed is published again with the same id."""
    numbers = dict.fromkeys(keys, 0)
    while not over.is_set():
        for key in keys:
            number = numbers[key]
            message_id = None
            while True:
                try:
                    bus.publish(TOPIC, {"key": key, "number": number}, key=key, id=message_id)
                    break
                except eventbus.PublishError as error:
                    story.errors[type(error).__name__] += 1
                    message_id = error.id
            story.confirm(key, number)
            numbers[key] = number + 1
            over.wait(PAUSE)


def subscriber(url: str) -> None:
    """A subscriber process: a line for each message, until standard input ends."""

    def handle(message: eventbus.Message) -> None:
        body = message.json()
        sys.stdout.write(f"{body['key']} {body['number']} {time.monotonic()}\n")
        sys.stdout.flush()

    with eventbus.EventBus(url) as bus:
        bus.subscribe(TOPIC, handle, group=GROUP, concurrency=4)
        print("ready", flush=True)
        sys.stdin.read()


def start_subscriber(url: str, story: Story) -> tuple[subprocess.Popen[str], threading.Thread]:
    """A subscriber process and the thread that reads what it handles."""
    command = [sys.executable, __file__, "--subscriber", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a subscriber process did not start")

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            key, number, at = line.split()
            story.handle(key, int(number), float(at))

    reader = threading.Thread(target=read, name="demo.reader", daemon=True)
    reader.start()
    return process, reader


def show(bus: eventbus.EventBus, story: Story, started: float, over: threading.Event) -> None:
    """A line each second, and one at each change."""
    last = ""
    while not over.wait(0.1):
        state, health = bus.get_connection_state(), bus.get_health_status()
        what = f"{state.phase.name:<13} failed probes {health.consecutive_failures}  reconnects {state.reconnect_count}"
        second = int(time.monotonic() - started)
        if what != last or second != show.second:  # type: ignore[attr-defined]
            show.second, last = second, what  # type: ignore[attr-defined]
            with story.lock:
                progress = f"confirmed {len(story.confirmed):>6}  handled {len(story.handled):>6}"
            in_flight = bus.get_statistics().in_flight
            print(f"  {time.monotonic() - started:5.1f} s  {what}  {progress}  waiting {in_flight}", flush=True)


show.second = -1  # type: ignore[attr-defined]


def make_server(backend: str) -> tuple[NatsServer | KafkaServer, str, str]:
    """The broker, what it is, and what stands behind `?` in its URL."""
    if backend == "kafka":
        return KafkaServer(), "Apache Kafka", "partitions=8"
    return NatsServer(), "nats-server with JetStream", ""


def outages(server: NatsServer | KafkaServer, freeze: float, story: Story, say: Callable[[str], None]) -> None:
    """The faults, one after another, each with load before and after."""
    pause = threading.Event().wait
    for number, downtime in enumerate(KILLS, 1):
        pause(CALM)
        say(f"kill -9 of the server, pid {server.pid}; back in {downtime:g} s")
        outage = story.begin(f"kill -9, number {number}")
        server.kill()
        pause(downtime)
        server.start()
        outage.answering = server.ready_time
        wait_until(lambda outage=outage: outage.handled, 30, message="nothing was handled after a restart")
    pause(CALM)
    say(f"the server is frozen (SIGSTOP) for {freeze:g} s")
    outage = story.begin("frozen")
    server.freeze()
    pause(freeze)
    outage.answering = time.monotonic()
    server.thaw()
    wait_until(lambda: outage.handled, 30, message="nothing was handled after the thaw")
    pause(CALM)


def verdict(bus: eventbus.EventBus, story: Story) -> int:
    """The table; the exit code."""
    lost = story.missing()
    duplicates = sum(times - 1 for times in story.handled.values())
    ordered = bus.features.ordered_by_key
    order = f"{story.inversions} inversions" + ("" if ordered else " (not promised for a shared group)")
    print(f"\n  {'outage':<22}{'server away':>12}{'noticed after':>14}{'recovered after':>16}")
    for outage in story.outages:
        print(outage.row())
    print("  recovered after: from the server answering to the first message handled\n")
    for name, value in (
        ("confirmed", len(story.confirmed)),
        ("handled", len(story.handled)),
        ("lost", len(lost)),
        ("duplicates", duplicates),
        ("order per key", order),
        ("publish errors", dict(story.errors) or "none"),
    ):
        print(f"  {name:<16}{value}")
    failed = bool(lost) or (ordered and story.inversions > 0)
    print("\n  FAILED" if failed else "\n  nothing confirmed was lost")
    return int(failed)


def run(backend: str) -> int:
    """The whole story."""
    started = time.monotonic()
    story, over, shown = Story(), threading.Event(), threading.Event()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - started:5.1f} s  >>> {text}", flush=True)

    server, kind, query = make_server(backend)
    with server:
        url = f"{server.url}?{query}"
        say(f"{kind} on port {server.port}")
        with eventbus.EventBus(url) as bus:
            bus.register_state_callback(story.moved)
            subscribers = [start_subscriber(url, story) for _ in range(2)]
            keys = [f"customer-{number}" for number in range(KEYS)]
            threads = [
                threading.Thread(target=publish_until, args=(bus, story, keys[first::THREADS], over), daemon=True)
                for first in range(THREADS)
            ]
            threads.append(threading.Thread(target=show, args=(bus, story, started, shown), daemon=True))
            for thread in threads:
                thread.start()
            outages(server, FREEZE[backend], story, say)
            over.set()
            for thread in threads[:-1]:
                thread.join(20)
            say("publishing has ended; waiting for what is left")
            try:
                wait_until(lambda: not story.missing(), 15)
            except AssertionError:
                say(f"{len(story.missing())} confirmed messages were not handled")
            shown.set()
            code = verdict(bus, story)
            for process, reader in subscribers:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(15)
                reader.join(5)
    return code


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="nats", choices=sorted(FREEZE), help="the broker to show it on")
    parser.add_argument("--subscriber", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    if options.subscriber:
        subscriber(options.subscriber)
        return 0
    return run(options.backend)


if __name__ == "__main__":
    sys.exit(main())
