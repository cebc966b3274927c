"""What is in hand of a subscription, by partition and offset: it outlives consumers and sessions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from confluent_kafka import OFFSET_END

from .... import log
from ....consuming.attachment import Attachment
from ....consuming.in_hand import Admitted
from ....consuming.lease import Lease
from ....message import Delivery
from ..names import TopicPartition
from .batches import KafkaBatch
from .partition_state import PartitionState

logger = log.get(__name__)

_LOG_SPAN = 1 << 48
"""More offsets than a partition will ever have: identities of two states never meet."""


class KafkaInHand:
    """What is in hand of one subscription, for as long as it lives; see `InHand`.

    Fetching sorts out what is in hand already, by its offset.

    states: the newest of each partition. begins: where a subscription that begins "now" does, None until that was
    asked; OFFSET_END of partitions that could not say it. since: when that was, by `time.time`. unasked: topics that
    were there then, and whose partitions could not be said. topic_ids: what tells each topic from another one of its
    name. previous: the thread of the last consumer, which may not have left the group yet. ending: nothing is fetched
    any more, so what the lanes give back is for others. touched: states of which something was finished or given back
    since that was last looked at. later: what is found out under the lock, and logged behind it.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.touched: set[PartitionState] = set()
        self.lock = threading.RLock()
        self.later = log.Later(logger)
        self.states: dict[TopicPartition, PartitionState] = {}
        self.begins: dict[TopicPartition, int] | None = None
        self.since = 0.0
        self.unasked: set[str] = set()
        self.topic_ids: dict[str, str] = {}
        self.previous: threading.Thread | None = None
        self.ending = False
        self._next_base = 0

    def state_of(self, where: TopicPartition) -> PartitionState:
        """The partition's state, a new one where its topic was made anew. Under the lock."""
        state, topic_id = self.states.get(where), self.topic_ids.get(where[0])
        if state is None or (None not in (state.topic_id, topic_id) and state.topic_id != topic_id):
            return self.new_state(where)
        state.topic_id = topic_id or state.topic_id
        return state

    def bind(self, topic: str, topic_id: str) -> bool:
        """Note which topic of that name there is; whether another one was there before."""
        with self.lock:
            before = self.topic_ids.get(topic)
            self.topic_ids[topic] = topic_id
        return before not in (None, topic_id)

    def take_touched(self) -> list[PartitionState]:
        """The states of which something was finished or given back since the last time."""
        if not self.touched:
            return []
        with self.lock:
            touched, self.touched = self.touched, set()
        return list(touched)

    def begins_at(self, where: TopicPartition, otherwise: int) -> int:
        """Where a subscription that begins "now" does in a partition; what was not there then is read from its start.

        Of what was there and could not be asked, the end is it. Under the lock.
        """
        if self.begins is not None and where in self.begins:
            return self.begins[where]
        return OFFSET_END if where[0] in self.unasked else otherwise

    def forget(self, topic: str) -> list[TopicPartition]:
        """A topic was made anew: nothing of the old one means anything now. Its partitions. Under the lock."""
        self.unasked.discard(topic)
        if self.begins is not None:
            self.begins = {where: offset for where, offset in self.begins.items() if where[0] != topic}
        known = [where for where in self.states if where[0] == topic]
        for where in known:
            self.new_state(where)
        return known

    def stand_in(self, where: TopicPartition) -> int | None:
        """Where this process goes on in a partition; None where it has not begun. Under the lock."""
        state = self.states.get(where)
        return None if state is None or state.offsets is None else state.offsets.committed

    def new_state(self, where: TopicPartition) -> PartitionState:
        """The partition begins anew: its old offsets mean nothing now. Under the lock."""
        if where in self.states:
            self.states[where].lease.end()
        self._next_base += _LOG_SPAN
        state = self.states[where] = PartitionState(where, self._next_base, self.topic_ids.get(where[0]))
        return state

    def admit(self, batch: Sequence[Delivery], lease: Lease) -> Admitted:
        """Take all of a batch: `Intake` has left out what is done. What came before is to be checked by `claims`."""
        if isinstance(batch, KafkaBatch):
            return Admitted(batch)
        first: Any = batch[0]
        state: PartitionState = first.token
        return Admitted(batch, check=first.identity - state.base < state.known)

    def claims(self, delivery: Delivery) -> bool:
        """Whether this one, which came again, is still to be handled; if not, it is forgotten."""
        identity: Any = delivery.identity
        with self.lock:
            claimed: bool = delivery.token.claims(identity)
            return claimed

    def finish(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Note these as done, for the next commit; returns all of them."""
        if isinstance(deliveries, KafkaBatch):
            with self.lock:
                deliveries.state.finish(deliveries.first, deliveries.end)
                self.touched.add(deliveries.state)
            return deliveries
        done: dict[PartitionState, list[Any]] = {}
        for delivery in deliveries:
            done.setdefault(delivery.token, []).append(delivery.identity)
        with self.lock:
            for state, identities in done.items():
                state.finish_each(identities)
            self.touched.update(done)
        return deliveries

    def drop(self, deliveries: Sequence[Delivery], lease: Lease) -> Sequence[Delivery]:
        """Have these, all of one state, fetched again with all behind them that is not done; returns them."""
        if deliveries:
            state: PartitionState = deliveries.state if isinstance(deliveries, KafkaBatch) else deliveries[0].token
            with self.lock:
                state.give_back(len(deliveries), lease, again=not self.ending)
                self.touched.add(state)
        return deliveries

    def look(self, now: float) -> None:
        """Nothing: assignments do not end with time, the consumer ends them."""

    @property
    def count(self) -> int:
        """How many messages are in hand; takes no lock."""
        found = [state.offsets for state in list(self.states.values())]
        return sum(offsets.unfinished for offsets in found if offsets is not None)

    def __len__(self) -> int:
        with self.lock:
            return sum(state.offsets.unfinished for state in self.states.values() if state.offsets is not None)


def in_hand_of(attachment: Attachment) -> KafkaInHand:
    """What the backend has made for this subscription."""
    in_hand = attachment.in_hand
    assert isinstance(in_hand, KafkaInHand)
    return in_hand


def batch_lease(batch: Sequence[Delivery]) -> Lease:
    """On what a batch was given. Under the lock of its `KafkaInHand`."""
    state: PartitionState = batch.state if isinstance(batch, KafkaBatch) else batch[0].token
    return state.lease
