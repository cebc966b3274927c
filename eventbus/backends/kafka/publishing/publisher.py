"""What is published in one session: a line for each topic, and the producer that they lead to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import KafkaError

from .... import log
from ....errors import (
    ConfigError,
    NotConnectedError,
    PublishError,
    PublishRejectedError,
    PublishUnknownError,
    SessionRetired,
)
from ....publishing.port import Answers
from ....publishing.records import Record, topic_of
from ....threads import Alarm, Deadline, drained, join_all, spawn
from ..clients.errors import is_fatal, text_of
from .limits import Topic
from .lines import Line
from .makers import Maker
from .producing import LAST_FLUSH, Producing
from .serving import Turns, note
from .verdicts import forbids

logger = log.get(__name__)

POLL = 0.1
"""Seconds of one wait for reports. Producer.poll of 0.2 s and more oversleeps in confluent-kafka 2.13 to 2.15."""
_NAP = 1.0
_MANY = 512
"""Where the sender has so many records at once, it serves the reports between each so many itself."""
_EMPTY_WITHIN = 3.0
_CLOSE_WITHIN = 1.0


class KafkaPublisher:
    """A PublishingPort on a producer that is made when there is something to publish.

    ensure(topic, stale): have a topic made sure of; `topic_ready`, `topic_unready` or `topic_refused` answers. stale:
    the producer's own knowledge of it, too. on_fatal(cause): the producer is beyond help. Called once, from any thread.
    """

    def __init__(
        self,
        maker: Maker,
        thread_name: str,
        answers: Answers,
        ensure: Callable[[str, bool], object],
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        self._maker = maker
        self._producing = Producing(maker, answers.origin, self._client_failed)
        self._send_now = self._producing.send
        self.batch_bytes, self.message_bytes = maker.batch_bytes, maker.message_bytes
        self.compressed = maker.compressed
        self._answers, self._ensure, self._on_fatal = answers, ensure, on_fatal
        self._later = log.Later(logger)
        self.answered = 0
        """How many records were answered."""
        self.overtaken_count = 0
        """How many were stored behind later ones of their key: what was in flight behind a refusal."""
        self._lines: dict[str, Line] = {}
        self._busy: dict[str, Line] = {}
        self._verdicts: deque[tuple[Record, PublishError]] = deque()
        self._forbidden: deque[KafkaError] = deque()
        self._lock = threading.Lock()
        self._alarm = Alarm()
        self._turns = Turns(self._tell, self._alarm)
        self._retired = self._over = False
        self.fatal: BaseException | None = None
        self._thread = spawn(thread_name, self._serve)

    # -- publishing ------------------------------------------------------------------------------

    def publish(self, records: Sequence[Record]) -> int:
        """Give records to the producer, or hold them until it is their turn. The sender's thread."""
        if len(records) < _MANY or self.producer is None:
            return self._take(records)
        taken = 0
        self._turns.sender_begins()
        try:
            for start in range(0, len(records), _MANY):
                took = self._take(piece := records[start : start + _MANY])
                taken += took
                if took < len(piece):
                    break
                self._turns.serve_if_free(self._producing.poll)
        finally:
            self._turns.sender_ends()
        return taken

    def _take(self, records: Sequence[Record]) -> int:
        lines, send, held = self._lines, self._send_now, dict[str, Line]()
        taken = 0
        try:
            for record in records:
                line, extras = lines.get(record[1]), record[3]
                if line is None or (extras is not None and extras[3] is not None):
                    self._hold(record, held)
                else:
                    line.fast += 1  # before the look: whoever closes the line counts it, or it is held
                    if line.open:
                        try:
                            send(record, -1)
                        except Exception as error:
                            self._unsent(line, record, error)
                    else:
                        line.fast -= 1
                        self._hold(record, held)
                taken += 1
        except SessionRetired:
            pass
        self._advance(held.values())
        return taken

    def topic_ready(self, topic: str, known: Topic) -> None:
        """The topic is there: what waited for it goes out."""
        line = self._lines[topic]
        with self._lock:
            line.asking = False
            line.know(known, self)
        self._advance([line])

    def topic_unready(self, topic: str, cause: str) -> None:
        """The topic is not there for now, which is told to whoever waits for too long."""
        with self._lock:
            self._lines[topic].unready(cause, self)

    def topic_refused(self, topic: str, error: Exception) -> None:
        """The topic cannot be had: what waits for it is rejected."""
        line = self._lines[topic]
        with self._lock:
            line.asking = False
            line.refused(str(error), self)
        self._settle()

    def learn(self, topic: str, timeout: float) -> None:
        """Have the producer ask what the topic is: it goes by what it was told last. KafkaException, RuntimeError."""
        producer = self._producing.producer
        if producer is not None:
            producer.list_topics(topic, timeout=timeout)

    # -- figures ---------------------------------------------------------------------------------

    @property
    def producer(self) -> Any:
        """None until there is something to publish, and while the account may not have one."""
        return self._producing.producer

    @property
    def known_topic(self) -> str | None:
        """A topic that was published to."""
        return next((line.name for line in list(self._lines.values()) if line.topic is not None), None)

    @property
    def in_flight(self) -> int:
        """How many records the producer has and has not answered."""
        return sum(line.out for line in list(self._lines.values()))

    @property
    def topics_in_flight(self) -> Sequence[str]:
        """The topics of these."""
        return [line.name for line in list(self._lines.values()) if line.out]

    @property
    def throttled(self) -> bool:
        """Whether the broker has put off its answers, by a quota."""
        return self._maker.throttled

    @property
    def thread_alive(self) -> bool:
        """Whether the thread that serves reports lives."""
        return self._thread.is_alive()

    # -- the end ---------------------------------------------------------------------------------

    def retire(self, patience: float = 0.0) -> None:
        """Take nothing more, and empty the producer; a broker is at work as long as it answers within moments."""
        answered, moments = self.answered, Deadline(LAST_FLUSH)  # the end of another one's turn included
        self._turns.end()
        if self.fatal is None and not self._over:
            self._turns.serve(lambda: self._producing.flush(moments.remaining()))
        at_work = self.answered > answered or not self._producing.queued
        with self._lock:
            if self._over:
                return
            self._retired = True
            self._producing.refuse()
        if at_work and self.fatal is None:
            self._producing.flush_while_it_helps(Deadline(patience), self._turns.serve)
        self._empty(self.producer)
        with self._lock:
            self._over = True
        self._alarm.set()

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the producer; names the threads that are not out after `timeout` seconds."""
        deadline = Deadline(timeout)
        with self._lock:
            self._over = self._retired = True
            self._producing.refuse()
        self._alarm.set()
        closing = spawn(f"{self._thread.name}-closing", self._close)
        return join_all([self._thread, closing], deadline.remaining())

    def _empty(self, producer: Any) -> None:
        """Have the producer give back all that it has."""
        deadline = Deadline(_EMPTY_WITHIN)
        while self.in_flight and not deadline.over:
            self._turns.serve(lambda: self._producing.purge(producer))
        if missing := self.in_flight:
            logger.error("%d records did not come back from the producer", missing)

    def _close(self) -> None:
        self._turns.serve(lambda: self._producing.close(_CLOSE_WITHIN))

    # -- what the lines need (see `Desk`), under the lock ----------------------------------------

    def give(self, record: Record, partition: int) -> KafkaError | None:
        """Give a record to the producer; what is wrong with that. SessionRetired."""
        try:
            self._producing.send(record, partition)
        except Exception as error:
            return self._producing.wrong_with(error)
        return None

    def ask(self, line: Line) -> None:
        """Have its topic made sure of."""
        if not line.asking and not self._retired:
            line.asking = True
            self._ensure(line.name, line.stale)

    def refuse(self, record: Record, text: str, doubtful: bool) -> None:
        """It is rejected; *unknown* when it may be stored all the same."""
        id = self._producing.id_of(record)
        if doubtful:
            self._verdicts.append((record, PublishUnknownError(f"{text}; an earlier try may have stored it", id)))
        else:
            self._verdicts.append((record, PublishRejectedError(text, id)))

    def put_back(self, record: Record, cause: KafkaError | str, noted: bool) -> None:
        """It has no answer yet, and why."""
        if not self._retired:
            (self._answers.delayed if noted else self._answers.returned)(record, text_of(cause))

    def may_go(self, record: Record) -> bool:
        """Whether one that was put back without doubt is still wanted."""
        return self._answers.given(record)

    def overtaken(self, count: int) -> None:
        """So many were stored behind later ones of their key."""
        self.overtaken_count += count
        self._later.warning("%d messages were stored behind later ones of their key, after a refusal", count)

    # -- giving to the producer ------------------------------------------------------------------

    def _unsent(self, line: Line, record: Record, error: Exception) -> None:
        """The producer did not take one that went past its line. SessionRetired. The sender's thread."""
        line.fast -= 1
        cause = self._producing.wrong_with(error)
        with self._lock:
            line.unsent(record, cause, self)
        self._advance([line])

    def _hold(self, record: Record, held: dict[str, Line]) -> None:
        topic = topic_of(record)
        with self._lock:
            if self._retired:
                raise SessionRetired("the producer has ended")
            line = self._lines.get(topic) or self._lines.setdefault(topic, Line(topic))
            line.hold(record, self)
        held[topic] = line

    def _advance(self, lines: Iterable[Line]) -> None:
        """Send what may be sent, and tell what that led to. Threads of ours."""
        try:
            for line in lines:
                with self._lock:
                    self._move(line)
        except SessionRetired:
            pass  # what waits here is for the next session
        self._settle()

    def _move(self, line: Line) -> None:
        if self._retired:
            return
        if line.waits:
            self._busy[line.name] = line
        ready = self.producer is not None
        if line.waits and not ready and (ban := self._maker.ban) is not None:
            line.refused(ban, self)
        if ready or line.topic is None:
            line.advance(self)
        if not line.waits:
            self._busy.pop(line.name, None)
        elif not ready:
            self._alarm.set()

    # -- reports ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._over:
            if self._turns.stay_away():
                pass
            elif self.producer is not None:
                self.look_for_reports(POLL)
            elif self._busy and not self._retired:
                self._make()
            else:
                self._alarm.wait(_NAP)
            if self._busy:
                self._advance(list(self._busy.values()))

    def _make(self) -> None:
        """Make the producer, for there is something to publish."""
        try:
            producer = self._maker.make()
        except ConfigError as error:
            self._fail_for_good(str(error))
            return
        with self._lock:
            wanted = not self._retired
            if wanted:
                self._producing.begin(producer)
        if not wanted:
            self._maker.discard(producer)

    def look_for_reports(self, timeout: float = 0.0) -> None:
        """Serve the delivery reports that are there, or come within `timeout` seconds."""
        if not self._turns.serve(lambda: self._producing.poll(timeout)):
            self._over = True
        if self._forbidden:
            self._give_up(self._forbidden[0])

    def _tell(self) -> None:
        """Tell what the callbacks have noted."""
        reports = self._producing.reports()
        if not reports:
            return
        with self._lock:
            self.answered += len(reports.stored) + len(reports.where) + len(reports.failed)
            touched = note(reports, self._lines, self)
        if reports.stored or reports.where:
            self._maker.allow()
            self._answers.stored(reports.stored)
            self._answers.all_confirmed(reports.where)
        fatal = [one.error for one in reports.failed if is_fatal(one.error)]
        for error in fatal[:1]:
            self._client_failed(error)
        self._advance(line for line in touched if not line.open)

    def _settle(self) -> None:
        """Tell what the lines have decided."""
        self._later.tell()
        for record, error in drained(self._verdicts):
            with self._lock:
                retired = self._over or self._retired
            if not retired:  # else others have the record by now
                self._answers.failed(record, error)

    # -- a producer that fails -------------------------------------------------------------------

    def _client_failed(self, error: KafkaError) -> None:
        if forbids(error):
            self._forbidden.append(error)
        else:
            self._fail_for_good(text_of(error))

    def _fail_for_good(self, text: str) -> None:
        with self._lock:
            if self.fatal is not None or self._over:
                return
            self.fatal = NotConnectedError(f"the producer failed for good: {text}")
            self._retired = True
            self._producing.refuse()
        self._on_fatal(self.fatal)

    def _give_up(self, error: KafkaError) -> None:
        """The account may have no producer: what waits is rejected, and the next one is made in a while."""
        self._maker.forbid(error)
        with self._lock:
            for line in self._lines.values():
                line.forget()
            producer = None if self._retired else self._producing.let_go()
        if producer is None:
            return
        self._empty(producer)
        self._forbidden.clear()
        with self._lock:
            for line in self._lines.values():
                line.refused(text_of(error), self)
        self._settle()
        self._maker.discard(producer)
