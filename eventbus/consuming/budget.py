"""What all subscriptions of a bus may have in hand together."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Budget:
    """Bytes of payload in hand, of all subscriptions. All methods are thread-safe and never block for long.

    sharers(): how many they are.
    """

    def __init__(self, most: int, sharers: Callable[[], int] = lambda: 1) -> None:
        self._most = most
        self._sharers = sharers
        self._lock = threading.Lock()
        self._size = 0

    def add(self, size: int) -> None:
        """So many bytes more; fewer if negative."""
        with self._lock:
            self._size += size

    @property
    def share(self) -> int:
        """What one of them may ask for: all of them may do so at once."""
        return max(0, self._most - self._size) // max(1, self._sharers())

    def is_over(self, part: float) -> bool:
        """Whether more than that part of it is used."""
        return self._size >= max(1, self._most * part)
