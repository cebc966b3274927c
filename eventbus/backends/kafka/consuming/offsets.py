"""Which offsets of a log are handed out and which are done: noted by what is missing between them, which is little."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from operator import itemgetter

_end = itemgetter(1)


class Offsets:
    """Handed out in ascending order (gaps are fine), finished in any. Not locked.

    position: the next offset to hand out. committed: the lowest offset that is not done: where the next owner begins.
    """

    __slots__ = ("_finished", "_gaps", "_missing", "committed", "position")

    def __init__(self, position: int) -> None:
        self.position = self.committed = position
        self._gaps: deque[tuple[int, int]] = deque()
        """Offsets [first, end) behind `committed` that were not handed out: a log of transactions has one for each."""
        self._missing = 0
        """How many these are."""
        self._finished: set[int] = set()
        """Done, behind something that is not."""

    @property
    def ahead(self) -> int:
        """How many are handed out from the lowest that is not done on, those that are done included."""
        return self.position - self.committed - self._missing

    @property
    def unfinished(self) -> int:
        """How many are handed out and not done; about, where another thread is at work on them."""
        return max(0, self.position - self.committed - self._missing - len(self._finished))

    def hand_out(self, first: int, end: int) -> None:
        """Note a run without gaps, from the position or behind it."""
        if self.committed == self.position:
            self.committed = first
        elif first > self.position:
            self._gaps.append((self.position, first))
            self._missing += first - self.position
        self.position = end

    def finish(self, first: int, end: int) -> None:
        """Note a run as done; what was not handed out is ignored."""
        if (
            first == self.committed
            and not self._finished
            and end <= (self._gaps[0][0] if self._gaps else self.position)
        ):
            self.committed = end  # in order, as mostly
        else:
            for begin, stop in self._runs(first, end):
                self._finished.update(range(begin, stop))
        self._cut()

    def finish_each(self, offsets: Sequence[int]) -> None:
        """Note these as done, in whatever order; what was not handed out is ignored."""
        begin, end = self.committed, self.position
        ours = [offset for offset in offsets if begin <= offset < end]
        self._finished.update([offset for offset in ours if self._is_run(offset)] if self._gaps else ours)
        self._cut()

    def is_out(self, offset: int) -> bool:
        """Whether an offset is handed out and not done."""
        return self.committed <= offset < self.position and offset not in self._finished and self._is_run(offset)

    def out_between(self, first: int, end: int) -> list[int]:
        """The offsets in a range that are handed out and not done."""
        finished = self._finished
        return [
            offset for begin, stop in self._runs(first, end) for offset in range(begin, stop) if offset not in finished
        ]

    def forget_below(self, offset: int) -> None:
        """All below is done by now, whoever did it."""
        if offset <= self.committed:
            return
        self.committed, self.position = offset, max(self.position, offset)
        self._finished = {one for one in self._finished if one >= offset}
        while self._gaps and self._gaps[0][0] < offset:
            first, end = self._gaps.popleft()
            self._missing -= end - first
            if end > offset:
                self.committed = end
        self._cut()

    def _runs(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """What of a range was handed out, from `committed` on."""
        gaps = self._gaps
        first, end = max(first, self.committed), min(end, self.position)
        at = bisect_right(gaps, first, key=_end)
        while first < end:
            stop, following = gaps[at] if at < len(gaps) else (end, end)
            if first < stop:
                yield first, min(stop, end)
            first, at = following, at + 1

    def _is_run(self, offset: int) -> bool:
        """Whether an offset between `committed` and the position was handed out."""
        at = bisect_right(self._gaps, offset, key=_end)
        return at == len(self._gaps) or offset < self._gaps[at][0]

    def _cut(self) -> None:
        gaps, finished = self._gaps, self._finished
        while True:
            if self.committed in finished:
                finished.discard(self.committed)
                self.committed += 1
            elif gaps and gaps[0][0] == self.committed:
                first, end = gaps.popleft()
                self._missing -= end - first
                self.committed = end
            else:
                return
