"""Confirmed publishes at a steady rate, a group that handles them, and what became of each message."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator

from attrs import define, field

from eventbus import EventBus, Message, PublishError
from eventbus.testing import wait_until
from eventbus.testing.history import out_of_order
from scripts.bench.kafka_raw import RawKafka

Place = tuple[str, int]
"""A key, and the number of one of its messages."""
GROUP = "soak"
_LEFT = 30.0


@define
class Traffic:
    """One thread for each key publishes on a bus, each message confirmed before the next; a group handles all.

    rate: messages per second of all keys together. A call that is not confirmed is repeated with its id.
    """

    bus: EventBus
    topic: str
    keys: int
    rate: float
    confirmed: list[tuple[float, str, int]] = field(factory=list)
    handled: Counter[Place] = field(factory=Counter)
    errors: Counter[str] = field(factory=Counter)
    inversions: int = 0
    _last: dict[str, int] = field(factory=dict)
    _over: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)
    _began: float = 0.0
    _ended: float = 0.0

    def start(self) -> None:
        """Subscribe and publish; returns when the first messages were handled."""
        self.bus.subscribe(self.topic, self._handle, group=GROUP, concurrency=4)
        names = [f"customer-{number}" for number in range(self.keys)]
        self._threads = [threading.Thread(target=self._publish, args=(name,), daemon=True) for name in names]
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.handled) > self.keys, _LEFT, message="nothing is handled")

    def stop(self) -> None:
        """End publishing, and wait for what is confirmed and not handled."""
        self._over.set()
        for thread in self._threads:
            thread.join(_LEFT)
        self._ended = time.monotonic()
        try:
            wait_until(lambda: not self.missing, _LEFT)
        except AssertionError:
            print(f"  {len(self.missing)} confirmed messages were not handled within {_LEFT:g} s", flush=True)

    @property
    def missing(self) -> set[Place]:
        """Confirmed and not handled."""
        confirmed = {(key, number) for _, key, number in list(self.confirmed)}
        return {place for place in confirmed if place not in self.handled}

    def silent(self, now: float) -> float:
        """How long ago the key that is waiting longest was confirmed."""
        last = {key: at for at, key, _ in list(self.confirmed)}
        return now - min(last.values())

    def gaps(self, begin: float, end: float) -> tuple[float, float]:
        """The longest times without a confirmation that began in this span: of all keys, and of one key."""
        times = [(at, key) for at, key, _ in list(self.confirmed) if at >= begin - 1.0]
        by_key: dict[str, list[float]] = {}
        for at, key in times:
            by_key.setdefault(key, []).append(at)
        return (
            max(_gaps([at for at, _ in times], begin, end)),
            max(gap for ats in by_key.values() for gap in _gaps(ats, begin, end)),
        )

    def judge(self, name: str, raw: RawKafka) -> bool:
        """Compare what was confirmed with what is stored and what was handled, and print that."""
        confirmed = {(key, number) for _, key, number in self.confirmed}
        log = [place_of(message.key(), message.value()) for message in raw.read(self.topic)]
        lost, unhandled, inverted = len(confirmed - set(log)), len(self.missing), len(out_of_order(log))
        good = not (lost or unhandled or inverted or self.inversions)
        rate = len(confirmed) / max(0.001, self._ended - self._began)
        print(
            f"{verdict(good)} {name}: {len(confirmed):,} confirmed ({rate:.0f}/s with the outages), {lost} lost, "
            f"{unhandled} not handled, order per key: {inverted} inversions stored, {self.inversions} handled; "
            f"{len(log) - len(set(log))} stored twice, {self.handled.total() - len(self.handled)} handled again, "
            f"calls repeated: {dict(self.errors) or 'none'}",
            flush=True,
        )
        return good

    def _publish(self, key: str) -> None:
        every = self.keys / self.rate
        number, due = 0, time.monotonic() + every * (hash(key) % 100) / 100
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self._confirm(key, number)
            number += 1
            due = max(due + every, time.monotonic() - every)  # what an outage held up is not made up for

    def _confirm(self, key: str, number: int) -> None:
        id = None
        while True:
            try:
                self.bus.publish(self.topic, str(number), key=key, id=id)
                break
            except PublishError as error:
                self.errors[type(error).__name__] += 1
                id = error.id
                if self._over.is_set():
                    return
        self.confirmed.append((time.monotonic(), key, number))

    def _handle(self, message: Message) -> None:
        key, number = place = (message.key or "", int(message.payload))
        self.handled[place] += 1  # one lane has all of a key
        if self.handled[place] == 1:
            self.inversions += number < self._last.get(key, -1)
            self._last[key] = number


def place_of(key: object, payload: object) -> Place:
    """Of a stored message."""
    assert isinstance(key, bytes)
    assert isinstance(payload, bytes)
    return key.decode(), int(payload)


def verdict(good: bool) -> str:
    """PASS or MISS."""
    return "PASS" if good else "MISS"


def _gaps(times: list[float], begin: float, end: float) -> Iterator[float]:
    yield 0.0
    ordered = sorted(times)
    for before, after in itertools.pairwise(ordered):
        if after > begin and before < end:
            yield after - before
