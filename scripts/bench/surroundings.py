"""What stands around a handler, or as little of it as there can be: the same path is measured with both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from eventbus import EventBus, Message, RetryConfig
from scripts.bench.worker import Job

_READ_EVERY = 0.1
"""Seconds from one look at the statistics to the next: ten times as often as a scraper of metrics."""


@contextmanager
def surrounded(bus: EventBus, job: Job) -> Iterator[dict[str, Any]]:
    """Options for `subscribe`, as the setting `around` says.

    True: retries, dead letters, one middleware that passes everything on, and statistics that somebody reads. False:
    none of it. Without the setting: the defaults.
    """
    around = job.settings.get("around")
    if not around:
        yield {} if around is None else {"dead_letter": None}
        return
    over = threading.Event()

    def read() -> None:
        while not over.wait(_READ_EVERY):
            bus.get_statistics()

    bus.use(consume=_pass_on)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield {"retry": RetryConfig(max_attempts=5), "dead_letter": "dlq.bench"}
    finally:
        over.set()
        thread.join()


def _pass_on(message: Message, call_next: Callable[[Message], object]) -> object:
    return call_next(message)
