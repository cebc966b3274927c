"""What a bus does with dead letters: list their topics, publish them again, delete them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from .callables import check_argument
from .config import EventBusConfig, names_of
from .consuming.dead_letters import TOPIC
from .consuming.excerpts import Excerpt, Span, checked_span
from .consuming.replay import Replay, Wanted
from .errands import Errand
from .errors import PurgeError, ReadError, UnsupportedError
from .features import Features
from .message import Message
from .publishing.publisher import Publisher
from .recovery.lifecycle import Lifecycle
from .reports import DeadLetterTopic, ReplayReport
from .threads import seconds, yes_or_no

ALL = "dlq.>"
"""The topics that dead letters go to where no other is named."""


class DeadLetterCalls:
    """The part of `EventBus` that is for dead letters."""

    config: EventBusConfig
    features: Features
    _life: Lifecycle
    _copier: Publisher

    def list_dead_letters(self, *, timeout: float | None = None) -> list[DeadLetterTopic]:
        """The topics that begin with `dlq.`, with how many messages each holds and from when they are.

        Within `timeout` seconds (`publish_timeout`). On Kafka topics that we may not describe are left out.
        Raises ReadError, NotConnectedError, ClosedError; UnsupportedError on core NATS.
        """
        self._need_dead_letters()
        asked: list[Errand[list[DeadLetterTopic]]] = []
        try:
            return self._life.past.survey(ALL, seconds(timeout, self.config.publish_timeout), asked)
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def replay_dead_letters(
        self,
        topic: str,
        *,
        start: str | int | datetime | Mapping[int | str, int] = "earliest",
        until: int | datetime | None = None,
        limit: int | None = None,
        filter: Callable[[Message], object] | None = None,
        timeout: float | None = None,
        progress: Callable[[ReplayReport], object] | None = None,
    ) -> ReplayReport:
        """Publish the dead letters that a topic holds now once more, each to the topic that it came from.

        With the payload, key, headers and id of the message; every group of that topic gets it, not only the one that
        failed. Nothing leaves the dead-letter topic: a second replay publishes again, and what the broker still knows
        of the first one (JetStream's duplicate window, 600 s) it does not store twice; Kafka knows nothing. What fails
        again becomes another dead letter. Copies count once the broker has confirmed them.
        start, until: as for `read`; start may be the `next` of an earlier report, too. limit: copies at most.
        filter: called with each dead letter, on the calling thread; only those for which it is true are published.
        timeout: seconds without any answer (`publish_timeout`). progress: called with the report so far now and then,
        and at the end, also when an exception ends it.
        Raises ReplayError with the report so far when copies are not confirmed: those that no client was given are
        taken back, the others `unanswered`. What an origin topic refuses is counted as failed, and the others go on.
        ReadError, NotConnectedError, ClosedError; UnsupportedError on core NATS.
        """
        self._need_dead_letters()
        for function, name in ((filter, "filter"), (progress, "progress")):
            if function is not None:
                check_argument(function, name, takes=1)
        patience = seconds(timeout, self.config.publish_timeout)
        marks, begin = self._marks_of(start)
        names = names_of(self.config.backend)
        checked_span(names, topic, begin, until, limit, None)  # of copies: what is read is bounded by them alone
        if limit == 0:
            return ReplayReport()
        wanted = Wanted(filter=filter, marks=marks, limit=limit)
        replay = Replay(self._copier.publish_replay, wanted, patience, progress)
        with self._read(checked_span(names, topic, begin, until, None, None), patience) as messages:
            return replay.run(messages)

    def purge_dead_letters(self, topic: str, *, force: bool = False, timeout: float | None = None) -> int:
        """Delete for good what a dead-letter topic holds now; how many messages, on Kafka how many offsets.

        What is published meanwhile stays. A topic that does not begin with `dlq.` is read first, and not touched if
        anything in it is no dead letter, unless `force` is set. timeout: seconds (`publish_timeout`).
        Raises PurgeError: no topic of dead letters, or the broker does not let us; ReadError: no such topic.
        NotConnectedError: they may be deleted or not. ClosedError; UnsupportedError on core NATS.
        """
        self._need_dead_letters()
        everything = yes_or_no(force, "force")
        patience = seconds(timeout, self.config.publish_timeout)
        span = checked_span(names_of(self.config.backend), topic, "earliest", None, None, None)
        asked: list[Errand[Any]] = []
        try:
            found = self._life.past.find(span, patience, asked)
            if not found:
                return 0
            if not everything and not topic.startswith("dlq."):
                self._check_letters(span, patience)
            return self._life.past.purge(topic, found, patience, asked)
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def _need_dead_letters(self) -> None:
        if not self.features.readable:
            raise UnsupportedError(f"{self.config.name}: core NATS keeps no messages, and so no dead letters")

    def _read(self, span: Span, patience: float) -> Excerpt:
        asked: list[Errand[Excerpt]] = []
        try:
            return self._life.past.read(span, patience, asked)
        except BaseException:
            self._life.errands.leave_all(asked)
            raise

    def _check_letters(self, span: Span, patience: float) -> None:
        with self._read(span, patience) as messages:
            for message in messages:
                if TOPIC not in message.headers:
                    raise PurgeError(
                        f"{span.topic} holds messages that are no dead letters, at offset {message.offset} say: "
                        "pass force=True (dlq purge --force) to delete them, too"
                    )

    def _marks_of(self, start: object) -> tuple[Mapping[int | str, int], Any]:
        """Offsets to begin at by partition, and where reading begins."""
        if not isinstance(start, Mapping):
            return {}, start
        if not all(type(offset) is int and offset >= 0 for offset in start.values()):
            raise ReadError(f"start must map partitions to offsets >= 0, not {start!r}")
        # Of Kafka's partitions one that is not named has not been read at all.
        return start, "earliest" if self.features.places else min(start.values(), default="earliest")
