"""Accepting records in order: what core NATS and JetStream have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from ....copies import CopyId, stored_as
from ....errors import PublishRejectedError
from ....message import check_topic
from ....publishing.port import Answers
from ....publishing.records import (
    NO_EXTRAS,
    Batch,
    Record,
    extras_of,
    given_id_of,
    key_of,
    number_of,
    payload_of,
    topic_of,
)
from ..link import wire
from ..link.writer import Writer
from .encoding import CoreEncoder

MAX_KNOWN_TOPICS = 10_000
CHUNK = 1024 * 1024
"""Payload bytes that are written at a time, about."""
SMALL = 8 * 1024
"""Payload bytes of a message that goes the short way."""

_SHORT_KEY = 256
_KEY_ROOM = 4 * _SHORT_KEY + 32


class NatsPublisher(ABC):
    """A PublishingPort that makes frames and hands them to the writer, under the session's one lock.

    A topic is in `_open` when records for it may go out at once: checked, not held back.
    """

    def __init__(self, writer: Writer, answers: Answers, encoder: CoreEncoder, max_payload: int) -> None:
        self._writer = writer
        self._lock = writer.lock
        self._answers = answers
        self._encoder = encoder
        self._open: set[str] = set()
        self._queue: deque[Batch] = deque()
        self._blocks: dict[int, bytes] = {}
        self._keyed = False
        """Whether there ever was a key; never reset, so that no chunk with one is taken for one without."""
        self._retired = False
        self.limit_payload(max_payload)
        writer.attach(self)

    def limit_payload(self, most: int) -> None:
        """The server's `max_payload`, headers included."""
        self._most = most
        self._limit = most - self._encoder.overhead
        self._small = min(SMALL, self._limit - _KEY_ROOM)

    def publish(self, records: Sequence[Record]) -> int:
        """Send them, or have them sent as soon as the peer takes more; all are taken unless it is retired."""
        refused: list[tuple[Record, PublishRejectedError]] = []
        batch = Batch.of(records)
        with self._lock:
            if self._retired or self._writer.closed:
                return 0
            going = batch if self._are_plain(batch) else Batch(self._let_out_of(batch, refused))
            self._enqueue(going)
            self._writer.flush()
        for record, error in refused:
            self._answers.failed(record, error)
        return len(records)

    def retire(self, patience: float = 0.0) -> None:
        """Take and send nothing more."""
        with self._lock:
            self._retired = True
            self._open = set()
            self._queue.clear()

    @abstractmethod
    def take(self) -> bytes:
        """The next frames, for the writer."""

    @abstractmethod
    def refused(self, topic: str, text: str) -> bool:
        """The server refused a message that is on its way, with this topic; False: there is none. Reader thread."""

    @abstractmethod
    def oldest(self) -> float | None:
        """When the oldest unanswered record was sent (`time.monotonic`), None without one."""

    def _are_plain(self, batch: Batch) -> bool:
        """Whether none of these needs a look of its own; asked without a step of Python for each."""
        return max(batch.sizes) <= self._small and batch.topics <= self._open and not any(map(extras_of, batch))

    def _let_out_of(
        self, records: Sequence[Record], refused: list[tuple[Record, PublishRejectedError]]
    ) -> list[Record]:
        """Those that may go out now; what the server would never take is added to `refused`."""
        going = []
        for record in records:
            try:
                if self._is_plain(record) or self._is_let_out(record):
                    going.append(record)
            except PublishRejectedError as error:
                refused.append((record, error))
        return going

    def _is_plain(self, record: Record) -> bool:
        _, topic, payload, extras, _ = record
        key, headers, given, _ = extras or NO_EXTRAS
        return (
            topic in self._open
            and headers is None
            and given is None
            and len(payload) <= self._small
            and (key is None or self._is_simple(key))
        )

    def _is_simple(self, key: str | bytes) -> bool:
        """Whether a key goes the short way: it can neither break its line nor make the message too large."""
        self._keyed = True
        return isinstance(key, str) and len(key) <= _SHORT_KEY and key.isprintable()

    def _is_let_out(self, record: Record) -> bool:
        """Check a record with a new topic, a large payload, a key, headers or an id of its own; whether it goes now."""
        block = self._checked_block(record)
        if block is not None:
            self._blocks[number_of(record)] = block
        return topic_of(record) in self._open or self._let_out(record)

    def _enqueue(self, batch: Batch) -> None:
        """Queue records in chunks of a size that is good to write."""
        step = max(1, CHUNK // max(1, *batch.sizes, 1))
        if 0 < len(batch) <= step:
            self._queue.append(batch)
            return
        for start in range(0, len(batch), step):
            self._queue.append(Batch(batch[start : start + step]))

    def _checked_block(self, record: Record) -> bytes | None:
        """The header block of a record that needs one of its own; PublishRejectedError."""
        try:
            if topic_of(record) not in self._open:
                check_topic(topic_of(record))
            block = self._block_of(record)
        except ValueError as error:
            raise PublishRejectedError(str(error), self._id_of(record)) from error
        size = len(payload_of(record))
        if size > (self._limit if block is None else self._most - len(block)):
            text = f"{size} bytes are too many: the server takes {self._most}, headers included"
            raise PublishRejectedError(text, self._id_of(record))
        return block

    def _block_of(self, record: Record) -> bytes | None:
        """The header block of a record that has more than its minted id; ValueError."""
        key, headers, given, _ = extras_of(record) or NO_EXTRAS
        if key is None and not headers and given is None:
            return None
        copy_id = str(given) if isinstance(given, CopyId) else None
        stored = self._encoder.stored_id(stored_as(self._id_of(record)), topic_of(record))
        return wire.header_block(stored, key, headers, copy_id)

    def _let_out(self, record: Record) -> bool:
        """Whether a checked record may go out now; its topic is noted as open then."""
        if len(self._open) >= MAX_KNOWN_TOPICS:
            self._open = set()
        self._open.add(topic_of(record))
        return True

    def _id_of(self, record: Record) -> str:
        return given_id_of(record) or f"{self._answers.origin}-{number_of(record):012d}"

    def _frames(self, records: Batch, end: bytes) -> bytes:
        if self._blocks or (self._keyed and any(map(key_of, records))):
            parts = self._encoder.encode_mixed(records, self._blocks)
        else:
            parts = self._encoder.encode(records)
        parts[0] = parts[0][2:]
        parts.append(end)
        return b"".join(parts)
