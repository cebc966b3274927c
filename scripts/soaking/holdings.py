"""What a process holds: threads, descriptors, objects, memory."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from pathlib import Path

from attrs import frozen

from eventbus.testing.leaks import open_descriptors

_TASKS = Path("/proc/self/task")


@frozen
class Holdings:
    """What this process holds. threads: those of C libraries, too."""

    threads: int
    descriptors: int
    objects: int
    memory: int

    @classmethod
    def now(cls) -> Holdings:
        """Count."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads = sum(1 for _ in _TASKS.iterdir()) if _TASKS.exists() else threading.active_count()
        objects = len(gc.get_objects())
        return cls(threads, len(open_descriptors()), objects, pages * os.sysconf("SC_PAGE_SIZE"))


def _give_back() -> None:
    """Have malloc return what is free to the system: else memory is what was once needed, not what is held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)


def settled(wanted: Holdings | None) -> Holdings:
    """What is held once replaced sessions have had their seconds to close, free memory given back."""
    found = Holdings.now()
    for _ in range(14):
        if wanted and found.threads <= wanted.threads and found.descriptors <= wanted.descriptors:
            break
        time.sleep(0.5)
        found = Holdings.now()
    _give_back()
    return Holdings.now()
