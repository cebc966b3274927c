"""Pulling for an ordered group from one consumer: one member is pinned, the others wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count
from typing import Any

from .... import log
from ....message import Delivery
from ..link import wire
from ..link.connection import Connection
from .deliveries import Identity, OrderedDelivery, numbers_of, pin_in
from .durables import Target, lag_in
from .ordered_requests import KEEP, PARTS, ConsumerCalls, OneRequest
from .ordered_terms import NEVER, Place, Tenure, Term, Window, now
from .pulling import LEFT_OUT, NOT_AS_WE_KNOW_IT, SOON, Owner, is_plain_end
from .replies import ACK
from .streams import is_wild

logger = log.get(__name__)

BATCH = 500
"""Messages that are asked for at a time, at most."""
ACK_AT = 128
"""Messages that are done, at which they are acknowledged before the next `tick`."""
RESET_AGAIN = 1.0
"""Seconds after which the consumer is asked again to begin again."""
_new = OrderedDelivery.__new__
_numbers = count(1)


class OrderedPull:
    """Pulls from one consumer for an ordered group, from its making to `close`.

    `add` and `flush`: reader thread; `tick`: timer thread; the rest: any.

    What it decides it decides under its lock; what follows from that it does outside.
    """

    cacheable = False

    def __init__(self, feed: Owner, connection: Connection, target: Target) -> None:
        assert target.pinning is not None
        self.target = target
        self.subject = target.subject
        self.lag = target.lag
        self._feed = feed
        self._connection = connection
        self._exact = "" if is_wild(feed.attachment.topic) else feed.attachment.topic
        self._lock = threading.Lock()
        self._tenure = Tenure(target.pinning.lease, NEVER if target.is_untouched else now())
        self._request = OneRequest(target, now())
        self._calls = ConsumerCalls(connection, target, feed.answered)
        self._pinned_elsewhere = target.is_pinned
        self._closed = False
        self._batch: list[Delivery] = []
        self._batch_of: Term | None = None
        self._done = 0
        """Messages that are done since something was acknowledged last."""
        self._acknowledged = self._audited = 0
        """The newest sequence that was acknowledged in this term: now, and at the last audit."""
        self._floor = 0
        """The newest sequence of which the server has said, while we watched, that it is acknowledged."""
        self._audit_at = self._reset_at = NEVER
        self._inbox = f"{connection.inbox}.o{next(_numbers)}"
        self.sid = connection.subscribe(f"{self._inbox}.*", self, answered=feed.answered)

    # -- any thread ----------------------------------------------------------------------------------------

    @property
    def serves(self) -> bool:
        """Whether it gets what there is: it has begun its term, or there is nothing and nobody else is pinned."""
        term = self._tenure.term
        if term is not None:
            return term.has_begun
        return not self._pinned_elsewhere and self.lag == 0

    @property
    def tokens(self) -> list[bytes]:
        """Of all that was given in this term and is not acknowledged; none where the lease is over."""
        with self._lock:
            term = self._tenure.term
            return [] if term is None or term.lease.ended else term.window.tokens

    def finish(self, deliveries: Sequence[Delivery]) -> None:
        """These are done."""
        with self._lock:
            term = self._tenure.term
            if term is None:
                return  # they come again, and are known then
            for one in deliveries:
                identity: Any = one.identity
                term.window.finish(identity[1])
            self._done += len(deliveries)
            many = self._done >= ACK_AT
        if many:
            self._acknowledge()

    def lose(self, why: str, interrupted: bool = False) -> None:
        """End the term: nothing that was not started is, here. interrupted: another member may be active unseen."""
        with self._lock:
            was_active = self._tenure.term is not None
            self._tenure.end()
            if interrupted:
                self._tenure.interrupted(now())
                self._floor = 0  # whoever decides now may know less
        if was_active:
            self._ended(why)

    def restart(self) -> None:
        """Ask anew: what was asked before may be lost."""
        self._ask(after_an_end=False)

    def top_up(self) -> None:
        """The lanes have room: ask, unless a request is under way."""
        self._ask(after_an_end=True)

    def watch(self) -> None:
        """Nothing: `tick` does that."""

    def close(self) -> None:
        """Take no more, at once."""
        self._closed = True
        self.lose("closed")
        self._connection.unsubscribe(self.sid)
        self._connection.forget(self.sid)

    def leave(self, at_once: bool = False) -> bool:
        """Hand over to the next member, once nothing is with the lanes any more; whether that is done.

        at_once: whatever is with them; then the pin runs out by itself.
        """
        if self._closed:
            return True
        term = self._tenure.term
        is_active = term is not None and not term.lease.ended
        is_idle = not self._feed.in_hand.count_of(self.target.incarnation)
        if is_active and not is_idle and not at_once:
            return False
        if is_active and is_idle:
            self._acknowledge()
            self._calls.unpin()
        self.close()
        return True

    # -- timer thread --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """See to all that is due."""
        at = now()
        with self._lock:
            over = self._tenure.look()
            term = self._tenure.term
            begins = term is not None and term.may_begin(at)
            again = term is not None and term.reset_at is not None and at >= term.reset_at + RESET_AGAIN
            silent = self._request.is_silent(at)
            due = self._request.is_due(at)
            if silent and term is None:
                self._tenure.interrupted(at)
            audits = at - self._audit_at >= self._tenure.seconds / PARTS
        if over:
            self._ended("its lease is over")
        self._acknowledge()
        if begins or again:
            self._reset("a term begins")
        if silent:
            logger.info("no sign of a request to %s: pulling anew", self.target.consumer)
        if silent or due:
            self._ask(after_an_end=not silent)
        if audits:
            self._audit_at = at
            self._calls.info(self._was_audited)

    # -- reader thread -------------------------------------------------------------------------------------

    def adder(self, topic: str) -> wire.Add:
        """What takes a message or a status."""
        return self.add

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """A message, or what the server says about a request."""
        if reply is None:
            self._status(topic, block)
            return
        try:
            sequence, number, stored = numbers_of(reply)
        except (ValueError, IndexError):
            return  # somebody's message that strayed into the inbox
        with self._lock:
            at = now()
            empty = self._request.arrived(at)
            before = self._tenure.term
            term = self._tenure.given(pin_in(block), at)
            after = self._tenure.term
            set_back = term is not None and self._is_set_back(term, sequence, number)
            place = None if term is None else self._place(term, sequence, number, reply)
            begins = place in (Place.NEW, Place.KNOWN) and term is not None and term.begin()
        if set_back:
            logger.warning("%s was set back to %d by somebody: it is read again", self.target.consumer, sequence)
        if after is not before:
            self._moved(before, after)
        if place is Place.GAP:
            self._reset("messages are missing")
        elif place is Place.NEW and term is not None:
            self._collect(term, topic, reply, block, payload, (self.target.incarnation, sequence, stored))
        if begins:
            self._feed.changed()
        if empty:
            self._ask(after_an_end=True)

    def flush(self) -> None:
        """Hand over what one read has brought."""
        batch, self._batch = self._batch, []
        term = self._batch_of
        if batch and term is not None and not term.lease.ended:
            self._feed.hand_over(batch, term.lease)

    def _is_set_back(self, term: Term, sequence: int, number: int) -> bool:
        """Whether somebody has set the consumer back: then all of it is handled again. Under the lock."""
        if term.holds_until or self._feed.closed or number != 1 or sequence > self._floor:
            return False
        self._feed.in_hand.forget_finished_of(self.target.incarnation)
        self._floor = self._acknowledged = self._audited = 0
        term.window = Window()
        return True

    def _place(self, term: Term, sequence: int, number: int, reply: bytes) -> Place | None:
        """Where it stands; None: it is not taken, and comes again. Under the lock."""
        if term.holds_until or self._feed.closed:
            return None
        place = term.window.place(sequence, number, reply)
        if place is not Place.GAP:
            term.reset_at = None
            return place
        return None if term.reset_at is not None else place  # it is under way

    def _collect(
        self, term: Term, topic: str, reply: bytes, block: bytes | None, payload: bytes, identity: Identity
    ) -> None:
        delivery = _new(OrderedDelivery)
        delivery.topic = topic
        delivery.payload = payload
        delivery._block = block
        delivery.identity = identity
        delivery.token = reply
        if (self._exact and topic != self._exact) or (not payload and block and LEFT_OUT in block):
            self.lose("the consumer was altered")
        elif not self._feed.is_ours(topic, block):
            self.finish((delivery,))
        else:
            if self._batch_of is not term:
                self._batch, self._batch_of = [], term
            if not self._batch:
                self._connection.dirty.append(self)
            self._batch.append(delivery)

    def _moved(self, before: Term | None, after: Term | None) -> None:
        if before is not None:
            self._ended("another member was pinned")
        if after is not None:
            with self._lock:
                self._pinned_elsewhere = False
                self._acknowledged = self._audited = 0
            logger.info("%r: pinned by %s", self._feed.attachment, self.target.consumer)

    def _ended(self, why: str) -> None:
        logger.info("%r: active no more at %s: %s", self._feed.attachment, self.target.consumer, why)
        self._feed.in_hand.end_lease_of(self.target.incarnation)
        self._feed.changed()

    def _status(self, topic: str, block: bytes | None) -> None:
        code, text = wire.status_of(block)
        with self._lock:
            if topic.rpartition(".")[2] != str(self._request.number):
                return  # about a request that was given up
            if self._request.heard(now(), code, text, block):
                self._tenure.answered()
        if code == 100:
            return
        if is_plain_end(code, text):
            if not self._request.keeps or self._may_bring:
                self._ask(after_an_end=True)  # else `tick` does
        elif code == 423:
            self.lose("another member is pinned")
            self._ask(after_an_end=True)
        elif code == 409 and not any(word in text.lower() for word in NOT_AS_WE_KNOW_IT):
            self.lose(text, interrupted=True)  # leadership change, shutdown
            self._connection.timer.after(SOON, self.top_up)
        else:
            self.lose(text or "no answer", interrupted=True)
            self._feed.broken(f"{text or 'no answer'} ({code})")

    def _was_audited(self, found: dict[str, Any]) -> None:
        """How the consumer stands.

        A pin is only given with a message: where the window is full nobody would ever be. And acknowledgements that a
        former member has sent too late, by other numbers, may keep ours from counting. A reset cures both.
        """
        floor = int((found.get("ack_floor") or {}).get("stream_seq") or 0)
        pinned = any(one.get("pinned_client_id") for one in found.get("priority_groups") or ())
        with self._lock:
            self.lag = lag_in(found)
            self._floor = max(self._floor, floor)
            self._feed.in_hand.positions[self.target.incarnation] = floor
            term = self._tenure.term
            self._pinned_elsewhere = pinned and term is None
            if term is None:
                stands = not pinned and found.get("num_ack_pending") and self._tenure.may_take_over(now())
            else:
                stands = term.has_begun and term.is_open and floor < self._audited
            self._audited = self._acknowledged
        if stands and not self._feed.closed:
            self._reset("nobody is pinned" if term is None else "acknowledgements do not count")
        self._feed.changed()

    # -- asking --------------------------------------------------------------------------------------------

    @property
    def _may_bring(self) -> bool:
        """Whether a request may bring messages now; else it is there for the pin's sake."""
        if self._feed.closed or self._feed.paused:
            return False
        term = self._tenure.term
        return term is None or (term.is_open and self._request.is_sure)

    def _wanted(self) -> tuple[int, int]:
        """How many messages are to come, and how many bytes; 0 for any."""
        feed, target = self._feed, self.target
        if not self._may_bring:
            return 1, KEEP
        if self._tenure.term is None:
            return 1, 0  # the first one only says that we are pinned
        share = 0 if self._request.is_too_large else feed.share
        if not share:
            return 1, KEEP if feed.attachment.hold() else 0
        size = min(BATCH, target.window, target.max_batch or BATCH, feed.attachment.room)
        return max(1, size), max(KEEP + 1, min(share, target.max_bytes or share))

    def _ask(self, after_an_end: bool) -> None:
        """Send the one request. after_an_end: none is under way; where one is, nothing happens."""
        size, most = self._wanted()
        with self._lock:
            pin, request = self._tenure.pin, self._request
            if self._closed or (self._feed.closed and not pin) or (after_an_end and request.is_out):
                return
            at = now()
            payload = request.send(at, size, most, pin, after_an_end)
            self._tenure.asked(at, request.is_sure)
            reply = f"{self._inbox}.{request.number}"
        self._connection.writer.write(wire.pub(self.subject, payload, reply))

    def _acknowledge(self) -> None:
        """Acknowledge all that is done with everything before it, while the lease lasts."""
        with self._lock:
            self._done = 0
            term = self._tenure.term
            if term is None or not term.is_open or term.lease.ended:
                return
            found = term.window.take_done()
            if found is None:
                return
            self._acknowledged = found[0]
        self._connection.writer.write(b"PUB " + found[1] + ACK)

    def _reset(self, why: str) -> None:
        """Have the server deliver again, in order, whatever is not acknowledged."""
        at = now()
        with self._lock:
            term = self._tenure.term
            if term is None and at - self._reset_at < RESET_AGAIN:
                return
            self._reset_at = at
            if term is not None:
                term.reset_at = at
                term.window.begin_again()
        logger.debug("%s begins again: %s", self.target.consumer, why)
        self._calls.reset(self._was_reset)

    def _was_reset(self) -> None:
        with self._lock:
            if self._tenure.term is not None:
                self._tenure.term.reset_at = None
        self.top_up()
