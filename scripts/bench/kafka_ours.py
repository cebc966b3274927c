"""What is measured of the bus on Kafka: the public API on its default settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from eventbus import Batch, EventBus, Message, PublishNotSentError
from scripts.bench.kafka_load import at_once, idle_latencies, keys_of, percentile, shares, timed_calls
from scripts.bench.lanes import lanes
from scripts.bench.sampling import begin
from scripts.bench.surroundings import surrounded
from scripts.bench.worker import LIMIT, Job, Moment, Verb, timed


def nowait(job: Job) -> dict[str, Any]:
    """`publish_nowait` of everything from so many threads, then one `flush`."""
    with EventBus(job.kafka_url) as bus:
        _publish_all(bus, job, job.settings["warm_up"])
        _flush(bus)

        def work() -> None:
            at_once(lambda count: _publish_all(bus, job, count), shares(job))
            _flush(bus)

        return timed(work)


def many(job: Job) -> dict[str, Any]:
    """One `publish_many` with everything, messages made on the way."""
    payload = job.payload

    def publish(count: int) -> None:
        receipts = bus.publish_many((Message(job.topic, payload) for _ in range(count)), timeout=LIMIT)
        if sum(receipt.confirmed for receipt in receipts) != count:
            raise RuntimeError("not everything was confirmed")

    with EventBus(job.kafka_url) as bus:
        publish(job.settings["warm_up"])
        return timed(lambda: publish(job.count))


def sync(job: Job) -> dict[str, Any]:
    """`publish`, each confirmed, from so many threads at a time; `p99` of the calls, too."""
    topic, payload = job.topic, job.payload
    with EventBus(job.kafka_url) as bus:
        for _ in range(job.settings["warm_up"]):
            bus.publish(topic, payload)
        return timed_calls(job, lambda: bus.publish(topic, payload))


def consume(job: Job) -> dict[str, Any]:
    """A handler that reads everything of each message; from the first message to the last."""
    count, seen, size = job.count, 0, 0
    first = last = Moment()
    complete = threading.Event()

    def handler(message: Message) -> None:
        nonlocal seen, size, first, last
        _topic, _key, payload, _headers = message.topic, message.key, message.payload, message.headers
        size += len(payload)
        seen += 1
        if seen == 1:
            begin()
            first = Moment()
        elif seen == count:
            last = Moment()
            complete.set()

    with EventBus(job.kafka_url) as bus, surrounded(bus, job) as options:
        bus.subscribe(job.topic, handler, group=job.settings["group"], **options)
        complete.wait(LIMIT)
    job.expect("messages", seen)
    job.expect("bytes, by the size", size // job.size)
    return first.until(last)


def consume_batches(job: Job) -> dict[str, Any]:
    """A batch handler that reads everything of each message by columns; from the first message to the last."""
    count, seen, size = job.count, 0, 0
    first = last = Moment()
    complete = threading.Event()

    def handler(batch: Batch) -> None:
        nonlocal seen, size, first, last
        if not seen:
            begin()
            first = Moment()
        payloads, _keys, _headers = batch.payloads, batch.keys, batch.headers
        size += sum(map(len, payloads))
        seen += len(payloads)
        if seen >= count:
            last = Moment()
            complete.set()

    with EventBus(job.kafka_url) as bus:
        bus.subscribe(job.topic, handler, group=job.settings["group"], batch=(500, 0.1))
        complete.wait(LIMIT)
    job.expect("messages", seen)
    job.expect("bytes, by the size", size // job.size)
    return first.until(last)


def on_lanes(job: Job) -> dict[str, Any]:
    """See `lanes`."""
    with EventBus(job.kafka_url) as bus:
        return lanes(bus, job)


def latency(job: Job) -> dict[str, Any]:
    """From the call of `publish` to the entry of the handler, on a bus that is idle otherwise."""
    with EventBus(job.kafka_url) as bus:

        def listen(arrived: Callable[[bytes], None]) -> None:
            bus.subscribe(job.topic, lambda message: arrived(message.payload), group="bench")

        found = idle_latencies(job, lambda payload: bus.publish(job.topic, payload), listen)
    return {"seconds": percentile(found, 50), "p99": percentile(found, 99)}


def _publish_keyed(bus: EventBus, job: Job, count: int) -> None:
    """The same with a key each."""
    publish, topic, payload = bus.publish_nowait, job.topic, job.payload
    for _, key in zip(range(count), cycle(keys_of(job)), strict=False):
        while True:
            try:
                publish(topic, payload, key=key)
                break
            except PublishNotSentError:
                time.sleep(0.001)


def _publish_all(bus: EventBus, job: Job, count: int) -> None:
    """Publish so many; while as much is in flight as the default allows, wait a little."""
    if job.settings.get("keys"):
        _publish_keyed(bus, job, count)
        return
    publish, topic, payload = bus.publish_nowait, job.topic, job.payload
    for _ in range(count):
        while True:
            try:
                publish(topic, payload)
                break
            except PublishNotSentError:
                time.sleep(0.001)


def _flush(bus: EventBus) -> None:
    report = bus.flush(LIMIT)
    if report.unanswered or report.failed:
        raise RuntimeError(f"not everything was published: {report}")


VERBS: dict[str, Verb] = {
    verb.__name__: verb for verb in (nowait, many, sync, consume, consume_batches, on_lanes, latency)
}
