"""One librdkafka producer, and every record that it has not answered."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from .... import log
from ....errors import NotConnectedError, PublishError, PublishNotSentError, PublishRejectedError, SessionRetired
from ....message import TOMBSTONE
from ....publishing.port import Answers
from ....publishing.records import NO_EXTRAS, Record, given_id_of, number_of, topic_of, waiter_of
from ....threads import Deadline, drained, join_all, spawn
from ..clients.errors import ClientErrors, is_fatal, is_permanent, text_of
from ..clients.fork_safety import Producer
from ..names import ID_HEADER

logger = log.get(__name__)

POLL = 0.1
"""Seconds of one wait for reports. Producer.poll of 0.2 s and more oversleeps in confluent-kafka 2.13 to 2.15."""
RESEND_EVERY = 0.25
"""Seconds between two tries for records that came back from a living producer."""
_LAST_FLUSH = 0.15
_EMPTY_WITHIN = 3.0
_CLOSE_WITHIN = 1.0

_Report = tuple[Record, "KafkaError | None", Message]


def _refuse(*args: object) -> None:
    raise SessionRetired("the producer has ended")


class KafkaPublisher:
    """A PublishingPort on one producer.

    A record in flight is noted nowhere but in its own delivery callback, which librdkafka keeps. Callbacks
    only append; what they note is told after the call that served them, on a thread of this object.
    ensure(topic): have a topic made sure of; `topic_ready` or `topic_refused` answers.
    on_fatal(cause): the producer is beyond help. Called once, from any thread.
    """

    def __init__(
        self,
        producer: Producer,
        errors: ClientErrors,
        thread_name: str,
        answers: Answers,
        ensure: Callable[[str], object],
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        self.producer = producer
        self._answers = answers
        self._ensure = ensure
        self._on_fatal = on_fatal
        self._prefix = f"{answers.origin}-"
        self.produce: Callable[..., None] = producer.produce
        self.ready: set[str] = set()
        self.answered = 0
        """How many records were answered."""
        self._taken = 0
        self._stored: deque[Record] = deque()
        self._reports: deque[_Report] = deque()
        self._lock = threading.Lock()
        self._held: dict[str, list[Record]] = {}
        self._returned: list[Record] = []
        self._resend_at = 0.0
        self._over = False
        self._report = self._make_callback()
        self.fatal: BaseException | None = None
        errors.on_fatal = self._client_failed
        self._thread = spawn(thread_name, self._serve)

    # -- publishing ------------------------------------------------------------------------------

    def publish(self, records: Sequence[Record]) -> int:
        """Give records to the producer, or hold them until their topic is there. The sender's thread."""
        refused: list[tuple[Record, PublishError]] = []
        taken = 0
        for record in records:
            self._taken += 1  # before the look at `produce`: what `retire` does not count has met its closed door
            try:
                if topic_of(record) in self.ready or not self._hold(record):
                    self._send(record)
            except SessionRetired:
                self._taken -= 1
                break
            except (KafkaException, BufferError, RuntimeError) as error:
                verdict = self._refusal(error, record)
                if verdict is None:
                    self._taken -= 1
                    break
                refused.append((record, verdict))
            taken += 1
        for record, verdict in refused:
            self._fail(record, verdict)
        return taken

    def topic_ready(self, topic: str) -> None:
        """The topic is there: what waited for it goes out, then publishers no longer ask."""
        with self._lock:
            waiting, refused = self._send_all(self._held.pop(topic, []))
            if waiting:
                self._held[topic] = waiting
            else:
                self.ready.add(topic)
        for record, error in refused:
            self._fail(record, error)

    def topic_refused(self, topic: str, error: Exception) -> None:
        """The topic cannot be had: what waits for it is rejected."""
        with self._lock:
            records = self._held.pop(topic, [])
        for record in records:
            rejected = PublishRejectedError(f"{topic}: {error}", self._id_of(record))
            rejected.__cause__ = error
            self._fail(record, rejected)

    # -- figures ---------------------------------------------------------------------------------

    @property
    def held_topics(self) -> list[str]:
        """Topics that records wait for."""
        with self._lock:
            return list(self._held)

    @property
    def known_topic(self) -> str | None:
        """A topic that was published to."""
        return next(iter(self.ready), None)

    @property
    def in_flight(self) -> int:
        """How many records the producer has and has not answered."""
        with self._lock:
            here = len(self._returned) + sum(len(records) for records in self._held.values())
            return self._taken - self.answered - here

    @property
    def thread_alive(self) -> bool:
        """Whether the thread that serves reports lives."""
        return self._thread.is_alive()

    # -- the end ---------------------------------------------------------------------------------

    def retire(self, patience: float = 0.0) -> None:
        """Take nothing more, and empty the producer; a broker is at work as long as it answers within moments."""
        answered = self.answered
        if self.fatal is None and not self._over:
            self._quietly(lambda: self.producer.flush(_LAST_FLUSH))
        at_work = self.answered > answered or not len(self.producer)
        with self._lock:
            if self._over:
                return
            self.produce = _refuse
        if at_work:
            self._drain(patience)
        deadline = Deadline(_EMPTY_WITHIN)
        while self.in_flight and not deadline.over:
            self._quietly(self.producer.purge)
            self._quietly(lambda: self.producer.flush(0.01))
        with self._lock:
            self._over = True
        if missing := self.in_flight:
            logger.error("%d records did not come back from the producer", missing)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the producer; names the threads that are not out after `timeout` seconds."""
        deadline = Deadline(timeout)
        self._over = True
        self.produce = _refuse
        closing = spawn(f"{self._thread.name}-closing", self._close)
        return join_all([self._thread, closing], deadline.remaining())

    def _drain(self, patience: float) -> None:
        deadline, left, before = Deadline(patience), len(self.producer), math.inf
        while self.fatal is None and 0 < left < before and not deadline.over:
            self._quietly(lambda: self.producer.flush(min(_LAST_FLUSH, deadline.remaining())))
            before, left = left, len(self.producer)

    def _close(self) -> None:
        self._quietly(self.producer.purge)
        self._quietly(lambda: self.producer.flush(_CLOSE_WITHIN))
        if not len(self.producer):  # else its close would wait for ever: dropping it does not
            self._quietly(self.producer.close)

    # -- giving to the producer ------------------------------------------------------------------

    def _hold(self, record: Record) -> bool:
        """Keep a record until its topic is there; False when it is there by now."""
        topic = topic_of(record)
        with self._lock:
            if topic in self.ready:
                return False
            if self._over or self.produce is _refuse:
                raise SessionRetired("the producer has ended")
            first = topic not in self._held
            self._held.setdefault(topic, []).append(record)
        if first:
            self._ensure(topic)
        return True

    def _send(self, record: Record) -> None:
        number, topic, payload, extras, _ = record
        key, headers, given = extras or NO_EXTRAS
        fields: list[tuple[str, Any]] = [(ID_HEADER, given or f"{self._prefix}{number:012d}")]
        if headers is not None:
            fields += headers
        value = None if payload is TOMBSTONE else payload
        self.produce(topic, value, key, -1, MethodType(self._report, record), None, 0, fields)

    def _send_all(self, records: list[Record]) -> tuple[list[Record], list[tuple[Record, PublishError]]]:
        """Give records to the producer, in order; which of them have to wait, and which it refuses for good."""
        refused: list[tuple[Record, PublishError]] = []
        for position, record in enumerate(records):
            try:
                self._send(record)
            except (KafkaException, BufferError, RuntimeError, SessionRetired) as error:
                if not isinstance(error, KafkaException) or not is_permanent(error.args[0]):
                    logger.debug("%s: records wait on: %s", topic_of(record), error)
                    return records[position:], refused
                refused.append((record, self._rejection(record, error.args[0])))
        return [], refused

    def _refusal(self, error: Exception, record: Record) -> PublishError | None:
        """What a publisher is told whose record the producer did not take; None: the producer has ended."""
        if isinstance(error, BufferError):
            return PublishNotSentError("librdkafka's own queue is full", self._id_of(record))
        if not isinstance(error, KafkaException):
            return None  # closed in this moment
        cause = error.args[0]
        if is_fatal(cause):
            self._fail_for_good(cause)
            return None
        if is_permanent(cause):
            return self._rejection(record, cause)
        return PublishNotSentError(f"{topic_of(record)}: {text_of(cause)}", self._id_of(record))

    def _rejection(self, record: Record, cause: KafkaError) -> PublishRejectedError:
        return PublishRejectedError(f"{topic_of(record)}: {text_of(cause)}", self._id_of(record))

    def _id_of(self, record: Record) -> str:
        return given_id_of(record) or f"{self._prefix}{number_of(record):012d}"

    # -- reports ---------------------------------------------------------------------------------

    def _make_callback(self) -> Callable[[Record, KafkaError | None, Message], None]:
        """The delivery callback, once bound to a record. It runs inside librdkafka: it may only append."""
        stored, reports = self._stored.append, self._reports.append

        def report(record: Record, error: KafkaError | None, message: Message) -> None:
            if error is None and waiter_of(record) is None:
                stored(record)
            else:
                reports((record, error, message))

        return report

    def _serve(self) -> None:
        while not self._over:
            self.look_for_reports(POLL)
            self._send_returned()

    def look_for_reports(self, timeout: float = 0.0) -> None:
        """Serve the delivery reports that are there, or come within `timeout` seconds."""
        try:
            self.producer.poll(timeout)
        except KafkaException as error:  # a fatal error comes out here, and not through error_cb
            if is_fatal(error.args[0]):
                self._fail_for_good(error.args[0])
            else:
                logger.warning("serving delivery reports: %s", text_of(error.args[0]))
        except RuntimeError:
            self._over = True  # closed
        self._tell()

    def _tell(self) -> None:
        """Tell what the callbacks have noted."""
        stored = drained(self._stored)
        if stored:
            with self._lock:
                self.answered += len(stored)
            self._answers.stored(stored)
        for record, error, message in drained(self._reports):
            if error is None:
                with self._lock:
                    self.answered += 1
                self._answers.confirmed(record, message.partition() or 0, message.offset() or 0)
            elif is_permanent(error):
                if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    self.ready.discard(topic_of(record))
                self._fail(record, self._rejection(record, error))
            else:
                self._keep(record, error)

    def _keep(self, record: Record, error: KafkaError) -> None:
        with self._lock:
            self._returned.append(record)
        if is_fatal(error):
            self._fail_for_good(error)

    def _fail(self, record: Record, error: PublishError) -> None:
        with self._lock:
            self.answered += 1
            retired = self._over or (self.produce is _refuse and self.fatal is None)
        if not retired:  # else others have the record by now
            self._answers.failed(record, error)

    def _send_returned(self) -> None:
        """Send again what came back although the producer lives."""
        with self._lock:
            if not self._returned or self.produce is _refuse or time.monotonic() < self._resend_at:
                return
            self._resend_at = time.monotonic() + RESEND_EVERY
            back = sorted(self._returned, key=number_of)
            self._returned, refused = self._send_all(back)
        for record, error in refused:
            self._fail(record, error)
        logger.info("%d records are sent again", len(back) - len(self._returned))

    def _client_failed(self, error: KafkaError) -> None:
        self._fail_for_good(error)

    def _fail_for_good(self, error: KafkaError) -> None:
        with self._lock:
            if self.fatal is not None or self._over:
                return
            self.fatal = NotConnectedError(f"the producer failed for good: {text_of(error)}")
            self.produce = _refuse
        self._on_fatal(self.fatal)

    def _quietly(self, call: Callable[[], object]) -> None:
        """A call that ends the producer, and may serve reports."""
        try:
            call()
        except (KafkaException, RuntimeError) as error:
            logger.debug("ending a producer: %s", error)
        self._tell()
