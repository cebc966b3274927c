"""Where the time of a worker goes: sampled, so that it costs next to nothing, and weighed by CPU time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_EVERY = 0.002
_LOOK_EVERY = 0.1
_SWITCH = 0.00002
"""Seconds: else the sampler would get in wherever the GIL is let go, and see nothing else."""
_SHOWN = 10
_THREADS_SHOWN = 8
_TASKS = Path("/proc/self/task")


_active: list[Sampler] = []


@contextmanager
def sampled(path: Path) -> Iterator[None]:
    """Sample all threads from `begin` to the end of this block, and write the report to a file."""
    over = threading.Event()
    sampler = Sampler()
    thread = threading.Thread(target=sampler.run, args=(over,), name="sampler", daemon=True)
    switching = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    _active.append(sampler)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _active.remove(sampler)
        sys.setswitchinterval(switching)
        path.write_text(sampler.report())


def begin() -> None:
    """What is measured begins here: in a profile, what came before does not count."""
    for sampler in _active:
        sampler.reset()


class Sampler:
    """Charges what each Python thread has computed since the last look to the function that it is in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset_unlocked()

    def reset(self) -> None:
        """Forget everything; only what is computed from now on counts."""
        with self._lock:
            self.reset_unlocked()

    def reset_unlocked(self) -> None:
        """As `reset`, while nobody else has the sampler."""
        self._began = self._looked = time.monotonic()
        self._functions: Counter[str] = Counter()
        self._spent = {ident: _spent_by(ident) for ident in sys._current_frames()}
        self._tasks_before = _tasks()
        self._tasks = dict(self._tasks_before)

    def run(self, over: threading.Event) -> None:
        """Sample until it is over."""
        own = threading.get_ident()
        while not over.wait(_EVERY):
            with self._lock:
                for ident, frame in sys._current_frames().items():
                    if ident != own:
                        self._charge(ident, frame)
                if time.monotonic() - self._looked > _LOOK_EVERY:
                    self._looked = time.monotonic()
                    self._tasks |= _tasks()  # those that end are kept

    def _charge(self, ident: int, frame: FrameType) -> None:
        spent, before = _spent_by(ident), self._spent.get(ident, 0.0)
        if spent < before:  # another thread has got the number of one that ended
            before = 0.0
        self._functions[_place(frame)] += spent - before  # type: ignore[assignment]
        self._spent[ident] = spent

    def report(self) -> str:
        """The functions and the threads that computed most."""
        seconds = time.monotonic() - self._began
        total = sum(self._functions.values()) or 1.0
        lines = [f"{seconds:.2f} s; Python threads computed {total:.2f} s, by function:"]
        for place, spent in self._functions.most_common(_SHOWN):
            lines.append(f"  {spent / total:6.1%}  {place}")
        by_name: Counter[str] = Counter()
        for task, (name, spent) in self._tasks.items():
            by_name[name] += spent - self._tasks_before.get(task, ("", 0.0))[1]  # type: ignore[assignment]
        shown = [f"{name} {spent:.2f} s" for name, spent in by_name.most_common(_THREADS_SHOWN) if spent > 0.0]
        return "\n".join([*lines, f"  all threads: {', '.join(shown)}"])


def _spent_by(ident: int) -> float:
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(ident))
    except OSError:  # it has ended
        return 0.0


def _tasks() -> dict[int, tuple[str, float]]:
    """The name and the CPU seconds of each thread, those of C libraries included."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        user, system = rest.split()[11:13]
        found[int(task.name)] = (names.get(int(task.name), name), (int(user) + int(system)) / tick)
    return found


def _place(frame: FrameType) -> str:
    code = frame.f_code
    path = Path(code.co_filename)
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name} ({path.parent.name}/{path.name}:{code.co_firstlineno})"
