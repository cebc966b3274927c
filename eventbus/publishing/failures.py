"""What failed and nobody waited for, until somebody asks."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from ..errors import PublishError

_Kind = TypeVar("_Kind")


class Failures:
    """The latest failures of `publish_nowait`, and how many more there were. Added by threads of ours, under a lock."""

    MOST = 1000
    _FOLD = 1000

    def __init__(self) -> None:
        self._errors: deque[PublishError] = deque()
        self._left_out: deque[int] = deque()

    def add(self, error: PublishError) -> None:
        """Note one."""
        self._errors.append(error)
        if len(self._errors) > self.MOST:
            self._left_out.append(len(_drawn(self._errors, 1)))
        if len(self._left_out) > self._FOLD:
            self._left_out.append(sum(_drawn(self._left_out)))

    def take(self) -> tuple[tuple[PublishError, ...], int]:
        """The errors, and how many were left out, since the last call. Any thread: each is told once."""
        return tuple(_drawn(self._errors)), sum(_drawn(self._left_out))


def _drawn(found: deque[_Kind], most: int = 2**62) -> list[_Kind]:
    """Take out up to so many; an exception out of a signal handler leaves them in."""
    drawn: list[_Kind] = []
    try:
        while len(drawn) < most:
            drawn.append(found.popleft())
    except IndexError:
        pass
    except BaseException:
        found.extendleft(reversed(drawn))
        raise
    return drawn
