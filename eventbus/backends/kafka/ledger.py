"""What was given to one producer and is not answered, counted without a lock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Message

from ...publishing.tally import Tally

Report = Callable[[Any, "KafkaError | None", Message], None]
"""Called with a record and what its delivery report says."""


GIVEN_UP = 1.0
"""Seconds after which somebody who waits would have asked again."""


class Bucket:
    """Records that entered together: they are all answered once as many have left.

    A publisher enters before it looks whether the producer still takes records, and whoever ends the
    producer closes that door before looking here: so nobody can be inside unseen.
    """

    __slots__ = ("_bytes_left", "_entered", "_left", "answered", "enter", "leave")

    def __init__(self, finish: Report) -> None:
        self._entered = Tally()
        self._left = Tally()
        self.enter = self._entered.tick
        self.leave = leave = self._left.tick
        left = 0

        def answered(record: Any, error: KafkaError | None, message: Message) -> None:
            if error is None and record[6] is None:
                nonlocal left
                size = len(record[2])
                left += size  # the interpreter lets no other thread in between: it switches at calls and loops
                leave()
            else:
                finish(record, error, message)

        self.answered: Report = answered
        """The delivery callback, once bound to a record: that pair is the only note of a record in flight."""

        def bytes_left() -> int:
            return left

        self._bytes_left = bytes_left

    @property
    def left(self) -> int:
        """How many have left."""
        return self._left.value

    @property
    def bytes_left(self) -> int:
        """Payload bytes of the plain successes among those that have left."""
        return self._bytes_left()

    @property
    def inside(self) -> int:
        """How many have not left."""
        left = self._left.value  # first: one that enters in between is counted, one that leaves too
        return self._entered.value - left


class Ledger:
    """Two buckets, so that "everything until now" can be waited for while others go on publishing."""

    def __init__(self, finish: Callable[[Bucket, Any, KafkaError | None, Message], None]) -> None:
        self._buckets = [self._bucket(finish), self._bucket(finish)]
        self.current = self._buckets[0]
        self._turn = 0
        self._waiting: dict[int, tuple[int, float]] = {}
        """By number: the turn at which it was first asked for, and when it was asked for last."""

    @property
    def inside(self) -> int:
        """Records without an answer."""
        return self._buckets[0].inside + self._buckets[1].inside

    @property
    def left(self) -> int:
        """Records with an answer."""
        return self._buckets[0].left + self._buckets[1].left

    @property
    def bytes_left(self) -> int:
        """Payload bytes of the plain successes."""
        return self._buckets[0].bytes_left + self._buckets[1].bytes_left

    def inside_up_to(self, number: int) -> int:
        """At least one while records up to this number are unanswered; exact once it is 0.

        Called again and again with the same number: the first call says what has to leave. Not locked.
        """
        now = time.monotonic()
        needed, asked = self._waiting.get(number, (self._turn, now))
        if now - asked > GIVEN_UP:  # by somebody else, who is gone
            needed = self._turn
        self._waiting[number] = needed, now
        self._advance()
        if self._turn > needed + 1 or (self._turn > needed and not self._older.inside):
            self._waiting.pop(number, None)
            return 0
        return max(1, self.inside)

    @property
    def _older(self) -> Bucket:
        return self._buckets[(self._turn + 1) % 2]

    def _advance(self) -> None:
        """Let newcomers into the other bucket, once everyone has left that one."""
        if not self._older.inside and max(turn for turn, _ in self._waiting.values()) >= self._turn:
            self._turn += 1
            self.current = self._buckets[self._turn % 2]
            # Whoever gave up waiting does not come back for his note.
            self._waiting = {one: note for one, note in self._waiting.items() if note[0] + 1 >= self._turn}

    @staticmethod
    def _bucket(finish: Callable[[Bucket, Any, KafkaError | None, Message], None]) -> Bucket:
        def closing(record: Any, error: KafkaError | None, message: Message) -> None:
            finish(bucket, record, error, message)

        bucket = Bucket(closing)
        return bucket
