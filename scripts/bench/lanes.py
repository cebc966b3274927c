"""Handlers that work for a while, on many lanes, each key in order: against the same on one lane."""

from __future__ import annotations

import threading
import time
from typing import Any

from eventbus import EventBus, Message
from eventbus.testing.history import out_of_order
from scripts.bench.sampling import begin
from scripts.bench.worker import LIMIT, Job


def lanes(bus: EventBus, job: Job) -> dict[str, Any]:
    """Publish keyed messages, then handle them on so many lanes; from the first start of a handler to the last end.

    Settings: lanes, keys (in turn), work (seconds that a handler takes). A key out of order is a failure.
    """
    keys, work = job.settings["keys"], job.settings["work"]
    bus.publish_many([Message(job.topic, str(number), key=f"k{number % keys}") for number in range(job.count)])
    started: list[float] = []
    handled: list[tuple[str, int]] = []
    complete = threading.Event()

    def handler(message: Message) -> None:
        if not started:
            begin()
            started.append(time.monotonic())
        time.sleep(work)
        handled.append((message.key or "", int(message.payload)))
        if len(handled) == job.count:
            complete.set()

    bus.subscribe(job.topic, handler, group="bench", concurrency=job.settings["lanes"])
    complete.wait(LIMIT)
    last = time.monotonic()
    job.expect("messages", len(handled))
    if disorder := out_of_order(handled):
        raise RuntimeError(f"out of order: {disorder[:3]} ({len(disorder)})")
    return {"seconds": last - started[0]}
