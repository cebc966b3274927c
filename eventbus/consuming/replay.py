"""Publishing dead letters again where they came from: pipelined, counted once the broker has answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, frozen

from ..copies import Copy
from ..errors import (
    ClosedError,
    NotConnectedError,
    PublishNotSentError,
    PublishRejectedError,
    ReadError,
    ReplayError,
)
from ..message import Message, Receipt
from ..reports import ReplayReport
from ..threads import Bell, Deadline
from .dead_letters import REPLAYS, TOPIC, replays_of, without_reasons

IN_FLIGHT = 1000
"""Copies that wait for their answers, at most."""
IN_FLIGHT_BYTES = 8 * 1024 * 1024
"""Of their payloads, and of one more."""
MOST_CAUSES = 100
"""Refusals that a report holds; all are counted."""
PROGRESS = 100
"""Messages between two reports of progress."""
LAST_ANSWERS = 1.0
"""Seconds that an interrupt or an exception of the filter's waits for the answers to what is on its way."""
NO_ROOM = 0.05
"""Seconds before a copy is offered again to a bus that has no room for it."""

Progress = Callable[[ReplayReport], object]
Place = tuple["int | str", int]
"""Partition and offset of a dead letter."""


TakeBack = Callable[[], bool]
"""Take a copy back; True: it is certainly never sent. False: a client has it, or has had it."""
Copier = Callable[[Copy, Callable[[Any], object]], TakeBack]
"""`publish(copy, answered)` hands the receipt or the PublishError to `answered`, on any thread; it never blocks."""


@frozen(kw_only=True)
class Wanted:
    """What is to be replayed. marks: in front of these offsets of their partitions nothing. limit: copies at most."""

    filter: Callable[[Message], object] | None
    marks: Mapping[int | str, int]
    limit: int | None


@define
class _Sent:
    """A copy without an answer. size: of its payload, in bytes. take_back: of one that was accepted."""

    size: int
    take_back: TakeBack = bool


class Replay:
    """One replay, run by one thread. patience: seconds without any answer after which it ends."""

    def __init__(self, publish: Copier, wanted: Wanted, patience: float, progress: Progress | None) -> None:
        self._publish = publish
        self._wanted = wanted
        self._patience = patience
        self._progress = progress
        self._bell = Bell()
        self._answers: deque[tuple[Place, object]] = deque()
        self._waiting: dict[Place, _Sent] = {}
        self._bytes = 0
        self._unknown: set[Place] = set()
        self._unsent: set[Place] = set()
        """Of copies that are certainly not stored, and are to be published the next time."""
        self._next: dict[int | str, int] = dict(wanted.marks)
        self._copies = self._replayed = self._duplicates = self._skipped = self._foreign = self._failed = 0
        self._causes: list[Exception] = []
        self._trouble: Exception | None = None

    def run(self, messages: Iterable[Message]) -> ReplayReport:
        """Replay to the end; ReplayError, with the report so far. Progress is told at the end whatever happens."""
        try:
            for seen, message in enumerate(messages, 1):
                self._take(message)
                if self._trouble is not None or self._is_enough:
                    break
                if seen % PROGRESS == 0:
                    self._tell()
            self._wait_until(lambda: not self._waiting)
        except (ClosedError, NotConnectedError, PublishNotSentError, ReadError) as error:
            self._trouble = self._trouble or error
        except BaseException:  # the caller's: what is on its way is stored, and else would be replayed once more
            self._bell.wait_for(self._is_answered, Deadline(min(LAST_ANSWERS, self._patience)))
            raise
        finally:
            self._take_back()
            self._settle()
            self._tell()
        if self._trouble is not None:
            report = self.report()
            raise ReplayError(
                f"ended after {report.replayed} replayed dead letters: {self._trouble}", report
            ) from self._trouble
        return self.report()

    def report(self) -> ReplayReport:
        """What is done so far."""
        following = dict(self._next)
        for partition, offset in (*self._waiting, *self._unknown, *self._unsent):
            following[partition] = min(following[partition], offset)
        return ReplayReport(
            replayed=self._replayed,
            duplicates=self._duplicates,
            skipped=self._skipped,
            foreign=self._foreign,
            failed=self._failed,
            causes=tuple(self._causes),
            unanswered=len(self._waiting) + len(self._unknown),
            next=following,
        )

    @property
    def _is_enough(self) -> bool:
        return self._wanted.limit is not None and self._copies >= self._wanted.limit

    def _take(self, message: Message) -> None:
        self._settle()
        partition, offset = message.partition or 0, message.offset or 0
        if offset < self._wanted.marks.get(partition, 0):
            return
        self._wait_until(lambda: len(self._waiting) < IN_FLIGHT and self._bytes < IN_FLIGHT_BYTES)
        if self._trouble is not None:
            return
        if TOPIC not in message.headers or not message.id:
            self._foreign += 1
        elif self._wanted.filter is not None and not self._wanted.filter(message):
            self._skipped += 1
        else:
            self._copies += 1
            self._copy(message, (partition, offset))
        self._next[partition] = max(offset + 1, self._next.get(partition, 0))

    def _copy(self, message: Message, place: Place) -> None:
        number = replays_of(message) + 1
        headers = (*without_reasons(message), (REPLAYS, str(number).encode()))
        id = message.id or ""
        copy = Copy(message.headers[TOPIC], message.payload, message.raw_key, headers, id, f"{id}/replay/{number}")
        deadline = Deadline(self._patience)
        self._next.setdefault(place[0], place[1])
        sent = self._waiting[place] = _Sent(len(message.payload))
        self._bytes += sent.size
        while True:
            try:
                sent.take_back = self._publish(copy, lambda result: self._answered(place, result))
                return
            except PublishRejectedError as error:
                self._answers.append((place, error))
                return
            except PublishNotSentError:  # no room now
                if deadline.over:
                    self._bytes -= self._waiting.pop(place).size
                    raise
                self._bell.wait_for(lambda: self._answers, Deadline(min(NO_ROOM, deadline.remaining())))
                self._settle()

    def _answered(self, place: Place, result: object) -> None:
        self._answers.append((place, result))
        self._bell.ring()

    def _settle(self) -> None:
        """Count the answers that have come."""
        while self._answers:
            place, result = self._answers.popleft()
            sent = self._waiting.pop(place, None)
            self._bytes -= 0 if sent is None else sent.size
            if isinstance(result, Receipt):
                self._replayed += 1
                self._duplicates += result.duplicate
            elif isinstance(result, PublishRejectedError):
                self._failed += 1
                if len(self._causes) < MOST_CAUSES:
                    self._causes.append(result)
            elif isinstance(result, Exception):
                (self._unsent if isinstance(result, PublishNotSentError) else self._unknown).add(place)
                self._trouble = self._trouble or result

    def _take_back(self) -> None:
        """It ends early: what was accepted and waits for a client must not be sent when nobody counts it any more."""
        for place, sent in list(self._waiting.items()):
            if sent.take_back():
                self._unsent.add(place)
                del self._waiting[place]

    def _is_answered(self) -> bool:
        self._settle()
        return not self._waiting

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for answers until it holds; NotConnectedError when none comes for too long."""
        while not condition():
            if not self._bell.wait_for(lambda: self._answers, Deadline(self._patience)):
                raise NotConnectedError(f"{len(self._waiting)} copies have no answer within {self._patience:g} s")
            self._settle()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.report())
