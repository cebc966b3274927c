"""A look at the topics in use, every few seconds: those that appear, change, lose their leaders or are made anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import KafkaError

from .... import log
from ....errors import NotConnectedError
from ..catalogue import Catalogue, Described
from ..clients.errors import text_of
from ..names import TopicPartition, is_pattern
from ..topics import Topics
from .consumer_thread import ConsumerThread
from .member import Member
from .preparing import MOST, bind
from .reader import Reader
from .stalls import NEVER, Stalls

logger = log.get(__name__)

ANSWER = 2.0

_Use = tuple[ConsumerThread, Reader]


class Survey:
    """Looks after the topics that one session consumes; used by one thread."""

    def __init__(
        self, catalogue: Catalogue, threads: Callable[[], Sequence[ConsumerThread]], stall_timeout: float
    ) -> None:
        self._catalogue = catalogue
        self._threads = threads
        self._stalls = Stalls(self._ends, stall_timeout)
        self._leaderless: set[TopicPartition] = set()
        self._turn = 0

    def look(self) -> None:
        """See to all of it; what the cluster does not answer now waits for the next time."""
        looks = self._follow_patterns, self._look_at_topics, self._resolve, self._look_for_stalls, self._look_for_ends
        for work in looks:
            try:
                work()
            except NotConnectedError as error:  # the probe tells of it; this waits for better times
                logger.debug("looking at topics: %s", error)

    def _follow_patterns(self) -> None:
        uses = [use for use in self._uses() if is_pattern(use[1].attachment.topic)]
        if not uses:
            return
        everything = self._catalogue.listing(None, ANSWER).found
        for thread, reader in uses:
            found = Topics.among(everything, reader.attachment.topic)
            if found != reader.topics:
                for gone in reader.topics.keys() - found.keys():
                    reader.told(f"topic {gone}", None)
                    reader.told(f"reading {gone}", None)
                bind(
                    self._catalogue, {topic: [reader.in_hand] for topic in found.keys() - reader.topics.keys()}, ANSWER
                )
                thread.follow(reader.attachment, found)

    def _look_at_topics(self) -> None:
        users: dict[str, list[_Use]] = {}
        for thread, reader in self._uses():
            topics = {where[0] for where in list(reader.states)}
            if not is_pattern(reader.attachment.topic):
                topics |= set(reader.topics)
            for topic in topics:
                users.setdefault(topic, []).append((thread, reader))
        for topic, answer in self._catalogue.describe(self._in_turn(sorted(users)), ANSWER).items():
            self._leaderless = {where for where in self._leaderless if where[0] != topic}
            if isinstance(answer, Described):
                self._leaderless |= {(topic, number) for number in answer.leaderless}
            for thread, reader in users[topic]:
                if isinstance(answer, KafkaError):
                    self._note_error(thread, reader, topic, answer)
                else:
                    self._note(thread, reader, topic, answer)

    def _in_turn(self, topics: list[str]) -> list[str]:
        if len(topics) <= MOST:
            return topics
        begin = self._turn % len(topics)
        self._turn = begin + MOST
        return [*topics, *topics][begin : begin + MOST]

    def _note_error(self, thread: ConsumerThread, reader: Reader, topic: str, error: KafkaError) -> None:
        if is_pattern(reader.attachment.topic):  # it follows what is there
            return
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            thread.dismiss(reader, NotConnectedError(f"topic {topic}: {text_of(error)}"))
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            reader.told(f"topic {topic}", NotConnectedError(f"topic {topic} is not there any more"))

    def _note(self, thread: ConsumerThread, reader: Reader, topic: str, now: Described) -> None:
        leaderless = ", ".join(map(str, now.leaderless))
        trouble = NotConnectedError(f"topic {topic} has no leader for partition {leaderless}") if leaderless else None
        reader.told(f"topic {topic}", trouble)
        if reader.in_hand.bind(topic, now.id):
            logger.warning("topic %s was made anew, and is read from its start", topic)
            thread.order(lambda member: member.begin_anew(reader, topic))
        if list(now.partitions) != list(reader.topics.get(topic, now.partitions)):
            thread.follow(reader.attachment, {**reader.topics, topic: now.partitions})

    def _resolve(self) -> None:
        """Ask where "now" was in partitions that had no leader then."""
        for thread, reader in self._uses():
            waiting = list(reader.unresolved)
            for where, offset in self._catalogue.began(waiting, reader.in_hand.since, ANSWER).items():
                thread.order(partial(Member.begin_at, reader=reader, where=where, offset=offset))

    def _look_for_stalls(self) -> None:
        self._stalls.look(self._threads())

    def _look_for_ends(self) -> None:
        """Ask where partitions end that rest: a consumer learns that only where it fetches."""
        resting: dict[TopicPartition, list[Reader]] = {}
        for thread in self._threads():
            for where, reader in thread.resting:
                resting.setdefault(where, []).append(reader)
        for where, end in self._ends(list(resting), ANSWER).items():
            for reader in resting[where]:
                reader.note_end(where, end)

    def _ends(self, places: Sequence[TopicPartition], timeout: float) -> dict[TopicPartition, int]:
        """Where partitions end: those that have no leader, of which that is told, have nothing to fetch."""
        nothing = {where: NEVER for where in places if where in self._leaderless}
        return nothing | self._catalogue.ends([where for where in places if where not in nothing], timeout)

    def _uses(self) -> list[_Use]:
        return [(thread, reader) for thread in self._threads() for reader in thread.readers if reader.fetches]
