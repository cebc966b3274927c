"""The history checker: what became of each message, against what was promised of it.

history = History()
bus.subscribe("orders", history.handler, group="g")
payload = history.payload("k", 1)
history.confirm(payload, bus.publish("orders", payload, key="k"))
...                                               # whatever may happen to brokers and processes
wait_until(lambda: history.all_done)
assert history.check() == []
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import TypeVar

from ..features import Features
from ..message import Message, Receipt

K = TypeVar("K", bound=Hashable)

Place = tuple[str, int]
"""A key, and the number of one of its messages."""
_SHOWN = 5


class History:
    """Notes what publishers, brokers and handlers did; `check` says in words which promises that breaks.

    A message is known by its key and its number within the key, which grows as they are published: its payload
    is `key:number`. Where several processes handle, one history is told of all of it afterwards. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published: set[Place] = set()
        self._confirmed: set[Place] = set()
        self._delivered: list[Place] = []
        self._handled: list[Place] = []
        self._buried: list[Place] = []
        self._settled: set[Place] = set()
        self.answered = 0
        """Publishes that returned a receipt, confirmed or not."""

    # -- what happens ----------------------------------------------------------------------------

    def payload(self, key: str, number: int) -> str:
        """What to publish, with the same key; notes that it is being published."""
        with self._lock:
            self._published.add((key, number))
        return f"{key}:{number}"

    def confirm(self, payload: str, receipt: Receipt) -> None:
        """The broker answered."""
        with self._lock:
            self.answered += 1
            if receipt.confirmed:
                self._confirmed.add(_parse(payload))

    def deliver(self, payload: str) -> None:
        """A handler was started with it."""
        with self._lock:
            self._delivered.append(_parse(payload))

    def handle(self, payload: str) -> None:
        """That handler returned: the message is done."""
        with self._lock:
            self._handled.append(_parse(payload))

    def handler(self, message: Message) -> None:
        """A handler that notes what it gets, and succeeds."""
        self.deliver(message.text())
        self.handle(message.text())

    def handler_of(self, work: Callable[[Message], object]) -> Callable[[Message], None]:
        """A handler that does some work, and notes what it gets, and whether the work was done."""

        def handler(message: Message) -> None:
            self.deliver(message.text())
            work(message)
            self.handle(message.text())

        return handler

    def undertaker(self, message: Message) -> None:
        """A handler for the topic of the dead letters, that notes them."""
        with self._lock:
            self._buried.append(_parse(message.text()))

    def settle(self) -> None:
        """All that was handled so far is acknowledged: from now on none of it may come again."""
        with self._lock:
            self._settled.update(self._handled)

    # -- how it stands ---------------------------------------------------------------------------

    @property
    def confirmed(self) -> int:
        """How many messages were confirmed."""
        with self._lock:
            return len(self._confirmed)

    @property
    def handled(self) -> int:
        """How many different messages were handled."""
        with self._lock:
            return len(set(self._handled))

    @property
    def dead_lettered(self) -> int:
        """How many different messages became dead letters."""
        with self._lock:
            return len(set(self._buried))

    @property
    def all_done(self) -> bool:
        """Whether every confirmed message was handled, or is a dead letter."""
        with self._lock:
            return self._confirmed <= {*self._handled, *self._buried}

    def duplicates(self) -> dict[Place, int]:
        """Messages that were handled more than once, and how often."""
        with self._lock:
            return {one: times for one, times in Counter(self._handled).items() if times > 1}

    def summary(self) -> str:
        """How many of each, in one line."""
        again = sum(times - 1 for times in self.duplicates().values())
        with self._lock:
            return (
                f"{len(self._published)} published, {len(self._confirmed)} confirmed, {len(self._delivered)} delivered,"
                f" {len(set(self._handled))} handled ({again} again), {len(set(self._buried))} dead letters"
            )

    # -- what is wrong with it -------------------------------------------------------------------

    def check(self, *, copies: int = 1, ordered: bool = True, once: bool = True) -> list[str]:
        """The broken promises, in words; empty where all were kept.

        copies: how many subscriptions each message goes to. ordered, once: whether order per key is promised
        (among first handlings), and that nothing comes again that was settled.
        """
        with self._lock:
            handled, delivered, buried = Counter(self._handled), set(self._delivered), set(self._buried)
            published, confirmed, settled = set(self._published), set(self._confirmed), set(self._settled)
            disorder = out_of_order(self._handled) if ordered and copies == 1 else []
        done = {one for one, times in handled.items() if times >= copies} | buried
        again = {one for one, times in handled.items() if times > copies and one in settled}
        by_all = f" by all {copies}" if copies > 1 else ""
        wrong = [
            _said(f"lost: confirmed, and neither handled{by_all} nor a dead letter", confirmed - done),
            _said("from nowhere: confirmed and never published", confirmed - published),
            _said("from nowhere: handled and never published", {*handled} - published),
            _said("from nowhere: a dead letter and never published", buried - published),
            _said("handled, and no handler was started with it", {*handled} - delivered),
            _said("a dead letter, and no handler was started with it", buried - delivered),
            _said("handled again after it was acknowledged", again if once else ()),
            *(
                f"out of order: {key}:{number} was handled for the first time after {key}:{newest}"
                for key, number, newest in disorder
            ),
        ]
        return [text for text in wrong if text]

    def check_promised(self, features: Features, *, copies: int = 1, ordered: bool | None = None) -> list[str]:
        """`check` for what a backend promises of a plain subscription; `ordered` where more or less was asked for.

        Where no id is stored once, what was sent and not answered at an outage may be there twice. Where order is
        not kept whatever dies, what was lost on the wire is handed out later, behind newer messages.
        """
        in_order = features.ordered_by_key or not features.replays
        return self.check(copies=copies, ordered=in_order if ordered is None else ordered, once=features.deduplicates)


def out_of_order(handled: Iterable[tuple[K, int]]) -> list[tuple[K, int, int]]:
    """Of places in the order of handling: those first handled after a later one of their key, each with that one.

    Repeats do not count: what is handled again was in order the first time.
    """
    newest: dict[K, int] = {}
    seen: set[tuple[K, int]] = set()
    found = []
    for place in handled:
        if place in seen:
            continue
        seen.add(place)
        key, number = place
        last = newest.setdefault(key, number)
        if number < last:
            found.append((key, number, last))
        newest[key] = max(number, last)
    return found


def _parse(payload: str) -> Place:
    key, _, number = payload.rpartition(":")
    return key, int(number)


def _said(what: str, places: Collection[Place]) -> str:
    if not places:
        return ""
    shown = ", ".join(f"{key}:{number}" for key, number in sorted(places)[:_SHOWN])
    return f"{what}: {shown}{' ...' if len(places) > _SHOWN else ''} ({len(places)})"
