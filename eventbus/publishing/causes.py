"""Why records have no answer yet, as brokers and sessions have said."""

from __future__ import annotations

from collections.abc import Collection

_SPARE = 64
"""So many may be kept of records that are answered: each look for those is at all of them."""


class Causes:
    """The latest cause of each record's delay, by its number. Written by threads of ours, read by anybody."""

    def __init__(self) -> None:
        self._causes: dict[int, str] = {}

    def note(self, number: int, cause: str) -> None:
        """Remember why this one waits."""
        self._causes[number] = cause

    def of(self, number: int) -> str:
        """Why this one waits, "" when nobody said."""
        return self._causes.get(number, "")

    def keep(self, unanswered: Collection[int]) -> None:
        """Forget the others, now and then."""
        if len(self._causes) > len(unanswered) + _SPARE:
            for number in set(self._causes).difference(unanswered):
                self._causes.pop(number, None)
