"""The suite is as large as it is said to be, a backend needs few lines for it, and sees what it leaves out."""

from __future__ import annotations

import re
from pathlib import Path

from testing_support import run_pytest

from eventbus.testing.conformance import BackendConformance as _Suite

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.rst").read_text(encoding="utf-8")


def example() -> str:
    found = re.search(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", PAGE, re.MULTILINE)
    assert found is not None
    return "\n".join(line[4:] for line in found[1].splitlines()) + "\n"


def test_there_are_eighty_behaviours() -> None:
    assert len([name for name in dir(_Suite) if name.startswith("test_")]) >= 80


def test_a_backend_needs_about_25_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 25


SOME = "is_answered_with_a_receipt or killed_and_restarted_under_load"


def test_the_page_s_example_runs(tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, example(), "-k", SOME)
    assert code == 0, out
    assert "2 passed" in out


def test_without_outages_the_chapter_is_not_applicable(tmp_path: Path) -> None:
    text = example().replace("def outages(self)", "def unused(self)")
    code, out = run_pytest(tmp_path, text, "-k", SOME)
    assert code == 0, out
    assert "not applicable: no outages are declared for this backend" in out
    assert "1 passed, 1 skipped" in out
