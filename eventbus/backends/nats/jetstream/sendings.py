"""What became of the sendings of records that were not stored by the first one."""

from __future__ import annotations

import time

from ....publishing.port import Answers
from ....publishing.records import Record, number_of
from .stream_queue import StreamQueue

DOUBTED = 10.0
"""Seconds for which a refusal that we do not know is taken for one that passes."""


class Sendings:
    """Knows of each record whether it may be stored. Not locked: its owner does that."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._unsure: dict[int, tuple[Record, float]] = {}
        """Records some sending of which has no answer, and when they were sent first."""
        self._returned: set[int] = set()
        """Records each of whose sendings was refused, and that wait."""
        self._doubted: dict[int, float] = {}
        """When records got a refusal first that we do not know."""

    def __bool__(self) -> bool:
        return bool(self._unsure or self._returned or self._doubted)

    @property
    def oldest(self) -> float | None:
        """When the oldest of those was sent first that have no answer (`time.monotonic`)."""
        return min((sent for _, sent in self._unsure.values()), default=None)

    def unsure(self, number: int) -> Record | None:
        """The record, if some sending of it has no answer: it may be stored."""
        entry = self._unsure.get(number)
        return None if entry is None else entry[0]

    def unanswered(self, record: Record, sent: float) -> None:
        """It is taken off the wire, without an answer to what was sent at that moment."""
        self._unsure.setdefault(number_of(record), (record, sent))

    def refused(self, record: Record, cause: str) -> None:
        """It was refused for now, and waits: where nothing else is open, whoever waits for it may take it back.

        Once: given back twice it could be taken back and sent all the same.
        """
        number = number_of(record)
        if number not in self._unsure and number not in self._returned:
            self._returned.add(number)
            self._answers.returned(record, cause)

    def all_refused(self, queue: StreamQueue, cause: str) -> None:
        """What waits for a stream was never sent: none is to be had for now."""
        for record in queue.held.values():
            self.refused(record, cause)

    def is_sure(self, number: int) -> bool:
        """Whether a refusal that we do not know has lasted for so long that it is for good."""
        now = time.monotonic()
        return now - self._doubted.setdefault(number, now) >= DOUBTED

    def again(self, record: Record) -> bool:
        """It is about to be sent again; False: it was taken back."""
        if number_of(record) not in self._returned:
            return True
        self._returned.discard(number_of(record))
        return self._answers.given(record)

    def forget(self, number: int) -> None:
        """It is answered, or is not to be sent."""
        self._unsure.pop(number, None)
        self._returned.discard(number)
        self._doubted.pop(number, None)
