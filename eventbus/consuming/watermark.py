"""How far a partition is done: everything below the watermark is, whatever the order of finishing."""

from __future__ import annotations

from collections import deque


class Watermark:
    """Offsets handed out in ascending order (gaps are fine) and finished in any order. Not locked."""

    __slots__ = ("_finished", "_out", "_passed", "ahead", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        """The next offset to hand out."""
        self.ahead = 0
        """How many from there on are finished already."""
        self._out: deque[int] = deque()
        self._finished: set[int] = set()
        self._passed: set[int] = set()

    @property
    def committed(self) -> int:
        """The lowest offset that is not done: where the next owner begins."""
        return self._out[0] if self._out else self.position

    @property
    def in_hand(self) -> list[int]:
        """The offsets handed out and not finished."""
        return [offset for offset in self._out if offset not in self._finished]

    @property
    def held(self) -> int:
        """How many are handed out and not finished."""
        return len(self._out) - (len(self._finished) - self.ahead)

    @property
    def idle(self) -> bool:
        """Nothing handed out is unfinished."""
        return not self._out

    def hand_out(self, offset: int) -> bool:
        """Note an offset as handed out; False when it is finished already and need not be."""
        self.position = offset + 1
        if offset in self._finished:
            self._finished.discard(offset)
            self.ahead -= 1
            if self._out:  # it stands behind something unfinished, and a rewind would come by here again
                self._passed.add(offset)
            return False
        self._out.append(offset)
        return True

    def finish(self, offset: int) -> None:
        """Note an offset as done; one below the watermark is ignored, one not handed out yet is remembered."""
        out, finished = self._out, self._finished
        if offset < self.committed or offset in finished or offset in self._passed:
            return
        finished.add(offset)
        self.ahead += offset >= self.position
        while out and out[0] in finished:
            finished.discard(out.popleft())
        if not out:
            self._passed.clear()

    def rewind(self) -> list[int]:
        """The owner is gone: what it had not finished is handed out again, these offsets; the rest is remembered."""
        unfinished = self.in_hand
        self.position = self.committed
        self._out.clear()
        self._finished |= {offset for offset in self._passed if offset >= self.position}
        self._passed.clear()
        self.ahead = len(self._finished)
        return unfinished
