"""The start in docs/django.rst works as it stands, in a project that `django-admin startproject` has just made."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from django_support import ROOT, Shop, ended, environment

from eventbus.testing import NatsServer, wait_until

pytest.importorskip("django")
pytestmark = [pytest.mark.nats, pytest.mark.watchdog(120)]

TEXT = (ROOT / "docs" / "django.rst").read_text(encoding="utf-8")
START = TEXT[: TEXT.index("\nSettings\n---")]
BLOCK = re.compile(r"^In ``(\S+)``:\n\n\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", re.MULTILINE)
MOST = 10
"""Lines that a new user has to write at most."""


def test_a_new_project_publishes_and_handles_its_first_event(nats_server: NatsServer, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "mysite"], cwd=tmp_path, check=True, env=environment()
    )
    project, written = tmp_path / "mysite", 0
    for name, block in BLOCK.findall(START):
        lines = [line[4:] for line in block.rstrip().splitlines()]
        written += sum(bool(line) for line in lines)
        with (project / name).open("a") as file:
            file.write("\n".join(["", *lines, ""]).replace("nats://127.0.0.1:4222", nats_server.url))
    assert 0 < written <= MOST
    (publish,) = re.findall(r'shell -c "(.*)"', START)
    shop = Shop(nats_server.url, "", project)  # no migration is needed
    try:
        consumer = shop.consumer()
        shop.manage("shell", "-c", publish)
        wait_until(lambda: "handled orders.new {'total': 42}" in consumer.log(), message=consumer.log)
        assert ended(consumer) == 0
    finally:
        shop.__exit__()
