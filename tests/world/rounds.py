"""How often the searches of this folder try, and what their chance is.

`EVENTBUS_TEST_LONG=1` (as `make soak` sets it) takes the long numbers. `EVENTBUS_TEST_SEED=N` repeats a search:
each test prints the seed that it ran with, and pytest shows that where it fails. `EVENTBUS_TEST_LIMIT=6` has tests that
hang end after 6 s.
"""

from __future__ import annotations

import os
import random

LONG = os.environ.get("EVENTBUS_TEST_LONG", "") not in ("", "0")
MOST = float(os.environ.get("EVENTBUS_TEST_LIMIT") or "inf")
LONGEST = 1800.0
"""Seconds that a long search may take."""
SEED = int(os.environ.get("EVENTBUS_TEST_SEED") or random.randrange(10**6))


def rounds(short: int, long: int) -> int:
    """How many rounds to try in this run."""
    return long if LONG else short


def limit(short: float) -> float:
    """The watchdog's seconds for a search that takes at most `short` of them when it is short."""
    return LONGEST if LONG else min(short, MOST)


def chance_of(name: str) -> random.Random:
    """The chance of one search; the same for the same seed and name."""
    print(f"EVENTBUS_TEST_SEED={SEED}")
    return random.Random(f"{SEED}/{name}")
