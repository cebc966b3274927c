"""Counting from many threads without a lock."""

from __future__ import annotations

from itertools import count


def drawn_from(counter: count[int]) -> int:
    """The value that a counter gives next, without drawing it: `repr` is the only look that does not."""
    return int(repr(counter)[6:-1])


class Tally:
    """A number that any thread raises by one: `tick()` is one call into C, which no other thread divides."""

    __slots__ = ("_count", "tick")

    def __init__(self) -> None:
        self._count = count()
        self.tick = self._count.__next__

    @property
    def value(self) -> int:
        """How often `tick` was called."""
        return drawn_from(self._count)
