"""A part of a stored topic that is read once more: what is asked for, what is left of it, and what a user gets."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Protocol

from attrs import define, frozen

from ..errors import ReadError
from ..message import Delivery, Message
from ..names import NameRules
from ..threads import Bell, Deadline, StopToken, join_all

AHEAD = 1024
"""Messages that are read in front of whoever iterates, about."""
AHEAD_BYTES = 4 * 1024 * 1024
"""Bytes of their payloads, and of one more batch."""
_LOOK = 1.0
"""Seconds between two looks whether the bus is still open."""
_GOODBYE = 2.0
"""Seconds that `Excerpt.close` waits for what it holds on the broker."""
_FIRST = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = datetime(2262, 1, 1, tzinfo=timezone.utc)
"""nats-server counts nanoseconds in 63 bits, which end in that year."""


@frozen(kw_only=True)
class Span:
    """What a user passed to `read`, checked. An int is an offset; until: exclusive, None for all that there is."""

    topic: str
    start: int | datetime | None
    """None: the earliest."""
    until: int | datetime | None
    limit: int | None
    partition: int | None


def checked_span(
    names: NameRules, topic: object, start: object, until: object, limit: object, partition: object
) -> Span:
    """Judge what needs no backend; ReadError says what is wrong."""
    try:
        return Span(
            topic=names.topic(topic),
            start=None if start == "earliest" else _place(start, "start", "'earliest', "),
            until=None if until is None else _place(until, "until", "None, "),
            limit=None if limit is None else _count(limit, "limit"),
            partition=None if partition is None else _count(partition, "partition"),
        )
    except ValueError as error:
        raise ReadError(str(error)) from error


def _place(value: object, name: str, others: str) -> int | datetime:
    if isinstance(value, datetime):
        return aware(value, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be {others}an offset >= 0 or an aware datetime, not {value!r}")
    return int(value)


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be an int >= 0 or None, not {value!r}")
    return int(value)


def aware(value: datetime, name: str) -> datetime:
    """A moment in UTC that every broker takes: one before 1970 or behind 2262 is there already.

    Nothing is stored before or behind, and to brokers such times mean other things: a Kafka time of -1 is the end.
    ValueError for a datetime without a time zone: it would mean another moment on each machine.
    """
    if value.utcoffset() is None:
        raise ValueError(
            f"{name} is {value!r}, a datetime without a time zone: pass an aware one, datetime.now(timezone.utc) say"
        )
    return _FIRST if value < _FIRST else _LAST if value > _LAST else value.astimezone(timezone.utc)


@define(eq=False)
class Stretch:
    """What is left to read of one slice: offsets from `begin` to in front of `end`.

    since, before: of these, in a stream that finds places by time itself, what was stored then.
    """

    begin: int
    end: int
    since: datetime | None = None
    before: datetime | None = None


class Stretches:
    """What is left to read of a topic, by slice: a partition, a stream. It outlives sessions; for one thread.

    identity: tells the topic from another one of that name, which holds nothing of this; None where nobody says it.
    """

    def __init__(self, found: Mapping[Hashable, Stretch], identity: str | None = None) -> None:
        self.identity = identity
        self.left = {key: one for key, one in found.items() if one.begin < one.end}

    def __bool__(self) -> bool:
        return bool(self.left)

    def admit(self, key: Hashable, offset: int) -> bool:
        """Whether a message belongs to what is left, which it then does no more. One behind the end ends its slice."""
        stretch = self.left.get(key)
        if stretch is None or offset < stretch.begin:
            return False
        belongs = offset < stretch.end
        if belongs:
            stretch.begin = offset + 1
        if not belongs or stretch.begin >= stretch.end:
            del self.left[key]
        return belongs

    def finish(self, key: Hashable) -> None:
        """There is nothing left of this slice."""
        self.left.pop(key, None)


class Reading(Protocol):
    """What reads stretches through one session. Used and closed by one thread. trouble: what hinders it now."""

    @property
    def trouble(self) -> object:
        """What hinders it now, for people; None: nothing that is known."""

    def next(self, timeout: float) -> Sequence[Delivery]:
        """The next messages of what is left, each slice in order; none after about `timeout` seconds.

        ReadError: they cannot be read, ever. NotConnectedError: not through this one.
        """

    def close(self) -> None:
        """Let go of all that it holds on the broker; bounded, silent about a dead peer."""


class Channel:
    """From the thread that reads to the one that iterates, bounded. stop: ends both."""

    def __init__(self, stop: StopToken) -> None:
        self.stop = stop
        self._batches: deque[tuple[Sequence[Message], int]] = deque()
        """Each with the bytes of its payloads."""
        self._bell = Bell()
        self._error: Exception | None = None
        self._over = False

    def put(self, batch: Sequence[Message]) -> None:
        """Hand on a batch; waits while enough is there. Stopped."""
        with self.stop.interrupts(self._bell.ring):
            self._bell.wait_for(lambda: self._has_room() or self.stop.is_set(), Deadline(None))
        self.stop.check()
        self._batches.append((batch, sum(len(message.payload) for message in batch)))
        self._bell.ring()

    def _has_room(self) -> bool:
        waiting = list(self._batches)
        return sum(len(batch) for batch, _ in waiting) < AHEAD and sum(size for _, size in waiting) < AHEAD_BYTES

    def end(self, error: Exception | None = None) -> None:
        """There is no more, or nothing more can be had."""
        self._error = error
        self._over = True
        self._bell.ring()

    def drop(self, batch: Sequence[Message]) -> None:
        """This one waits no more, if it is the first."""
        if self._batches and self._batches[0][0] is batch:
            self._batches.popleft()
            self._bell.ring()

    def first(self, check: Callable[[], object]) -> Sequence[Message] | None:
        """The next batch, which stays there; None behind the last. Raises what reading failed with.

        check(): raises if it is too late.
        """
        while True:
            check()
            over = self._over or self.stop.is_set()  # before the look: what was put in front of the end is there
            if self._batches:
                return self._batches[0][0]
            if over:
                if self._error is not None:
                    raise self._error
                return None
            with self.stop.interrupts(self._bell.ring):
                self._bell.wait_for(lambda: self._batches or self._over or self.stop.is_set(), Deadline(_LOOK))


class Excerpt(Iterator[Message]):
    """Messages of the past, as `EventBus.read` returns them: an iterator, for one thread at a time.

    Each message is to be had once; there is nothing to acknowledge. What it holds on the broker is let go at its end,
    by `close()`, at the end of a `with` block, or when nobody refers to it any more: after a `break`, say.
    """

    def __init__(self, channel: Channel, check: Callable[[], object], thread: threading.Thread | None) -> None:
        self._channel = channel
        self._check = check
        self._thread = thread
        self._now: tuple[Sequence[Message], Iterator[Message]] = (), iter(())
        """The batch that is handed out, and what is left of it: one value, for an exception may come at any step."""
        self._closed = False

    def __iter__(self) -> Excerpt:
        return self

    def __next__(self) -> Message:
        for message in self._now[1]:
            return message
        self._channel.drop(self._now[0])  # else it would come again, where an exception came before it was dropped
        batch = None if self._closed else self._channel.first(self._check)
        if batch is None:
            raise StopIteration
        self._now = batch, iter(batch)
        self._channel.drop(batch)
        return next(self._now[1])

    def close(self) -> None:
        """End early; idempotent, any thread. What it holds on the broker is let go when this returns, or soon after."""
        self._closed = True
        self._now = (), iter(())
        self._channel.stop.set()
        if self._thread is not None:
            join_all([self._thread], _GOODBYE)

    def __enter__(self) -> Excerpt:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        channel: Channel | None = getattr(self, "_channel", None)
        if channel is not None:
            channel.stop.set()


def first_of(batch: Iterable[Delivery], most: int | None) -> list[Delivery]:
    """So many of them at most."""
    deliveries = list(batch)
    return deliveries if most is None else deliveries[:most]
