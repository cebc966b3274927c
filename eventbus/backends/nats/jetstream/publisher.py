"""Publishing on JetStream: every record is answered by name, and sent again until it is.

What must wait for order's sake waits with its stream, and no further: see `StreamQueue`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .... import log
from ....errors import EventBusError, PublishRejectedError
from ....publishing.port import Answers
from ....publishing.records import Batch, Confirmation, Record, number_of, topic_of
from ..core.publishing import NatsPublisher
from ..link import wire
from ..link.connection import Connection
from .denials import Denials
from .encoding import JetStreamEncoder
from .lookups import Ensure, Lookups
from .on_wire import OnWire
from .pubacks import Acks, Answer, PubAck, Verdict, parse_ack
from .routes import Routes
from .sendings import Sendings
from .stream_queue import State, StreamQueue
from .streams import Place

UNANSWERED = 5.0
"""Seconds after which a record without an answer is sent again."""
SETTLING = 0.25
"""Seconds that answers to what is on the wire have to come in before anything is sent again, for order's sake."""
LOST_AFTER = 2.0
"""Seconds without a stream that answers, after which it is looked for."""
_LOOK_EVERY = 0.5
_STORED, _OPEN = Verdict.STORED, State.OPEN  # by these names globals, by those of their classes twice as long a way


