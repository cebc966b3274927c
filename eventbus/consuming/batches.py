"""Batches that make each delivery when it is its turn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Generic, TypeVar, overload

from ..message import Delivery

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


def size_of(batch: Sequence[Delivery]) -> int:
    """Bytes of all payloads of a batch."""
    if isinstance(batch, LazyBatch):
        return batch.size
    return sum(map(len, map(_payload, batch)))
