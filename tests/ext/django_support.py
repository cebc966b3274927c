"""What the tests of Django share: the example shop as a project, its processes, and its databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "scripts" / "examples" / "django_shop"
PATIENCE = 50.0
"""Seconds that a command may take: less than the watchdog of a test."""


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that uses this checkout."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def told_by(*words: str, env: Mapping[str, str], cwd: Path = SHOP, code: int = 0) -> tuple[str, str]:
    """What a Python program that ends by itself writes to stdout and stderr; warnings are errors in it."""
    command = [sys.executable, "-W", "error", *words]
    done = subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr
