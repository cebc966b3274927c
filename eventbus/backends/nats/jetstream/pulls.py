"""Pulling from JetStream: the next batch is asked for while the last one still arrives."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from .... import log
from ....consuming.attachment import Attachment
from ....errors import SubscribeError
from ....message import Delivery
from ..core.feeds import Feed, cannot_subscribe
from ..link import wire
from ..link.connection import Connection
from .api import SECOND
from .deliveries import JetStreamDelivery, sequence_of
from .durables import Target
from .hindrance import Hindrance
from .in_hand import in_hand_of
from .pulling import COMPLETED, FILLED, LEFT_OUT, NOT_AS_WE_KNOW_IT, SOON, AnyPull
from .replies import ACK, RENEW, answers, nak
from .streams import is_wild

logger = log.get(__name__)

BATCH = 512
"""Messages that are asked for at a time, at most."""
EXPIRES = 5.0
"""Seconds that a request for messages lasts. A link that died without a sign leaves its request behind, and the
server gives it messages that come again only after `ack_wait`: it must be over before the death is noticed."""
HEARTBEAT = 2.0
"""Seconds; the server takes less than half of what the request lasts."""
MISSED = 2
"""Heartbeats that may be missing before a pull is taken for lost."""

_STRAYED = 5.0
"""Seconds for which a message is given back that is of another topic, or comes without its payload."""
_new = JetStreamDelivery.__new__
_numbers = count(1)

Broken = Callable[["PullFeed", str], None]
"""`broken(feed, reason)`: a consumer seems to be gone. Must not block."""
Refuse = Callable[["PullFeed", SubscribeError], object]
"""`refuse(feed, error)`: the server does not let us read. Must not block."""


class PullFeed(Feed):
    """The pulls of one subscription: one for each stream that it reads."""

    gives_back = True

    def __init__(self, connection: Connection, attachment: Attachment, broken: Broken, refuse: Refuse) -> None:
        super().__init__(connection, attachment)
        self.in_hand = in_hand_of(attachment)
        self._batch: list[Delivery] = []
        self.pulls: dict[str, AnyPull] = {}
        self.reported = ""
        self.seen: set[str] = set()
        """Streams that matched when they were last looked for."""
        self.lag: int | None = None
        """Messages that wait for the group, when that was last asked for."""
        self.has_moved = False  # since then
        self._broken = broken
        self._refuse = refuse
        self._renew_at = 0.0
        self._notes_time = False
        self.hindrance = Hindrance(attachment)
        self._lock = threading.Lock()

    def read(self, targets: Iterable[Target]) -> None:
        """Pull from these and from no others; what is pulled already goes on, with a fresh request."""
        with self._lock:
            wanted = {f"{target.incarnation}/{target.consumer}": target for target in targets}
            gone = [self.pulls.pop(key) for key in list(self.pulls) if key not in wanted]
            for key, target in wanted.items():
                if key in self.pulls and not self.pulls[key].target.is_like(target):
                    gone.append(self.pulls.pop(key))  # it was altered
                if key not in self.pulls and not self.closed:
                    self.pulls[key] = self._new_pull(target)
            self._notes_time = any(target.incarnation.endswith("@") for target in self.targets_of(self.pulls))
            pulls = list(self.pulls.values())
            self._renew_at = 0.0
        for pull in gone:
            pull.close()
        for pull in pulls:
            pull.restart()

    @property
    def targets(self) -> list[Target]:
        """What it reads from."""
        return self.targets_of(self.pulls)

    @staticmethod
    def targets_of(pulls: dict[str, AnyPull]) -> list[Target]:
        """What these read from. Takes no lock."""
        return [pull.target for pull in list(pulls.values())]

    def reads_like(self, targets: Iterable[Target]) -> bool:
        """Whether these are read as they are, as far as they are read at all."""
        now = {(target.stream, target.consumer): target for target in self.targets}
        return all(
            target.is_like(now[target.stream, target.consumer])
            for target in targets
            if (target.stream, target.consumer) in now
        )

    def note_state(self, targets: Sequence[Target]) -> None:
        """What consumers tell of themselves: one that is paused gives nothing."""
        paused = next((target.consumer for target in targets if target.is_paused), None)
        is_idle = not len(self.in_hand) and not self.lag
        self.hindrance.looked(paused, is_idle, bool(targets))

    @property
    def is_worth_a_look(self) -> bool:
        """Whether what waits for the group may be another number than when that was asked for last."""
        return self.has_moved or len(self.in_hand) > 0

    @property
    def ack_wait(self) -> float:
        """Seconds in which what is in hand must be renewed."""
        with self._lock:
            return min((pull.target.ack_wait for pull in self.pulls.values()), default=float("inf"))

    def sids(self) -> list[int]:
        """The numbers of its subscriptions on this link, one for each consumer that it pulls from."""
        with self._lock:
            return [pull.sid for pull in self.pulls.values()]

    def resume(self) -> None:
        """The lanes have room again: pull."""
        self.paused = False
        self._top_up()

    def flush(self) -> None:
        """Hand over what one read has brought, and pull the next."""
        batch, self._batch = self._batch, []
        self.has_moved = True
        if self._notes_time:
            self.in_hand.last_stored = batch[-1].timestamp or self.in_hand.last_stored
        if self.closed:
            self.release(batch)
            return
        if not len(self.in_hand):
            self.in_hand.renewed_at = time.monotonic()
        if self.attachment.group is None:
            self._note_positions(batch)
        if self.hand_over(batch, self.in_hand.lease):
            self._top_up()

    def is_original(self, block: bytes | None) -> bool:
        """Whether a message is not a copy, in a stream that gathers others, of one that comes from its own stream."""
        source = None if block is None else wire.source_in(block)
        return source is None or all(source != pull.target.stream for pull in list(self.pulls.values()))

    def acknowledges_on(self, subject: str) -> str:
        """The stream and consumer that an acknowledgement with this subject is about; "" if they are not its own."""
        names = [f"{pull.target.stream}.{pull.target.consumer}" for pull in list(self.pulls.values())]
        return next((name for name in names if "ACK." in subject and f".{name}." in subject), "")

    def pulls_on(self, subject: str) -> bool:
        """Whether it asks for messages on this subject."""
        return any(pull.subject == subject for pull in list(self.pulls.values()))

    def leave_out(self, subject: str) -> str:
        """Read no more from where it asks on this subject: the name of the stream; "" where it reads from no other."""
        with self._lock:
            key = next((key for key, pull in self.pulls.items() if pull.subject == subject), None)
            if key is None or len(self.pulls) < 2:
                return ""
            gone = self.pulls.pop(key)
        gone.close()
        self.in_hand.left_out.add(gone.target.stream)
        return gone.target.stream

    def stray(self, delivery: Delivery) -> None:
        """One that is not as it should be: the consumer was altered, which will show."""
        self.has_moved = True
        self.release((delivery,), _STRAYED)

    def answered(self, text: str) -> None:
        """What the server says to the inbox of a pull."""
        if text:
            self._refuse(self, cannot_subscribe(self.attachment, text))

    def collect(self, delivery: Delivery) -> None:
        """One message has arrived. Reader thread."""
        if not self._batch:
            self._dirty.append(self)
        self._batch.append(delivery)

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """These are done."""
        self.has_moved = True
        self.hindrance.acknowledged()
        self._say(deliveries, ACK)

    def release(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> None:
        """Somebody else may have these, after `delay` seconds."""
        self._say(deliveries, nak(delay))

    def renew(self) -> None:
        """Tell the server that everything in hand is still being worked on, where that is due. Timer thread."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + self.ack_wait / 3
        held = self.in_hand.snapshot()
        self._say(held, RENEW)
        if held and self._connection.lost is None:
            self.in_hand.renewed_at = time.monotonic()
        self._renew_more()

    def _renew_more(self) -> None:
        """Renew what is not in hand and not acknowledged either."""

    def watch(self) -> None:
        """Ask again where heartbeats are missing. Timer thread."""
        with self._lock:
            pulls = list(self.pulls.values())
        for pull in pulls:
            pull.watch()

    def broken(self, reason: str) -> None:
        """A consumer does not answer as it should."""
        self._broken(self, reason)

    def _say(self, deliveries: Iterable[Delivery], what: bytes) -> None:
        if frames := answers(deliveries, what):
            self._connection.writer.write(frames)

    def _new_pull(self, target: Target) -> AnyPull:
        return Pull(self, self._connection, target)

    def _top_up(self) -> None:
        for pull in list(self.pulls.values()):
            pull.top_up()

    def _note_positions(self, batch: Iterable[Delivery]) -> None:
        positions = self.in_hand.positions
        for delivery in batch:
            identity: Any = delivery.identity
            incarnation, sequence, _ = identity
            if positions.get(incarnation, 0) < sequence:
                positions[incarnation] = sequence


