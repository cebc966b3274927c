"""`scripts/examples/consumer`, as its README has it: retries, dead letters, a replay, a clean end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from consume_support import START, environment

from eventbus.testing import NatsServer, wait_until

EXAMPLE = Path(__file__).parents[2] / "scripts" / "examples" / "consumer"
README = (EXAMPLE / "README.rst").read_text(encoding="utf-8")

pytestmark = [pytest.mark.nats, pytest.mark.watchdog(90)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "consumer"))


def commands() -> list[str]:
    """Those of the README, in order, without what they are for; docker's and the shell's settings are the test's."""
    found = re.findall(r"^    (.+)$", README, re.MULTILINE)
    return [re.sub(r"\s+#.*", "", one) for one in found if not one.startswith(("docker", "export"))]


def test_the_readme_holds(folder: Path, nats_server: NatsServer) -> None:
    own = environment() | {
        "EVENTBUS_URL": nats_server.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command: str) -> str:
        options = {"cwd": folder, "env": own, "capture_output": True, "text": True, "timeout": START}
        done = subprocess.run(["sh", "-c", command], check=False, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    consume, publish, show, mend, replay = commands()
    printed = folder / "printed"
    with printed.open("wb") as out, printed.with_name("told").open("wb") as told:
        worker = subprocess.Popen(["sh", "-c", f"exec {consume}"], cwd=folder, env=own, stdout=out, stderr=told)

    def billed() -> set[int]:
        return {int(number) for number in re.findall(r"billed order (\d+) ", printed.read_text(encoding="utf-8"))}

    try:
        run(publish)
        wait_until(lambda: billed() == {1, 2, 3, 5, 6, 7, 9, 10}, START)
        wait_until(lambda: run(show).count("nobody knows eve") == 2)
        run(mend)
        assert run(replay).startswith("2 replayed")
        wait_until(lambda: billed() == set(range(1, 11)), START)
        worker.terminate()
        assert worker.wait(START) == 0
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait(START)
    assert len(printed.read_text(encoding="utf-8").splitlines()) == 10, "each once"
    assert "the payment provider is away" in printed.with_name("told").read_text(encoding="utf-8")


def test_the_readme_is_short_and_names_what_is_there() -> None:
    assert len(README.splitlines()) <= 25
    services = (EXAMPLE / "docker-compose.yml").read_text(encoding="utf-8")
    assert all(f"  {service}:\n" in services for service in ("nats", "kafka"))
