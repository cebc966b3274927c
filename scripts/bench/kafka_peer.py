"""What is measured on the other side: confluent-kafka used directly, with the options that the bus gives it.

`serve`: produce calls between two calls of `poll(0)`. `batch`: messages of one `consume`, 0 for `poll`.
`decode`: keys and headers are made into the text that a handler of the bus gets.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from scripts.bench.kafka_load import at_once, idle_latencies, keys_of, percentile, shares, timed_calls
from scripts.bench.kafka_raw import ID_HEADER, STORING, client_options, ids
from scripts.bench.worker import LIMIT, Job, Moment, Verb, timed

_POLL = 0.1


class Delivered:
    """Counts delivery reports; `report` is the callback: it is timed, so it is a closure."""

    def __init__(self) -> None:
        self.errors: list[KafkaError] = []
        collect, count = self.errors.append, 0

        def report(error: KafkaError | None, message: Message) -> None:
            nonlocal count
            if error is not None:
                collect(error)
            else:
                count += 1  # the interpreter lets no other thread in between

        self.report = report
        self._count = lambda: count

    def check(self, wanted: int) -> None:
        """RuntimeError unless so many were stored, and none failed."""
        if self.errors or self._count() != wanted:
            raise RuntimeError(f"{self._count()} of {wanted} were delivered, errors: {self.errors[:3]}")


def nowait(job: Job) -> dict[str, Any]:
    """`produce` of everything from so many threads on one producer, then one `flush`."""
    producer, delivered = Producer(client_options(job.address).producer), Delivered()
    warm_up = job.settings["warm_up"]
    _produce_all(producer, job, delivered, warm_up)
    producer.flush(LIMIT)
    delivered.check(warm_up)

    def work() -> None:
        at_once(lambda count: _produce_all(producer, job, delivered, count), shares(job))
        producer.flush(LIMIT)

    result = timed(work)
    delivered.check(warm_up + job.count)
    return result


def sync(job: Job) -> dict[str, Any]:
    """`produce` and `flush` for each message, from so many threads on one producer; `p99` of both, too."""
    producer, delivered = Producer(client_options(job.address).producer), Delivered()
    topic, payload, report = job.topic, job.payload, delivered.report
    produce, flush, origin, next_number = producer.produce, producer.flush, _origin(), itertools.count(1).__next__

    def call() -> None:
        produce(topic, payload, None, -1, report, None, 0, [(ID_HEADER, f"{origin}-{next_number():012d}")])
        flush()

    for _ in range(job.settings["warm_up"]):
        call()
    result = timed_calls(job, call)
    delivered.check(job.settings["warm_up"] + job.count)
    return result


def consume(job: Job) -> dict[str, Any]:
    """A loop that reads everything of each message and stores its offset; from the first message to the last."""
    options = client_options(job.address).consumer(job.settings["group"], protocol="consumer", start="earliest")
    consumer = Consumer(options | STORING)
    consumer.subscribe([job.topic])
    loop = _poll_loop if not job.settings.get("batch") else _batch_loop
    if job.settings.get("decode"):
        loop = _decoding_loop
    first, last, seen, size = loop(consumer, job)
    consumer.close()
    job.expect("messages", seen)
    job.expect("bytes, by the size", size // job.size)
    return first.until(last)


_Run = tuple[Moment, Moment, int, int]


def _poll_loop(consumer: Any, job: Job) -> _Run:
    poll, store, count, seen, size, first = consumer.poll, consumer.store_offsets, job.count, 0, 0, Moment()
    while seen < count:
        message = poll(_POLL)
        if message is None:
            continue
        if message.error() is not None:
            raise KafkaException(message.error())
        _topic, _key, payload, _headers = message.topic(), message.key(), message.value(), message.headers()
        size += len(payload)
        seen += 1
        if seen == 1:
            first = Moment()
        store(message)
    return first, Moment(), seen, size


def _decoding_loop(consumer: Any, job: Job) -> _Run:
    poll, store, count, seen, size, first = consumer.poll, consumer.store_offsets, job.count, 0, 0, Moment()
    while seen < count:
        message = poll(_POLL)
        if message is None:
            continue
        if message.error() is not None:
            raise KafkaException(message.error())
        _topic, _key, payload = message.topic(), message.key().decode(), message.value()
        fields = message.headers() or ()
        _headers = MappingProxyType({name: value.decode() for name, value in fields if name != ID_HEADER})
        size += len(payload)
        seen += 1
        if seen == 1:
            first = Moment()
        store(message)
    return first, Moment(), seen, size


def _batch_loop(consumer: Any, job: Job) -> _Run:
    batch, count, seen, size, first = job.settings["batch"], job.count, 0, 0, Moment()
    while seen < count:
        positions: dict[int, int] = {}
        for message in consumer.consume(batch, _POLL):
            if message.error() is not None:
                raise KafkaException(message.error())
            _topic, _key, payload, _headers = message.topic(), message.key(), message.value(), message.headers()
            size += len(payload)
            seen += 1
            if seen == 1:
                first = Moment()
            positions[message.partition()] = message.offset()
        if positions:
            offsets = [TopicPartition(job.topic, number, offset + 1) for number, offset in positions.items()]
            consumer.store_offsets(offsets=offsets)
    return first, Moment(), seen, size


def latency(job: Job) -> dict[str, Any]:
    """From the call of `produce`, which a `flush` follows, to the message in the hands of a poll loop."""
    options = client_options(job.address)
    producer, over = Producer(options.producer), threading.Event()
    next_id = ids(_origin()).__next__
    consumer = Consumer(options.consumer("bench", protocol="consumer", start="earliest") | STORING)

    def publish(payload: bytes) -> None:
        producer.produce(job.topic, payload, headers=[(ID_HEADER, next_id())])
        producer.flush()

    def listen(arrived: Callable[[bytes], None]) -> None:
        def run() -> None:
            consumer.subscribe([job.topic])
            while not over.is_set():
                message = consumer.poll(_POLL)
                if message is not None and message.error() is None:
                    arrived(message.value() or b"")
                    consumer.store_offsets(message)

        threading.Thread(target=run, daemon=True).start()

    found = idle_latencies(job, publish, listen)
    over.set()
    return {"seconds": percentile(found, 50), "p99": percentile(found, 99)}


def _produce_all(producer: Any, job: Job, delivered: Delivered, count: int) -> None:
    """The quickest loop we know of that hears of each failure, and gives each message an id."""
    produce, poll, report = producer.produce, producer.poll, delivered.report
    topic, payload, serve, origin = job.topic, job.payload, job.settings["serve"], _origin()
    keys = keys_of(job)
    for number in range(1, count + 1) if keys == [None] else ():
        produce(topic, payload, None, -1, report, None, 0, [(ID_HEADER, f"{origin}-{number:012d}")])
        if not number % serve:
            poll(0)
    for number, key in zip(range(1, count + 1), itertools.cycle(keys), strict=False) if keys != [None] else ():
        produce(topic, payload, key, -1, report, None, 0, [(ID_HEADER, f"{origin}-{number:012d}")])
        if not number % serve:
            poll(0)


def _origin() -> str:
    """Sixteen characters that are this thread's and no other's."""
    return f"{os.getpid():08x}{threading.get_native_id():08x}"


VERBS: dict[str, Verb] = {verb.__name__: verb for verb in (nowait, sync, consume, latency)}
