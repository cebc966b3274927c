"""Reading the past of the memory broker: a look into what it stores, with no group."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from itertools import islice

from ...consuming.excerpts import Span, Stretch, Stretches
from ...errors import PurgeError, ReadError
from ...message import Delivery
from ...reports import DeadLetterTopic
from ...threads import Deadline, StopToken
from .broker import MemoryBroker
from .deliveries import MemoryDelivery
from .topics import Topic

FETCH = 256
"""Messages that are looked at in one go: publishers wait meanwhile."""

_new = MemoryDelivery.__new__


def stretches_of(broker: MemoryBroker, span: Span) -> Stretches:
    """From where to where a span goes: one stretch, for an offset is a place in the whole topic. Under the lock."""
    if span.topic in broker.refused_topics:
        raise ReadError(f"{span.topic} cannot be read: {broker.refused_topics[span.topic]}")
    topic = broker.topic(span.topic)
    if topic is None:
        raise ReadError(f"{span.topic} cannot be read: there is no such topic")
    begin = topic.base if span.start is None else max(topic.base, _place(topic, span.start))
    end = topic.end if span.until is None else min(topic.end, _place(topic, span.until))
    return Stretches({topic.identities: Stretch(begin, end)})


def held_by(topic: Topic) -> DeadLetterTopic:
    """What a topic holds. Under the lock."""
    if not len(topic):
        return DeadLetterTopic(topic=topic.name, messages=0)
    oldest, newest = (datetime.fromtimestamp(stored, timezone.utc) for stored in topic.times)
    return DeadLetterTopic(topic=topic.name, messages=len(topic), oldest=oldest, newest=newest)


def purge(broker: MemoryBroker, name: str, stretches: Stretches) -> int:
    """Drop what is in front of where a topic ended; how many that was. Under the lock."""
    if name in broker.refused_topics:
        raise PurgeError(f"{name} cannot be purged: {broker.refused_topics[name]}")
    topic = broker.topic(name)
    stretch = None if topic is None else stretches.left.get(topic.identities)
    if topic is None or stretch is None:
        return 0
    dropped = max(0, min(stretch.end, topic.end) - topic.base)
    topic.drop_below(topic.base + dropped)
    return dropped


def _place(topic: Topic, place: int | datetime) -> int:
    return place if isinstance(place, int) else topic.first_since(place.timestamp())


class MemoryReading:
    """Reads a topic of a memory broker; see `Reading`.

    wait(deadline, stop): for an answer of the broker; NotConnectedError.
    """

    trouble = None

    def __init__(
        self, broker: MemoryBroker, topic: str, stretches: Stretches, wait: Callable[[Deadline, StopToken], object]
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._stretches = stretches
        self._wait = wait

    def next(self, timeout: float) -> list[Delivery]:
        """The next ones; what was dropped meanwhile is passed over, and a topic that is gone has no more."""
        self._wait(Deadline(timeout), StopToken())
        batch: list[Delivery] = []
        with self._broker.lock:
            topic = self._broker.topic(self._topic)
            for key, stretch in list(self._stretches.left.items()):
                if topic is None or topic.identities != key or stretch.begin >= topic.end:
                    self._stretches.finish(key)
                    continue
                for offset, entry in islice(topic.entries_from(stretch.begin), FETCH):
                    if not self._stretches.admit(key, offset):
                        break
                    delivery = _new(MemoryDelivery)
                    delivery.topic = topic.name
                    delivery.id, delivery.payload, delivery.raw_key, delivery.raw_headers, _, delivery.stored = entry
                    delivery.deliveries = 1
                    delivery.identity = topic.identities + offset
                    delivery.token = (None, entry[4], offset)
                    batch.append(delivery)
        return batch

    def close(self) -> None:
        """It holds nothing."""
