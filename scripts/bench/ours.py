"""What is measured on our side: the public API on its default settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventbus import Batch, EventBus, FlushReport, Message, PublishNotSentError
from scripts.bench.lanes import lanes
from scripts.bench.surroundings import surrounded
from scripts.bench.worker import LIMIT, WARM_UP, WARM_UPS, Counted, Job, Verb, say_ready, timed


def core_publish(job: Job) -> dict[str, Any]:
    """`publish_nowait` of everything, then one `flush` that the server has read it all."""
    with _bus(job, jetstream=False) as bus:
        _publish_nowait(bus, WARM_UP, job.payload, WARM_UPS)
        return timed(lambda: _publish_nowait(bus, job.topic, job.payload, job.count))


def core_subscribe(job: Job) -> dict[str, Any]:
    """Count what arrives in a handler."""
    counted = Counted(job)
    with _bus(job, jetstream=False) as bus:
        bus.subscribe(job.topic, _counting(counted))
        bus.flush()
        say_ready()
        counted.complete.wait(LIMIT)
        if dropped := bus.get_statistics().dropped:
            raise RuntimeError(f"{dropped} messages were dropped: the handler was slower than the reader")
        counted.check()
        return {"last": counted.last}


def js_publish(job: Job) -> dict[str, Any]:
    """`publish`, one confirmed after the other."""
    payload = job.payload

    def work() -> None:
        for _ in range(job.count):
            receipt = bus.publish(job.topic, payload)
        job.expect("the last offset", receipt.offset or 0)

    with _bus(job) as bus:
        bus.flush()
        return timed(work)


def js_publish_async(job: Job) -> dict[str, Any]:
    """`publish_async` of everything, then the result of every future."""
    payload = job.payload

    def work() -> None:
        futures = [bus.publish_async(job.topic, payload) for _ in range(job.count)]
        job.expect("confirmed", sum(future.result(LIMIT).confirmed for future in futures))

    with _bus(job) as bus:
        return timed(work)


def js_publish_many(job: Job) -> dict[str, Any]:
    """One `publish_many` with everything, messages made on the way."""
    payload = job.payload

    def work() -> None:
        messages = (Message(job.topic, payload) for _ in range(job.count))
        receipts = bus.publish_many(messages, timeout=LIMIT)
        job.expect("confirmed", sum(receipt.confirmed for receipt in receipts))

    with _bus(job) as bus:
        return timed(work)


def js_consume(job: Job) -> dict[str, Any]:
    """A group's subscription made, everything handled, and the server says that all is acknowledged."""
    counted = Counted(job)

    def work() -> None:
        bus.subscribe(job.topic, _counting(counted), group="bench", **options)
        counted.wait()
        job.await_acknowledged()
        counted.check()

    with _bus(job) as bus, surrounded(bus, job) as options:
        return timed(work)


def js_consume_batches(job: Job) -> dict[str, Any]:
    """The same with a batch handler that reads the payloads as a column."""
    counted = Counted(job)

    def handler(batch: Batch) -> None:
        for payload in batch.payloads:
            counted.add(payload)

    def work() -> None:
        bus.subscribe(job.topic, handler, group="bench", batch=(500, 0.1))
        counted.wait()
        job.await_acknowledged()
        counted.check()

    with _bus(job) as bus:
        return timed(work)


def js_lanes(job: Job) -> dict[str, Any]:
    """See `lanes`."""
    with _bus(job) as bus:
        return lanes(bus, job)


def memory(job: Job) -> dict[str, Any]:
    """Published with `publish_nowait` and handled, in this process."""
    counted = Counted(job)

    def work() -> None:
        _publish_nowait(bus, job.topic, job.payload, job.count)
        counted.wait()

    with EventBus("memory://bench") as bus:
        bus.subscribe(job.topic, _counting(counted), group="bench")
        return timed(work)


def _bus(job: Job, *, jetstream: bool = True) -> EventBus:
    return EventBus(f"{job.url}?jetstream={'true' if jetstream else 'false'}")


def _counting(counted: Counted) -> Callable[[Message], None]:
    add = counted.add

    def handler(message: Message) -> None:
        add(message.payload)

    return handler


def _publish_nowait(bus: EventBus, topic: str, payload: bytes, count: int) -> None:
    """Publish all; whenever as much is in flight as the default allows, wait until it is answered."""
    publish = bus.publish_nowait
    for _ in range(count):
        try:
            publish(topic, payload)
        except PublishNotSentError:
            _check(bus.flush(LIMIT))
            publish(topic, payload)
    _check(bus.flush(LIMIT))


def _check(report: FlushReport) -> None:
    if report.unanswered or report.failed:
        raise RuntimeError(f"not everything was published: {report}")


VERBS: dict[str, Verb] = {
    "core_publish": core_publish,
    "core_subscribe": core_subscribe,
    "js_publish": js_publish,
    "js_publish_async": js_publish_async,
    "js_publish_many": js_publish_many,
    "js_consume": js_consume,
    "js_consume_batches": js_consume_batches,
    "js_lanes": js_lanes,
    "memory": memory,
}
