"""The start that docs/flask.rst shows, as a new user would type it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flask")

from eventbus.testing import NatsServer

PAGE = Path(__file__).parents[2] / "docs" / "flask.rst"
REQUESTS = """
with app.test_client() as client:
    answer = client.post("/orders")
    assert answer.status_code == 201, answer.text
    from eventbus.testing import wait_until
    wait_until(lambda: events.bus.get_statistics().handled == 1)
"""


def blocks() -> list[str]:
    found = re.findall(r"::\n\n((?:(?:    .*)?\n)+)", PAGE.read_text(encoding="utf-8"))
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found]


def test_the_first_event_takes_ten_lines_at_most() -> None:
    assert 0 < blocks()[0].count("# +") <= 10


@pytest.mark.nats
def test_the_start_works(tmp_path: Path, nats_server: NatsServer) -> None:
    start, handler = blocks()[:2]
    program = tmp_path / "app.py"
    program.write_text(start.replace("nats://127.0.0.1:4222", nats_server.url) + "\n" + handler + "\n" + REQUESTS)
    command = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "orders.new {'total': 42}\n"


def test_what_the_page_names_is_there() -> None:
    from eventbus.ext import flask

    text = PAGE.read_text(encoding="utf-8")
    for name in ("FlaskEventBus", "app_bus", "health"):
        assert name in text and name in flask.__all__
