"""The README's examples run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.rst"


def examples() -> list[str]:
    text = README.read_text()
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", text, re.MULTILINE)
    return ["\n".join(line[4:] for line in block.splitlines()) for block in blocks]


def test_the_readme_has_examples():
    assert len(examples()) == 3
    assert len([line for line in examples()[0].splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("number", range(3))
def test_example_runs(number):
    command = [sys.executable, "-W", "error", "-c", examples()[number]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr


def test_every_verb_of_the_makefile_that_the_readme_names_exists():
    makefile = (README.parent / "Makefile").read_text()
    for verb in set(re.findall(r"``make ([a-z-]+)``|^    make ([a-z-]+)", README.read_text(), re.MULTILINE)):
        name = verb[0] or verb[1]
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
