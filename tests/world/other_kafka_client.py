"""What kafka-python or aiokafka writes and reads, in a process of its own: their sockets are theirs to close.

`other_kafka_client.py kafka-python|aiokafka write BOOTSTRAP TOPIC` stores the rows on stdin, `... read BOOTSTRAP TOPIC
COUNT` prints so many. A row is a line: key, value, and name=value for each header, in hex behind an x, or null.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

Row = tuple["bytes | None", "bytes | None", tuple[tuple[str, "bytes | None"], ...]]


def line_of(row: Row) -> str:
    """A row as text."""
    key, value, headers = row
    return " ".join([_hex(key), _hex(value), *(f"{_hex(name.encode())}={_hex(data)}" for name, data in headers)])


def row_of(line: str) -> Row:
    """The row in a text."""
    key, value, *headers = line.split(" ")
    pairs = [word.split("=") for word in headers]
    return _data(key), _data(value), tuple([((_data(name) or b"").decode(), _data(data)) for name, data in pairs])


def _hex(data: bytes | None) -> str:
    return "null" if data is None else f"x{data.hex()}"


def _data(word: str) -> bytes | None:
    return None if word == "null" else bytes.fromhex(word[1:])


def _with_kafka_python(what: str, bootstrap: str, topic: str, count: int) -> None:
    import kafka

    if what == "write":
        producer: Any = kafka.KafkaProducer(bootstrap_servers=bootstrap, compression_type="gzip")
        for key, value, headers in map(row_of, sys.stdin.read().splitlines()):
            producer.send(topic, value=value, key=key, headers=list(headers))
        producer.flush()
    else:
        consumer = kafka.KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        for _, one in zip(range(count), consumer, strict=False):
            print(line_of((one.key, one.value, tuple(one.headers))))


async def _with_aiokafka(what: str, bootstrap: str, topic: str, count: int) -> None:
    import aiokafka

    if what == "write":
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="gzip") as producer:
            for key, value, headers in map(row_of, sys.stdin.read().splitlines()):
                await producer.send_and_wait(topic, value=value, key=key, headers=list(headers))
    else:
        options = {"bootstrap_servers": bootstrap, "auto_offset_reset": "earliest"}
        async with aiokafka.AIOKafkaConsumer(topic, **options) as consumer:
            for _ in range(count):
                one = await consumer.getone()
                print(line_of((one.key, one.value, tuple(one.headers))))


if __name__ == "__main__":
    client, verb, servers, place, *rest = sys.argv[1:]
    number = int(rest[0]) if rest else 0
    if client == "kafka-python":
        _with_kafka_python(verb, servers, place, number)
    else:
        asyncio.run(_with_aiokafka(verb, servers, place, number))
