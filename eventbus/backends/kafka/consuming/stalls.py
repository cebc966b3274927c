"""Consumers that stand still in a partition although messages wait there are replaced: the broker is asked first."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ....errors import NotConnectedError
from ..names import TopicPartition
from ..topics import Topics, TopicUnready
from .consumer_thread import ConsumerThread

_Stands = dict[TopicPartition, int]


class Stalls:
    """Used by one thread, which looks every few seconds. stall_timeout: seconds."""

    def __init__(self, topics: Topics, stall_timeout: float) -> None:
        self._topics = topics
        self._stall_timeout = stall_timeout
        self._records: dict[ConsumerThread, _Record] = {}

    def look(self, feeds: Sequence[ConsumerThread]) -> None:
        """Have consumers replaced that stall; NotConnectedError when the broker does not answer."""
        self._records = {feed: self._records.get(feed) or _Record() for feed in feeds}
        for feed, record in self._records.items():
            stands = feed.standing(self._stall_timeout)
            record.forget_what_moved(stands)
            stalled = record.stalled(self._behind(stands)) if record.is_due(stands, self._stall_timeout) else {}
            if stalled:
                feed.rebuild(NotConnectedError(f"{_names(stalled)}: nothing is fetched although there is something"))

    def _behind(self, stands: _Stands) -> _Stands:
        """Those behind which there is something."""
        try:
            ends = self._topics.ends(list(stands), 2.0)
        except TopicUnready:  # leaders change: then nothing can be fetched
            return {}
        return {place: at for place, at in stands.items() if ends.get(place, 0) > at}


class _Record:
    """What is known of one feed."""

    def __init__(self) -> None:
        self._asked_at = time.monotonic()
        self._suspected: _Stands = {}
        self._cured: _Stands = {}
        """A new consumer that does not get on from there either is not the one to blame."""

    def forget_what_moved(self, stands: _Stands) -> None:
        """What got on after its cure may be cured again, were it to stand at the same place."""
        self._cured = {place: at for place, at in self._cured.items() if stands.get(place, at) == at}

    def is_due(self, stands: _Stands, period: float) -> bool:
        """Whether to ask about these: now and then, and again at once where something was behind."""
        return bool(stands) and (bool(self._suspected) or time.monotonic() - self._asked_at >= period)

    def stalled(self, behind: _Stands) -> _Stands:
        """Note the answer; what was behind the last time too, and not cured: a message may come in this moment."""
        self._asked_at = time.monotonic()
        fresh = {place: at for place, at in behind.items() if self._cured.get(place) != at}
        stalled = {place: at for place, at in fresh.items() if self._suspected.get(place) == at}
        self._suspected = {} if stalled else fresh
        self._cured |= stalled
        return stalled


def _names(stands: _Stands) -> str:
    return ", ".join(f"{topic} [{partition}] at {at}" for (topic, partition), at in stands.items())
