"""Tests with their long numbers, each in a process of its own: `conformance`, `world`, `gunicorn` and `gevent`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent
_WORLD = ("tests/world", "tests/conformance/test_nats_far_conformance.py", "tests/faults/test_nats_far_outages.py")
_CONFORMANCE = ("tests/conformance", "tests/faults/test_key_concurrency.py")
_GUNICORN = ("tests/ext/test_gunicorn_outages.py", "tests/ext/test_gunicorn_workers.py")
_GEVENT = ("tests/conformance/test_nats_conformance.py", "tests/faults/test_nats_outages.py", "tests/nats_engine")
_PYTEST = ("-m", "pytest")
_PYTEST_IN_GREENLETS = (
    "-c",
    "from gevent import get_hub, monkey; monkey.patch_all(); get_hub(); import sys, pytest; sys.exit(pytest.main())",
)
"""The hub has files that no test is to have left behind."""


def world(options: argparse.Namespace) -> bool:
    """Interrupts, forks and swaps by the hundred; whether all held."""
    return _held("world", _WORLD, {"EVENTBUS_TEST_LONG": "1", "EVENTBUS_TEST_SEED": str(options.seed)})


def conformance(options: argparse.Namespace) -> bool:
    """Every behaviour on every backend; whether all held."""
    return _held("conformance", _CONFORMANCE, {"EVENTBUS_SOAK": "1"})


def gunicorn(options: argparse.Namespace) -> bool:
    """Every worker class, preloaded and not, on JetStream and Kafka, under load through many outages."""
    return _held("gunicorn", _GUNICORN, {"EVENTBUS_SOAK": "1"}, shown=True)


def gevent(options: argparse.Namespace) -> bool:
    """What holds on NATS with threads, with greenlets in their place."""
    return _held("gevent", _GEVENT, {}, _PYTEST_IN_GREENLETS)


def _held(
    name: str, parts: Sequence[str], settings: dict[str, str], pytest: Sequence[str] = _PYTEST, shown: bool = False
) -> bool:
    held = True
    for part in parts:
        print(f"{name}: {part}, {', '.join(f'{key}={value}' for key, value in settings.items())}", flush=True)
        options = ["-q", "-p", "no:cacheprovider", "--durations=10", *["-rP"] * shown]
        command = [sys.executable, *pytest, *options, part]
        ended = subprocess.run(command, cwd=_ROOT, env={**os.environ, **settings}, check=False)
        print(f"{'PASS' if ended.returncode == 0 else 'MISS'} {name}: pytest ended with {ended.returncode}", flush=True)
        held = held and ended.returncode == 0
    return held