class JetStreamPublisher(NatsPublisher):
    """A record is queued, on the wire or held by the queue of its stream; never in two.

    submit(call, *args): runs blocking work elsewhere, side by side with other such work. places: see `Routes`.
    """

    def __init__(
        self,
        connection: Connection,
        answers: Answers,
        ensure: Ensure,
        submit: Callable[..., object],
        places: dict[str, Place],
    ) -> None:
        self._on_wire = OnWire()
        self._routes = Routes(places, self._on_wire)
        self._sendings = Sendings(answers)
        self._denials = Denials(self._on_wire, connection.writer, self._refuse_denied)
        self._timer = connection.timer
        self._lookups = Lookups(ensure, submit, self._found_out)
        self._noise = False
        self._later = log.Later(log.get(__name__))
        inbox = f"{connection.inbox}.p"
        super().__init__(connection.writer, answers, JetStreamEncoder(answers.origin, inbox), connection.max_payload)
        connection.subscribe(f"{inbox}.*", Acks(connection.dirty, len(inbox) + 1, self._answered))
        self._timer.every(_LOOK_EVERY, self._resend_old)

    def take(self) -> bytes:
        """The next chunk as frames, on the wire from now on; b"" for none."""
        while (records := self._on_wire.take_next()) is not None or self._queue:
            if records is None:
                records = self._admit(self._queue.popleft())
            if records:
                self._on_wire.send(records)
                return self._frames(records, wire.CRLF)
        return b""

    def refused(self, topic: str, text: str) -> bool:
        """The server denied a message with this topic; False: none is on its way. Reader thread."""
        with self._lock:
            if self._retired or self._on_wire.first_of(topic) is None:
                return False
            self._denials.note(topic, text)
        return True

    def oldest(self) -> float | None:
        """When the oldest record without any answer was sent first (`time.monotonic`), None without one."""
        with self._lock:
            return min(filter(None, (self._on_wire.oldest, self._sendings.oldest)), default=None)

    def retire(self, patience: float = 0.0) -> None:
        """Take and send nothing more; what is on the wire is still confirmed by its answer."""
        super().retire(patience)
        with self._lock:
            self._routes.clear()
            self._on_wire.clear_next()

    # -- which queue, under the lock --------------------------------------------------------------------

    def _let_out(self, record: Record) -> bool:
        queue = self._routes.queue_of(topic_of(record))
        if queue.state is State.OPEN:
            return super()._let_out(record)
        self._hold(queue, record)
        return False

    def _hold(self, queue: StreamQueue, record: Record) -> None:
        queue.hold(record)
        if queue.state is State.TROUBLE:
            self._sendings.refused(record, queue.cause)
        elif queue.state is State.NEW:
            self._lookups.look(queue)

    def _admit(self, batch: Batch) -> Batch:
        """Those that may go now; the others wait, for their queue has closed, or has enough on the wire."""
        if len(batch.topics) == 1:
            queue = self._routes.queue_of(topic_of(batch[0]))
            if queue.state is State.OPEN and queue.flying + len(batch) <= queue.window:
                queue.flying += len(batch)
                return batch
        going = []
        for record in batch:
            queue = self._routes.queue_of(topic_of(record))
            if queue.state is State.OPEN and queue.room():
                queue.flying += 1
                going.append(record)
            else:
                self._hold(queue, record)
                if queue.state is State.OPEN:
                    self._close(queue, State.WINDOW)
        return Batch(going)

    def _close(self, queue: StreamQueue, state: State) -> None:
        queue.state = state
        self._open = self._open - queue.topics

    def _release(self, queue: StreamQueue, most: int) -> None:
        """Send the oldest that wait, in front of what came later, and as many as may be on the wire."""
        records: list[Record] = []
        while queue.held and len(records) < (room := min(most, queue.room())):
            records += filter(self._is_wanted, queue.take(room - len(records)))
        if records:
            queue.flying += len(records)
            self._on_wire.send_next(Batch(records))
            self._writer.flush()

    def _is_wanted(self, record: Record) -> bool:
        """Whether a record is still to be sent: one that was refused for now may have been taken back."""
        wanted = self._sendings.again(record)
        if not wanted:
            self._forget(number_of(record))
        return wanted

    def _off_wire(self, record: Record) -> StreamQueue | None:
        """A record is on the wire no more."""
        self._on_wire.pop(number_of(record))
        self._denials.drop(number_of(record))
        queue = self._routes.by_topic.get(topic_of(record))
        if queue is not None:
            queue.flying -= 1
            queue.probe = None if queue.probe == number_of(record) else queue.probe
        return queue

    def _forget(self, number: int) -> None:
        """A record is answered, or is not to be sent."""
        self._blocks.pop(number, None)
        self._sendings.forget(number)

    # -- answers, on the reader thread ------------------------------------------------------------------

    def _answered(self, batch: list[Answer]) -> None:
        stored, touched = list[Confirmation](), set[StreamQueue]()
        refused: list[tuple[Record, EventBusError]] = []
        with self._lock:
            noted = bool(self._blocks or self._sendings)
            for number, block, payload in batch:
                ack = parse_ack(block, payload)
                record = self._land(number, ack, touched)
                if record is None:
                    continue
                if ack.verdict is _STORED:
                    stored.append((record, ack.stream, ack.sequence, ack.duplicate))
                    if noted:
                        self._forget(number)
                elif verdict := self._judge(record, ack, touched):
                    refused.append((record, verdict))
            self._go_on(touched)
        if stored:
            self._answers.all_confirmed(stored)
        for record, verdict in refused:
            self._answers.failed(record, verdict)
        if self._denials:
            self._refuse_denied()
        self._later.tell()

    def _land(self, number: int, ack: PubAck, touched: set[StreamQueue]) -> Record | None:
        """The record that an answer is about, off the wire; None where it changes nothing."""
        if ack.verdict is Verdict.NOISE:
            if not self._noise and number in self._on_wire:
                self._noise = True
                self._later.warning("somebody answers messages, but not as JetStream does: %s", ack.text)
            return None
        entry = self._on_wire.pop(number)
        if entry is None:
            return self._late(number) if ack.verdict is _STORED else None
        record, _ = entry
        queue = self._routes.by_topic.get(topic_of(record))
        if queue is not None:
            queue.flying -= 1
            if queue.state is not _OPEN:
                touched.add(queue)
                if queue.probe == number:
                    queue.probe = None
                    queue.answered(topic_of(record), ack.verdict is _STORED)
            if ack.verdict is _STORED and queue.doubts:
                queue.doubts.discard(topic_of(record))
        return record

    def _late(self, number: int) -> Record | None:
        """A record that waits to be sent again, and is stored after all: it waits no more."""
        waiting = self._sendings.unsure(number)
        queue = None if waiting is None else self._routes.by_topic.get(topic_of(waiting))
        record = None if queue is None else queue.held.pop(number, None)
        if record is not None:
            self._forget(number)
        return record

    def _judge(self, record: Record, ack: PubAck, touched: set[StreamQueue]) -> EventBusError | None:
        """Draw the consequences of an answer but "stored"; None when the record is to be sent again.

        Under the lock throughout: at no time is the record nowhere to be found.
        """
        number, queue = number_of(record), self._routes.by_topic.get(topic_of(record))
        if self._retired or queue is None:
            return None  # others have the record by now
        if ack.verdict is Verdict.REFUSED or (ack.verdict is Verdict.DOUBTFUL and self._sendings.is_sure(number)):
            return self._refused(record, ack.text)
        if ack.verdict is Verdict.SUBJECT_FULL or queue.suspects(topic_of(record)):
            queue = self._routes.split(queue, topic_of(record))
        elif ack.verdict is Verdict.BUSY:
            queue.narrow()
        self._wait(queue, record, ack.text)
        if ack.verdict is Verdict.NO_STREAM and time.monotonic() - queue.looked_at > _LOOK_EVERY:
            self._lookups.look(queue)
        self._sendings.refused(record, ack.text)
        touched.add(queue)
        return None

    def _refused(self, record: Record, text: str) -> EventBusError:
        """The answer to a record that is refused for good: another sending of it that has none may be stored."""
        unsure = self._sendings.unsure(number_of(record)) is not None
        self._forget(number_of(record))
        if unsure:
            return EventBusError(f"refused, and an earlier sending has no answer: {text}")
        return PublishRejectedError(text, self._id_of(record))

    def _refuse_denied(self) -> None:
        """Say so of what is known by now to be denied. Reader thread."""
        with self._lock:
            denied = [] if self._retired else self._denials.settle()
            self._go_on(filter(None, {self._off_wire(record) for record, _ in denied}))
            verdicts = [(record, self._refused(record, text)) for record, text in denied]
        for record, verdict in verdicts:
            self._answers.failed(record, verdict)

    # -- sending again, under the lock ------------------------------------------------------------------

    def _wait(self, queue: StreamQueue, record: Record, reason: str) -> None:
        """A record off the wire waits to be sent again; its queue is in trouble."""
        queue.hold(record)
        if queue.state is not State.NEW and queue.trouble(reason):
            self._later.info("sending again to %r: %s", queue.name, reason)
            self._close(queue, State.TROUBLE)
            for waiting in queue.held.values():
                self._sendings.refused(waiting, reason)
        if queue.probe is None:
            self._schedule(queue)

    def _go_on(self, queues: Iterable[StreamQueue]) -> None:
        """Answers have come in: see what may go out now."""
        for queue in queues:
            if queue.state is State.WINDOW:
                if queue.flying <= queue.window // 2:
                    queue.widen()
                    self._release(queue, queue.window)
                if not queue.held:
                    queue.state = State.OPEN
            elif queue.state is State.TROUBLE and queue.probe is None:
                if queue.is_well:
                    self._reopen(queue)
                else:
                    self._schedule(queue)

    def _reopen(self, queue: StreamQueue) -> None:
        """The stream answers: what waits goes out, in order. The broker drops what it had."""
        queue.state = State.WINDOW
        self._release(queue, queue.window)
        if not queue.held:
            queue.state = State.OPEN

    def _schedule(self, queue: StreamQueue) -> None:
        if not queue.scheduled:
            queue.scheduled = True
            self._timer.after(queue.next_pause(), lambda: self._try(queue))

    def _try(self, queue: StreamQueue) -> None:
        """The timer: send the oldest record of a queue in trouble, or look for its stream."""
        with self._lock:
            queue.scheduled = False
            if self._retired or queue.probe is not None:
                return
            if queue.state is State.NEW:
                self._lookups.look(queue)
                return
            if queue.state is not State.TROUBLE:
                return
            now = time.monotonic()
            if queue.flying and now - queue.troubled_at < SETTLING:
                self._schedule(queue)
                return
            if min(now - queue.troubled_at, now - queue.looked_at) > LOST_AFTER:
                self._lookups.look(queue)
            self._ground(queue, queue.topics)
            while queue.held and queue.flying == 0:  # those that are not wanted any more leave on the way
                record = queue.next_probe()
                if self._is_wanted(record):
                    queue.probe, queue.flying = number_of(record), 1
                    self._on_wire.send_next(Batch([record]))
                    self._writer.flush()
            if queue.probe is None:
                self._reopen(queue)

    def _ground(self, queue: StreamQueue, topics: set[str]) -> None:
        """Take what is on the wire with these topics of a queue off it, or about to be: it waits."""
        for record, sent in self._on_wire.sent_of(topics):
            self._off_wire(record)
            self._sendings.unanswered(record, sent)
            queue.hold(record)
        for record in self._on_wire.call_back(topics):
            self._off_wire(record)
            self._sendings.refused(record, queue.cause)
            queue.hold(record)

    def _resend_old(self) -> None:
        """The timer: what got no answer goes out again."""
        with self._lock:
            if self._retired:
                return
            for record, sent in self._on_wire.before(time.monotonic() - UNANSWERED):
                was_tried = self._routes.is_tried(record)
                queue = self._off_wire(record)
                self._sendings.unanswered(record, sent)
                if queue is not None:
                    if was_tried:
                        queue.answered(topic_of(record), False)
                    if queue.suspects(topic_of(record)):
                        queue = self._routes.split(queue, topic_of(record))
                    self._wait(queue, record, f"no answer within {UNANSWERED:g} s")
        self._later.tell()

    # -- the queue's stream -----------------------------------------------------------------------------

    def _found_out(self, queue: StreamQueue, topic: str, place: Place | None, problem: EventBusError | None) -> None:
        """A helper thread: what came of looking for the stream of a topic."""
        rejected = list[tuple[Record, Exception]]()
        with self._lock:
            queue.looking.discard(topic)
            queue.looked_at = time.monotonic()
            now = self._routes.by_topic.get(topic)
            if self._retired or now is None:
                return  # others have the record by now
            if isinstance(problem, PublishRejectedError) and (now is queue or now.is_split):
                rejected = self._give_up(now, topic, str(problem))
            elif now is not queue:
                return  # the stream was found with another topic
            elif problem is not None or queue.state is State.TROUBLE:
                if queue.state is State.NEW and problem is not None and problem.__cause__ is not None:
                    self._sendings.all_refused(queue, str(problem))
                self._schedule(queue)
            else:  # it is known, or may not be asked for: what waits goes out
                for stream in self._routes.found(queue, topic, place):
                    if stream.state is State.OPEN:
                        stream.state = State.WINDOW
                        self._go_on([stream])
                self._lookups.look(queue)
        for record, verdict in rejected:
            self._answers.failed(record, verdict)

    def _give_up(self, queue: StreamQueue, topic: str, refusal: str) -> list[tuple[Record, Exception]]:
        """There is no stream for a topic, and none can be made: what waits for it is refused, and nothing else."""
        self._ground(queue, {topic})
        waiting = [record for record in queue.held.values() if topic_of(record) == topic]
        for record in waiting:
            del queue.held[number_of(record)]
        rejected: list[tuple[Record, Exception]] = [(record, self._refused(record, refusal)) for record in waiting]
        self._routes.forget(topic)
        if queue.state is State.NEW:
            self._lookups.look(queue)
        elif queue.state is State.TROUBLE and queue.probe is None:
            self._schedule(queue)
        else:
            self._go_on([queue])
        return rejected
