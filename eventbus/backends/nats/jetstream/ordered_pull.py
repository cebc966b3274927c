"""Pulling for an ordered group from one consumer: one member is pinned, the others wait."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from .... import log
from ....consuming.attachment import Attachment
from ....consuming.lease import Lease
from ....errors import NotConnectedError
from ....message import Delivery
from ..link import wire
from ..link.connection import Connection
from ..link.requests import Forbidden, Waiting
from .api import SECOND
from .asking import ApiError, Call
from .deliveries import OrderedDelivery, numbers_of
from .durables import Target, lag_in
from .ordered_in_hand import OrderedInHand
from .ordered_terms import NEVER, Place, Tenure, Term, now
from .replies import ACK
from .streams import is_wild

logger = log.get(__name__)

BATCH = 500
ACK_AT = 128
"""Messages that are done, at which they are acknowledged before the next `tick`."""
PARTS = 3
"""Of a lease that a request lasts, and that lie between two audits."""
SILENCE = 1.0
"""Seconds without a sign of a request, after which it is taken for lost."""
RESET_AGAIN = 1.0
"""Seconds after which the consumer is asked again to begin again."""
_SOON = 0.1
_KEEP = 1
"""Bytes that no message fits in: a request with this limit keeps the pin, and brings nothing."""
_FILLED = "exceeds maxbytes"
_PIN_LINE = b"\r\nNats-Pin-Id: "
_LEFT_OUT = b"Nats-Msg-Size:"
_GONE = ("consumer deleted", "push", "exceeded maxrequest", "batch size")
_new = OrderedDelivery.__new__
_numbers = count(1)


class Owner(Protocol):
    """The feed that a pull belongs to."""

    attachment: Attachment
    in_hand: OrderedInHand
    closed: bool
    paused: bool

    @property
    def share(self) -> int:
        """Bytes that this pull may ask for now."""

    def is_ours(self, topic: str, block: bytes | None) -> bool:
        """Whether a message is for the subscription."""

    def hand_over(self, batch: list[Delivery], lease: Lease) -> bool:
        """Give a batch to the lanes."""

    def answered(self, text: str) -> None:
        """The server does not let us read."""

    def broken(self, reason: str) -> None:
        """The consumer is gone, or not as it was."""

    def changed(self) -> None:
        """Whether it is active may be otherwise than before."""


class OrderedPull:
    """At work from its making to `close`. `add` and `flush`: reader thread; `tick`: timer thread; the rest: any."""

    cacheable = False

    def __init__(self, feed: Owner, connection: Connection, target: Target) -> None:
        assert target.pinning is not None
        self.target = target
        self.subject = target.subject
        self.lag = target.lag
        self._feed = feed
        self._connection = connection
        self._group = target.pinning.group
        self._api = target.subject.partition(".CONSUMER.MSG.NEXT.")[0]
        self._lasts = min(target.pinning.lease / PARTS, target.max_expires or target.pinning.lease)
        self._lock = threading.Lock()
        self._tenure = Tenure(target.pinning.lease, NEVER if target.is_untouched else now())
        self._pinned_elsewhere = target.is_pinned
        self._closed = False
        self._round = 0
        self._out = self._is_keeping = False
        """Whether a request is under way, and one that is to bring nothing."""
        self._left = 0
        self._sent = self._heard = now()
        self._most = 0
        self._is_too_large = False
        self._is_sure = True
        """Whether no request that was given up can be answered any more."""
        self._batch: list[Delivery] = []
        self._batch_of: Term | None = None
        self._done = 0
        self._acknowledged = self._audited = 0
        """The newest sequence that was acknowledged in this term: now, and at the last audit."""
        self._floor = 0
        """The newest sequence of which the server has said, on this link, that it is acknowledged."""
        self._audit_at = self._reset_at = NEVER
        self._tokens: dict[str, str] = {}
        self._exact = "" if is_wild(feed.attachment.topic) else feed.attachment.topic
        self._inbox = f"{connection.inbox}.o{next(_numbers)}"
        self.sid = connection.subscribe(f"{self._inbox}.*", self, answered=feed.answered)

    # -- what others see ---------------------------------------------------------------------------------

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
            if self._done < ACK_AT:
                return
        self._acknowledge()

    def lose(self, why: str, interrupted: bool = False) -> None:
        """End the term: nothing that was not started is, here. interrupted: another member may be active unseen."""
        with self._lock:
            was_active = self._tenure.term is not None
            if interrupted:
                self._tenure.interrupted(now())
            self._tenure.end()
        if was_active:
            logger.info("%r: active no more: %s", self._feed.attachment, why)
            self._ended()

    def restart(self) -> None:
        """Ask anew: what was asked before may be lost."""
        self._ask(after_an_end=False)

    def top_up(self) -> None:
        """The lanes have room: ask, unless a request is under way."""
        if not self._out:
            self._ask(after_an_end=True)

    def watch(self) -> None:
        """Nothing: `tick` does that."""

    def close(self) -> None:
        """Take no more, at once."""
        self._closed = True
        self.lose("closed")
        self._connection.unsubscribe(self.sid)
        self._connection.forget(self.sid)
        for token in list(self._tokens.values()):
            self._connection.forget_request(token)

    def leave(self, at_once: bool = False) -> bool:
        """Hand over to the next member, once nothing is with the lanes any more; whether it is over."""
        if self._closed:
            return True
        term = self._tenure.term
        is_active = term is not None and not term.lease.ended
        idle = not self._feed.in_hand.count_of(self.target.incarnation)
        if is_active and not idle and not at_once:
            return False
        if is_active and idle:
            self._acknowledge()
            names = f"{self.target.stream}.{self.target.consumer}"
            unpin = json.dumps({"group": self._group}).encode()
            reply = f"{self._connection.inbox}.r.none"
            self._connection.writer.write(wire.pub(f"{self._api}.CONSUMER.UNPIN.{names}", unpin, reply))
        self.close()
        return True

    # -- timer thread --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """See to all that is due."""
        at = now()
        with self._lock:
            over = self._tenure.look()
            term = self._tenure.term
            held_out = term is not None and term.holds_until and at >= term.holds_until
            if term is not None and held_out:
                term.holds_until = 0.0
            again = held_out or (term is not None and term.reset_at is not None and at >= term.reset_at + RESET_AGAIN)
            silent = self._out and at - max(self._heard, self._sent) > max(SILENCE, 2 * self._lasts)
            due = not self._out and at - self._sent >= self._lasts
            if silent and term is None:
                self._tenure.interrupted(at)
            audits = at - self._audit_at >= self._tenure.seconds / PARTS
        if over:
            logger.info("%r: active no more: the lease is over", self._feed.attachment)
            self._ended()
        self._acknowledge()
        if again:
            self._reset("a term begins")
        if silent:
            logger.info("no sign of a request to %s: pulling anew", self.target.consumer)
        if silent or due:
            self._ask(after_an_end=not silent)
        if audits:
            self._audit(at)

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
            sequence, number = numbers_of(reply)
        except (ValueError, IndexError):
            return  # somebody's message that strayed into the inbox
        with self._lock:
            self._left -= 1
            self._heard = at = now()
            empty = self._left <= 0
            if empty:
                self._out = False
            before = self._tenure.term
            term = self._tenure.given(pin_in(block), at)
            place = None if term is None or not self._takes(term) else self._place(term, sequence, number, reply)
            begins = place is not None and place is not Place.GAP and term is not None and not term.has_begun
            if term is not None and begins:
                term.has_begun = True
            after = self._tenure.term
        if after is not before:
            self._began(before, after)
        if place is Place.GAP:
            self._reset("messages are missing")
        elif place is Place.NEW and term is not None:
            self._collect(term, topic, reply, block, payload, sequence)
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

    def _takes(self, term: Term) -> bool:
        return not term.holds_until and not self._feed.closed

    def _place(self, term: Term, sequence: int, number: int, reply: bytes) -> Place:
        """Under the lock."""
        if number == 1 and sequence <= self._floor:
            logger.warning("%s was set back to %d by somebody: it is read again", self.target.consumer, sequence)
            self._feed.in_hand.forget_finished_of(self.target.incarnation)
            self._floor = self._acknowledged = self._audited = 0
            term.window = type(term.window)()
        place = term.window.place(sequence, number, reply)
        if place is not Place.GAP:
            term.reset_at = None
        else:
            place = Place.GAP if term.reset_at is None else Place.KNOWN  # it is under way
        return place

    def _collect(
        self, term: Term, topic: str, reply: bytes, block: bytes | None, payload: bytes, sequence: int
    ) -> None:
        delivery = _new(OrderedDelivery)
        delivery.topic = topic
        delivery.payload = payload
        delivery._block = block
        delivery.identity = (self.target.incarnation, sequence)
        delivery.token = reply
        if (self._exact and topic != self._exact) or (not payload and block and _LEFT_OUT in block):
            self.lose("the consumer was altered")
        elif not self._feed.is_ours(topic, block):
            self.finish((delivery,))
        else:
            if self._batch_of is not term:
                self._batch, self._batch_of = [], term
            if not self._batch:
                self._connection.dirty.append(self)
            self._batch.append(delivery)

    def _began(self, before: Term | None, term: Term | None) -> None:
        if before is not None:
            self._ended()
        if term is not None:
            self._pinned_elsewhere = False
            self._acknowledged = self._audited = 0
            wait = max(0.0, term.holds_until - now()) if term.holds_until else 0.0
            logger.info("%r: active from now on%s", self._feed.attachment, f", in {wait:.2f} s" if wait else "")

    def _ended(self) -> None:
        self._feed.in_hand.end_lease_of(self.target.incarnation)
        self._feed.changed()

    def _status(self, topic: str, block: bytes | None) -> None:
        code, text = wire.status_of(block)
        with self._lock:
            if topic.rpartition(".")[2] != str(self._round):
                return  # about a request that was given up
            self._heard = now()
            if code in (100, 404, 408) or _FILLED in text.lower():
                self._tenure.answered()
                self._is_sure = True
            if code != 100:
                self._out = False
            keeps, self._is_keeping = self._is_keeping, self._is_keeping and code == 100
        if code == 100:
            return
        if _FILLED in text.lower():
            if keeps and not self._may_bring:
                return  # `tick` asks again
            pending = wire.parse_headers(block or b"").get("Nats-Pending-Bytes", "")
            self._is_too_large = not keeps and pending == str(self._most)  # nothing has come of the whole request
            self._ask(after_an_end=True)
        elif code in (404, 408):
            self._ask(after_an_end=True)
        elif code == 423:
            self.lose("another member was pinned")
            self._ask(after_an_end=True)
        elif code == 409 and not any(word in text.lower() for word in _GONE):
            self.lose(text, interrupted=True)  # leadership change, shutdown
            self._connection.timer.after(_SOON, self.top_up)
        else:
            self.lose(text or "no answer", interrupted=True)
            self._feed.broken(f"{text or 'no answer'} ({code})")

    # -- asking --------------------------------------------------------------------------------------------

    @property
    def _may_bring(self) -> bool:
        """Whether a request may bring messages now; else it is there for the pin's sake."""
        term = self._tenure.term
        return not (self._feed.closed or self._feed.paused) and (term is None or (term.is_open and self._is_sure))

    def _wanted(self) -> tuple[int, int]:
        """How many messages are to come, and how many bytes; 0 for any."""
        feed = self._feed
        if not self._may_bring:
            return 1, _KEEP
        if self._tenure.term is None:
            return 1, 0  # the first one only says that we are pinned
        most = 0 if self._is_too_large else min(feed.share, self.target.max_bytes or feed.share)
        if not most:
            return 1, _KEEP if feed.attachment.hold() else 0
        size = min(BATCH, self.target.window, self.target.max_batch or BATCH, feed.attachment.room)
        return max(1, size), max(most, _KEEP + 1)

    def _ask(self, after_an_end: bool) -> None:
        """Send the one request; where it follows the end of another, none may be under way."""
        size, most = self._wanted()
        with self._lock:
            if self._closed or (self._feed.closed and not self._tenure.pin) or (after_an_end and self._out):
                return
            self._round += 1
            self._out, self._is_keeping, self._left, self._most = True, most == _KEEP, size, most
            if most != _KEEP:
                self._is_too_large = False
            self._sent = now()
            self._is_sure = self._is_sure and after_an_end
            self._tenure.asked(self._sent, self._is_sure)
            request: dict[str, object] = {
                "batch": size,
                "expires": int(self._lasts * SECOND),
                "idle_heartbeat": int(self._lasts * 0.4 * SECOND),
                "group": self._group,
            }
            if self._tenure.pin:
                request["id"] = self._tenure.pin
            if most:
                request["max_bytes"] = most
            reply = f"{self._inbox}.{self._round}"
        self._connection.writer.write(wire.pub(self.subject, json.dumps(request).encode(), reply))

    def _acknowledge(self) -> None:
        """Acknowledge all that is done with everything before it, while the lease lasts."""
        with self._lock:
            term = self._tenure.term
            if term is None or not term.is_open or term.lease.ended:
                return
            self._done = 0
            found = term.window.take_done()
            if found is None:
                return
            self._acknowledged = found[0]
        self._connection.writer.write(b"PUB " + found[1] + ACK)

    def _reset(self, why: str) -> None:
        """Have the server deliver again, in order, whatever is not acknowledged."""
        at = now()
        with self._lock:
            if at - self._reset_at < RESET_AGAIN and self._tenure.term is None:
                return
            self._reset_at = at
            if self._tenure.term is not None:
                self._tenure.term.reset_at = at
                self._tenure.term.window.begin_again()
        logger.debug("%s begins again: %s", self.target.consumer, why)
        self._call("RESET", self._was_reset)

    def _was_reset(self, waiting: Waiting) -> None:
        if self._read(waiting) is None:
            return  # `tick` asks again
        with self._lock:
            if self._tenure.term is not None:
                self._tenure.term.reset_at = None
        self.top_up()

    def _audit(self, at: float) -> None:
        self._audit_at = at
        self._call("INFO", self._was_audited)

    def _was_audited(self, waiting: Waiting) -> None:
        """A pin is only given with a message: with a full window nobody would be active; nor where acknowledgements of
        another numbering have come in between, which keep ours from counting.
        """
        found = self._read(waiting)
        if found is None:
            return
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
                stands = term.has_begun and term.reset_at is None and floor < self._audited
            self._audited = self._acknowledged
        if stands and not self._feed.closed:
            self._reset("nobody is pinned" if term is None else "acknowledgements do not count")
        self._feed.changed()

    def _call(self, operation: str, told: Callable[[Waiting], object]) -> None:
        """Call the API about the consumer; of each operation one call is waited for."""
        self._connection.forget_request(self._tokens.pop(operation, ""))
        subject = f"{self._api}.CONSUMER.{operation}.{self.target.stream}.{self.target.consumer}"
        with suppress(NotConnectedError):
            self._tokens[operation] = self._connection.ask(subject, b"", told)

    def _read(self, waiting: Waiting) -> dict[str, Any] | None:
        try:
            return Call(waiting.subject).read(waiting.result())
        except Forbidden as error:
            self._feed.answered(str(error))
        except (NotConnectedError, ApiError) as error:
            logger.debug("%s: %s", waiting.subject, error)
        return None


def pin_in(block: bytes | None) -> str:
    """The pin that a message came with; "" without one. The server's own is the last line."""
    start = -1 if block is None else block.rfind(_PIN_LINE)
    if block is None or start < 0:
        return ""
    start += len(_PIN_LINE)
    return block[start : block.find(b"\r\n", start)].decode("utf-8", "replace")
