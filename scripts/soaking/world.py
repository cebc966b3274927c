"""`tests/world` with its long numbers, and the suites that show but a part elsewhere: the part `world` of `make soak`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent
_PARTS = (
    "tests/world",
    "tests/conformance",
    "tests/faults/test_nats_far_outages.py",
    "tests/faults/test_key_concurrency.py",
)


def world(options: argparse.Namespace) -> bool:
    """Interrupts, forks and swaps by the hundred, all behaviours everywhere, each part in a process of its own; whether all held."""
    environment = {
        **os.environ,
        "EVENTBUS_TEST_LONG": "1",
        "EVENTBUS_SOAK": "1",
        "EVENTBUS_TEST_SEED": str(options.seed),
    }
    held = True
    for part in _PARTS:
        print(f"world: {part}, long, EVENTBUS_TEST_SEED={options.seed}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", part]
        ended = subprocess.run(command, cwd=_ROOT, env=environment, check=False)
        print(f"{'PASS' if ended.returncode == 0 else 'MISS'} world: pytest ended with {ended.returncode}", flush=True)
        held = held and ended.returncode == 0
    return held
