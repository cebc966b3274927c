"""Publishing on JetStream: every record is answered by name, and sent again until it is.

Records of one stream (one first part of the topic) share a lane. When one must be sent again the lane
closes: later ones wait behind it, the oldest goes alone until it is answered, then the rest in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import repeat

from attrs import define, field

from ... import log
from ...errors import NotConnectedError, PublishRejectedError
from ...publishing.port import Answers, Confirmation
from ...publishing.records import Batch, Record, number_of, topic_of
from . import wire
from .connection import Connection
from .encoding import JetStreamEncoder
from .pubacks import PubAck, Verdict, parse_ack
from .publisher import Publisher

logger = log.get(__name__)

UNANSWERED = 5.0
"""Seconds after which a record without an answer is sent again."""
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
LOST_AFTER = 2.0
"""Seconds without a stream that answers, after which it is looked for."""
_LOOK_EVERY = 0.5
_PIECE = 512
_STORED = Verdict.STORED  # by its own name a global, by that of its class twice as long a way

Ensure = Callable[[str], None]
"""`ensure(topic)`: find or make the topic's stream; PublishRejectedError, NotConnectedError. May block."""


@define(eq=False)
class Lane:
    """Records of one first token that may not go out yet, and the one that is tried for them."""

    token: str
    held: list[Record] = field(factory=list)
    closed: bool = True
    ensured: bool = False
    looking: bool = False
    scheduled: bool = False
    probe: int | None = None
    pause: float = 0.0
    looked_at: float = 0.0


