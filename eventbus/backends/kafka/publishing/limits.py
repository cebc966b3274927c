"""What a topic's own configuration says about messages: looked at before one can spoil a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping

from attrs import frozen

from ....message import TOMBSTONE
from ....publishing.records import NO_EXTRAS, Record, extras_of
from ..names import ID_HEADER

FRESH = 2.0
"""Seconds for which a topic's configuration is good enough to refuse a message by it."""
CLOCKS = 5.0
"""Seconds that our clock and the broker's may be apart."""
_BATCH = 61
"""Bytes of a batch before its first record."""
_MINTED_ID = 29
_ID_BYTES = 1 + len(ID_HEADER)


@frozen
class Limits:
    """How a topic is configured, as far as it is known: None is no limit, or not known.

    largest: bytes of a batch. needs_key: it is compacted, and nothing else. oldest, newest: how many seconds before
    and after now a timestamp may be.
    """

    largest: int | None = None
    needs_key: bool = False
    oldest: float | None = None
    newest: float | None = None

    @staticmethod
    def of(config: Mapping[str, str]) -> Limits:
        """From the values that the cluster describes a topic with."""
        stamped_here = config.get("message.timestamp.type") != "LogAppendTime"
        return Limits(
            largest=_number(config.get("max.message.bytes")),
            needs_key="compact" in config.get("cleanup.policy", ""),
            oldest=_seconds(config.get("message.timestamp.before.max.ms")) if stamped_here else None,
            newest=_seconds(config.get("message.timestamp.after.max.ms")) if stamped_here else None,
        )


@frozen
class Topic:
    """What the cluster has said about a topic that is there. asked: when, on the monotonic clock."""

    partitions: int
    limits: Limits
    asked: float

    @property
    def is_fresh(self) -> bool:
        """Whether a message may be refused by it."""
        return time.monotonic() - self.asked < FRESH

    def refusal(self, record: Record, compressed: bool) -> str | None:
        """Why the broker would not take this message, alone; None: it may well take it."""
        key, _, _, place = extras_of(record) or NO_EXTRAS
        limits = self.limits
        if limits.needs_key and key is None:
            return "the topic is compacted (cleanup.policy): each message needs a key"
        if limits.largest is not None and not compressed:
            size = size_of(record)
            if size > limits.largest:
                return f"the message takes {size} bytes, max.message.bytes of the topic is {limits.largest}"
        return None if place is None else self._misplaced(*place)

    def _misplaced(self, partition: int, timestamp: int) -> str | None:
        if partition >= self.partitions:
            return f"there is no partition {partition}: the topic has {self.partitions}"
        ahead = timestamp / 1000 - time.time() if timestamp else 0.0
        limits = self.limits
        if limits.newest is not None and ahead > limits.newest + CLOCKS:
            return f"the timestamp is {ahead:.0f} s ahead, message.timestamp.after.max.ms allows {limits.newest:.0f} s"
        if limits.oldest is not None and -ahead > limits.oldest + CLOCKS:
            return f"the timestamp is {-ahead:.0f} s old, message.timestamp.before.max.ms allows {limits.oldest:.0f} s"
        return None


def size_of(record: Record) -> int:
    """Bytes of a batch that holds this one alone and uncompressed."""
    _, _, payload, extras, _ = record
    key, headers, given, _ = extras or NO_EXTRAS
    value = 1 if payload is TOMBSTONE else _with_length(len(payload))
    name = _with_length(_bytes_of(key)) if key is not None else 1
    id_size = len(given) if given is not None else _MINTED_ID
    pairs = headers or ()
    size = 3 + name + value + _varint(1 + len(pairs)) + _ID_BYTES + _with_length(id_size)
    for title, content in pairs:
        size += _with_length(_bytes_of(title)) + (1 if content is None else _with_length(len(content)))
    return _BATCH + _with_length(size)


def _bytes_of(text: str | bytes) -> int:
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())


def _with_length(size: int) -> int:
    return _varint(size) + size


def _varint(number: int) -> int:
    """Bytes of a count or length that is not negative: Kafka shifts it by one for the sign."""
    return max(1, ((number << 1).bit_length() + 6) // 7)


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    number = _number(text)
    return None if number is None or number >= 2**62 else number / 1000
