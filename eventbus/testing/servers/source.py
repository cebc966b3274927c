"""Where a server of any kind comes from on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Source:
    """Which server the tests will use, and why none of those that come first."""

    FOUND: ClassVar[Mapping[str, str]]
    """What each kind is called in a test report, up to the place where it is."""

    kind: str
    where: str
    version: str = ""
    passed_over: tuple[str, ...] = ()
    """One line for each place that was tried before this one."""

    def __str__(self) -> str:
        """One line for a test report."""
        text = self._found()
        return f"{text} ({'; '.join(self.passed_over)})" if self.passed_over else text

    def _found(self) -> str:
        return " ".join(filter(None, [self.FOUND[self.kind], self.version, "at", self.where]))


def named_in(environment: str) -> str:
    """The server that a variable of the environment names; "" without one."""
    return os.environ.get(environment, "").strip()
