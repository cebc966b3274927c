"""One librdkafka producer, and every record that it has not answered."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from operator import itemgetter
from types import MethodType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from ...errors import NotConnectedError, PublishNotSentError, PublishRejectedError, PublishUnknownError, SessionRetired
from ...message import TOMBSTONE
from ...publishing.records import Record
from ...publishing.sink import Door, PublishNowait
from ...threads import Deadline, join_all, spawn
from ..base import Answers
from .forks import Producer
from .ledger import Bucket, Ledger
from .problems import ClientErrors, is_fatal, is_permanent, text_of
from .shortcut import HEAVY, SERVE_EVERY, make_shortcut

logger = logging.getLogger(__name__)

ID_HEADER = "Eventbus-Id"
POLL = 0.1
"""Seconds of one wait for reports. Producer.poll of 0.2 s and more oversleeps in confluent-kafka 2.13 to 2.15."""
BUSY = 200
"""Publishes within `QUIET` at which they serve the reports, and the thread for it stays off the GIL."""
QUIET = 0.02
RESEND_EVERY = 0.25
"""Seconds between two tries for records that came back from a living producer."""
_LAST_FLUSH = 0.15
_EMPTY_WITHIN = 3.0
_CLOSE_WITHIN = 1.0

_number_of = itemgetter(0)
_Entry = tuple[Bucket, Record]
_Refused = tuple[Bucket, Record, BaseException]


def _refuse(*args: object) -> None:
    raise SessionRetired("the producer has ended")


class Outbox:
    """Publishes records on one producer, in order, and answers them. All methods are thread-safe.

    A record in flight is noted nowhere but in its own delivery callback, which librdkafka keeps. Reports are
    served by a thread of this object and, while much is published, by the publishers.
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
        self.ledger = Ledger(self._finish)
        self.ready: set[str] = set()
        self.loaded = answers.loaded
        self.bytes_in = self._bytes_out = 0
        self._lock = threading.Lock()
        self._held: dict[str, list[_Entry]] = {}
        self._returned: list[_Entry] = []
        self._resend_at = 0.0
        self._counted = 0
        self._told = 0
        self._over = False
        self._hint = threading.Event()
        self.fatal: BaseException | None = None
        errors.on_fatal = self._client_failed
        self._thread = spawn(thread_name, self._serve)

    # -- publishing ------------------------------------------------------------------------------

    def publish(self, record: Record) -> None:
        """As `Session.publish`."""
        bucket = self.ledger.current
        bucket.enter()
        number, topic, payload, key, headers, id, _ = record
        value = None if payload is TOMBSTONE else payload
        if topic not in self.ready and self._hold(bucket, record):
            return
        size = len(payload)
        self.bytes_in += size
        fields: list[tuple[str, Any]] = [(ID_HEADER, id or f"{self._prefix}{number:012d}")]
        if headers is not None:
            fields += headers
        try:
            # Looked up after entering: what `abandon` does not see inside has met its closed door.
            self.produce(topic, value, key, -1, MethodType(bucket.answered, record), None, 0, fields)
        except BaseException as error:
            raise self.not_taken(bucket, record, error) from error
        if not number % SERVE_EVERY:
            self.look_for_reports()
        if size > HEAVY:
            self.loaded()

    def shortcut(self, door: Door, otherwise: PublishNowait) -> PublishNowait:
        """As `Session.shortcut`."""
        return make_shortcut(self, self._prefix, ID_HEADER, door, otherwise)

    def not_taken(self, bucket: Bucket, record: Record, error: BaseException) -> BaseException:
        """The producer did not take a record: it leaves; what its publisher is told."""
        self._settle(bucket, record)
        return self._refusal(error, record)

    def topic_ready(self, topic: str) -> None:
        """The topic is there: what waited for it goes out, then publishers no longer ask."""
        with self._lock:
            waiting, refused = self._send_all(self._held.pop(topic, []))
            if waiting:
                self._held[topic] = waiting
            else:
                self.ready.add(topic)
        self._fail_all(refused)

    def topic_refused(self, topic: str, error: Exception) -> None:
        """The topic cannot be had: what waits for it is rejected."""
        with self._lock:
            records = self._held.pop(topic, [])
        for bucket, record in records:
            rejected = PublishRejectedError(f"{topic}: {error}", self._id_of(record))
            rejected.__cause__ = error
            self._fail(bucket, record, rejected)

    @property
    def held_topics(self) -> list[str]:
        """Topics that records wait for."""
        with self._lock:
            return list(self._held)

    # -- figures ---------------------------------------------------------------------------------

    @property
    def known_topic(self) -> str | None:
        """A topic that was published to."""
        return next(iter(self.ready), None)

    @property
    def unanswered_bytes(self) -> int:
        """Payload bytes given to the producer and unanswered, or waiting for their topic."""
        return 0 if self._over else max(0, self.bytes_in - self._bytes_out - self.ledger.bytes_left)

    @property
    def answered(self) -> int:
        """How many records were answered."""
        return self.ledger.left

    @property
    def in_flight(self) -> int:
        """How many records the producer has and has not answered."""
        with self._lock:
            here = len(self._returned) + sum(len(entries) for entries in self._held.values())
        return self.ledger.inside - here

    def unanswered(self, up_to: int) -> int:
        """As `Session.unanswered`; reports are looked for at once."""
        self._hint.set()
        with self._lock:
            return 0 if self._over else self.ledger.inside_up_to(up_to)

    @property
    def thread_alive(self) -> bool:
        """Whether the thread that serves reports lives."""
        return self._thread.is_alive()

    # -- the end ---------------------------------------------------------------------------------

    def abandon(self, patience: float = 0.0) -> list[Record]:
        """As `Session.abandon`; a broker is at work for as long as it answers anything within moments."""
        answered = self.ledger.left
        if self.fatal is None and not self._over:  # while publishers go on: most of it is answered by now
            self._quietly(lambda: self.producer.flush(_LAST_FLUSH))
        at_work = self.ledger.left > answered or not len(self.producer)
        with self._lock:
            if self._over:
                return []
            self.produce = _refuse
        if at_work:
            self._drain(patience)
        deadline = Deadline(_EMPTY_WITHIN)
        while self.in_flight and not deadline.over:
            self._quietly(self.producer.purge)
            self._quietly(lambda: self.producer.flush(0.01))
        with self._lock:
            self._over = True
            back = self._returned + [entry for entries in self._held.values() for entry in entries]
            self._returned, self._held = [], {}
        self._hint.set()
        missing = self.ledger.inside - len(back)
        if missing > 0:
            logger.error("%d records did not come back from the producer; they are answered when they do", missing)
        self._tell_stored()
        return sorted((record for _, record in back), key=_number_of)

    def _drain(self, patience: float) -> None:
        deadline, left, before = Deadline(patience), len(self.producer), math.inf
        while self.fatal is None and 0 < left < before and not deadline.over:
            self._quietly(lambda: self.producer.flush(min(_LAST_FLUSH, deadline.remaining())))
            before, left = left, len(self.producer)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the producer; names the threads that are not out after `timeout` seconds."""
        deadline = Deadline(timeout)
        self._over = True
        self.produce = _refuse
        self._hint.set()
        closing = spawn(f"{self._thread.name}-closing", self._close)
        return join_all([self._thread, closing], deadline.remaining())

    def _close(self) -> None:
        self._quietly(self.producer.purge)
        self._quietly(lambda: self.producer.flush(_CLOSE_WITHIN))
        self._tell_stored()
        if not len(self.producer):  # else its close would wait for ever: dropping it does not
            self._quietly(self.producer.close)

    # -- inside ----------------------------------------------------------------------------------

    def _hold(self, bucket: Bucket, record: Record) -> bool:
        """Keep a record until its topic is there; False when it is there by now."""
        topic = record[1]
        with self._lock:
            if topic in self.ready:
                return False
            ended = self._over or self.produce is _refuse
            self.bytes_in += len(record[2])
            first = topic not in self._held
            if not ended:
                self._held.setdefault(topic, []).append((bucket, record))
        if ended:
            self._settle(bucket, record)
            raise SessionRetired("the producer has ended")
        if first:
            self._ensure(topic)
        return True

    def _send_all(self, entries: list[_Entry]) -> tuple[list[_Entry], list[_Refused]]:
        """Give records to the producer, in order; which of them have to wait, and which it refuses for good."""
        refused: list[_Refused] = []
        for position, (bucket, record) in enumerate(entries):
            try:
                self._send(bucket, record)
            except (KafkaException, BufferError, RuntimeError, SessionRetired) as error:
                if not isinstance(error, KafkaException) or not is_permanent(error.args[0]):
                    logger.debug("%s: records wait on: %s", record[1], error)
                    return entries[position:], refused
                refused.append((bucket, record, self._refusal(error, record)))
        return [], refused

    def _fail_all(self, refused: list[_Refused]) -> None:
        for bucket, record, error in refused:
            self._fail(bucket, record, error)

    def _send(self, bucket: Bucket, record: Record) -> None:
        """Give a record to the producer that entered, and was counted, before."""
        fields: list[tuple[str, Any]] = [(ID_HEADER, self._id_of(record))]
        if record[4] is not None:
            fields += record[4]
        value = None if record[2] is TOMBSTONE else record[2]
        self.produce(record[1], value, record[3], -1, MethodType(bucket.answered, record), None, 0, fields)

    def _id_of(self, record: Record) -> str:
        return record[5] or f"{self._prefix}{record[0]:012d}"

    def _refusal(self, error: BaseException, record: Record) -> BaseException:
        """What a publisher is told whose record the producer did not take."""
        if isinstance(error, KafkaException):
            cause = error.args[0]
            if is_fatal(cause):
                self._fail_for_good(cause)
                return SessionRetired(text_of(cause))
            if is_permanent(cause):
                return PublishRejectedError(f"{record[1]}: {text_of(cause)}", self._id_of(record))
            return PublishNotSentError(f"{record[1]}: {text_of(cause)}", self._id_of(record))
        if isinstance(error, BufferError):
            return PublishNotSentError("librdkafka's own queue is full", self._id_of(record))
        if isinstance(error, RuntimeError):  # closed in this moment
            return SessionRetired(str(error))
        return error

    def _finish(self, bucket: Bucket, record: Any, error: KafkaError | None, message: Message) -> None:
        """A delivery report that is not the plain one: somebody waits for it, or it is a failure."""
        if error is None:
            self._settle(bucket, record)
            self._answers.confirmed(record, message.partition() or 0, message.offset() or 0)
        elif is_permanent(error):
            if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self.ready.discard(record[1])
            self._fail(bucket, record, PublishRejectedError(f"{record[1]}: {text_of(error)}", self._id_of(record)))
        else:
            self._keep(bucket, record, error)

    def _keep(self, bucket: Bucket, record: Any, error: KafkaError) -> None:
        with self._lock:
            late = self._over
            if not late:
                self._returned.append((bucket, record))
        if late:
            self._fail(bucket, record, PublishUnknownError(f"{record[1]}: {text_of(error)}", self._id_of(record)))
        elif is_fatal(error):
            self._fail_for_good(error)

    def _fail(self, bucket: Bucket, record: Any, error: Any) -> None:
        self._settle(bucket, record)
        self._answers.failed(record, error)

    def _settle(self, bucket: Bucket, record: Any) -> None:
        """This one leaves, and whoever has to know is told of it alone: `_tell_stored` does not count it."""
        with self._lock:
            self._bytes_out += len(record[2])
            self._counted += 1
        bucket.leave()

    def _client_failed(self, error: KafkaError) -> None:
        self._fail_for_good(error)

    def _fail_for_good(self, error: KafkaError) -> None:
        with self._lock:
            if self.fatal is not None or self._over:
                return
            self.fatal = NotConnectedError(f"the producer failed for good: {text_of(error)}")
            self.produce = _refuse
        self._on_fatal(self.fatal)

    # -- reports ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        seen = 0
        while not self._over:
            left = self.ledger.left
            if left - seen > BUSY and not self._hint.is_set():
                seen = left
                self._hint.wait(QUIET)
                self._tell_stored()
                self._send_returned()
                continue
            seen = left
            self._hint.clear()
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
        self._tell_stored()

    def _tell_stored(self) -> None:
        """Tell the plain successes since the last time: their callbacks only count."""
        with self._lock:
            stored = self.ledger.left - self._counted
            new, self._told = stored - self._told, max(self._told, stored)
        if new > 0:
            self._answers.stored(new)

    def _send_returned(self) -> None:
        """Send again what came back although the producer lives."""
        with self._lock:
            if not self._returned or self.produce is _refuse or time.monotonic() < self._resend_at:
                return
            self._resend_at = time.monotonic() + RESEND_EVERY
            back = sorted(self._returned, key=lambda entry: _number_of(entry[1]))
            self._returned, refused = self._send_all(back)
        self._fail_all(refused)
        logger.info("%d records are sent again", len(back) - len(self._returned))

    @staticmethod
    def _quietly(call: Callable[[], object]) -> None:
        try:
            call()
        except (KafkaException, RuntimeError) as error:
            logger.debug("ending a producer: %s", error)
