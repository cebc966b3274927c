"""Sessions that are replaced under a group of two members, on memory, with handlers at work."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from itertools import count, pairwise

from eventbus import EventBus, Message
from eventbus.testing import wait_until

SWAPS = 40
LANES = 2
KEYS = 13


class Watched:
    """A handler that notes what it gets, in the order in which it gets it first."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.firsts: defaultdict[str, list[int]] = defaultdict(list)
        self._lock = threading.Lock()
        self._now_and_then = threading.Event()

    def __call__(self, message: Message) -> None:
        with self._lock:
            self.times[message.text()] += 1
            if self.times[message.text()] == 1:
                self.firsts[message.key or ""].append(int(message.payload))
        if int(message.payload) % 20 == 0:
            self._now_and_then.wait(0.0005)


def publish(bus: EventBus, numbers: count[int], stop: threading.Event) -> None:
    while not stop.wait(0.001):
        for _ in range(20):
            number = next(numbers)
            bus.publish_nowait("t", str(number), key=str(number % KEYS))


def test_a_swap_loses_nothing_and_turns_no_key_round() -> None:
    chance, handler, stop, numbers = random.Random(7), Watched(), threading.Event(), count()
    publisher = EventBus("memory://swaps")
    members = [EventBus("memory://swaps") for _ in range(2)]
    for bus in (publisher, *members):
        bus.open()
    for bus in members:
        bus.subscribe("t", handler, group="g", concurrency=LANES)
    thread = threading.Thread(target=publish, args=(publisher, numbers, stop))
    thread.start()
    for _ in range(SWAPS):
        chance.choice(members).reconnect(5.0)
        stop.wait(chance.random() * 0.02)
    stop.set()
    thread.join()
    published = next(numbers)
    wait_until(lambda: len(handler.times) == published, 30.0, message=lambda: f"{len(handler.times)} of {published}")
    assert all(first < second for firsts in handler.firsts.values() for first, second in pairwise(firsts))
    ran = SWAPS * LANES * len(members)  # what the one had goes to the other, and what that has comes back with it
    assert sum(handler.times.values()) - published <= ran, "more were handled twice than ran at the swaps"
    for bus in members:
        assert bus.close().unhandled == 0, "something is stuck in hand"
    publisher.close()
