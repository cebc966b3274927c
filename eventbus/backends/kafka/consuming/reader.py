"""What one subscription reads through a consumer: its partitions, and what waits until its lanes have room."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import OFFSET_END, Message

from ....consuming.attachment import Attachment
from ....consuming.subscriptions import PartitionStatus
from ..names import TopicPartition
from .batches import size_of
from .in_hand import batch_lease, in_hand_of
from .intake import Intake
from .partition_state import PartitionState
from .requests import Request

RUN_AHEAD = 10_000
"""Messages of a partition that are handed out from the oldest that is not done on, about: what is done behind that one
is not committed, and would be done again after a crash."""


class Reserve:
    """What was fetched of one partition and waits. size: bytes. count: messages. since: by `time.monotonic`."""

    __slots__ = ("count", "since", "size", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Sequence[Message], int]] = deque()
        self.size = self.count = 0
        self.since = time.monotonic()

    def put(self, messages: Sequence[Message]) -> None:
        """Keep these behind the others."""
        size = size_of(messages)
        self.waiting.append((messages, size))
        self.count += len(messages)
        self.size += size

    def take(self) -> Sequence[Message]:
        """The first of them."""
        messages, size = self.waiting.popleft()
        self.count -= len(messages)
        self.size -= size
        return messages


class Reader:
    """What reads for one attachment, on one consumer thread, which makes and ends it. `pump` is for any thread.

    topics: what it reads, with their partitions where these matter. wake(): there is something for the thread to do.
    states: of the partitions that the consumer has for it; changed by its thread under `lock`, which guards them.
    unresolved: partitions of which it is not known where "now" is: nothing is read of them until it is.
    """

    def __init__(
        self, attachment: Attachment, topics: Mapping[str, Sequence[int]], wake: Callable[[], object] = lambda: None
    ) -> None:
        self.attachment = attachment
        self._wake = wake
        self.topics = topics
        self.in_hand = in_hand_of(attachment)
        self.lock = self.in_hand.lock
        self.states: dict[TopicPartition, PartitionState] = {}
        self.unresolved: set[TopicPartition] = set()
        self.request = Request.FETCH
        self._intake = Intake(self.states, self.in_hand)
        self._reserves: dict[TopicPartition, Reserve] = {}
        self._full = False
        self._troubles: dict[str, Exception] = {}
        self._troubles_lock = threading.Lock()

    # -- any thread ------------------------------------------------------------------------------

    def ask(self, request: Request) -> None:
        """Have it do this; what asks for less than before is ignored."""
        with self.lock:
            self.request = max(self.request, request)
            self.in_hand.ending |= request is Request.ACKNOWLEDGE or request is Request.LEAVE

    def told(self, kind: str, error: Exception | None) -> None:
        """Something of a kind hinders it, which is told once, and shown; None: that is over. Of several the latest."""
        with self._troubles_lock:
            before = self._troubles.get(kind)
            if before is error or (before is not None and str(before) == str(error)):
                return
            self._troubles.pop(kind, None)
            if error is not None:
                self._troubles[kind] = error
            latest = next(reversed(self._troubles.values()), None)
        self.attachment.hindered(error or latest, is_news=error is not None)

    def show_again(self) -> None:
        """Show what hinders it, which was told: its new state has taken that away."""
        with self._troubles_lock:
            latest = next(reversed(self._troubles.values()), None)
        if latest is not None:
            self.attachment.hindered(latest, is_news=False)

    @property
    def is_troubled(self) -> bool:
        """Whether something hinders it."""
        return bool(self._troubles)

    def resume(self) -> None:
        """The lanes have room."""
        with self.lock:
            self._full = False
            self._pump()
            full = self._full
        self.in_hand.later.tell()
        if not full:
            self._wake()

    def pump(self) -> None:
        """Hand on what waits, as far as the lanes and the oldest unfinished message let it."""
        with self.lock:
            self._pump()
        self.in_hand.later.tell()

    def reserve(self, where: TopicPartition) -> Reserve | None:
        """What waits of a partition; None if nothing does."""
        return self._reserves.get(where)

    @property
    def has_reserve(self) -> bool:
        """Whether something of any partition waits."""
        return bool(self._reserves)

    @property
    def is_full(self) -> bool:
        """Whether the lanes take no more."""
        return self._full

    @property
    def fetches(self) -> bool:
        """Whether it wants more."""
        return self.request is Request.FETCH

    @property
    def is_done(self) -> bool:
        """Whether it is to leave, and may."""
        return self.request is Request.LEAVE and not self.is_busy

    @property
    def is_busy(self) -> bool:
        """Whether something is with the lanes."""
        with self.lock:
            return any(state.busy for state in self.states.values())

    def note_end(self, where: TopicPartition, end: int, low: int = -1) -> None:
        """A partition ended there a moment ago: it only grows, and who asked first may be answered last."""
        with self.lock:
            state = self.states.get(where)
            if state is not None:
                state.end, state.low = max(state.end, end), max(state.low, low)

    @property
    def lag(self) -> int | None:
        """How many offsets lie behind what is done in its partitions; None where that is not known of all."""
        lags = [state.lag for state in list(self.states.values())]
        known = [lag for lag in lags if lag is not None]
        return sum(known) if known and len(known) == len(lags) else None

    @property
    def partitions(self) -> tuple[PartitionStatus, ...]:
        """How those stand that the consumer has for it."""
        return tuple(state.status for _, state in sorted(self.states.copy().items()))

    # -- the consumer's thread -------------------------------------------------------------------

    def begin(self, where: TopicPartition, owner: object, offset: int | None) -> PartitionState:
        """The consumer has a partition for it now, and begins there at an offset, where that is known."""
        with self.lock:
            self._reserves.pop(where, None)
            state = self.states[where] = self.in_hand.state_of(where)
            state.assign(owner)
            (self.unresolved.add if offset == OFFSET_END else self.unresolved.discard)(where)
            if offset is not None and offset >= 0:
                state.begin(offset)
            return state

    def is_committed(self, where: TopicPartition, offset: int) -> bool:
        """Whether the broker has this as the group's position; then it is not committed again."""
        with self.lock:
            state = self.states[where]
            if state.acked == offset:
                state.requested = offset
            return state.acked == offset

    def resolve(self, where: TopicPartition, offset: int) -> bool:
        """Note where "now" is in a partition; whether it is still to be read."""
        with self.lock:
            if self.in_hand.begins is not None:
                self.in_hand.begins[where] = offset
            if where not in self.unresolved:
                return False
            self.unresolved.discard(where)
            return where in self.states

    def begin_anew(self, topic: str) -> list[PartitionState]:
        """A topic was made anew: what is read of it begins at its start. The states of the partitions at hand."""
        with self.lock:
            self.in_hand.forget(topic)
            ours = [where for where in self.states if where[0] == topic]
            for where in ours:
                self._reserves.pop(where, None)
                owner = self.states[where].owner
                state = self.states[where] = self.in_hand.state_of(where)
                state.assign(owner)
                state.begin(0)
            return [self.states[where] for where in ours]

    def lose(self, where: TopicPartition, owner: object) -> PartitionState | None:
        """The consumer has a partition no more."""
        with self.lock:
            state = self.states.get(where)
            if state is None or state.owner is not owner:
                return None
            self._reserves.pop(where, None)
            del self.states[where]
            self.unresolved.discard(where)
            state.lose()
            return state

    def go_back(self, state: PartitionState) -> int:
        """Where to fetch from to get all that is not done."""
        with self.lock:
            self._reserves.pop(state.where, None)
            return state.go_back()

    def take(self, where: TopicPartition, messages: Sequence[Message]) -> bool:
        """Hand messages of a partition to the lanes, or have them wait; False: they wait."""
        with self.lock:
            taken = self._take(where, messages)
        self.in_hand.later.tell()
        return taken

    def _take(self, where: TopicPartition, messages: Sequence[Message]) -> bool:
        reserve = self._reserves.get(where)
        if reserve is None and self._may_hand_over(where):
            self._hand_over(where, messages)
            return True
        if where in self.states and self.request is Request.FETCH:
            if reserve is None:
                reserve = self._reserves[where] = Reserve()
            reserve.put(messages)
        return False

    def _pump(self) -> None:
        waiting = list(self._reserves)
        while waiting:
            waiting = [where for where in waiting if self._pump_one(where)]

    def _pump_one(self, where: TopicPartition) -> bool:
        """Hand one batch over; whether there may be more."""
        reserve = self._reserves[where]
        if reserve.waiting and not self._may_hand_over(where):
            return False
        if reserve.waiting:
            self._hand_over(where, reserve.take())
        if not reserve.waiting:
            self._reserves.pop(where, None)
        return bool(reserve.waiting)

    def _may_hand_over(self, where: TopicPartition) -> bool:
        state = self.states.get(where)
        return (
            not self._full
            and state is not None
            and state.ahead < RUN_AHEAD
            and not state.rewind
            and self.request is Request.FETCH
        )

    def _hand_over(self, where: TopicPartition, messages: Sequence[Message]) -> None:
        # Under the lock until the lanes have it: what one of them gives back is behind this, or this behind it.
        for batch in self._intake.take(where, messages):
            self._full = True  # before: a resume that comes while the lanes take the batch is not lost
            if self.attachment.deliver(batch, batch_lease(batch)):
                self._full = False
