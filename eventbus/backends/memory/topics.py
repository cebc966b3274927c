"""What the memory broker stores: the messages of a topic, in order."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import count
from zlib import crc32

from ...fields import RawHeaders, raw
from ...publishing.records import NO_EXTRAS, Record

_serials = count(1)

Entry = tuple[str, bytes, "bytes | None", RawHeaders, int, float]
"""A stored message: id, payload, raw key, raw headers, partition, seconds since the epoch (microseconds count). A
plain tuple: the garbage collector lets go of it, and a million objects would be walked through again and again."""


def _stored(entry: Entry) -> float:
    return entry[5]


class Topic:
    """The messages of one topic in the order of their storing; an offset is a place in it."""

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.partitions = partitions
        self.identities = next(_serials) << 48
        """Plus an offset: what a message is known by. Never the same again, when the topic is lost and made anew."""
        self.ids: dict[str, int] = {}
        """Where the messages with these ids are: offset and partition in one number."""
        self.base = 0
        self._entries: list[Entry] = []
        self._offsets = [array("q") for _ in range(partitions)]
        self._next_partition = 0

    @property
    def end(self) -> int:
        """The offset of the next message."""
        return self.base + len(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def times(self) -> tuple[float, float]:
        """When the first and the last message were stored, by `time.time`; only where there is one."""
        return _stored(self._entries[0]), _stored(self._entries[-1])

    def entries_from(self, offset: int) -> Iterator[tuple[int, Entry]]:
        """The messages from an offset on."""
        entries, base = self._entries, self.base
        for index in range(max(0, offset - base), len(entries)):
            yield base + index, entries[index]

    def first_since(self, moment: float) -> int:
        """The offset of the first message that was stored at this time of `time.time` or later."""
        return self.base + bisect_left(self._entries, moment, key=_stored)

    def count_from(self, partition: int, offset: int) -> int:
        """How many messages a partition has from an offset on, without a look at each."""
        offsets = self._offsets[partition]
        return len(offsets) - bisect_left(offsets, offset)

    def add(self, record: Record, id: str) -> tuple[int, int]:
        """Store; its partition and offset."""
        _, _, payload, extras, _ = record
        given, headers, _, _ = extras or NO_EXTRAS
        key = raw(given)
        entries = self._entries
        if key is None:
            self._next_partition = partition = (self._next_partition + 1) % self.partitions
        else:
            partition = crc32(key) % self.partitions
        offset = self.base + len(entries)
        entries.append((id, payload, key, headers or (), partition, round(time.time(), 6)))
        self._offsets[partition].append(offset)
        return partition, offset

    def drop_below(self, offset: int) -> None:
        """Forget the oldest."""
        if offset > self.base:
            del self._entries[: offset - self.base]
            self.base = offset
            for offsets in self._offsets:
                del offsets[: bisect_left(offsets, offset)]
