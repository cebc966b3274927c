"""The producer of the moment: records go in, delivery reports come out."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

from attrs import frozen
from confluent_kafka import KafkaError, KafkaException, Message

from .... import log
from ....errors import SessionRetired
from ....message import TOMBSTONE
from ....publishing.records import NO_EXTRAS, Batch, Confirmation, Record, given_id_of, number_of
from ....threads import Deadline
from ..clients.errors import is_fatal, text_of
from ..names import ID_HEADER
from .lines import Returned
from .makers import Maker

logger = log.get(__name__)

LAST_FLUSH = 0.15
"""Seconds in which a broker that is at work answers something."""


@frozen
class Reports:
    """What became of records. where: those that somebody waits for, and where they are stored."""

    stored: Batch
    where: list[Confirmation]
    failed: list[Returned]

    def __bool__(self) -> bool:
        return bool(self.stored or self.where or self.failed)


def _refuse(*args: object) -> None:
    raise SessionRetired("the producer has ended")


def _put_off(*args: object) -> None:
    raise KafkaException(KafkaError(KafkaError._PURGE_QUEUE))


class Producing:
    """What a publisher does with its producers, of which there is one at a time, or none.

    Callbacks of librdkafka run inside `poll` and `flush`, and only append: poll, flush or close in one of them would
    end the process. A record in flight is noted nowhere but in its own delivery callback, which librdkafka keeps.
    """

    def __init__(self, maker: Maker, origin: str, on_fatal: Callable[[KafkaError], object]) -> None:
        """on_fatal(error): the producer is beyond help. Called within `poll`, once or more."""
        self.maker = maker
        self.producer: Any = None
        self._produce: Callable[..., None] = _put_off
        self._prefix = f"{origin}-"
        self._on_fatal = on_fatal
        maker.errors.on_fatal = on_fatal
        self._stored: list[Record] = []
        self._where: list[Confirmation] = []
        self._failed: list[Returned] = []
        self._report = self._make_callback()

    # -- records ---------------------------------------------------------------------------------

    def send(self, record: Record, partition: int) -> None:
        """Give a record to the producer; what it raises is for `wrong_with`."""
        number, topic, payload, extras, _ = record
        key, headers, given, place = extras or NO_EXTRAS
        fields: list[tuple[str, Any]] = [(ID_HEADER, given or self._prefix + str(number).zfill(12))]
        if headers is not None:
            fields += headers
        value = None if payload is TOMBSTONE else payload
        timestamp = 0 if place is None else place[1]
        self._produce(topic, value, key, partition, MethodType(self._report, record), None, timestamp, fields)

    @staticmethod
    def wrong_with(error: Exception) -> KafkaError:
        """Why the producer did not take a record; SessionRetired when it takes none any more."""
        if isinstance(error, BufferError):
            return KafkaError(KafkaError._QUEUE_FULL)
        if not isinstance(error, KafkaException):
            raise SessionRetired("the producer has ended") from error
        cause: KafkaError = error.args[0]
        return KafkaError(KafkaError._PURGE_QUEUE) if is_fatal(cause) else cause  # `poll` says what is wrong

    def id_of(self, record: Record) -> str:
        """The id that it is sent with."""
        return given_id_of(record) or f"{self._prefix}{number_of(record):012d}"

    # -- reports ---------------------------------------------------------------------------------

    def poll(self, timeout: float = 0.0) -> bool:
        """Serve the reports that are there, or come within `timeout` seconds; False: the producer is closed."""
        try:
            if self.producer is not None:
                self.producer.poll(timeout)
        except KafkaException as error:  # a fatal error comes out here, and not through error_cb
            if is_fatal(error.args[0]):
                self._on_fatal(error.args[0])
            else:
                logger.warning("serving delivery reports: %s", text_of(error.args[0]))
        except RuntimeError:
            return False
        return True

    def reports(self) -> Reports:
        """What the callbacks have noted since. Not while another thread may serve reports."""
        found = Reports(Batch(self._stored), self._where.copy(), self._failed.copy())
        for noted in (self._stored, self._where, self._failed):
            noted.clear()
        return found

    def _make_callback(self) -> Callable[[Record, KafkaError | None, Message], None]:
        stored, where, failed = self._stored.append, self._where.append, self._failed.append

        def report(record: Record, error: KafkaError | None, message: Message) -> None:
            if error is None and record[4] is None:  # as `waiter_of` says, in half the time
                stored(record)
                return
            partition, offset = message.partition(), message.offset()
            if error is not None:
                failed(Returned(record, error, -1 if partition is None else partition))
            elif offset is not None and offset >= 0:
                where((record, partition or 0, offset, False))
            else:  # the broker has it from an earlier try, whose answer was lost
                where((record, partition or 0, None, True))

        return report

    # -- beginning and end -----------------------------------------------------------------------

    def begin(self, producer: Any) -> None:
        """Use this one from now on."""
        self.producer = producer
        self._produce = producer.produce

    def let_go(self) -> Any:
        """Use no producer for now; the one of before."""
        producer, self.producer = self.producer, None
        self._produce = _put_off
        return producer

    def refuse(self) -> None:
        """Take nothing more."""
        self._produce = _refuse

    @property
    def queued(self) -> int:
        """How much the producer has to do, by its own count."""
        producer = self.producer
        return 0 if producer is None else len(producer)

    def flush_while_it_helps(self, deadline: Deadline, serve: Callable[[Callable[[], None]], object]) -> None:
        """Serve reports as long as they go on coming. serve(call): make a call that serves some."""
        left, before = self.queued, math.inf
        while 0 < left < before and not deadline.over:
            serve(lambda: self.flush(min(LAST_FLUSH, deadline.remaining())))
            before, left = left, self.queued

    def flush(self, timeout: float = LAST_FLUSH) -> None:
        """Serve reports until all is answered, for `timeout` seconds at most."""
        self.quietly(self.producer, "flush", timeout)

    def purge(self, producer: Any) -> None:
        """Have all that a producer has given back."""
        self.quietly(producer, "purge")
        self.quietly(producer, "flush", 0.01)

    def close(self, patience: float) -> None:
        """End the producer."""
        producer = self.producer
        self.quietly(producer, "purge")
        self.quietly(producer, "flush", patience)
        if not self.queued:  # else its close would wait for ever: dropping it does not
            self.quietly(producer, "close")

    @staticmethod
    def quietly(producer: Any, call: str, *args: float) -> None:
        """A call that ends a producer, and may serve reports."""
        try:
            if producer is not None:
                getattr(producer, call)(*args)
        except (KafkaException, RuntimeError) as error:
            logger.debug("ending a producer: %s", error)
