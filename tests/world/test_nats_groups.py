"""Beside and crowded, on NATS, with processes of their own: poison in a group, and many publishers of one stream."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Mapping

import pytest
from nats_operator import Operator
from rounds import limit, rounds
from world_support import script

from eventbus import EventBus, Message
from eventbus.testing import NatsServer, wait_until

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(limit(60.0))]

KEYS = 500
COUNT = rounds(6_000, 20_000)
SLOW = rounds(8, 60)
"""Seconds that the slow handler takes."""
MEMBER = """
url, concurrency, slow = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

def handle(message):
    if message.payload == b"poison":
        raise ValueError("poison")
    if message.payload == b"slow":
        time.sleep(slow)
    sys.stdout.write(f"{message.key} {message.text()}\\n")
    sys.stdout.flush()

with eventbus.EventBus(url) as bus:
    bus.subscribe("work.*", handle, group="g", concurrency=concurrency)
    sys.stdin.read()
    os._exit(0)  # what runs is of no interest any more
"""
PUBLISHER = """
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
errors = []
with eventbus.EventBus(url) as bus:
    bus.register_error_callback(errors.append)
    for number in range(count):
        while True:
            try:
                bus.publish_nowait("work." + name, b"%d" % number)
                break
            except eventbus.PublishNotSentError:  # there is no room: that is what it says
                time.sleep(0.01)
    report = bus.flush(120.0)
    print(report.unanswered, report.failed, bus.get_statistics().rejected, errors[:3])
"""


class Member:
    """A process of a group. handled: "key number" of each message, in order."""

    def __init__(self, url: str, concurrency: int) -> None:
        command = script(MEMBER, url, str(concurrency), str(SLOW))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.handled: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.handled.extend(lines)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10.0)
        self._reader.join(10.0)


def seconds_for(poisoned: Mapping[str, bytes], concurrency: int) -> float:
    """How long a group of two processes takes for all messages whose key is not poisoned; each is handled once."""
    wanted = [Message("work.x", str(number), key=f"k{number % KEYS}") for number in range(COUNT)]
    first = [Message("work.x", payload, key=key) for key, payload in poisoned.items()]
    good = sorted(message.text() for message in wanted if message.key not in poisoned)
    with NatsServer() as server:
        with EventBus(server.url) as bus:
            bus.publish_many([*first, *wanted], timeout=60.0)
        members = [Member(server.url, concurrency) for _ in range(2)]
        try:
            started = time.monotonic()

            def handled() -> list[str]:
                pairs = [line.split() for member in members for line in list(member.handled)]
                return [number for key, number in pairs if key not in poisoned]

            wait_until(lambda: len(handled()) >= len(good), limit(50.0))
            took = time.monotonic() - started
            assert sorted(handled()) == good
        finally:
            for member in members:
                member.end()
    return took


@pytest.mark.parametrize(
    ("concurrency", "poisoned"),
    [
        (4, {"k1": b"poison", "k2": b"poison", "k3": b"poison", "k4": b"slow"}),
        (1, {"k1": b"poison", "k2": b"poison", "k3": b"poison"}),
    ],
)
def test_poison_and_a_slow_handler_cost_the_other_keys_nothing(concurrency: int, poisoned: dict[str, bytes]) -> None:
    """Within twice the time without them; a second more, for processes that start on a busy machine."""
    without = seconds_for({}, concurrency)
    with_them = seconds_for(poisoned, concurrency)
    print(f"{COUNT} messages, concurrency {concurrency}: {without:.2f} s, with poison {with_them:.2f} s")
    assert with_them < 2.0 * without + 1.0


def test_many_publishers_of_one_stream_are_not_rejected_and_keep_their_order(nats_server: NatsServer) -> None:
    """At the server's defaults, which answer "too many requests" above some thousand unstored ones."""
    count = rounds(4_000, 60_000)
    names = [f"p{number}" for number in range(4)]
    processes = [
        subprocess.Popen(script(PUBLISHER, nats_server.url, name, str(count)), stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    told = [process.communicate(timeout=limit(50.0))[0].split(maxsplit=3) for process in processes]
    assert told == [["0", "()", "0", "[]\n"]] * len(names)
    with Operator(nats_server.address) as operator:
        assert operator.stored("work") == count * len(names)
    with EventBus(nats_server.url) as bus:
        seen: dict[str, list[int]] = {f"work.{name}": [] for name in names}
        bus.subscribe("work.*", lambda message: seen[message.topic].append(int(message.payload)), group="reader")
        wait_until(lambda: sum(map(len, seen.values())) >= count * len(names), limit(50.0))
    inversions = {
        topic: sum(before > after for before, after in itertools.pairwise(one)) for topic, one in seen.items()
    }
    assert inversions == dict.fromkeys(seen, 0)
