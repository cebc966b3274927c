"""Batches that make each delivery when it is its turn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

from ..fields import RawHeaders
from ..message import Delivery, Message

_payload = attrgetter("payload")

D = TypeVar("D", bound=Delivery)


class LazyBatch(Sequence[D], Generic[D]):
    """One delivery dies before the next is born; a part of a batch is a batch.

    Deliveries made all at once cost a quarter to a third more: so many new objects keep calling Python's collector,
    which looks through everything else that the process has.
    """

    __slots__ = ()

    @abstractmethod
    def part(self, start: int, stop: int) -> LazyBatch[D]:
        """The deliveries from `start` to before `stop`, both within the batch."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of all payloads, found without making a delivery."""

    @property
    def payloads(self) -> list[bytes]:
        """Of each delivery, in order."""
        return [one.payload for one in self]

    @property
    def keys(self) -> list[bytes | None]:
        """As they are stored."""
        return [one.raw_key for one in self]

    @property
    def headers(self) -> list[RawHeaders]:
        """As they are stored."""
        return [one.raw_headers for one in self]

    @abstractmethod
    def __iter__(self) -> Iterator[D]: ...

    @overload
    def __getitem__(self, index: int) -> D: ...

    @overload
    def __getitem__(self, index: slice) -> LazyBatch[D]: ...

    def __getitem__(self, index: int | slice) -> D | LazyBatch[D]:
        if isinstance(index, slice):
            places = range(len(self))[index]
            if places.step != 1:
                raise ValueError("a batch has no gaps")
            return self.part(places.start, max(places.start, places.stop))
        place = range(len(self))[index]
        return next(iter(self.part(place, place + 1)))


class Batch(Sequence[Message]):
    """Messages as a batch handler gets them: a sequence in order of arrival, and columns of it.

    A message is made when it is looked at, each time anew. payloads: the bytes of each (`TOMBSTONE`, which is empty,
    for none). keys, headers: as they are stored, like `Message.raw_key` and `Message.raw_headers`. Columns are lists,
    made at each call, without an object for each message where the backend has none (Kafka).
    """

    __slots__ = ("_length", "_parts")

    def __init__(self, parts: Sequence[Sequence[Delivery]]) -> None:
        self._parts = parts
        self._length = sum(map(len, parts))

    @property
    def payloads(self) -> list[bytes]:
        """The payload of each message."""
        return self._column("payloads", "payload")

    @property
    def keys(self) -> list[bytes | None]:
        """The key of each message, byte for byte; None without one."""
        return self._column("keys", "raw_key")

    @property
    def headers(self) -> list[RawHeaders]:
        """The headers of each message: (name, bytes or None) in order, repeats kept."""
        return self._column("headers", "raw_headers")

    def _column(self, lazily: str, each: str) -> list[Any]:
        column: list[Any] = []
        for part in self._parts:
            column += getattr(part, lazily) if isinstance(part, LazyBatch) else map(attrgetter(each), part)
        return column

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Message]:
        for part in self._parts:
            yield from part

    @overload
    def __getitem__(self, index: int) -> Delivery: ...

    @overload
    def __getitem__(self, index: slice) -> list[Delivery]: ...

    def __getitem__(self, index: int | slice) -> Delivery | list[Delivery]:
        if isinstance(index, slice):
            return [self[place] for place in range(self._length)[index]]
        place = range(self._length)[index]
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(index)  # unreachable: `range` has refused it

    def __repr__(self) -> str:
        return f"<Batch of {self._length} messages>"


def size_of(batch: Sequence[Delivery]) -> int:
    """Bytes of all payloads of a batch."""
    if isinstance(batch, LazyBatch):
        return batch.size
    return sum(map(len, map(_payload, batch)))
