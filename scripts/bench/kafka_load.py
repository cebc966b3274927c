"""What both sides are driven by: threads that begin together, timed calls, messages at random times."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from scripts.bench.sampling import begin
from scripts.bench.worker import LIMIT, Job, Moment

_EVERY = (0.010, 0.030)
"""Seconds from one message to the next when it is idle: anywhere between two fetches."""


def shares(job: Job) -> list[int]:
    """The count, split among so many threads as the job says."""
    threads = job.settings["threads"]
    return [job.count // threads + (number < job.count % threads) for number in range(threads)]


def keys_of(job: Job) -> list[str | None]:
    """Those that the messages have in turn."""
    return [f"customer-{number}" for number in range(job.settings.get("keys", 0))] or [None]


def at_once(work: Callable[[int], object], counts: Sequence[int]) -> None:
    """Call `work(count)` on a thread for each count; raises what one of them raised."""
    if len(counts) == 1:
        work(counts[0])
        return
    errors: list[BaseException] = []
    begin = threading.Barrier(len(counts))

    def run(count: int) -> None:
        try:
            begin.wait()
            work(count)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(count,), daemon=True) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[0]


def timed_calls(job: Job, call: Callable[[], object]) -> dict[str, Any]:
    """So many calls from so many threads: the seconds of all, also of all processors, and the p99 of one."""
    took: list[float] = []

    def run(count: int) -> None:
        clock, note = time.perf_counter, took.append
        for _ in range(count):
            start = clock()
            call()
            note(clock() - start)

    gc.collect()
    begin()
    start = Moment()
    at_once(run, shares(job))
    end = Moment()
    job.expect("calls", len(took))
    return {**start.until(end), "p50": percentile(took, 50), "p99": percentile(took, 99)}


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that so many percent of them are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def idle_latencies(
    job: Job, publish: Callable[[bytes], object], listen: Callable[[Callable[[bytes], None]], None]
) -> list[float]:
    """The seconds from each call of `publish` to its `arrived(payload)`; `listen(arrived)` begins to consume."""
    sent, came = [0.0] * job.count, [0.0] * job.count
    started, complete = threading.Event(), threading.Event()
    left = job.count

    def arrived(payload: bytes) -> None:
        nonlocal left
        now = time.monotonic()
        if not payload.strip():
            started.set()
            return
        came[int(payload)] = now
        left -= 1
        if not left:
            complete.set()

    listen(arrived)
    deadline = time.monotonic() + LIMIT
    while not started.is_set() and time.monotonic() < deadline:  # until the group has its partitions
        publish(b" " * job.size)
        started.wait(0.05)
    chance, pause = random.Random(job.topic), threading.Event().wait
    pause(0.5)
    gc.collect()
    begin()
    for number in range(job.count):
        pause(chance.uniform(*_EVERY))
        payload = b"%*d" % (job.size, number)
        sent[number] = time.monotonic()
        publish(payload)
    if not complete.wait(LIMIT):
        raise RuntimeError(f"{left} of {job.count} messages did not arrive")
    return [end - start for start, end in zip(sent, came, strict=True)]
