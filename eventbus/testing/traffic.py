"""Publishers that go on through every outage, under a history."""

from __future__ import annotations

import threading

from ..bus import EventBus
from ..errors import PublishError
from .history import History
from .wait import wait_until

_TIMEOUT = 5.0
_TRIES = 20


class Traffic:
    """Threads that publish confirmed messages, one key each, from the beginning to the end of a `with` block."""

    def __init__(self, bus: EventBus, history: History, topic: str, *, threads: int = 3) -> None:
        """Describe it; nothing is published before the block."""
        self._bus, self._history, self._topic = bus, history, topic
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        """What publishing raised, each tried again."""
        self._threads = [
            threading.Thread(
                target=self._run, args=(f"k{number}",), daemon=True, name=f"eventbus.testing.traffic-{number}"
            )
            for number in range(threads)
        ]

    def __enter__(self) -> Traffic:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """End, once what is being published is answered.

        Raises:
            AssertionError: a publisher hangs.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)
        assert not any(thread.is_alive() for thread in self._threads), "a publisher hangs"

    def more(self, count: int = 20, timeout: float = 10.0) -> None:
        """Wait for so many more answers.

        Raises:
            AssertionError: not within `timeout` seconds; says what publishing raised.
        """
        target = self._history.answered + count
        wait_until(lambda: self._history.answered >= target, timeout, message=lambda: f"errors: {self.errors[-3:]}")

    def _run(self, key: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            publish_until_answered(self._bus, self._history, self._topic, key, number, self.errors)


def publish_until_answered(
    bus: EventBus,
    history: History,
    topic: str,
    key: str,
    number: int,
    errors: list[BaseException] | None = None,
) -> None:
    """Publish one message, again with the same id until the broker answers; the errors are noted.

    Raises:
        AssertionError: not in twenty times.
    """
    payload = history.payload(key, number)
    errors = [] if errors is None else errors
    for _ in range(_TRIES):
        try:
            receipt = bus.publish(topic, payload, key=key, id=f"{topic}-{key}-{number}", timeout=_TIMEOUT)
        except PublishError as error:
            errors.append(error)
        else:
            history.confirm(payload, receipt)
            return
    raise AssertionError(f"{payload} could not be published: {errors[-1]}")
