"""Clients of confluent-kafka, made for one question and gone after it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import pytest

from eventbus.testing import wait_until

pytest.importorskip("confluent_kafka")

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

TIMEOUT = 10.0
QUICK = {"log_level": 0, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 20}


class Server(Protocol):
    """As much of any Kafka server as a client needs."""

    @property
    def bootstrap(self) -> str: ...
    @property
    def client_options(self) -> dict[str, str]: ...


def settings(server: Server, **changes: Any) -> dict[str, Any]:
    """Return a client's settings; `changes` have _ for the dots in their names."""
    changed = {name.replace("_", "."): value for name, value in changes.items()}
    return {"bootstrap.servers": server.bootstrap, **server.client_options, **QUICK, **changed}


def metadata(server: Server, topic: str | None = None, timeout: float = TIMEOUT, **changes: Any) -> Any:
    """Return the metadata, as a new client gets it."""
    admin = AdminClient(settings(server, **changes))
    return admin.list_topics(topic, timeout=timeout) if topic else admin.list_topics(timeout=timeout)


def make_topic(server: Server, name: str, partitions: int = 1) -> None:
    """Create a topic and wait until all its partitions have a leader."""
    admin = AdminClient(settings(server))
    admin.create_topics([NewTopic(name, partitions)])[name].result(TIMEOUT)

    def led() -> bool:
        topic = admin.list_topics(name, timeout=TIMEOUT).topics[name]
        return not topic.error and all(each.leader > 0 for each in topic.partitions.values())

    wait_until(led, TIMEOUT)


def produce(server: Server, topic: str, *values: bytes, timeout: float = TIMEOUT) -> list[int]:
    """Produce, one after the other; return the code of each outcome, 0 for a success."""
    outcomes: list[int] = []
    producer = Producer(settings(server, message_timeout_ms=round(timeout * 1000)))
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: outcomes.append(error.code() if error else 0))
        assert producer.flush(timeout + 5.0) == 0
    return outcomes


def consume(server: Server, topic: str, count: int, group: str = "readers") -> list[bytes]:
    """Return `count` values of a topic, from its beginning, and commit them."""
    consumer = Consumer(settings(server, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False))
    found: list[bytes] = []
    try:
        consumer.subscribe([topic])

        def enough() -> bool:
            for message in consumer.consume(count - len(found), 0.1):
                assert message.error() is None, message.error()
                found.append(message.value())
            return len(found) >= count

        wait_until(enough, 2 * TIMEOUT, message=lambda: f"{count} messages, not {found}")
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return found


def refusal(server: Server, text: str, **changes: Any) -> None:
    """Wait until a client that cannot get in is told so, with this text."""
    said: list[str] = []
    options = settings(server, **changes)
    options["error_cb"] = lambda error: said.append(error.str())
    producer = Producer(options)

    def heard() -> bool:
        producer.poll(0.02)
        return any(text in each for each in said)

    wait_until(heard, TIMEOUT, message=lambda: f"the error {text!r}, not {said}")


def listening(pid: int) -> list[str]:
    """Return the addresses that a process listens at."""
    mine, found = set(), []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            mine.add(str(descriptor.readlink()))
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                mapped = len(raw) == 4 or raw[:12] == bytes(8) + b"\x00\x00\xff\xff"[::-1]
                found.append(".".join(map(str, raw[-4:][::-1])) if mapped else raw.hex())
    return found


__all__ = [
    "TIMEOUT",
    "KafkaError",
    "KafkaException",
    "consume",
    "listening",
    "make_topic",
    "metadata",
    "produce",
    "refusal",
    "settings",
]
