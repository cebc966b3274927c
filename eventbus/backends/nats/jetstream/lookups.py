"""Looking for the streams of topics, side by side and elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

from .... import log
from ....errors import EventBusError, NotConnectedError
from ....publishing.records import topic_of
from .stream_queue import State, StreamQueue
from .streams import Place

logger = log.get(__name__)

MOST = 8
"""Streams that are looked for at a time, of topics with the same first token."""

Ensure = Callable[[str], "Place | None"]
"""`ensure(topic)`: find or make the topic's stream, None where we may not look; PublishRejectedError: there is none
and none can be made; NotConnectedError: nobody knows. May block."""
Found = Callable[[StreamQueue, str, "Place | None", "EventBusError | None"], object]
"""`found(queue, topic, place, problem)`: what came of it, on a helper thread."""


class Lookups:
    """`look` is called under the publisher's lock. submit(call, *args): runs blocking work elsewhere, side by side."""

    def __init__(self, ensure: Ensure, submit: Callable[..., object], found: Found) -> None:
        self._ensure = ensure
        self._submit = submit
        self._found = found

    def look(self, queue: StreamQueue) -> None:
        """Look for the streams of topics that wait; of a known stream for that of the oldest record alone."""
        if queue.state is State.NEW:
            unknown = (topic for topic in queue.topics if topic not in queue.looking)
            wanted = list(islice(unknown, MOST - len(queue.looking)))
        else:
            wanted = [topic_of(queue.held[min(queue.held)])] if queue.held and not queue.looking else []
        for topic in wanted:
            queue.looking.add(topic)
            queue.looked_at = time.monotonic()
            self._submit(self._find, queue, topic)

    def _find(self, queue: StreamQueue, topic: str) -> None:
        """A helper thread."""
        place: Place | None = None
        problem: EventBusError | None = None
        try:
            place = self._ensure(topic)
        except EventBusError as error:
            problem = error
        except Exception as error:  # a bug of ours: the topic must not be looked for for ever
            logger.exception("looking for the stream of %r failed", topic)
            problem = NotConnectedError(str(error))
        self._found(queue, topic, place, problem)
