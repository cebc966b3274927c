"""Reading the past of a topic: a consumer of its own, with partitions that it was told, in no group."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

from ....consuming.excerpts import Span, Stretch, Stretches
from ....errors import NotConnectedError, ReadError
from ....log import get
from ....message import Delivery
from ....reports import DeadLetterTopic
from ....threads import Deadline, StopToken
from ..catalogue import Catalogue, Described
from ..clients.connecting import new_client
from ..clients.errors import HOPELESS, ClientErrors, is_fatal, text_of
from ..clients.fork_safety import Consumer, keep
from ..clients.options import ClientOptions
from ..names import TopicPartition
from ..topics import AGAIN, ROUND, UNKNOWN_FOR, Topics
from .deliveries import KafkaDelivery, moment_of

logger = get(__name__)

FETCH = 4000
"""Messages taken at once, at most: with each batch it is asked whether the topic is still the same."""
LOOK_AGAIN = 0.5
"""Seconds between two questions whether a partition ends in front of what was to be read."""
ANSWER = 2.0
IDENTIFY = 1.0
"""Seconds that one question may take whether a topic is still the same."""
QUIET = 0.5
"""Seconds without a message after which the topic is looked for."""
_GONE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
_REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION})
_OURS: Mapping[str, Any] = {
    "enable.partition.eof": True,  # says that nothing is left where the last offsets hold no message
    "max.poll.interval.ms": 86_400_000,  # there is no group to be thrown out of, and whoever iterates takes his time
}

_new = KafkaDelivery.__new__


class Past:
    """What one session can read once more. instance: a group name that nobody else has, and that is never joined."""

    def __init__(self, catalogue: Catalogue, options: ClientOptions, name: str, instance: str) -> None:
        self._catalogue = catalogue
        self._options = options
        self._name = name
        self._instance = instance

    def stretches_of(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        """From where to where a span goes in each partition, for whoever reads what is committed."""
        deadline = Deadline(timeout)
        places = [(span.topic, number) for number in self._partitions(span, deadline, stop)]
        identity = _id_of(self._catalogue, span.topic, min(ROUND, deadline.remaining()))
        ends = self._asked(self._catalogue.ends, places, deadline)
        begins = self._asked(self._catalogue.beginnings, places, deadline)
        if span.start is not None:
            starts = self._places(span.start, places, deadline)
            begins = {where: max(begins[where], starts[where]) for where in places}
        if span.until is not None:
            untils = self._places(span.until, places, deadline)
            ends = {where: min(ends[where], untils[where]) for where in places}
        return Stretches({where: Stretch(begins[where], ends[where]) for where in places}, identity)

    def read(self, topic: str, stretches: Stretches) -> TopicReading:
        """Through a consumer that is made for it."""
        options = self._options.consumer(self._instance, protocol="classic", start="earliest")
        return TopicReading({**options, **_OURS}, ClientErrors(f"{self._name}-read"), self._catalogue, topic, stretches)

    def topics(self, pattern: str, timeout: float) -> list[DeadLetterTopic]:
        """What each topic holds that a pattern covers; a partition that cannot say it now is not counted."""
        deadline = Deadline(timeout)
        found = Topics.among(self._catalogue.listing(None, max(0.05, deadline.remaining())).found, pattern)
        places = [(topic, number) for topic, numbers in found.items() for number in numbers]
        ends, begins = (
            question(places, max(0.1, deadline.remaining()))
            for question in (self._catalogue.ends, self._catalogue.beginnings)
        )
        counts = {where: ends[where] - begins[where] for where in places if where in ends and where in begins}
        filled = [where for where, count in counts.items() if count > 0]
        firsts, lasts = self._catalogue.times(filled, max(0.1, deadline.remaining()))
        return [
            DeadLetterTopic(
                topic=topic,
                messages=sum(counts.get((topic, number), 0) for number in numbers),
                oldest=_moment(min, firsts, topic, numbers),
                newest=_moment(max, lasts, topic, numbers),
            )
            for topic, numbers in found.items()
        ]

    def purge(self, topic: str, stretches: Stretches, timeout: float) -> int:
        """Delete the records in front of these ends; how many offsets that were."""
        ends = {(topic, _number(key)): one.end for key, one in stretches.left.items()}
        self._catalogue.delete_records(ends, timeout)
        return sum(one.end - one.begin for one in stretches.left.values())

    def _places(
        self, place: int | datetime, places: Sequence[TopicPartition], deadline: Deadline
    ) -> dict[TopicPartition, int]:
        if isinstance(place, int):
            return dict.fromkeys(places, place)
        moment = place.timestamp()
        return self._asked(lambda asked, timeout: self._catalogue.began(asked, moment, timeout), places, deadline)

    def _partitions(self, span: Span, deadline: Deadline, stop: StopToken) -> Sequence[int]:
        unknown = Deadline(min(UNKNOWN_FOR, deadline.remaining()))
        while True:
            listing = self._catalogue.listing([span.topic], max(0.05, min(ROUND, deadline.remaining())))
            error = listing.errors.get(span.topic)
            if span.topic in listing.found and span.topic not in listing.leaderless:
                break
            if error is not None and error.code() in HOPELESS:
                raise ReadError(f"{span.topic} cannot be read: {text_of(error)}")
            if error is not None and error.code() in _GONE and unknown.over:
                raise ReadError(f"{span.topic} cannot be read: there is no such topic")
            if deadline.over:
                raise NotConnectedError(text_of(error) if error is not None else "a partition has no leader")
            stop.wait(AGAIN)
            stop.check()
        found = listing.found[span.topic]
        if span.partition is not None and span.partition not in found:
            raise ReadError(f"{span.topic} has no partition {span.partition}, only {found[0]} to {found[-1]}")
        return found if span.partition is None else [span.partition]

    @staticmethod
    def _asked(
        question: Callable[[Sequence[TopicPartition], float], dict[TopicPartition, int]],
        places: Sequence[TopicPartition],
        deadline: Deadline,
    ) -> dict[TopicPartition, int]:
        """What all of the places are answered; NotConnectedError."""
        found = question(places, max(0.1, min(ROUND, deadline.remaining())))
        missing = [where for where in places if where not in found]
        if missing:
            raise NotConnectedError("{} [{}] does not say where it begins and ends".format(*missing[0]))
        return found


class TopicReading:
    """Reads a topic through a consumer, which lives and dies on the thread that reads; see `Reading`."""

    def __init__(
        self, options: dict[str, Any], errors: ClientErrors, catalogue: Catalogue, topic: str, stretches: Stretches
    ) -> None:
        self._errors = errors
        self._catalogue = catalogue
        self._topic = topic
        self._stretches = stretches
        self._failure: Exception | None = None
        self._silent: dict[Hashable, int] = {}
        """Partitions with nothing behind these offsets now, where more was to be read."""
        self._look_at = 0.0
        self._fetched: list[Message] = []
        """What has come, and is not known to be of the topic."""
        self._quiet_since = time.monotonic()
        self._unknown_since: float | None = None
        self._trouble: str | None = None
        self._consumer: Any = keep(new_client(Consumer, options, errors))
        try:
            self._consumer.assign([Position(topic, _number(key), one.begin) for key, one in stretches.left.items()])
        except KafkaException as error:
            self.close()
            raise NotConnectedError(text_of(error)) from error.with_traceback(None)

    @property
    def trouble(self) -> object:
        """What the client said last."""
        return self._trouble or self._errors.last

    def next(self, timeout: float) -> list[Delivery]:
        """The next ones; NotConnectedError: the client is of no use any more."""
        if self._failure is not None:
            raise self._failure
        batch: list[Delivery] = []
        try:
            if not self._fetched:
                first = self._consumer.poll(timeout)
                self._fetched = [] if first is None else [first, *self._consumer.consume(FETCH - 1, 0)]
            if all(message.error() for message in self._fetched) or self._is_of_it():
                fetched, self._fetched = self._fetched, []
                for message in fetched:
                    self._take(message, batch)
        except KafkaException as error:
            self._note(error.args[0])
        except (ReadError, NotConnectedError) as error:  # what was taken before it is handed on first
            self._failure = error
        if batch:
            self._quiet_since, self._unknown_since = time.monotonic(), None
        elif self._stretches and time.monotonic() - self._quiet_since >= QUIET:
            self._look_for_topic()
        if self._silent and time.monotonic() >= self._look_at:
            self._look()
        return batch

    def close(self) -> None:
        """Close the consumer: it has nothing to tell to any group."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaException, RuntimeError):
                consumer.close()

    def _is_of_it(self) -> bool:
        """Whether the topic is the one that was to be read: the client reads on in one that is made anew.

        So what has come is of it, for the ids of topics do not come again. False: it is not, or that is not known yet.
        """
        identity = self._stretches.identity
        if identity is None:
            return True
        try:
            now = _id_of(self._catalogue, self._topic, IDENTIFY)
        except NotConnectedError as error:
            self._trouble = str(error)
            return False
        if now not in (None, identity):
            self._failure = ReadError(f"{self._topic} cannot be read on: it was made anew")
        return self._failure is None

    def _take(self, message: Message, batch: list[Delivery]) -> None:
        error: KafkaError | None = message.error()
        key, offset = (self._topic, message.partition()), message.offset()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            self._note_end(key, offset or 0)
        elif error is not None:
            self._note(error)
        elif offset is not None:
            self._silent.pop(key, None)
            self._trouble = None
            if self._stretches.admit(key, offset):
                delivery = _new(KafkaDelivery)
                delivery.message, delivery.topic = message, self._topic
                delivery.identity, delivery.token = (key, offset), None
                batch.append(delivery)

    def _note_end(self, key: Hashable, offset: int) -> None:
        """A partition holds nothing from here on, now."""
        stretch = self._stretches.left.get(key)
        if stretch is not None and offset >= stretch.end:
            self._stretches.finish(key)
        elif stretch is not None:
            self._silent[key] = offset

    def _note(self, error: KafkaError) -> None:
        if is_fatal(error):
            raise NotConnectedError(text_of(error))
        self._trouble = text_of(error)
        if error.code() in _REFUSED:
            raise ReadError(f"{self._topic} cannot be read: {text_of(error)}")

    def _look_for_topic(self) -> None:
        """Nothing came for a while: librdkafka waits for minutes for a topic that is deleted, and says nothing."""
        try:
            error = self._catalogue.listing([self._topic], QUIET).errors.get(self._topic)
        except NotConnectedError as outage:
            self._trouble, self._unknown_since = str(outage), None
            return
        finally:
            self._quiet_since = time.monotonic()
        if error is None or error.code() not in _GONE:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = time.monotonic()
        elif time.monotonic() - self._unknown_since >= UNKNOWN_FOR:
            self._failure = ReadError(f"{self._topic} cannot be read on: it is not there any more")

    def _look(self) -> None:
        """A partition that ends in front of what was to be read was cut off, or made anew; or its leader is new."""
        self._look_at = time.monotonic() + LOOK_AGAIN
        places = [(self._topic, _number(key)) for key in self._silent]
        try:
            ends = self._catalogue.ends(places, ANSWER)
        except NotConnectedError as error:
            self._trouble = str(error)
            return
        short = {where: end for where, end in ends.items() if end <= self._silent[where]}
        if short and self._is_of_it():
            for where, end in short.items():
                logger.info("%s [%d] ends at %d now", *where, end)
                self._stretches.finish(where)
                del self._silent[where]


def _moment(
    choose: Callable[[Iterable[int]], int], times: Mapping[TopicPartition, int], topic: str, numbers: Sequence[int]
) -> datetime | None:
    """The least or the greatest of the times of a topic's partitions; None without any."""
    known = [times[topic, number] for number in numbers if (topic, number) in times]
    return moment_of(choose(known)) if known else None


def _id_of(catalogue: Catalogue, topic: str, timeout: float) -> str | None:
    """What tells a topic from another one of that name; None where the cluster does not say. NotConnectedError."""
    answer = catalogue.describe([topic], max(0.1, timeout)).get(topic)
    return answer.id if isinstance(answer, Described) else None


def _number(key: Hashable) -> int:
    assert isinstance(key, tuple)
    number: int = key[1]
    return number
