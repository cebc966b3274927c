"""Accepting records in order: what core NATS and JetStream have in common."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from ...errors import PublishRejectedError, SessionRetired
from ...message import check_topic
from ...publishing.records import Record
from ...publishing.sink import Door, PublishNowait
from ..base import Answers
from . import wire
from .encoding import CoreEncoder
from .writer import QUIET, Writer

MAX_KNOWN_TOPICS = 10_000
CHUNK = 96 * 1024
"""Bytes, headers included, that are sent at a time in a burst."""
SMALL = 8 * 1024
"""Payload bytes of a message that goes the short way."""
_LONGEST_CHUNK = 1024

number_of = itemgetter(0)
_payload_of = itemgetter(2)
_key_of = itemgetter(3)
_SHORT_KEY = 256
_KEY_ROOM = 4 * _SHORT_KEY + 32


class Chunk(NamedTuple):
    """Records in the order of the wire, and their payload bytes."""

    records: list[Record]
    size: int


class Publisher:
    """Takes records on any thread and hands frames to the writer.

    The short way takes no lock. `_out` is one list for ever: `append` and `del out[:n]` are atomic. What
    makes that safe: a publisher looks at `_steady` *after* its append. It is true only while the writer's
    thread is bound to look into `_out` once more, and never again once the session is retired; whoever
    finds it false settles the case under the lock.
    A topic is in `_open` when records for it may go the short way: checked, not held back, not retired.
    """

    def __init__(self, writer: Writer, answers: Answers, encoder: CoreEncoder, max_payload: int) -> None:
        self._writer = writer
        self._lock = writer.lock
        self._answers = answers
        self._encoder = encoder
        self._open: set[str] = set()
        self._out: list[Record] = []
        self._queue: deque[Chunk] = deque()
        self._bytes = 0
        self._blocks: dict[int, bytes] = {}
        self._keyed = False
        """Whether there ever was a key; never reset, so that no chunk with one is taken for one without."""
        self._retired = False
        self._steady = False
        self._full = 1
        self.limit_payload(max_payload)
        writer.attach(self)

    def limit_payload(self, most: int) -> None:
        """The server's `max_payload`, headers included."""
        self._most = most
        self._limit = most - self._encoder.overhead
        self._small = min(SMALL, self._limit - _KEY_ROOM)

    @property
    def unanswered_bytes(self) -> int:
        """Payload bytes accepted and unanswered."""
        return self._bytes + sum(map(len, map(_payload_of, self._out[:])))

    def publish(self, record: Record) -> None:
        """As `Session.publish`."""
        key = record[3]
        if (
            record[1] in self._open
            and record[4] is None
            and record[5] is None
            and len(record[2]) <= self._small
            and (key is None or (type(key) is str and self._is_simple(key)))
        ):
            out = self._out
            out.append(record)
            if len(out) < self._full and self._steady:
                return
            self._settle_accepted(record)
        else:
            self._publish_carefully(record)
        self._answers.loaded()

    def shortcut(self, door: Door, otherwise: PublishNowait) -> PublishNowait:
        """As `Session.shortcut`: the short way, for messages without a key."""
        out, next_number, publisher = self._out, door.next_number, self
        append = out.append

        def publish_nowait(topic: str, payload: Any, *, key: Any = None, headers: Any = None, id: Any = None) -> None:
            try:
                plain = topic in publisher._open and type(payload) is bytes and len(payload) <= publisher._small
            except TypeError:  # a topic of a kind that no set takes
                plain = False
            if not plain or key is not None or headers is not None or id is not None:
                return otherwise(topic, payload, key=key, headers=headers, id=id)
            number = next_number()
            record: Any = (number, topic, payload, None, None, None, None)
            if number > door.ceiling:
                return door.submit(Record(*record), 0.0)
            append(record)
            if len(out) < publisher._full and publisher._steady:
                return None
            try:
                publisher._settle_accepted(record)
            except SessionRetired:
                door.submit(Record(*record), 0.0)
            publisher._answers.loaded()
            return None

        return publish_nowait

    def _is_simple(self, key: str) -> bool:
        """Whether a key goes the short way: it can neither break its line nor make the message too large."""
        self._keyed = True
        return len(key) <= _SHORT_KEY and key.isprintable()

    def take(self) -> bytes:
        """As `Source.take`."""
        raise NotImplementedError

    def waiting(self) -> int:
        """As `Source.waiting`."""
        return len(self._out)

    def awake(self, awake: bool) -> None:
        """As `Source.awake`."""
        self._steady = awake and not self._retired

    def unanswered(self, up_to: int) -> int:
        """As `Session.unanswered`."""
        with self._lock:
            return sum(record[0] <= up_to for record in chain(self._absorbed(), self._out[:]))

    def abandon(self) -> list[Record]:
        """As `Session.abandon`."""
        with self._lock:
            self._retire()
            self._absorb()
            # Without `_out`: what enters it from now on is taken back by its publisher.
            records = sorted(self._absorbed(), key=number_of)
            self._forget()
        return records

    def _absorbed(self) -> Iterable[Record]:
        """All unanswered records but those in `_out`. Under the lock."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of all records. Under the lock."""
        self._queue.clear()
        self._blocks = {}
        self._bytes = 0

    def retire(self) -> None:
        """Accept nothing more."""
        with self._lock:
            self._retire()

    def _retire(self) -> None:
        self._retired = True
        self._steady = False
        self._open = set()

    def _settle_accepted(self, record: Record) -> None:
        """Send what was accepted, or have it sent; take the record back if the session was just retired."""
        with self._lock:
            if self._retired:
                self._take_back(record)
            elif len(self._out) >= self._full:
                self._flush()
            else:
                self._flush_or_kick()

    def _take_back(self, record: Record) -> None:
        for position, accepted in enumerate(self._out):
            if accepted is record:
                del self._out[position]
                raise SessionRetired("the session takes nothing more")
        # `abandon` was faster: it hands the record back with the others.

    def _publish_carefully(self, record: Record) -> None:
        """The long way: a new topic, a large payload, a key, headers, an id of its own."""
        block = self._checked_block(record)
        with self._lock:
            if self._retired:
                raise SessionRetired("the session takes nothing more")
            if block is not None:
                self._blocks[record[0]] = block
            if record[1] not in self._open and not self._let_out(record):
                return
            self._out.append(record)
            if len(record[2]) > self._small or len(self._out) >= self._full:
                self._flush()
            elif not self._steady:
                self._flush_or_kick()

    def _flush_or_kick(self) -> None:
        """Send at once what comes alone; leave the first message of a burst to the writer's thread."""
        if time.monotonic() - self._writer.last_write > QUIET:
            self._flush()
        else:
            self._writer.kick()

    def _flush(self) -> None:
        self._writer.flush()
        if self._writer.stuck:
            self._absorb()  # or its bytes would be counted nowhere

    def _checked_block(self, record: Record) -> bytes | None:
        """The header block of a record that needs one of its own; PublishRejectedError."""
        topic, payload = record[1:3]
        try:
            if topic not in self._open:
                check_topic(topic)
            block = self._block_of(record)
        except ValueError as error:
            raise PublishRejectedError(str(error), self._id_of(record)) from error
        if len(payload) > (self._limit if block is None else self._most - len(block)):
            text = f"{len(payload)} bytes are too many: the server takes {self._most}, headers included"
            raise PublishRejectedError(text, self._id_of(record))
        return block

    def _block_of(self, record: Record) -> bytes | None:
        """The header block of a record that has more than its minted id; ValueError."""
        key, headers, given = record[3:6]
        if key is None and not headers and given is None:
            return None
        return wire.header_block(self._id_of(record), key, headers)

    def _let_out(self, record: Record) -> bool:
        """Whether a checked record may go out now; its topic is noted as open then."""
        if len(self._open) >= MAX_KNOWN_TOPICS:
            self._open = set()
        self._open.add(record[1])
        return True

    def _id_of(self, record: Record) -> str:
        given = record[5]
        return f"{self._answers.origin}-{record[0]:012d}" if given is None else given

    def _absorb(self) -> None:
        """Move what was accepted into a chunk that is counted. Under the lock."""
        records = self._out[:]
        if records:
            del self._out[: len(records)]
            self._enqueue(records)

    def _enqueue(self, records: list[Record]) -> None:
        size = sum(map(len, map(_payload_of, records)))
        self._bytes += size
        self._queue.append(Chunk(records, size))
        each = size // len(records) + self._encoder.overhead
        self._full = max(1, min(CHUNK // each, _LONGEST_CHUNK))

    def _next_chunk(self) -> Chunk | None:
        """The next chunk, counted as unanswered. Under the lock."""
        if not self._retired:  # else it belongs to its publisher, who takes it back, or to `abandon`
            self._absorb()
        return self._queue.popleft() if self._queue else None

    def _frames(self, records: list[Record], end: bytes) -> bytes:
        if self._blocks or (self._keyed and list(map(_key_of, records)).count(None) < len(records)):
            parts = self._encoder.encode_mixed(records, self._blocks)
        else:
            parts = self._encoder.encode(records)
        parts[0] = parts[0][2:]
        parts.append(end)
        return b"".join(parts)
