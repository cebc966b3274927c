"""Sessions that are replaced under a group of two members, on memory, with handlers at work."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from functools import partial
from itertools import count, pairwise

import pytest

from eventbus import EventBus, Message
from eventbus.consuming import acknowledgements
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
    assert sum(handler.times.values()) - published <= SWAPS * LANES, "more were handled twice than ran at the swaps"
    for bus in members:
        assert bus.close().unhandled == 0, "something is stuck in hand"
    publisher.close()


def test_what_was_handled_before_a_session_is_given_up_is_not_handled_again_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acknowledgements, "LOOK_EVERY", 5.0)  # nothing is acknowledged by the clock
    handled: list[tuple[int, str]] = []
    begun, swapped = threading.Event(), threading.Event()
    members = [EventBus("memory://handled") for _ in range(2)]

    def handler(member: int, message: Message) -> None:
        handled.append((member, message.text()))
        if message.text() == "3" and not begun.is_set():
            begun.set()
            swapped.wait(5.0)

    for bus in members:
        bus.open()
    members[0].publish_many([Message("t", str(number), key="k") for number in range(6)])
    for number, bus in enumerate(members):  # so the first one gets them in one batch
        bus.subscribe("t", partial(handler, number), group="g")
    assert begun.wait(5.0)
    session = members[0]._life.supervisor.session
    assert session is not None
    session.abandon()  # as a swap does, and before the next session is there the others look
    wait_until(lambda: (1, "5") in handled)
    swapped.set()
    assert Counter(payload for _, payload in handled) - Counter("0123345") == Counter(), "only 3 ran then"
    for bus in members:
        bus.close()
