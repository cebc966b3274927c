"""Publishing on core NATS: a PONG says that the server has read everything before its PING."""

from __future__ import annotations

import time
from collections import deque

from ....errors import PublishRejectedError
from ....publishing.port import Answers
from ....publishing.records import Batch, Record, topic_of
from ..link import wire
from ..link.writer import Writer
from .encoding import CoreEncoder
from .publishing import NatsPublisher

_END = wire.CRLF + wire.PING


class CorePublisher(NatsPublisher):
    """The ledger is chunks of records in the order of the wire, each with a PING behind it."""

    def __init__(self, writer: Writer, answers: Answers, max_payload: int) -> None:
        self._sent: deque[tuple[Batch, float]] = deque()
        super().__init__(writer, answers, CoreEncoder(answers.origin), max_payload)

    def take(self) -> bytes:
        """The next chunk as frames, with a PING behind it; b"" when there is none."""
        if not self._queue:
            return b""
        chunk = self._queue.popleft()
        self._sent.append((chunk, time.monotonic()))
        self._writer.pongs.append(self._on_pong)
        return self._frames(chunk, _END)

    def refused(self, topic: str, text: str) -> bool:
        """The server refused the oldest message on its way with this topic; False: there is none. Reader thread."""
        with self._lock:
            record = self._remove_oldest(topic)
            retired = self._retired
        if record is not None and not retired:
            self._answers.failed(record, PublishRejectedError(text, self._id_of(record)))
        return record is not None

    def oldest(self) -> float | None:
        """When the oldest unanswered record was sent (`time.monotonic`), None without one."""
        with self._lock:
            return self._sent[0][1] if self._sent else None

    def _remove_oldest(self, topic: str) -> Record | None:
        for index, (chunk, sent) in enumerate(self._sent):
            for position, record in enumerate(chunk):
                if topic_of(record) == topic:
                    self._sent[index] = Batch([*chunk[:position], *chunk[position + 1 :]]), sent
                    return record
        return None

    def _on_pong(self) -> None:
        with self._lock:
            if not self._sent:
                return
            chunk, _ = self._sent.popleft()
            if self._blocks:
                for number in chunk.numbers:
                    self._blocks.pop(number, None)
        self._answers.sent(chunk)