class Pull:
    """Requests for messages of one consumer. Counters: `_asked` under the lock, `_arrived` by the reader."""

    cacheable = False
    serves = True
    """Whether it gets what there is for it."""

    def __init__(self, feed: PullFeed, connection: Connection, target: Target) -> None:
        self.target = target
        self._feed = feed
        self._connection = connection
        self._batch = min(BATCH, target.window, target.max_batch or BATCH)
        self._expires = min(EXPIRES, target.max_expires or EXPIRES)
        self._heartbeat = min(HEARTBEAT, 0.4 * self._expires)
        self._inbox = f"{connection.inbox}.m{next(_numbers)}"
        self.subject = target.subject
        self._lock = threading.Lock()
        self._closed = False
        self._wild = feed.attachment.topic.startswith(("*", ">"))
        self._exact = "" if is_wild(feed.attachment.topic) else feed.attachment.topic
        self._round = 0
        self._asked = 0
        self._arrived = 0
        self._active = time.monotonic()
        self._heard = False
        self._is_too_large = False
        """Whether the next message is larger than what was asked for: it comes when nothing else is in hand."""
        self._incarnation = target.incarnation
        self._last_of_group = ""
        self.sid = connection.subscribe(f"{self._inbox}.*", self, answered=feed.answered)

    def adder(self, topic: str) -> wire.Add:
        """What takes a message or a status of this pull; reader thread only."""
        return self.add

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """A message, or what the server says about a request. Reader thread."""
        if reply is None:
            self._status(topic, block)
            return
        try:
            sequence, stored = sequence_of(reply)
        except (ValueError, IndexError):
            return  # somebody's message that strayed into the inbox
        self._arrived += 1
        self._heard = True
        delivery = _new(JetStreamDelivery)
        delivery.topic = topic
        delivery.payload = payload
        delivery._block = block
        delivery.identity = (self._incarnation, sequence, stored)
        delivery.token = reply
        if (self._exact and topic != self._exact) or (not payload and block and LEFT_OUT in block):
            self._feed.stray(delivery)
            return
        feed = self._feed
        if (self._wild and not feed.wants(topic)) or (len(feed.pulls) > 1 and not feed.is_original(block)):
            self._feed.acknowledge((delivery,))
            return
        self._feed.collect(delivery)

    def top_up(self) -> None:
        """Ask for more when half of what was asked for has arrived. Any thread."""
        with self._lock:
            missing = self._asked - self._arrived
            if self._closed or self._feed.closed or self._feed.paused or missing > self._batch // 2:
                return
            if missing < 0:  # a request that was given up was answered after all
                self._asked, missing = self._arrived, 0
            most = 0 if self._is_too_large else self._feed.attachment.room_bytes // len(self._feed.pulls or (self,))
            most = min(most, self.target.max_bytes or most)
            if not most and (missing or self._feed.attachment.hold()):
                return
            size = min(self._batch - missing, max(1, self._feed.attachment.room - missing)) if most else 1
            self._is_too_large = False
            self._asked += size
            reply = f"{self._inbox}.{self._round}-{most}"
        self._active = time.monotonic()
        request = {
            "batch": size,
            "expires": int(self._expires * SECOND),
            "idle_heartbeat": int(self._heartbeat * SECOND),
        }
        if most:  # else nothing is in hand: one message may come, however large it is
            request["max_bytes"] = most
        self._connection.writer.write(wire.pub(self.subject, json.dumps(request).encode(), reply))

    def restart(self) -> None:
        """Forget the requests on their way and ask anew. Any thread."""
        with self._lock:
            self._round += 1
            self._asked = self._arrived
        self.top_up()

    def watch(self) -> None:
        """Ask anew when the server has been silent for too long about a request. Timer thread."""
        now = time.monotonic()
        if self._heard:
            self._heard, self._active = False, now
        silent = now - self._active
        if self._asked > self._arrived and silent > max(1.0, self._heartbeat * MISSED):
            logger.info("no heartbeat from %s for %.0f s: pulling anew", self.target.consumer, silent)
            self.restart()

    def close(self) -> None:
        """Take no more."""
        self._closed = True
        self._connection.unsubscribe(self.sid)
        self._connection.forget(self.sid)

    def _status(self, topic: str, block: bytes | None) -> None:
        about, _, most = topic.rpartition(".")[2].partition("-")
        if about != str(self._round):
            return  # about a request that was given up
        self._active = time.monotonic()
        code, text = wire.status_of(block)
        if code == 100:
            self._note_group(block)
            return
        if code in (404, 408):
            self._arrived += self._unfilled(block)
            self.top_up()
        elif code == 409 and COMPLETED in text.lower():
            self.top_up()  # nothing is missing of it
        elif code == 409 and FILLED in text.lower():
            fields = wire.parse_headers(block or b"")
            # For the whole request: nothing has come of it.
            self._is_too_large = fields.get("Nats-Pending-Bytes") == most
            self._arrived += self._unfilled(block)
            self.top_up()
        elif code == 409 and not any(word in text.lower() for word in NOT_AS_WE_KNOW_IT):
            # Leadership change, shutdown, or a limit of its own: the request is gone, the consumer is not.
            logger.info("pull from %s ended: %s", self.target.consumer, text)
            self._connection.timer.after(SOON, self.restart)
        else:
            self._feed.broken(f"{text or 'no answer'} ({code})")

    def _note_group(self, block: bytes | None) -> None:
        """A heartbeat says how far the whole group was given messages."""
        last = wire.parse_headers(block or b"").get("Nats-Last-Stream", "")
        if last != self._last_of_group:
            self._last_of_group = last
            self._feed.has_moved = True

    def _unfilled(self, block: bytes | None) -> int:
        pending = wire.parse_headers(block or b"").get("Nats-Pending-Messages", "")
        return int(pending) if pending.isdecimal() else max(0, self._asked - self._arrived)
