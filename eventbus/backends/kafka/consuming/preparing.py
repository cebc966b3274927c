"""All network work for subscriptions before they read: their topics, and where "now" is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from confluent_kafka import OFFSET_END

from .... import log
from ....consuming.attachment import Attachment
from ....errors import NotConnectedError
from ....threads import Deadline, StopToken
from ..catalogue import Catalogue, Described
from ..names import TopicPartition, is_pattern
from ..topics import AGAIN, LEADERLESS_FOR, ROUND, TopicRefused, Topics
from .in_hand import KafkaInHand, in_hand_of

logger = log.get(__name__)

MOST = 500
"""Topics that are described at a time."""
REFUSED_FOR = 5.0

_Topics = Mapping[str, Sequence[int]]


class Preparing:
    """Prepares the subscriptions of one session. prepared: the topics of those that may be attached."""

    def __init__(self, catalogue: Catalogue, stop: StopToken) -> None:
        self.prepared: dict[Attachment, _Topics] = {}
        self._catalogue = catalogue
        self._stop = stop
        self._refused: dict[tuple[str, str | None], tuple[Deadline, Exception]] = {}

    def note_refused(self, attachment: Attachment, error: Exception) -> None:
        """What nobody can see beforehand is refused: that is tried again after a while, not with each look."""
        self._refused[attachment.topic, attachment.group] = Deadline(REFUSED_FOR), error

    def run(self, attachments: Sequence[Attachment], refused: dict[Attachment, Exception], timeout: float) -> None:
        """Make sure of topics and positions, all side by side; what is not ready in time is in neither place."""
        deadline = Deadline(timeout)
        for one in attachments:
            until, error = self._refused.get((one.topic, one.group), (None, None))
            if until is not None and error is not None and not until.over:
                refused[one] = error
        attachments = [one for one in attachments if one not in refused]
        found = self._exact([one for one in attachments if not is_pattern(one.topic)], refused, deadline)
        found |= self._patterns([one for one in attachments if is_pattern(one.topic)], deadline)
        _bind_all(self._catalogue, found, deadline)
        self._find_now({one: topics for one, topics in found.items() if _begins_now(one)}, deadline)
        self.prepared |= found

    def _exact(
        self, attachments: Sequence[Attachment], refused: dict[Attachment, Exception], deadline: Deadline
    ) -> dict[Attachment, _Topics]:
        if not attachments:
            return {}
        within = Deadline(deadline.share(0.7))
        answers = self._catalogue.make_sure({one.topic for one in attachments}, within, self._stop)
        found: dict[Attachment, _Topics] = {}
        for one in attachments:
            answer = answers[one.topic]
            if isinstance(answer, list):
                found[one] = {one.topic: answer}
            elif isinstance(answer, TopicRefused):
                refused[one] = answer
        return found

    def _patterns(self, attachments: Sequence[Attachment], deadline: Deadline) -> dict[Attachment, _Topics]:
        if not attachments:
            return {}
        listing = self._catalogue.listing(None, max(0.1, deadline.remaining()))
        for one in attachments:
            in_hand = in_hand_of(one)
            if in_hand.begins is None:
                in_hand.unasked |= set(Topics.among({name: [] for name in listing.troubled}, one.topic))
        return {one: Topics.among(listing.found, one.topic) for one in attachments}

    def _find_now(self, found: Mapping[Attachment, _Topics], deadline: Deadline) -> None:
        """Note where partitions end now, or were at a time, for those that begin there and have not been told yet."""
        asked_at = time.time()
        together: dict[float | None, set[TopicPartition]] = {}
        for one, topics in found.items():
            places = {(topic, partition) for topic, partitions in topics.items() for partition in partitions}
            together.setdefault(_moment(one), set()).update(places)
        begins = {moment: self._begins(sorted(places), moment, deadline) for moment, places in together.items()}
        for one, topics in found.items():
            in_hand: KafkaInHand = in_hand_of(one)
            moment = _moment(one)
            ends = begins[moment]
            in_hand.since = in_hand.since or (asked_at if moment is None else moment)
            in_hand.begins = {
                (topic, partition): ends.get((topic, partition), OFFSET_END)
                for topic, partitions in topics.items()
                for partition in partitions
            }

    def _begins(
        self, places: Sequence[TopicPartition], moment: float | None, deadline: Deadline
    ) -> dict[TopicPartition, int]:
        """The ends, or the first offsets of a time; those without a leader are waited for a little.

        What they do not say now is asked again when they have one.
        """
        ends: dict[TopicPartition, int] = {}
        patience = Deadline(min(LEADERLESS_FOR, deadline.share(0.5)))
        while True:
            missing = [where for where in places if where not in ends]
            if missing:
                try:
                    timeout = max(0.1, patience.remaining())
                    catalogue = self._catalogue
                    ends |= (
                        catalogue.ends(missing, timeout)
                        if moment is None
                        else catalogue.began(missing, moment, timeout)
                    )
                except NotConnectedError:
                    if not ends and deadline.over:
                        raise
            if len(ends) == len(places) or patience.over:
                return ends
            self._stop.wait(AGAIN)
            self._stop.check()


def _bind_all(catalogue: Catalogue, found: Mapping[Attachment, _Topics], deadline: Deadline) -> None:
    in_hands: dict[str, list[KafkaInHand]] = {}
    for one, topics in found.items():
        for topic in topics:
            in_hands.setdefault(topic, []).append(in_hand_of(one))
    bind(catalogue, in_hands, min(ROUND, deadline.remaining()))


def bind(catalogue: Catalogue, in_hands: Mapping[str, Sequence[KafkaInHand]], timeout: float) -> None:
    """Learn which topic of its name each is, before its positions are: what is known of another one is forgotten."""
    try:
        answers = catalogue.describe(list(in_hands)[:MOST], max(0.1, timeout))
    except NotConnectedError as error:  # the survey asks again
        logger.debug("asking which topics these are: %s", error)
        return
    for topic, answer in answers.items():
        for in_hand in in_hands[topic]:
            if isinstance(answer, Described) and in_hand.bind(topic, answer.id):
                with in_hand.lock:
                    in_hand.forget(topic)


def _begins_now(attachment: Attachment) -> bool:
    return in_hand_of(attachment).begins is None and (attachment.group is None or attachment.start != "earliest")


def _moment(attachment: Attachment) -> float | None:
    """The time, as of `time.time`, at which a new group begins; None: now."""
    start = attachment.start
    return start.timestamp() if attachment.group is not None and isinstance(start, datetime) else None
