"""What all subscriptions of a bus may have in hand together."""

from __future__ import annotations

import threading


class Budget:
    """Bytes of payload in hand, of all subscriptions. All methods are thread-safe and never block for long."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._size = 0

    def add(self, size: int) -> None:
        """So many bytes more; fewer if negative."""
        with self._lock:
            self._size += size

    def is_over(self, part: float) -> bool:
        """Whether more than that part of it is used."""
        return self._size >= max(1, self._most * part)
