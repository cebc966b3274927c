"""The history checker: what was confirmed against what was handled."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

from eventbus import Message, Receipt


class History:
    """Notes what publishers and handlers saw; `check` says what of it breaks a promise.

    A message is known by its key and its number within the key: the payload is `key:number`. All methods
    are thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published: dict[str, list[int]] = defaultdict(list)
        self._confirmed: set[tuple[str, int]] = set()
        self.answered = 0
        """Publishes that returned a receipt, confirmed or not."""
        self._handled: list[tuple[str, int]] = []
        self._settled: set[tuple[str, int]] = set()

    def payload(self, key: str, number: int) -> str:
        """What to publish; notes that it is being published."""
        with self._lock:
            self._published[key].append(number)
        return f"{key}:{number}"

    def confirm(self, payload: str, receipt: Receipt) -> None:
        """The broker answered."""
        with self._lock:
            self.answered += 1
            if receipt.confirmed:
                self._confirmed.add(_parse(payload))

    def handler(self, message: Message) -> None:
        """A handler that notes what it gets."""
        with self._lock:
            self._handled.append(_parse(message.text()))

    def settle(self) -> None:
        """All that was handled so far is acknowledged: from now on none of it may come again."""
        with self._lock:
            self._settled.update(self._handled)

    @property
    def confirmed(self) -> int:
        """How many messages were confirmed."""
        return len(self._confirmed)

    @property
    def handled(self) -> int:
        """How many different messages were handled."""
        with self._lock:
            return len(set(self._handled))

    @property
    def all_handled(self) -> bool:
        """Whether every confirmed message was handled."""
        with self._lock:
            return self._confirmed <= set(self._handled)

    def duplicates(self) -> dict[tuple[str, int], int]:
        """Messages that were handled more than once, and how often."""
        with self._lock:
            return {one: times for one, times in Counter(self._handled).items() if times > 1}

    def check(self, *, copies: int = 1, ordered: bool = True, once: bool = True) -> list[str]:
        """The broken promises, in words.

        copies: how many subscriptions each message goes to. ordered, once: whether order per key is promised,
        and that nothing acknowledged comes again.
        """
        with self._lock:
            handled, confirmed = list(self._handled), set(self._confirmed)
            published = {(key, number) for key, numbers in self._published.items() for number in numbers}
            settled = set(self._settled)
        wrong = []
        counted = Counter(handled)
        if lost := {one for one in confirmed if counted[one] < copies}:
            wrong.append(f"confirmed and not handled: {_few(lost)}")
        if alien := set(handled) - published:
            wrong.append(f"handled and never published: {_few(alien)}")
        if once and (again := {one for one, times in counted.items() if times > copies and one in settled}):
            wrong.append(f"handled again after it was acknowledged: {_few(again)}")
        if ordered and copies == 1:
            wrong.extend(_out_of_order(handled))
        return wrong


def _out_of_order(handled: list[tuple[str, int]]) -> list[str]:
    newest: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    wrong = []
    for key, number in handled:
        if (key, number) in seen:
            continue
        seen.add((key, number))
        if number < newest.get(key, -1):
            wrong.append(f"out of order: {key}:{number} came first after {key}:{newest[key]}")
        newest[key] = max(number, newest.get(key, -1))
    return wrong


def _parse(payload: str) -> tuple[str, int]:
    key, _, number = payload.rpartition(":")
    return key, int(number)


def _few(found: set[tuple[str, int]]) -> str:
    shown = ", ".join(f"{key}:{number}" for key, number in sorted(found)[:5])
    return f"{shown}{' ...' if len(found) > 5 else ''} ({len(found)})"
