"""What is measured on the other side: nats-py in its fast ways, with the settings that the job names.

`uvloop`: run on it. `pending_size`: bytes that are collected before a write is forced. `window`:
publishes in flight. `batch`: messages of one fetch. `push`: a push consumer instead of fetching.
Its own check of subjects is always off, which is its fastest.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from scripts.bench.worker import LIMIT, WARM_UP, WARM_UPS, Counted, Job, Verb, say_ready

_UNLIMITED = 10**10
_ACKS_PENDING = 65_536


async def core_publish(job: Job, client: Client) -> dict[str, Any]:
    """`publish` of everything, then one `flush`."""
    payload, topic = job.payload, job.topic
    for _ in range(WARM_UPS):
        await client.publish(WARM_UP, payload)
    await _flush(client)
    start = _start()
    for _ in range(job.count):
        await client.publish(topic, payload)
    await _flush(client)
    return _since(start)


async def core_subscribe(job: Job, client: Client) -> dict[str, Any]:
    """Count what arrives in a callback."""
    counted, complete = Counted(job), asyncio.Event()
    await client.subscribe(
        job.topic,
        cb=_counting(counted, complete),
        pending_msgs_limit=_UNLIMITED,
        pending_bytes_limit=_UNLIMITED,
    )
    await client.flush()
    say_ready()
    await asyncio.wait_for(complete.wait(), LIMIT)
    counted.check()
    return {"last": counted.last}


async def js_publish(job: Job, client: Client) -> dict[str, Any]:
    """`publish`, one confirmed after the other."""
    stream, payload, ids = client.jetstream(), job.payload, job.message_ids()
    start = _start()
    for id in ids:
        ack = await stream.publish(job.topic, payload, headers={"Nats-Msg-Id": id})
    job.expect("the last sequence", ack.seq)
    return _since(start)


async def js_publish_async(job: Job, client: Client) -> dict[str, Any]:
    """`publish_async` of everything, then `publish_async_completed` and a look at every answer."""
    stream = client.jetstream(publish_async_max_pending=job.settings.get("window", 4000))
    payload, ids = job.payload, job.message_ids()
    start = _start()
    futures = [await stream.publish_async(job.topic, payload, headers={"Nats-Msg-Id": id}) for id in ids]
    await stream.publish_async_completed()
    job.expect("confirmed", sum(future.result().seq > 0 for future in futures))
    return _since(start)


async def js_consume(job: Job, client: Client) -> dict[str, Any]:
    """A durable made, everything fetched and acknowledged, and the server says so."""
    stream, counted = client.jetstream(), Counted(job)
    start = _start()
    if job.settings.get("push"):
        await _consume_pushed(job, stream, counted)
    else:
        await _consume_fetched(job, stream, counted)
    await _flush(client)
    job.await_acknowledged()
    counted.check()
    return _since(start)


async def _consume_fetched(job: Job, stream: JetStreamContext, counted: Counted) -> None:
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=_ACKS_PENDING)
    batch = job.settings.get("batch", 100)
    subscription = await stream.pull_subscribe(job.topic, durable="bench", config=config)
    while counted.count < job.count:
        for message in await subscription.fetch(batch, timeout=5):
            counted.add(message.data)
            await message.ack()


async def _consume_pushed(job: Job, stream: JetStreamContext, counted: Counted) -> None:
    complete = asyncio.Event()
    count = _counting(counted, complete)

    async def handler(message: Msg) -> None:
        await message.ack()
        await count(message)

    await stream.subscribe(
        job.topic,
        durable="bench",
        cb=handler,
        manual_ack=True,
        config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=_ACKS_PENDING),
        pending_msgs_limit=_UNLIMITED,
        pending_bytes_limit=_UNLIMITED,
    )
    await asyncio.wait_for(complete.wait(), LIMIT)


def _counting(counted: Counted, complete: asyncio.Event) -> Callable[[Msg], Awaitable[None]]:
    add, is_complete = counted.add, counted.complete.is_set

    async def handler(message: Msg) -> None:
        add(message.data)
        if is_complete():
            complete.set()

    return handler


async def _flush(client: Client) -> None:
    """The PING of its first flush overtakes what is still collected; that of the second does not."""
    await client.flush(int(LIMIT))
    await client.flush(int(LIMIT))


def _start() -> float:
    gc.collect()
    return time.monotonic()


def _since(start: float) -> dict[str, Any]:
    return {"start": start, "seconds": time.monotonic() - start}


def _verb(work: Callable[[Job, Client], Awaitable[dict[str, Any]]]) -> Verb:
    async def connected(job: Job) -> dict[str, Any]:
        options = {"pending_size": job.settings.get("pending_size", 2 * 1024 * 1024)}
        unchecked = bool(job.settings.get("unchecked"))
        client = await nats.connect(job.url, skip_subject_validation=unchecked, **options)
        return await work(job, client)

    def run(job: Job) -> dict[str, Any]:
        if not job.settings.get("uvloop"):
            return asyncio.run(connected(job))
        return dict(importlib.import_module("uvloop").run(connected(job)))

    return run


VERBS: dict[str, Verb] = {
    work.__name__: _verb(work) for work in (core_publish, core_subscribe, js_publish, js_publish_async, js_consume)
}
