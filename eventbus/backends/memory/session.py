"""Sessions on the memory broker."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from ...consuming.attachment import Attachment
from ...consuming.excerpts import Span, Stretches
from ...consuming.subscriptions import PartitionStatus
from ...errors import NotConnectedError, PublishError, SessionRetired
from ...message import Delivery
from ...publishing.records import Record, given_id_of, number_of, waiter_of
from ...reports import DeadLetterTopic
from ...threads import Deadline, StopToken, join_all, spawn
from ..base import Prepared, SessionContext
from .broker import Condition, MemoryBroker
from .deliveries import MemoryDelivery
from .excerpts import MemoryReading, held_by, purge, stretches_of
from .groups import Member
from .waiting import notify, pause

FETCH = 256
"""Deliveries handed over at once, at most."""
FETCH_BYTES = 256 * 1024
"""Bytes of their payloads, and of one more."""

_Stored = tuple[int, int, bool] | PublishError
"""Partition, offset and whether it was a duplicate; or why it was not stored."""
_Answer = tuple[Record, _Stored]


class MemorySession:
    """One connection to the memory broker, with one thread that fetches."""

    def __init__(self, broker: MemoryBroker, context: SessionContext) -> None:
        self._broker = broker
        self._answers = context.answers
        self._on_lost = context.on_lost
        self._on_served = context.on_served
        self._attached: dict[Attachment, Member] = {}
        self._unanswered: dict[int, Record] = {}
        self._retired = False
        self._drained = False
        self._lost: BaseException | None = None
        self._mute = False
        self._work = threading.Event()
        broker.sleeping.add(self)
        self._thread = spawn(f"eventbus.{context.bus}.memory", self._run)

    # -- contract --------------------------------------------------------------------------------

    @property
    def lost(self) -> BaseException | None:
        """Why the link is gone."""
        return self._lost

    @property
    def publisher(self) -> MemorySession:
        """This session."""
        return self

    def publish(self, records: Sequence[Record]) -> int:
        """Store, and answer at once; a frozen or mute broker answers later or never."""
        broker = self._broker
        stored: list[Record] = []
        answers: list[_Answer] = []
        with broker.lock:
            self._break_if_asked("publish")
            if self._retired:
                return 0
            later = self._mute or self._unanswered or broker.delay or broker.condition is not Condition.UP
            if later:
                self._unanswered.update(zip(map(number_of, records), records, strict=True))
            else:
                self._store_all(records, stored, answers)
        self._answers.stored(stored)
        self._answer(answers)
        if later:
            self.wake()
        elif broker.sleeping:
            broker.wake()
        return len(records)

    def retire(self, patience: float = 0.0) -> None:
        """Take nothing more; an answer that comes late is not told."""
        with self._broker.lock:
            self._retired = True
            self._unanswered.clear()

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """Make the groups; topics that tests refuse are returned."""
        self._wait_answer(Deadline(timeout), StopToken())
        broker = self._broker
        with broker.lock:
            self._break_if_asked("prepare")
            if self._retired:
                raise NotConnectedError(str(self._lost or "the session has ended"))
            errors = broker.refused_topics
            refused = {one: errors[one.topic] for one in attachments if one.topic in errors}
            for one in attachments:
                if one not in refused:
                    broker.group_of(one.sub)
            return Prepared(refused=refused)

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Join the groups."""
        with self._broker.lock:
            self._break_if_asked("attach")
            if self._retired:
                raise SessionRetired("the session has ended")
            for one in attachments:
                self._attached[one] = member = Member(one)
                self._broker.group_of(one.sub).join(member)
            self._broker.wake()
        self._on_served(attachments)

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Fetch no more; the group is left once what is in hand is acknowledged or released."""
        with self._broker.lock:
            attached = self._attached.get(attachment)
            if attached is not None and attached.left is None:
                attached.left = self._broker.group_of(attachment.sub).take_leave(attached)
                self._leave_if_done(attachment, attached, ())
                self._broker.wake()

    def resume(self, attachment: Attachment) -> None:
        """Fetch again."""
        attached = self._attached.get(attachment)
        if attached is not None:
            attached.paused = False
            self.wake()

    def _leave_if_done(self, attachment: Attachment, attached: Member, deliveries: Iterable[Delivery]) -> None:
        if attached.left is not None:
            if attached.let_go(delivery.token for delivery in deliveries):
                self._broker.wake()
            if not attached.left:
                self._attached.pop(attachment, None)
                self._broker.leave(attached, for_good=True)

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """Move the watermarks; a partition that waited for it changes hands."""
        broker = self._broker
        with broker.lock:
            attached = self._attached.get(attachment)
            if attached is None or self._mute or self._retired:
                return
            moved = False
            for delivery in deliveries:
                progress, partition, offset = delivery.token
                if progress.owners[partition] is attached:
                    progress.marks[partition].finish(offset)
                    if progress.wanted[partition] is not attached:
                        moved |= progress.move(partition)
            self._leave_if_done(attachment, attached, deliveries)
        if moved:
            broker.wake()

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Deliver them again, and in their order all that is not finished; to others, where it is detached."""
        with self._broker.lock:
            attached = self._attached.get(attachment)
            if attached is None or not deliveries:
                return
            if attached.left is None and not self._drained:
                self._broker.group_of(attachment.sub).take_back(attached)
            self._leave_if_done(attachment, attached, deliveries)
        self.wake()

    def lag(self, attachment: Attachment) -> int | None:
        """Of the group, all members and topics together, without a look at each message."""
        with self._broker.lock:
            return self._broker.group_of(attachment.sub).lag

    def partitions(self, attachment: Attachment) -> tuple[PartitionStatus, ...]:
        """Nothing: only Kafka tells of its partitions."""
        return ()

    def stretches_of(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        """The places in the topic."""
        self._wait_answer(Deadline(timeout), stop)
        with self._broker.lock:
            return stretches_of(self._broker, span)

    def read(self, topic: str, stretches: Stretches) -> MemoryReading:
        """Look into the topic, again and again."""
        return MemoryReading(self._broker, topic, stretches, self._wait_answer)

    def topics_of(self, pattern: str, timeout: float, stop: StopToken) -> list[DeadLetterTopic]:
        """Those of the broker, with the messages that they keep."""
        self._wait_answer(Deadline(timeout), stop)
        with self._broker.lock:
            return [held_by(topic) for topic in self._broker.topics_of(pattern)]

    def purge(self, topic: str, stretches: Stretches, timeout: float, stop: StopToken) -> int:
        """Forget the oldest, also those that a group has not finished."""
        self._wait_answer(Deadline(timeout), stop)
        with self._broker.lock:
            return purge(self._broker, topic, stretches)

    def probe(self, timeout: float, stop: StopToken) -> str:
        """A round trip to the broker."""
        self._wait_answer(Deadline(timeout), stop)
        if not self._thread.is_alive():
            raise NotConnectedError("the fetching thread has died")
        return "memory broker answers"

    def abandon(self, patience: float = 0.0) -> None:
        """Leave all groups: what was handled until now is acknowledged before."""
        with self._broker.lock:
            attached = dict(self._attached)
            for member in attached.values():
                member.lease.end()
        for attachment in attached:
            attachment.flush()
        self.retire()
        with self._broker.lock:
            self._leave()
        self.wake()

    def drain(self, timeout: float) -> None:
        """Fetch no more; the partitions stay ours until what is in hand is acknowledged."""
        with self._broker.lock:
            self._drained = True

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the session."""
        with self._broker.lock:
            self._retired = True
            self._leave()
        self.wake()
        return join_all([self._thread], timeout)

    # -- outages, under the broker's lock --------------------------------------------------------

    def wake(self) -> None:
        """There may be something to do for the fetching thread."""
        if not self._work.is_set():
            self._work.set()

    def mute(self) -> None:
        """Half-open: from now on this session sends into the void and hears nothing."""
        self._mute = True

    def cut(self, cause: BaseException) -> None:
        """The link is gone, and the client knows."""
        if self._lost is not None:
            return
        self._retired = True
        self._lost = cause
        self._leave()
        self.wake()

    # -- inside ----------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self in self._broker.sessions:
            self._broker.sessions.remove(self)
        attached, self._attached = self._attached, {}
        for one in attached.values():
            self._broker.leave(one, for_good=one.left is not None)
        self._broker.changed.notify_all()

    def _break_if_asked(self, step: str) -> None:
        if self._broker.break_at == step and not self._retired:
            self._broker.break_at = None
            self.cut(NotConnectedError(f"cut at {step}"))

    def _wait_answer(self, deadline: Deadline, stop: StopToken) -> None:
        broker = self._broker
        with broker.lock:
            if not self._retired and not self._mute and broker.condition is Condition.UP and not broker.delay:
                return
        if broker.delay:
            pause(deadline, broker.delay, stop)
        with stop.interrupts(lambda: notify(broker)), broker.changed:
            while not self._retired and (self._mute or broker.condition is Condition.FROZEN):
                stop.check()
                if deadline.over:
                    raise NotConnectedError("no answer from the memory broker in time")
                broker.changed.wait(deadline.remaining())
            stop.check()
            if self._retired:
                raise NotConnectedError(str(self._lost or "the session has ended"))

    def _store_all(self, records: Sequence[Record], stored: list[Record], answers: list[_Answer]) -> None:
        """Under the lock. To `stored` goes what is stored and nobody waits for, to `answers` the rest."""
        store, prefix = self._broker.store, f"{self._answers.origin}-"
        for record in records:
            try:
                place = store(record, given_id_of(record) or f"{prefix}{number_of(record):012d}")
            except PublishError as error:
                answers.append((record, error))
            else:
                if waiter_of(record) is None:
                    stored.append(record)
                else:
                    answers.append((record, place))

    def _answer(self, answers: Sequence[_Answer]) -> None:
        for record, answer in answers:
            if isinstance(answer, PublishError):
                self._answers.failed(record, answer)
            else:
                self._answers.confirmed(record, *answer)

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            self._broker.sleeping.add(self)  # before the look: what is stored after it wakes us again
            if self._lost is not None:
                self._on_lost(self, self._lost)
            if self._retired:
                self._broker.sleeping.discard(self)
                return
            self._store_late()
            while self._fetch():
                pass

    def _store_late(self) -> None:
        """What a frozen broker was given and reads only now."""
        while True:
            with self._broker.lock:
                if self._retired or self._mute or self._broker.condition is not Condition.UP:
                    return
                number = next(iter(self._unanswered), None)
                if number is None:
                    return
                stored: list[Record] = []
                answers: list[_Answer] = []
                self._store_all([self._unanswered.pop(number)], stored, answers)
            self._answers.stored(stored)
            self._answer(answers)
            self._broker.wake()

    def _fetch(self) -> bool:
        """One round over the subscriptions; True when there may be more."""
        more = False
        for attachment, attached in list(self._attached.items()):
            if attached.paused:
                continue
            with self._broker.lock:
                if self._retired or self._mute or self._drained or self._broker.condition is not Condition.UP:
                    return False
                if self._attached.get(attachment) is not attached or attached.left is not None:
                    continue
                lease, batch = attached.lease, self._take(attached)
            if batch:
                more = True
                # Paused before the call: a resume that comes while the lanes take the batch is not lost.
                attached.paused = True
                if attached.deliver(batch, lease):
                    attached.paused = False
        return more

    def _take(self, member: Member) -> list[Delivery]:
        batch: list[Delivery] = []
        for progress in self._broker.group_of(member.attachment.sub).progress.values():
            topic, identities = progress.topic.name, progress.topic.identities
            for offset, entry in progress.take(member, min(FETCH, member.attachment.room), FETCH_BYTES):
                delivery = _new(MemoryDelivery)
                delivery.topic = topic
                delivery.id, delivery.payload, delivery.raw_key, delivery.raw_headers, partition, delivery.stored = (
                    entry
                )
                delivery.deliveries = progress.attempt(offset)
                delivery.identity = identities + offset
                delivery.token = (progress, partition, offset)
                batch.append(delivery)
        return batch


_new = MemoryDelivery.__new__
