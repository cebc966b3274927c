"""Which topic's records wait with which others: one queue for a stream."""

from __future__ import annotations

from collections.abc import Iterable

from ....publishing.records import Record, number_of, topic_of
from ..core.publishing import MAX_KNOWN_TOPICS
from .on_wire import OnWire
from .stream_queue import State, StreamQueue
from .streams import Place


class Routes:
    """The queues of a publisher. A topic is in one of them. Not locked: their owner does that.

    places: streams that are known from earlier sessions, by name; one that is gone, or has changed, is found out by its
    answers. on_wire: a topic that is in it is not forgotten.
    """

    def __init__(self, places: dict[str, Place], on_wire: OnWire) -> None:
        self.by_topic: dict[str, StreamQueue] = {}
        self._places = places
        self._on_wire = on_wire
        self._most = MAX_KNOWN_TOPICS
        """Topics that are known when idle ones are forgotten next."""
        self._streams = {
            place.stream: StreamQueue(place.stream, place.subjects, State.OPEN) for place in places.copy().values()
        }
        self._unseen: dict[str, StreamQueue] = {}
        """Of topics whose streams may not be asked for, by topic."""
        self._new: dict[str, StreamQueue] = {}
        """Of topics whose streams are not known, by first token: of those that may share one none overtakes another."""

    def queue_of(self, topic: str) -> StreamQueue:
        """The queue of a topic."""
        queue = self.by_topic.get(topic)
        if queue is None:
            if len(self.by_topic) >= self._most:
                self._forget_idle()
            token = topic.partition(".")[0]
            queue = next((one for one in self._streams.values() if one.covers(topic)), None)
            queue = queue or self._new.setdefault(token, StreamQueue(token))
            self._put([topic], queue)
        return queue

    def is_tried(self, record: Record) -> bool:
        """Whether it is the one that is tried for its queue."""
        queue = self.by_topic.get(topic_of(record))
        return queue is not None and queue.probe == number_of(record)

    def found(self, queue: StreamQueue, topic: str, place: Place | None) -> list[StreamQueue]:
        """The stream of a new topic is known, or may not be asked for: what its queue holds is in these now, in part.

        With it go the others of its queue that the stream takes; where one may not be asked for, all are on their own.
        """
        if place is None:
            return self._part(queue)
        self._places[place.stream] = place
        stream = self._streams.setdefault(place.stream, StreamQueue(place.stream, state=State.OPEN))
        stream.subjects = place.subjects
        self._move(queue, stream, {one for one in queue.topics if one == topic or stream.covers(one)})
        return [stream]

    def split(self, queue: StreamQueue, topic: str) -> StreamQueue:
        """The limit of a topic is reached: what waits for that waits for itself, beside the others of its stream."""
        if queue.is_split or queue.state is State.NEW:
            return queue
        own = StreamQueue(topic, state=State.OPEN)
        own.is_split = True
        self._move(queue, own, {topic})
        own.flying = self._on_wire.count(topic)
        queue.flying -= own.flying
        return own

    def forget(self, topic: str) -> None:
        """Look again for the queue of a topic when it is needed."""
        queue = self.by_topic.pop(topic, None)
        if queue is not None:
            queue.topics.discard(topic)
            self._unseen.pop(topic, None)

    def clear(self) -> None:
        """Forget all."""
        self.by_topic, self._streams, self._unseen, self._new = {}, {}, {}, {}

    def _forget_idle(self) -> None:
        queues = set(self.by_topic.values())
        in_use = self._on_wire.topics().union(*(map(topic_of, queue.held.values()) for queue in queues))
        for topic, queue in list(self.by_topic.items()):
            if queue.state in (State.OPEN, State.WINDOW) and topic not in in_use:
                self.forget(topic)
        # Where most are in use it would be in vain, and take long, for each new one.
        self._most = max(MAX_KNOWN_TOPICS, 2 * len(self.by_topic))

    def _part(self, queue: StreamQueue) -> list[StreamQueue]:
        """Each topic of a queue waits for itself."""
        topics, queue.topics = queue.topics, set()
        held, queue.held = queue.held, {}
        for topic in topics:
            self._put([topic], self._unseen.setdefault(topic, StreamQueue(topic, state=State.OPEN)))
        for record in held.values():
            self.by_topic[topic_of(record)].hold(record)
        return [self.by_topic[topic] for topic in topics]

    def _put(self, topics: Iterable[str], queue: StreamQueue) -> None:
        for topic in topics:
            self.by_topic[topic] = queue
            queue.topics.add(topic)

    def _move(self, queue: StreamQueue, other: StreamQueue, topics: set[str]) -> None:
        """Bring topics, and what waits for them, from one queue to another."""
        queue.topics -= topics
        queue.doubts -= topics
        self._put(topics, other)
        for number in [number for number, record in queue.held.items() if topic_of(record) in topics]:
            other.hold(queue.held.pop(number))
