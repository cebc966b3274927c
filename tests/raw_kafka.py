"""librdkafka past confluent_kafka: headers with any bytes for a name, and how many of its clients there are."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import confluent_kafka

_END, _TOPIC, _VALUE, _FLAGS, _HEADER, _PARTITION = (ctypes.c_int(tag) for tag in (0, 1, 4, 7, 9, 3))
_COPY = ctypes.c_int(2)

RawHeader = tuple[bytes, "bytes | None"]


def produce(bootstrap: str, topic: str, messages: Sequence[tuple[bytes, Sequence[RawHeader]]]) -> None:
    """Store (value, headers), in order, in partition 0; where one is not stored within 10 s an AssertionError."""
    library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    text, size = ctypes.create_string_buffer(512), ctypes.c_size_t(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    for option, value in ((b"bootstrap.servers", bootstrap.encode()), (b"log_level", b"0")):
        assert library.rd_kafka_conf_set(conf, option, value, text, size) == 0, text.value
    producer = ctypes.c_void_p(library.rd_kafka_new(0, conf, text, size))
    assert producer, text.value
    try:
        for payload, headers in messages:
            library.rd_kafka_producev(producer, *_message(topic, payload, headers))
        assert library.rd_kafka_flush(producer, 10_000) == 0
    finally:
        library.rd_kafka_destroy(producer)


def _message(topic: str, payload: bytes, headers: Sequence[RawHeader]) -> list[object]:
    parts: list[object] = [_TOPIC, ctypes.c_char_p(topic.encode()), _PARTITION, ctypes.c_int32(0), _FLAGS, _COPY]
    parts += [_VALUE, ctypes.c_char_p(payload), ctypes.c_size_t(len(payload))]
    for name, value in headers:
        length = ctypes.c_ssize_t(0 if value is None else len(value))
        parts += [_HEADER, ctypes.c_char_p(name), ctypes.c_char_p(value), length]
    return [*parts, _END]


def native_clients() -> int:
    """How many handles librdkafka has open: each has one main thread, which Python does not list."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:  # it has just ended
            continue
    return names.count("rdk:main")
