"""Partitions in which nothing is fetched although messages wait there: cured alone, then with a new consumer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from ....errors import NotConnectedError
from ..names import TopicPartition

NEVER = -1
MOST_CURES = 2
SILENT = "its leader does not answer"
STUCK = "nothing is fetched although there is something, and nobody in the group gets on"

_Stands = dict[TopicPartition, int]
Ends = Callable[[Sequence[TopicPartition], float], Mapping[TopicPartition, int]]


class Reading(Protocol):
    """A consumer, as this looks at it."""

    def standing(self, seconds: float) -> _Stands:
        """Where it has not moved for so long."""

    def reads(self, where: TopicPartition) -> bool:
        """Whether it is this one that has the partition: another member may have it, and a slow handler."""

    def cure(self, places: Collection[TopicPartition]) -> None:
        """Have these partitions read anew."""

    def rebuild(self, cause: Exception) -> None:
        """Replace the consumer."""

    def show(self, troubles: Mapping[TopicPartition, str]) -> None:
        """In these partitions no cure helps, and why; in all others nothing is wrong (any more)."""


class Stalls:
    """Finds what stalls, and has it cured. Used by one thread, which looks every few seconds.

    ends(places, timeout): where those partitions end now.
    """

    def __init__(self, ends: Ends, stall_timeout: float) -> None:
        self._ends = ends
        self._stall_timeout = stall_timeout
        self._records: dict[Reading, _Record] = {}

    def look(self, readings: Sequence[Reading]) -> None:
        """Have what stalls cured; NotConnectedError when the broker does not answer."""
        self._records = {one: self._records.get(one) or _Record() for one in readings}
        for reading, record in self._records.items():
            stands = reading.standing(self._stall_timeout)
            record.forget_what_moved(stands)
            if not record.is_due(stands, self._stall_timeout):
                reading.show(record.troubles)
                continue
            first, again = (_of(reading, stalled) for stalled in record.stalled(*self._behind(stands)))
            reading.show(record.troubles)
            if again:
                reading.rebuild(NotConnectedError(f"{_names(again)}: nothing is fetched although there is something"))
            elif first:
                reading.cure(first)

    def _behind(self, stands: _Stands) -> tuple[_Stands, _Stands]:
        """Those behind which there is something, and those whose leader does not say it."""
        ends = self._ends(list(stands), 2.0)
        silent = {where: at for where, at in stands.items() if where not in ends}
        return {where: at for where, at in stands.items() if ends.get(where, NEVER) > at}, silent


class _Record:
    """What is known of one consumer."""

    def __init__(self) -> None:
        self._asked_at = time.monotonic()
        self._suspected: _Stands = {}
        self._cured: dict[TopicPartition, tuple[int, int]] = {}
        """Where, and how often: a new consumer that does not get on from there either is not the one to blame."""
        self._silent: _Stands = {}
        self._stuck: _Stands = {}

    def forget_what_moved(self, stands: _Stands) -> None:
        """What got on after its cure may be cured again, were it to stand at the same place."""
        self._silent = {where: at for where, at in self._silent.items() if stands.get(where) == at}
        self._stuck = {where: at for where, at in self._stuck.items() if stands.get(where) == at}
        self._cured = {where: cure for where, cure in self._cured.items() if stands.get(where, cure[0]) == cure[0]}

    def is_due(self, stands: _Stands, period: float) -> bool:
        """Whether to ask about these: now and then, and again at once where something was behind."""
        return bool(stands) and (bool(self._suspected) or time.monotonic() - self._asked_at >= period)

    @property
    def troubles(self) -> dict[TopicPartition, str]:
        """Where no cure helps."""
        return dict.fromkeys(self._stuck, STUCK) | dict.fromkeys(self._silent, SILENT)

    def stalled(self, behind: _Stands, silent: _Stands) -> tuple[_Stands, _Stands]:
        """Note the answer; what was behind the last time too: a message may come in this moment.

        Those that stall for the first time, and those that a cure of their own has not helped.
        """
        self._asked_at = time.monotonic()
        self._silent = silent
        self._stuck = {where: at for where, at in behind.items() if self._cures(where, at) >= MOST_CURES}
        fresh = {where: at for where, at in behind.items() if self._cures(where, at) < MOST_CURES}
        stalled = {where: at for where, at in fresh.items() if self._suspected.get(where) == at}
        self._suspected = {} if stalled else fresh
        first = {where: at for where, at in stalled.items() if not self._cures(where, at)}
        again = {where: at for where, at in stalled.items() if where not in first}
        for where, at in (again or first).items():
            self._cured[where] = at, self._cures(where, at) + 1
        return first, again

    def _cures(self, where: TopicPartition, at: int) -> int:
        cured_at, cures = self._cured.get(where, (at, 0))
        return cures if cured_at == at else 0


def _of(reading: Reading, stands: _Stands) -> _Stands:
    return {where: at for where, at in stands.items() if reading.reads(where)}


def _names(stands: _Stands) -> str:
    return ", ".join(f"{topic} [{partition}] at {at}" for (topic, partition), at in stands.items())
