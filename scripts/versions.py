"""The tests that need no broker, on every Python of 3.10 to 3.13 that this machine has, one after the other.

`python scripts/versions.py [3.10 3.13]`: one line for each version; the exit status is 1 when one fails. The
virtual environments are `.venv-test-3.10` and so on; they are made when they are missing or older than setup.cfg.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
FOLDERS = ("unit", "races", "world", "conformance/test_memory_conformance.py", "faults/test_memory_outages.py")
INSTALLED = ("--editable", ".[kafka,nats,flask,django,gunicorn,test]", "pytest-xdist>=3.5", "nats-py>=2.9")
LONGEST = 600.0
"""Seconds that the tests of one version may take, and as many its installation."""


def python_of(version: str) -> str | None:
    """The path of a Python that really starts and is of this version: pyenv has shims for those it lacks, too."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted(str(path) for path in pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    for candidate in (shutil.which(f"python{version}"), *installed):
        if candidate is None:
            continue
        asked = [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30.0)
        if told.returncode == 0 and told.stdout.strip() == version:
            return candidate
    return None


def environment_for(version: str, python: str) -> Path:
    """The Python of a virtual environment with what the tests need; CalledProcessError when that fails."""
    folder = ROOT / f".venv-test-{version}"
    stamp = folder / ".installed"
    inside = folder / "bin" / "python"
    if stamp.exists() and stamp.stat().st_mtime >= (ROOT / "setup.cfg").stat().st_mtime:
        return inside
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True, timeout=LONGEST)
    install = [str(inside), "-m", "pip", "install", *quiet, *INSTALLED]
    subprocess.run(install, cwd=ROOT, check=True, timeout=LONGEST)
    stamp.touch()
    return inside


def run(version: str, python: str) -> bool:
    """Whether the tests pass; what pytest says is shown when they do not."""
    started = time.monotonic()
    try:
        inside = environment_for(version, python)
        folders = [str(ROOT / "tests" / name) for name in FOLDERS if (ROOT / "tests" / name).exists()]
        command = [str(inside), "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider"]
        command += ["-m", "not nats and not kafka", *folders]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LONGEST)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"Python {version}: FAILED: {error}", flush=True)
        return False
    lines = told.stdout.rstrip().splitlines()
    passed = told.returncode == 0
    if not passed:
        print(told.stdout, told.stderr, sep="\n")
    verdict = "ok" if passed else "FAILED"
    last = lines[-1].strip("= ") if lines else "nothing was said"
    print(f"Python {version}: {verdict}: {last} ({time.monotonic() - started:.0f} s, {python})", flush=True)
    return passed


def main(wanted: list[str]) -> int:
    """Run all versions that there are; 1 when one fails or there is none."""
    found = {version: python_of(version) for version in wanted or VERSIONS}
    results = []
    for version, python in found.items():
        if python is None:
            print(f"Python {version}: not installed", flush=True)
        else:
            results.append(run(version, python))
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
