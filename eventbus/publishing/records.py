"""What is being published, who waits for its answer, and who may still take it back."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from math import inf
from operator import itemgetter
from typing import NamedTuple, Protocol

from ..errors import EventBusError, PublishError
from ..fields import Headers, RawHeaders
from ..message import Receipt
from ..threads import taken

Given = tuple[str, object, str | bytes | None, Headers | None, str | None, int | None, datetime | None]
"""What a caller has passed, unchecked: topic, payload, key, headers, id, partition, timestamp."""
Result = Receipt | PublishError
Outcome = Result | EventBusError
"""In a forked child that is another error."""


class Waiter(Protocol):
    """Who waits for the answer to a record, or to several, which are told apart by their numbers.

    Before a record is first given to a client the sender takes the claim on it; whoever wants it
    back takes the claim instead. The first one wins, in one step: so a record is either certainly never
    sent, or not withdrawn.
    """

    def answer(self, result: Result, number: int) -> None:
        """Take the result. Called at most once for a record, on a thread of ours; never blocks."""

    def confirmed(self, confirmations: Sequence[Confirmation], receipt_of: MakeReceipt) -> None:
        """The answers to records that are stored: their receipts are `receipt_of` each. As `answer`."""

    def forked(self, error: EventBusError) -> None:
        """In a forked child nobody answers: whoever has no result gets this one. Takes no lock, runs no callback."""

    def claim(self, number: int) -> bool:
        """Take the claim; False when somebody has it."""

    def give_back(self, number: int) -> None:
        """The sender's claim came to nothing: no client took the record."""


class Extras(NamedTuple):
    """What most messages do not have.

    key: str where it is plain text, else bytes. id: None stands for the one that is minted from the number.
    place: a partition (-1 for any) and a timestamp in milliseconds (0 for now), where the user has named one of them.
    """

    key: str | bytes | None = None
    headers: RawHeaders | None = None
    id: str | None = None
    place: tuple[int, int] | None = None


NO_EXTRAS = Extras()


class Record(NamedTuple):
    """An accepted publish. Plain tuples of this shape are as good: read them by the accessors below, or unpack them.

    number: unique in the bus, and counts up for each thread that publishes. One that is drawn and not used is no
    loss: what is in flight is counted by its records. payload: `TOMBSTONE` is told from b"" by identity.
    extras: None when there are none.
    waiter: None for `publish_nowait`, whose records are plain tuples: of those the garbage collector lets go, and
    with its walks through what is unanswered a message would take twice the time.
    """

    number: int
    topic: str
    payload: bytes
    extras: Extras | None = None
    waiter: Waiter | None = None


Confirmation = tuple[Record, "int | str", "int | None", bool]
"""A stored record, the partition and offset it has (None: not known), and whether the broker had it already."""
MakeReceipt = Callable[[Confirmation], Receipt]

number_of = itemgetter(0)
topic_of = itemgetter(1)
payload_of = itemgetter(2)
extras_of = itemgetter(3)
waiter_of = itemgetter(4)


def key_of(record: Record) -> str | bytes | None:
    """The record's key."""
    return (extras_of(record) or NO_EXTRAS).key


def given_id_of(record: Record) -> str | None:
    """The id that the user gave; None: it is minted from the number."""
    return (extras_of(record) or NO_EXTRAS).id


class Batch(list[Record]):
    """Records in order, with what every layer asks of them looked at once. Not to be changed.

    numbers: in the order of the records. topics, sizes: those that occur; sizes are the payloads', in bytes.
    """

    __slots__ = ("numbers", "sizes", "topics")

    def __init__(self, records: Iterable[Record]) -> None:
        super().__init__(records)
        self.numbers: list[int] = list(map(number_of, self))
        self.topics = set(map(topic_of, self))
        self.sizes = set(map(len, map(payload_of, self)))

    @staticmethod
    def of(records: Iterable[Record]) -> Batch:
        """These records as a batch."""
        return records if isinstance(records, Batch) else Batch(records)

    @property
    def bytes(self) -> int:
        """The payload bytes of all of them."""
        if len(self.sizes) == 1:
            return len(self) * next(iter(self.sizes))
        return sum(map(len, map(payload_of, self)))


