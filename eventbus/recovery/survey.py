"""A look at topics of dead letters: how many messages each holds, and from when they are."""

from __future__ import annotations

from datetime import datetime

from ..backends.base import Session
from ..consuming.excerpts import Span, Stretch, Stretches
from ..errors import ReadError
from ..reports import DeadLetterTopic
from ..threads import Deadline, StopToken

LOOK = 0.2
"""Seconds that one look for messages may take."""
LONGEST = 3.0
"""Seconds after which a time is taken for unknown: what was stored last may have been deleted."""


class Survey:
    """Through one session, on the calling thread."""

    def __init__(self, session: Session, deadline: Deadline, stop: StopToken) -> None:
        self._session = session
        self._deadline = deadline
        self._stop = stop

    def look(self, pattern: str) -> list[DeadLetterTopic]:
        """All topics that a pattern covers. ReadError, NotConnectedError, Stopped."""
        counts = self._session.topics_of(pattern, self._deadline.remaining(), self._stop)
        return [self._look_at(topic, messages) for topic, messages in sorted(counts.items())]

    def _look_at(self, topic: str, messages: int) -> DeadLetterTopic:
        if not messages:
            return DeadLetterTopic(topic=topic, messages=0)
        span = Span(topic=topic, start=None, until=None, limit=None, partition=None)
        try:
            found = self._session.stretches_of(span, self._deadline.remaining(), self._stop)
            firsts = {key: Stretch(one.begin, one.end) for key, one in found.left.items()}
            lasts = {key: Stretch(one.end - 1, one.end) for key, one in found.left.items()}
            oldest, newest = (self._times(topic, Stretches(one)) for one in (firsts, lasts))
        except ReadError:  # deleted meanwhile, or not for us to read
            return DeadLetterTopic(topic=topic, messages=messages)
        return DeadLetterTopic(
            topic=topic, messages=messages, oldest=min(oldest, default=None), newest=max(newest, default=None)
        )

    def _times(self, topic: str, stretches: Stretches) -> list[datetime]:
        """Of the first message of each stretch."""
        times: list[datetime] = []
        if not stretches:
            return times
        reading, patience = self._session.read(topic, stretches), Deadline(min(LONGEST, self._deadline.remaining()))
        seen: set[object] = set()
        try:
            while stretches and not patience.over:
                self._stop.check()
                for message in reading.next(LOOK):
                    if message.timestamp is not None and message.partition not in seen:
                        seen.add(message.partition)
                        times.append(message.timestamp)
                for key in [key for key in stretches.left if self._is_seen(key, seen)]:
                    stretches.finish(key)
        finally:
            reading.close()
        return times

    @staticmethod
    def _is_seen(key: object, seen: set[object]) -> bool:
        """Whether the slice with this key has brought a message; where a topic is one slice, any message is of it."""
        return key[1] in seen if isinstance(key, tuple) else bool(seen)
