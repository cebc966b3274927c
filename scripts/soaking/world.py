"""The searches of `tests/world` with their long numbers: the part `world` of `make soak`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent


def world(options: argparse.Namespace) -> bool:
    """Interrupts, forks and swaps by the hundred, in a process of their own; whether all held."""
    print(f"world: tests/world, long, EVENTBUS_TEST_SEED={options.seed}", flush=True)
    environment = {**os.environ, "EVENTBUS_TEST_LONG": "1", "EVENTBUS_TEST_SEED": str(options.seed)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", "tests/world"]
    ended = subprocess.run(command, cwd=_ROOT, env=environment, check=False)
    print(f"{'PASS' if ended.returncode == 0 else 'MISS'} world: pytest ended with {ended.returncode}", flush=True)
    return ended.returncode == 0
