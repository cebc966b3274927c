"""Which offsets of a log are handed out and which are done: in runs, as most come and end in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Offsets:
    """Handed out in ascending order (gaps are fine), finished in any. Not locked.

    position: the next offset to hand out.
    """

    __slots__ = ("_finished", "_out", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self._out: deque[list[int]] = deque()
        """Runs [first, end) that were handed out; of the first one, what is done is cut off."""
        self._finished: set[int] = set()
        """Done, behind something that is not."""

    @property
    def committed(self) -> int:
        """The lowest offset that is not done: where the next owner begins."""
        return self._out[0][0] if self._out else self.position

    @property
    def unfinished(self) -> int:
        """How many are handed out and not done."""
        return sum(end - first for first, end in list(self._out)) - len(self._finished)

    def hand_out(self, first: int, end: int) -> None:
        """Note a run without gaps, from the position or behind it."""
        out = self._out
        if out and out[-1][1] == first:
            out[-1][1] = end
        elif end > first:
            out.append([first, end])
        self.position = end

    def finish(self, first: int, end: int) -> None:
        """Note a run as done; what was not handed out is ignored."""
        out = self._out
        if out and out[0][0] == first and end <= out[0][1] and not self._finished:  # in order, as mostly
            out[0][0] = end
            if end == out[0][1]:
                out.popleft()
            return
        for begin, stop in out:
            self._finished.update(range(max(first, begin), min(end, stop)))
        self._cut()

    def finish_each(self, offsets: Sequence[int]) -> None:
        """Note these as done, in whatever order; what was not handed out is ignored."""
        for begin, stop in self._out:
            self._finished.update([offset for offset in offsets if begin <= offset < stop])
        self._cut()

    def is_out(self, offset: int) -> bool:
        """Whether an offset is handed out and not done."""
        return offset not in self._finished and any(first <= offset < end for first, end in self._out)

    def out_between(self, first: int, end: int) -> list[int]:
        """The offsets in a range that are handed out and not done."""
        if end <= first:
            return []
        spans = [(max(first, begin), min(end, stop)) for begin, stop in self._out]
        return [offset for begin, stop in spans for offset in range(begin, stop) if offset not in self._finished]

    def forget_below(self, offset: int) -> None:
        """All below is done by now, whoever did it."""
        out = self._out
        while out and out[0][1] <= offset:
            out.popleft()
        if out and out[0][0] < offset:
            out[0][0] = offset
        self._finished = {one for one in self._finished if one >= offset}
        self.position = max(self.position, offset)
        self._cut()

    def _cut(self) -> None:
        out, finished = self._out, self._finished
        while out and out[0][0] in finished:
            finished.discard(out[0][0])
            out[0][0] += 1
            if out[0][0] == out[0][1]:
                out.popleft()
