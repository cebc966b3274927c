"""Asking a Kafka broker the least, without a client library: what it knows of its cluster."""

from __future__ import annotations

import itertools
import socket
import struct
from dataclasses import dataclass

_FIND_COORDINATOR = 10
_METADATA = 3
_CLIENT = "eventbus-testing"
_LONGEST_ANSWER = 1 << 26
_GROUP = 0

_correlation = itertools.count(1)


@dataclass(frozen=True)
class Partition:
    """One partition as a broker sees it; ``leader`` is -1 while there is none."""

    topic: str
    index: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True)
class ClusterView:
    """What one broker knows: the cluster's id, the brokers that are alive, all partitions."""

    cluster_id: str
    brokers: frozenset[int]
    partitions: tuple[Partition, ...]

    @property
    def has_leaders(self) -> bool:
        """Whether every partition has a leader that is alive."""
        return all(partition.leader in self.brokers for partition in self.partitions)

    @property
    def in_sync(self) -> bool:
        """Whether every replica of every partition is in sync."""
        return all(set(each.in_sync) == set(each.replicas) for each in self.partitions)


def read_cluster(address: tuple[str, int], timeout: float) -> ClusterView:
    """Ask the broker at a plaintext listener for all that it knows.

    Raises:
        OSError: nobody listens, no answer within ``timeout`` seconds, or not Kafka's.
    """
    answer = ask(address, _METADATA, 2, struct.pack(">i", -1), timeout)
    try:
        return _cluster_view(answer)
    except (struct.error, UnicodeDecodeError) as exc:
        raise ConnectionError(f"not a Kafka broker: {exc!r}") from exc


def find_coordinator(address: tuple[str, int], group: str, timeout: float) -> int | None:
    """Return the id of the broker that coordinates a consumer group; None while none does.

    Asking makes the topic of the offsets where there is none yet.

    Raises:
        OSError: nobody listens, no answer within ``timeout`` seconds, or not Kafka's.
    """
    body = string(group) + struct.pack(">b", _GROUP)
    answer = ask(address, _FIND_COORDINATOR, 1, body, timeout)
    try:
        _, error = answer.int32(), answer.int16()
        answer.string()
        return None if error else answer.int32()
    except (struct.error, UnicodeDecodeError) as exc:
        raise ConnectionError(f"not a Kafka broker: {exc!r}") from exc


class Answer:
    """Reads the fields of an answer, one after the other; ``struct.error`` at its end."""

    def __init__(self, data: bytes) -> None:
        """Take the answer's bytes."""
        self._data = data
        self._at = 0

    def int8(self) -> int:
        """Return one byte."""
        return self._number(">b")

    def int16(self) -> int:
        """Return two bytes."""
        return self._number(">h")

    def int32(self) -> int:
        """Return four bytes."""
        return self._number(">i")

    def string(self) -> str:
        """Return a string, an empty one for null."""
        length = max(0, self.int16())
        (text,) = struct.unpack_from(f"{length}s", self._data, self._at)
        self._at += length
        return str(text, "utf-8")

    def int32s(self) -> tuple[int, ...]:
        """Return an array."""
        return tuple(self.int32() for _ in range(self.int32()))

    def _number(self, form: str) -> int:
        (number,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(number)


def _cluster_view(answer: Answer) -> ClusterView:
    brokers = set()
    for _ in range(answer.int32()):
        brokers.add(answer.int32())
        answer.string(), answer.int32(), answer.string()
    cluster_id, _ = answer.string(), answer.int32()
    partitions: list[Partition] = []
    for _ in range(answer.int32()):
        _, topic, _ = answer.int16(), answer.string(), answer.int8()
        for _ in range(answer.int32()):
            _, index, leader = answer.int16(), answer.int32(), answer.int32()
            partitions.append(Partition(topic, index, leader, answer.int32s(), answer.int32s()))
    return ClusterView(cluster_id, frozenset(brokers), tuple(partitions))


def string(text: str) -> bytes:
    """Return a string as a field of a question."""
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def ask(address: tuple[str, int], api: int, version: int, body: bytes, timeout: float) -> Answer:
    """Send one request of a version without tagged fields, and return the body of its answer.

    Raises:
        OSError: nobody listens, no answer within ``timeout`` seconds, or not Kafka's.
    """
    number = next(_correlation) & 0x7FFFFFFF
    request = struct.pack(">hhi", api, version, number) + string(_CLIENT) + body
    with socket.create_connection(address, timeout) as sock:
        sock.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", _read(sock, 4))
        if not 4 <= length <= _LONGEST_ANSWER:
            raise ConnectionError(f"not a Kafka broker: an answer of {length} bytes")
        answer = Answer(_read(sock, length))
    if answer.int32() != number:
        raise ConnectionError("not a Kafka broker: an answer to another question")
    return answer


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionError(f"it hung up after {len(data)} of {count} bytes")
        data += part
    return data
