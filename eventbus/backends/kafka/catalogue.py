"""What the cluster says about many topics at once: one question for all of them, one answer for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from math import ceil
from typing import Any

from attrs import frozen
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from ... import log
from ...errors import NotConnectedError, PurgeError
from ...threads import Deadline, StopToken
from .clients.errors import HOPELESS, text_of
from .names import TopicPartition
from .topics import AGAIN, LEADERLESS_FOR, ROUND, UNKNOWN_FOR, TopicRefused, Topics, TopicUnready, why_not_made

logger = log.get(__name__)

_ROUNDING = 1e-3
"""Of a millisecond: what a float of seconds may be off by."""
LONGEST = 3600.0
"""Seconds that librdkafka waits for an answer at most: it refuses more, or counts them wrongly."""
FEW = 8
"""Topics that are asked for one by one: all others cost the names of all that the cluster has."""


def _within(timeout: float, least: float = 0.1) -> float:
    """A user's timeout as librdkafka takes it."""
    return min(max(least, timeout), LONGEST)


@frozen
class Described:
    """A topic as the cluster has it now. id: another one when it was made anew. leaderless: partitions."""

    id: str
    partitions: Sequence[int]
    leaderless: Sequence[int]


class Listing:
    """The topics of a cluster: found, with their partitions; and troubled, those that have no leader now.

    led: which partitions of those that are found have a leader. in_sync: how many replicas the worst off has.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = {}
        self.led: dict[str, list[bool]] = {}
        self.in_sync: dict[str, int] = {}
        self.errors: dict[str, KafkaError] = {}
        self.leaderless: set[str] = set()

    def note(self, name: str, topic: Any) -> None:
        """Take in an answer about one topic."""
        leaders = [one.leader >= 0 for one in topic.partitions.values()]
        if topic.error is not None:
            self.errors[name] = topic.error
        elif leaders:
            self.found[name] = sorted(topic.partitions)
            self.led[name] = leaders
            self.in_sync[name] = min(len(one.isrs) for one in topic.partitions.values())
            if not all(leaders):
                self.leaderless.add(name)

    @property
    def troubled(self) -> set[str]:
        """Topics that are there, and whose partitions cannot be said now."""
        gone = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED)
        return {name for name, error in self.errors.items() if error.code() not in gone}


_NO_LEADER = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)


def _milliseconds(answers: Mapping[TopicPartition, Any]) -> dict[TopicPartition, int]:
    return {where: int(answer.timestamp) for where, answer in answers.items() if answer.timestamp >= 0}


class Catalogue:
    """Asked through an admin client. All methods are thread-safe, and block."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._client = topics.client
        self._create = topics.may_create
        self._has_controller = False
        """Only a controller describes topics; librdkafka waits for one in vain where there is none."""

    def listing(self, names: Iterable[str] | None, timeout: float) -> Listing:
        """What is there of these topics, or of all; NotConnectedError without an answer."""
        listing, deadline = Listing(), Deadline(timeout)
        asked = None if names is None else list(names)
        if asked is None or len(asked) > FEW:
            for name, topic in self._list(deadline.remaining()).topics.items():
                listing.note(name, topic)
            return listing
        for name in asked:
            listing.note(name, self._list(deadline.remaining(), name).topics[name])
        return listing

    def takes_nothing(self, names: Iterable[str], timeout: float) -> dict[str, str]:
        """Of these topics, those that cannot store everything now, and why. NotConnectedError without an answer."""
        asked, deadline = list(names), Deadline(timeout)
        listing = self.listing(asked, timeout)
        configs = self._topics.configs(asked, max(0.1, deadline.remaining()))
        found = {name: f"topic {name} has partitions without a leader" for name in asked if name in listing.leaderless}
        for name in asked:
            needed, there = int(configs.get(name, {}).get("min.insync.replicas", 0)), listing.in_sync.get(name, 0)
            if name not in found and name in listing.found and there < needed:
                found[name] = f"topic {name} has {there} replicas in sync, min.insync.replicas is {needed}"
        return found

    def describe(self, names: Iterable[str], timeout: float) -> dict[str, Described | KafkaError]:
        """What these topics are now; nothing where the cluster cannot say it. NotConnectedError without an answer."""
        asked = list(names)
        if asked and not self._has_controller:
            self._list(timeout, asked[0])  # it says whether there is one now
        if not asked or not self._has_controller:
            return {}
        found: dict[str, Described | KafkaError] = {}
        futures = self._client().describe_topics(TopicCollection(asked), request_timeout=_within(timeout))
        deadline = Deadline(timeout + 0.5)
        for name, future in futures.items():
            try:
                topic = future.result(max(0.01, deadline.remaining()))
            except KafkaException as error:
                cause: KafkaError = error.args[0]
                if cause.code() < 0:
                    raise NotConnectedError(text_of(cause)) from error
                found[name] = cause
            except FutureTimeout as error:
                raise NotConnectedError("no answer from the cluster in time") from error
            else:
                led = {one.id: one.leader is not None and one.leader.id >= 0 for one in topic.partitions}
                found[name] = Described(str(topic.topic_id), sorted(led), [one for one, has in led.items() if not has])
        return found

    def make_sure(
        self, names: Iterable[str], deadline: Deadline, stop: StopToken
    ) -> dict[str, list[int] | TopicRefused | TopicUnready]:
        """The partitions of each topic, once it is there with leaders, or why not; made where that is allowed.

        Partitions without a leader are waited for a little, where others have one. NotConnectedError: no answer.
        """
        missing = dict.fromkeys(names)
        answers: dict[str, list[int] | TopicRefused | TopicUnready] = {}
        unknown, leaderless = Deadline(min(UNKNOWN_FOR, deadline.share(0.5))), Deadline(LEADERLESS_FOR)
        made: set[str] = set()
        while missing:
            listing = self.listing(missing, max(0.05, min(ROUND, deadline.remaining())))
            for name in list(missing):
                answer = self._judge(name, listing, leaderless.over)
                if answer is not None:
                    answers[name] = answer
                    del missing[name]
            lacking = [name for name in missing if self._is_unknown(name, listing)]
            new = {name for name in lacking if why_not_made(name, self._create) is None}
            answers |= self._make(sorted(new - made), made, deadline)
            if unknown.over:
                answers |= {name: self._why_unknown(name, deadline) for name in lacking if name not in new}
            missing = {name: None for name in missing if name not in answers}
            if missing and deadline.over:
                answers |= {name: self._unready(name, listing) for name in missing}
                break
            if missing:
                stop.wait(AGAIN)
                stop.check()
        return answers

    def began(self, places: Sequence[TopicPartition], since: float, timeout: float) -> dict[TopicPartition, int]:
        """The first message of partitions that was stored since a time of `time.time`, or their ends; as `ends`."""
        at_time = OffsetSpec.for_timestamp(ceil(since * 1000 - _ROUNDING))
        found = self._offsets(places, at_time, timeout)
        silent = [where for where, offset in found.items() if offset < 0]
        return found | self.ends(silent, timeout)

    def beginnings(self, places: Sequence[TopicPartition], timeout: float) -> dict[TopicPartition, int]:
        """Where partitions begin: what was in front of it is not kept any more; as `ends`."""
        return self._offsets(places, OffsetSpec.earliest(), timeout)  # type: ignore[no-untyped-call]

    def ends(self, places: Sequence[TopicPartition], timeout: float) -> dict[TopicPartition, int]:
        """Where partitions end for whoever reads what is committed; those that cannot say it are left out.

        NotConnectedError without any answer.
        """
        return self._offsets(places, OffsetSpec.latest(), timeout)  # type: ignore[no-untyped-call]

    def times(
        self, places: Sequence[TopicPartition], timeout: float
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """When the first and the newest message of partitions are of, in ms; without those that do not say it."""
        deadline = Deadline(timeout)
        specs = OffsetSpec.for_timestamp(0), OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
        first, newest = (self._asked_offsets(places, spec, deadline.remaining())[0] for spec in specs)
        return _milliseconds(first), _milliseconds(newest)

    def not_led(self, places: Sequence[TopicPartition], timeout: float) -> set[TopicPartition]:
        """Partitions whose leaders, as the cluster names them, say that they are none: not yet, or not any more.

        A message that comes as such a leader takes over may be stored behind the one after it, and never itself.
        """
        _, failed = self._asked_offsets(places, OffsetSpec.latest(), timeout)  # type: ignore[no-untyped-call]
        return {
            where
            for where, error in failed.items()
            if isinstance(error, KafkaException) and error.args[0].code() in _NO_LEADER
        }

    def delete_records(self, ends: Mapping[TopicPartition, int], timeout: float) -> None:
        """Have what is in front of these offsets deleted. PurgeError: refused; NotConnectedError: not known."""
        asked = [Position(*where, end) for where, end in ends.items()]
        deadline = Deadline(timeout + 0.5)
        limit = _within(timeout)
        try:
            futures = self._client().delete_records(asked, request_timeout=limit, operation_timeout=limit)
            for future in futures.values():
                future.result(max(0.01, deadline.remaining()))
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() < 0 or (cause.retriable() and cause.code() not in HOPELESS):
                raise NotConnectedError(text_of(cause)) from error
            raise PurgeError(f"{asked[0].topic} cannot be purged: {text_of(cause)}") from error
        except FutureTimeout as error:
            raise NotConnectedError("no answer from the cluster in time") from error

    def _offsets(self, places: Sequence[TopicPartition], spec: Any, timeout: float) -> dict[TopicPartition, int]:
        answers, errors = self._asked_offsets(places, spec, timeout)
        found = {where: int(answer.offset) for where, answer in answers.items()}
        failed = next(iter(errors.values()), None)
        if failed is not None and not found:
            if isinstance(failed, KafkaException) and failed.args[0].code() > 0:
                return {}
            raise NotConnectedError(f"asking where partitions end: {text_of(failed)}") from failed
        return found

    def _asked_offsets(
        self, places: Sequence[TopicPartition], spec: Any, timeout: float
    ) -> tuple[dict[TopicPartition, Any], dict[TopicPartition, Exception]]:
        """The answers, each with an offset and its time, and what came instead of one."""
        found, failed = dict[TopicPartition, Any](), dict[TopicPartition, Exception]()
        if not places:
            return found, failed
        answers = self._client().list_offsets(
            {Position(*where): spec for where in places},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_within(timeout),
        )
        deadline = Deadline(timeout + 0.5)
        for position, future in answers.items():
            where = position.topic, position.partition
            try:
                found[where] = future.result(max(0.01, deadline.remaining()))
            except (KafkaException, FutureTimeout) as error:
                failed[where] = error
        return found, failed

    # -- inside ----------------------------------------------------------------------------------

    def _list(self, timeout: float, *name: str) -> Any:
        try:
            metadata = self._client().list_topics(*name, timeout=_within(timeout, 0.05))
        except KafkaException as error:
            text = f"asking for {'topic ' + name[0] if name else 'topics'}: {text_of(error.args[0])}"
            # The client stands in the traceback, and ends only when it is forgotten: errors are kept for long.
            raise NotConnectedError(text) from error.with_traceback(None)
        self._has_controller = metadata.controller_id in metadata.brokers
        return metadata

    @staticmethod
    def _is_unknown(name: str, listing: Listing) -> bool:
        error = listing.errors.get(name)
        if error is None:
            return name not in listing.found
        return error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART

    @staticmethod
    def _judge(name: str, listing: Listing, patient: bool) -> list[int] | TopicRefused | None:
        error = listing.errors.get(name)
        if error is not None and error.code() in HOPELESS:
            return TopicRefused(f"topic {name}: {text_of(error)}")
        if name in listing.found and (patient or name not in listing.leaderless):
            return listing.found[name]
        return None

    @staticmethod
    def _unready(name: str, listing: Listing) -> TopicUnready:
        error = listing.errors.get(name)
        why = text_of(error) if error is not None else "it is not there yet"
        return TopicUnready(f"topic {name} is not ready: {why}")

    def _why_unknown(self, name: str, deadline: Deadline) -> TopicRefused:
        """Of a topic that may not be described only a question for it says so."""
        error = self._list(max(0.1, deadline.remaining()), name).topics[name].error
        if error is not None and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            return TopicRefused(f"topic {name}: {text_of(error)}")
        return TopicRefused(f"topic {name} does not exist, and {why_not_made(name, self._create)}")

    def _make(self, names: Sequence[str], made: set[str], deadline: Deadline) -> dict[str, TopicRefused]:
        """Ask for new topics, all at once; which of them can never be had."""
        if not names:
            return {}
        refused: dict[str, TopicRefused] = {}
        for name, error in self._topics.create(names, min(ROUND, deadline.remaining())).items():
            if error is None:
                made.add(name)
            elif isinstance(error, TopicRefused):
                refused[name] = error
            else:
                logger.info("creating topic %s: %s", name, error)
        return refused