class Claim(ABC):
    """Who waits for one record, and the claim on it; `list.pop` is what only one thread can win."""

    __slots__ = ("_free", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._free = [True]

    def claim(self, number: int = 0) -> bool:
        """Take the claim; False when somebody has it."""
        try:
            return self._free.pop()
        except IndexError:
            return False

    def give_back(self, number: int = 0) -> None:
        """Whoever has the claim does without."""
        self._free.append(True)

    @abstractmethod
    def answer(self, result: Result, number: int = 0) -> None:
        """See `Waiter`."""

    def confirmed(self, confirmations: Sequence[Confirmation], receipt_of: MakeReceipt) -> None:
        """See `Waiter`."""
        self.answer(receipt_of(confirmations[0]))


class SyncWaiter(Claim):
    """Lets one thread wait on a plain lock: 0.10 ms a round trip where a Future takes 0.16 ms."""

    __slots__ = ("_lock", "result")

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._lock = threading.Lock()
        self._lock.acquire()
        self.result: Outcome | None = None

    def answer(self, result: Result, number: int = 0) -> None:
        """Note the result and let the waiting thread go on."""
        self.result = result
        self._lock.release()

    def forked(self, error: EventBusError) -> None:
        """Let the waiting thread, which may be the one that forked, go on."""
        if self.result is None:
            self.result = error
        with suppress(RuntimeError):  # it goes on already
            self._lock.release()

    def wait(self, timeout: float) -> Outcome | None:
        """The result, or None when `timeout` seconds have passed."""
        taken(self._lock, timeout)
        return self.result


class CallWaiter(Claim):
    """Calls a function of ours with the answer, on a thread of ours; it never blocks."""

    __slots__ = ("_call",)

    def __init__(self, number: int, call: Callable[[Result], object]) -> None:
        super().__init__(number)
        self._call = call

    def answer(self, result: Result, number: int = 0) -> None:
        """Hand it on."""
        self._call(result)

    def forked(self, error: EventBusError) -> None:
        """The parent still waits."""


class BatchWaiter:
    """Collects the answers to all records of one `publish_many`; takes no lock to do it.

    One for all of them, which keeps what comes as it comes: a waiter and a receipt for each record, made where the
    answers are served, took half of the time of a message.
    """

    def __init__(self) -> None:
        self.fork: EventBusError | None = None
        """Why there are no more answers, in a forked child."""
        self._answers: dict[int, Result] = {}
        self._confirmations: list[Confirmation] = []
        self._unclaimed: dict[int, bool] = {}
        self._expected: float = inf
        self._done = threading.Lock()
        self._done.acquire()

    def expect(self, number: int) -> None:
        """A record with this number is about to be accepted."""
        self._unclaimed[number] = True

    def claim(self, number: int) -> bool:
        """Take the claim on a record; False when somebody has it."""
        return self._unclaimed.pop(number, False)

    def give_back(self, number: int) -> None:
        """Whoever has the claim on a record does without."""
        self._unclaimed[number] = True

    def answer(self, result: Result, number: int) -> None:
        """Note the result of a record; the last one of all ends the wait."""
        self._answers[number] = result
        self._look()

    def confirmed(self, confirmations: Sequence[Confirmation], receipt_of: MakeReceipt) -> None:
        """Note that records are stored: their receipts are made when somebody asks for them."""
        self._confirmations += confirmations
        self._look()

    def forked(self, error: EventBusError) -> None:
        """Let the waiting thread go on: the others' results are never coming here."""
        self.fork = error
        self._release()

    def wait(self, count: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds for so many answers; False when some are missing."""
        self._expected = count
        self._look()
        return taken(self._done, timeout)

    def results(self, receipt_of: MakeReceipt) -> dict[int, Result]:
        """What became of the records, by their numbers; those without an answer are left out."""
        confirmed: dict[int, Result] = {number_of(one[0]): receipt_of(one) for one in self._confirmations.copy()}
        return self._answers | confirmed

    def _look(self) -> None:
        if len(self._answers) + len(self._confirmations) >= self._expected:
            self._release()

    def _release(self) -> None:
        with suppress(RuntimeError):  # it goes on already
            self._done.release()
