"""How the race tests explore: frontrun's DPOR runs every interleaving that can matter, up to a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import frontrun
from frontrun._cooperative import patch_locks, unpatch_locks

UNTIL_FOUND = 40.0
"""Seconds that a race which is there may take to be found, on a busy machine."""
PREEMPTIONS = 2
"""Switches between threads at places where a thread could have gone on: most races need one or two."""


def explore(
    setup: Callable[[], Any],
    *workers: Callable[[Any], object],
    invariant: Callable[[Any], bool],
    seconds: float = 6.0,
    preemptions: int = PREEMPTIONS,
    clock: Literal["real", "virtual"] = "real",
) -> int:
    """Run the workers in all interleavings and check the invariant after each; how many there were.

    clock: "virtual" for workers that wait with a timeout.
    """
    with _cooperative_locks():
        result = frontrun.explore(
            setup=setup,
            workers=list(workers),
            invariant=invariant,
            strategy="dpor",
            preemption_bound=preemptions,
            trace_packages=["eventbus.*"],
            detect_io=False,
            total_timeout=seconds,
            max_executions=3000,
            reproduce_on_failure=0,
            clock=clock,
        )
    assert result.property_holds is not False, result.explanation
    assert result.num_explored > 1, "nothing was explored"
    return int(result.num_explored)


@contextmanager
def _cooperative_locks() -> Iterator[None]:
    """What `pytest --frontrun-patch-locks` does to the whole run, for one exploration only."""
    real = threading.Lock
    patch_locks()
    try:
        yield
    finally:
        unpatch_locks()
        assert threading.Lock is real