class JetStreamPublisher(Publisher):
    """A record is queued, in the ledger (on the wire) or held in its lane; never in two.

    submit(call, *args): runs blocking work elsewhere.
    """

    def __init__(self, connection: Connection, answers: Answers, ensure: Ensure, submit: Callable[..., object]) -> None:
        self._ledger: dict[int, tuple[Record, float]] = {}
        self._lanes: dict[str, Lane] = {}
        self._shut: set[str] = set()
        self._probes: dict[int, Lane] = {}
        self._timer = connection.timer
        self._ensure = ensure
        self._submit = submit
        self._noise = False
        inbox = f"{connection.inbox}.p"
        encoder = JetStreamEncoder(answers.origin, inbox)
        super().__init__(connection.writer, answers, encoder, connection.max_payload)
        connection.subscribe(f"{inbox}.*", _Acks(connection, len(inbox) + 1, self._answered))
        self._timer.every(_LOOK_EVERY, self._resend_old)

    def take(self) -> bytes:
        """The next chunk as frames, noted as being on the wire; b"" when there is none."""
        while self._queue:
            records = self._hold_back(self._queue.popleft())
            if records:
                entries = zip(records, repeat(time.monotonic()), strict=False)
                self._ledger.update(zip(records.numbers, entries, strict=True))
                return self._frames(records, wire.CRLF)
        return b""

    def refused(self, topic: str, text: str) -> None:
        """The server refused the oldest message on its way with this topic. Reader thread."""
        with self._lock:
            found = next((record for record, _ in self._ledger.values() if topic_of(record) == topic), None)
            if self._retired:
                found = None
            if found is not None:
                self._settle(found)
                self._has_answer(number_of(found), stored=False)
        if found is not None:
            self._reject([found], text)

    def oldest(self) -> float | None:
        """When the oldest record on its way was sent (`time.monotonic`), None without one."""
        with self._lock:
            return next((sent for _, sent in self._ledger.values()), None)

    def retire(self, patience: float = 0.0) -> None:
        """Take and send nothing more; what is on the wire is still confirmed by its answer."""
        super().retire(patience)
        with self._lock:
            self._lanes = {}
            self._shut = set()
            self._probes = {}

    def _let_out(self, record: Record) -> bool:
        lane = self._lane_of(record)
        if not lane.closed:
            return super()._let_out(record)
        lane.held.append(record)
        if not lane.ensured:
            self._look(lane)
        return False

    def _lane_of(self, record: Record) -> Lane:
        token = topic_of(record).partition(".")[0]
        lane = self._lanes.get(token)
        if lane is None:
            lane = self._lanes[token] = Lane(token)
            self._shut.add(token)
        return lane

    def _hold_back(self, records: Batch) -> Batch:
        """Those that may go now; the others wait in their lanes, which were closed since."""
        if not self._shut:
            return records
        going = []
        for record in records:
            lane = self._lane_of(record)
            if lane.closed and number_of(record) not in self._probes:
                lane.held.append(record)
            else:
                going.append(record)
        return records if len(going) == len(records) else Batch(going)

    def _send_first(self, records: list[Record]) -> None:
        """Queue records that are counted already, in front of what came later."""
        pieces = [Batch(records[start : start + _PIECE]) for start in range(0, len(records), _PIECE)]
        self._queue.extendleft(reversed(pieces))
        self._writer.flush()

    def _settle(self, record: Record) -> None:
        """A record on the wire has its answer."""
        del self._ledger[number_of(record)]

    # -- answers, on the reader thread ------------------------------------------------------------------

    def _answered(self, batch: list[tuple[int, bytes | None, bytes]]) -> None:
        stored: list[Confirmation] = []
        refused: list[tuple[Record, PubAck]] = []
        with self._lock:
            ledger, blocks, probes = self._ledger, self._blocks, self._probes
            for number, block, payload in batch:
                entry = ledger.get(number)
                if entry is None:
                    continue
                ack = parse_ack(block, payload)
                verdict, stream, sequence, duplicate, _ = ack
                if verdict is _STORED:
                    del ledger[number]
                    stored.append((entry[0], stream, sequence, duplicate))
                    if blocks or probes:
                        self._has_answer(number, stored=True)
                elif not self._retired and self._is_refused(entry[0], ack):  # else others have the record by now
                    refused.append((entry[0], ack))
        if stored:
            self._answers.all_confirmed(stored)
        for record, ack in refused:
            self._answers.failed(record, PublishRejectedError(ack.text, self._id_of(record)))

    def _is_refused(self, record: Record, ack: PubAck) -> bool:
        """Draw the consequences of an answer but "stored"; False when the record is to be sent again.

        Under the lock throughout: at no time is the record nowhere to be found.
        """
        if ack.verdict is Verdict.NOISE:
            self._report_noise(record, ack)
            return False
        if ack.verdict is not Verdict.REFUSED:
            self._send_again(record, ack.text, ack.verdict is Verdict.FULL)
            return False
        self._settle(record)
        self._has_answer(number_of(record), stored=False)
        return True

    def _has_answer(self, number: int, *, stored: bool) -> None:
        """A record that left the ledger is answered: its block and its lane's probe go."""
        self._blocks.pop(number, None)
        self._probe_answered(number, stored)

    def _report_noise(self, record: Record, ack: PubAck) -> None:
        if not self._noise:
            self._noise = True
            logger.warning("somebody answers messages on %r, but not as JetStream does: %s", topic_of(record), ack.text)

    # -- sending again, under the lock ------------------------------------------------------------------

    def _send_again(self, record: Record, reason: str, full: bool = False) -> None:
        """A record in the ledger goes back to its lane, which closes."""
        del self._ledger[number_of(record)]
        lane = self._lane_of(record)
        lane.held.append(record)
        if self._probes.pop(number_of(record), None) is not None:
            lane.probe = None
        if not lane.closed:
            logger.info("sending again to %r: %s", lane.token, reason)
            self._close(lane)
        if full:
            lane.pause = LONGEST_PAUSE
        if lane.probe is None and not lane.looking:
            self._schedule(lane)

    def _close(self, lane: Lane) -> None:
        lane.closed, lane.pause, lane.looked_at = True, 0.0, time.monotonic()
        self._shut.add(lane.token)
        self._open = {topic for topic in self._open if topic.partition(".")[0] != lane.token}

    def _reopen(self, lane: Lane) -> None:
        lane.closed, lane.pause = False, 0.0
        self._shut.discard(lane.token)

    def _schedule(self, lane: Lane) -> None:
        if lane.scheduled:
            return
        lane.scheduled = True
        lane.pause = min(max(lane.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._timer.after(lane.pause, lambda: self._try(lane))

    def _try(self, lane: Lane) -> None:
        """The timer: send the oldest record of a closed lane, or look for its stream."""
        with self._lock:
            lane.scheduled = False
            if self._retired or not lane.closed or lane.probe is not None or lane.looking:
                return
            if not lane.ensured or time.monotonic() - lane.looked_at > LOST_AFTER:
                self._look(lane)
                return
            waiting = self._collect(lane)
            if not waiting:
                self._reopen(lane)
                return
            first = min(waiting, key=number_of)
            lane.held = [record for record in waiting if record is not first]
            lane.probe = number_of(first)
            self._probes[number_of(first)] = lane
            self._send_first([first])

    def _collect(self, lane: Lane) -> list[Record]:
        """Take all unanswered records of a lane off the wire's ledger, and count them as held."""
        flying = [record for record, _ in self._ledger.values() if self._lane_of(record) is lane]
        for record in flying:
            del self._ledger[number_of(record)]
        lane.held += flying
        return lane.held

    def _probe_answered(self, number: int, stored: bool) -> None:
        lane = self._probes.pop(number, None)
        if lane is None:
            return
        lane.probe = None
        lane.pause = 0.0
        if stored:
            self._release(lane)
        else:
            self._schedule(lane)

    def _release(self, lane: Lane) -> None:
        """The stream answers: everything that waits goes out, in order. The broker drops what it had."""
        records = sorted(self._collect(lane), key=number_of)
        lane.held = []
        self._reopen(lane)
        self._send_first(records)

    def _resend_old(self) -> None:
        """The timer: what got no answer goes out again."""
        before = time.monotonic() - UNANSWERED
        with self._lock:
            old: list[Record] = []
            if self._retired:
                return
            for record, sent in self._ledger.values():
                if sent > before:
                    break
                old.append(record)
            for record in old:
                self._send_again(record, f"no answer within {UNANSWERED:g} s")

    # -- the lane's stream ------------------------------------------------------------------------------

    def _look(self, lane: Lane) -> None:
        if lane.looking or not lane.held:
            return
        lane.looking = True
        lane.looked_at = time.monotonic()
        self._submit(self._find_stream, lane, topic_of(min(lane.held, key=number_of)))

    def _find_stream(self, lane: Lane, topic: str) -> None:
        """The helper thread."""
        refusal: str | None = None
        known = True
        try:
            self._ensure(topic)
        except PublishRejectedError as error:
            refusal = str(error)
        except NotConnectedError as error:
            logger.debug("the stream of %r is not known yet: %s", topic, error)
            known = False
        with self._lock:
            rejected = self._found(lane, known, refusal is not None)
        if refusal is not None:
            self._reject(rejected, refusal)

    def _found(self, lane: Lane, known: bool, refused: bool) -> list[Record]:
        lane.looking = False
        lane.looked_at = time.monotonic()
        if self._retired:
            return []
        if refused:
            self._lanes.pop(lane.token, None)
            self._shut.discard(lane.token)
            return lane.held
        if not known:
            self._schedule(lane)
        elif lane.ensured:
            lane.pause = 0.0
            self._schedule(lane)
        else:
            lane.ensured = True
            self._release(lane)
        return []

    def _reject(self, records: Iterable[Record], text: str) -> None:
        for record in records:
            self._answers.failed(record, PublishRejectedError(text, self._id_of(record)))


class _Acks:
    """Where the answers to publishes arrive."""

    cacheable = False

    def __init__(
        self,
        connection: Connection,
        prefix: int,
        answered: Callable[[list[tuple[int, bytes | None, bytes]]], None],
    ) -> None:
        self._dirty = connection.dirty
        self._prefix = prefix
        self._answered = answered
        self._batch: list[tuple[int, bytes | None, bytes]] = []

    def adder(self, topic: str) -> wire.Add:
        """All answers go to one place: their subjects end in the records' numbers."""
        return self.add

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """Note one answer."""
        digits = topic[self._prefix :]
        if not digits.isdecimal():
            return
        if not self._batch:
            self._dirty.append(self)
        self._batch.append((int(digits), block, payload))

    def flush(self) -> None:
        """Hand on what one read has brought."""
        batch, self._batch = self._batch, []
        self._answered(batch)
