"""Reading the past of a stream: through a consumer of its own that acknowledges nothing and is deleted at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count
from queue import Empty
from secrets import token_hex
from typing import Any, NamedTuple

from attrs import frozen

from ....consuming.excerpts import Span, Stretch, Stretches
from ....errors import NotConnectedError, ReadError
from ....message import Delivery
from ....reports import DeadLetterTopic
from ....threads import Deadline, Mailbox
from ..link import wire
from ..link.connection import Connection
from ..link.requests import Forbidden, NoResponders
from .api import SECOND, STREAM_NOT_FOUND, JetStreamApi
from .asking import ApiError, Asking, JsonObject
from .deliveries import JetStreamDelivery, place_in
from .durables import by_start_time
from .pulls import EXPIRES, HEARTBEAT, MISSED
from .streams import Stream, StreamRefused, Streams

BATCH = 256
"""Messages that are asked for at a time."""
MOST_BYTES = 2 * 1024 * 1024
"""Of one request; a message that is larger is asked for alone."""
INACTIVE = 30
"""Seconds without a request after which the server deletes a consumer that was left behind."""
ANSWER = 2.0
"""Seconds that one question may take."""
QUIET = 0.5
"""Seconds without a message after which the stream is asked whether there is one."""
NO_MESSAGE = 10037
SERVER_FAULT = 500
"""Codes from here on are troubles of the server's that may pass."""
_FILLED, _COMPLETED = "exceeds maxbytes", "batch completed"
"""In the end of a request with a bound of bytes: they do not take the next message, or all messages have come."""
_WHY_NOT = (Forbidden, NoResponders)

_new = JetStreamDelivery.__new__
_numbers = count(1)


class _Arrived(NamedTuple):
    topic: str
    reply: bytes | None
    block: bytes | None
    payload: bytes


@frozen
class Last:
    """The last message of a topic. sequence: 0 without one. stored: when, None where that is not known."""

    sequence: int
    stored: datetime | None = None

    def is_before(self, moment: datetime | None) -> bool:
        """Whether it is known to be older: then there is nothing from that moment on."""
        return moment is not None and self.stored is not None and self.stored < moment


class Holding(NamedTuple):
    """How many messages a stream holds of a topic."""

    stream: str
    messages: int


class Past:
    """What one session asks of streams that are read once more; its methods are questions."""

    def __init__(self, api: JetStreamApi, streams: Streams) -> None:
        self._api = api
        self._streams = streams

    def stretches_of(self, span: Span) -> Asking[Stretches]:
        """From where to where a span goes in the one stream that takes its topic."""
        stream = yield from self._stream_of(span.topic)
        last = yield from self.last(stream.name, span.topic)
        if last is None:
            if not stream.is_known:
                raise ReadError(
                    f"{span.topic} cannot be read: where it ends is not to be had without STREAM.INFO or STREAM.MSG.GET"
                )
            last = Last(stream.last)
        begin = span.start if isinstance(span.start, int) else 0
        end = min(last.sequence + 1, span.until) if isinstance(span.until, int) else last.sequence + 1
        since = span.start if isinstance(span.start, datetime) else None
        if last.is_before(since):
            return Stretches({})
        before = span.until if isinstance(span.until, datetime) else None
        identity = stream.incarnation if stream.is_known else None
        return Stretches({stream.name: Stretch(max(1, begin), end, since, before)}, identity)

    def last(self, stream: str, topic: str) -> Asking[Last | None]:
        """A topic's last message; None where that is not for us to ask."""
        try:
            answer = yield from self._api.call(f"STREAM.MSG.GET.{stream}", {"last_by_subj": topic})
        except _WHY_NOT:
            return None
        except ApiError as error:
            if error.number != NO_MESSAGE:
                raise
            return Last(0)
        message = answer.get("message") or {}
        return Last(int(message.get("seq") or 0), _time_of(str(message.get("time"))))

    def first(self, stream: str, topic: str) -> Asking[datetime | None]:
        """When a topic's first message was stored; None where that is not known."""
        answer = yield from self._api.call(f"STREAM.MSG.GET.{stream}", {"seq": 1, "next_by_subj": topic})
        return _time_of(str((answer.get("message") or {}).get("time")))

    def topics(self, pattern: str) -> Asking[dict[str, Holding]]:
        """How many messages each topic holds that a pattern covers, and in which stream."""
        found: dict[str, Holding] = {}
        for stream in (yield from self._streams.find(pattern)):
            seen = 0
            while True:
                asked = {"subjects_filter": pattern, "offset": seen}
                answer = yield from self._api.call(f"STREAM.INFO.{stream}", asked)
                page = (answer.get("state") or {}).get("subjects") or {}
                found |= {str(topic): Holding(stream, int(number)) for topic, number in page.items()}
                seen += len(page)
                if not page or seen >= int(answer.get("total") or 0):
                    break
        return found

    def times(self, topic: str, holding: Holding) -> Asking[DeadLetterTopic]:
        """The same of one topic, and from when its messages are, where that is ours to ask."""
        try:
            oldest = yield from self.first(holding.stream, topic)
            last = yield from self.last(holding.stream, topic)
        except (*_WHY_NOT, ApiError, NotConnectedError):
            return DeadLetterTopic(topic=topic, messages=holding.messages)
        return DeadLetterTopic(
            topic=topic, messages=holding.messages, oldest=oldest, newest=None if last is None else last.stored
        )

    def purge(self, topic: str, stretches: Stretches) -> Asking[int]:
        """Delete a topic's messages in front of where it ended; how many that were."""
        purged = 0
        for stream, stretch in stretches.left.items():
            answer = yield from self._api.call(f"STREAM.PURGE.{stream}", {"filter": topic, "seq": stretch.end})
            purged += int(answer.get("purged") or 0)
        return purged

    def make(self, stream: str, topic: str, name: str, stretch: Stretch, identity: str | None) -> Asking[JsonObject]:
        """A consumer that begins where the stretch does, and that we may pull from; ReadError for another stream."""
        now = yield from self._streams.look_at(stream, topic)
        if now.is_known and identity not in (None, now.incarnation):
            raise ReadError(f"{topic} cannot be read on: its stream was made anew")
        where: JsonObject = {"deliver_policy": "by_start_sequence", "opt_start_seq": stretch.begin}
        if stretch.since is not None and stretch.begin == 1:
            where = by_start_time(stretch.since)
        config = {
            "name": name,
            "ack_policy": "none",
            "filter_subject": topic,
            "inactive_threshold": INACTIVE * SECOND,
            "mem_storage": True,
            "num_replicas": 1,
            **where,
        }
        made = {"stream_name": stream, "config": config, "action": "create"}
        answer = yield from self._api.call(f"CONSUMER.CREATE.{stream}.{name}.{topic}", made)
        yield from self._api.see_consumer(stream, name, is_new=True)
        return answer

    def _stream_of(self, topic: str) -> Asking[Stream]:
        try:
            names = yield from self._streams.find(topic)
        except Forbidden:
            names = [topic.partition(".")[0]]  # the name that it has where we made it
        if not names:
            raise ReadError(f"{topic} cannot be read: no stream takes it")
        stream = yield from self._streams.look_at(names[0], topic)
        return stream


def _time_of(text: str) -> datetime | None:
    """A time as the server writes it, with up to nine digits of a second, in UTC; None for anything else."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    try:
        return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")
    except ValueError:
        return None


def told(question: Callable[[], Any], topic: str) -> Any:
    """What a question is answered; ReadError for a refusal, NotConnectedError for what may pass."""
    try:
        return question()
    except ApiError as error:
        if error.passes or error.code >= SERVER_FAULT:
            raise NotConnectedError(str(error)) from error
        why = "its stream is not there" if error.number == STREAM_NOT_FOUND else str(error)
        raise ReadError(f"{topic} cannot be read: {why}") from error
    except (Forbidden, NoResponders, StreamRefused) as error:
        raise ReadError(f"{topic} cannot be read: {error}") from error


class StreamReading:
    """Reads a topic through a consumer of its stream; see `Reading`.

    One request is under way, and the next one once half of it has come.
    """

    def __init__(self, connection: Connection, api: JetStreamApi, past: Past, topic: str, stretches: Stretches) -> None:
        self.trouble: object = None
        self._connection = connection
        self._api = api
        self._past = past
        self._topic = topic
        self._stretches = stretches
        self._name = f"read={token_hex(8)}"
        self._queue: Mailbox[list[_Arrived]] = Mailbox()
        self._arrived: list[_Arrived] = []
        self._inbox = f"{connection.inbox}.p{next(_numbers)}"
        self._stream, self._stretch = next(iter(stretches.left.items()))
        self._asked = 0
        self._count = 0
        self._is_too_large = False
        self._failure: Exception | None = None
        self._heard = self._looked = time.monotonic()
        made = told(
            lambda: api.run(
                past.make(str(self._stream), topic, self._name, self._stretch, stretches.identity), Deadline(ANSWER)
            ),
            topic,
        )
        self._is_empty = made.get("num_pending") == 0
        """Whether the server has said that nothing is left, before anything came."""
        self._sid = connection.subscribe(f"{self._inbox}.*", self)

    # -- the reader thread of the link ---------------------------------------------------------------------

    cacheable = False

    def adder(self, topic: str) -> wire.Add:
        """What takes a message or a status; reader thread only."""
        return self.add

    def add(self, topic: str, reply: bytes | None, block: bytes | None, payload: bytes) -> None:
        """A message, or what the server says about a request."""
        if not self._arrived:
            self._connection.dirty.append(self)
        self._arrived.append(_Arrived(topic, reply, block, payload))

    def flush(self) -> None:
        """Hand on what one read has brought."""
        arrived, self._arrived = self._arrived, []
        self._queue.put(arrived)

    # -- the thread that reads ----------------------------------------------------------------------------

    def next(self, timeout: float) -> list[Delivery]:
        """The next ones; NotConnectedError: the consumer is gone, or does not answer, or the link is lost."""
        if self._connection.lost is not None:
            raise NotConnectedError(str(self._connection.lost))
        if self._failure is not None:
            raise self._failure
        if self._is_empty:
            self._is_empty = False
            self._look(at_once=True)
            return []
        self._ask()
        try:
            arrived = self._queue.take(timeout)
        except Empty:
            self._look()
            return []
        self._heard = time.monotonic()
        batch: list[Delivery] = []
        try:
            self._take(arrived, batch)
        except (ReadError, NotConnectedError) as error:  # what was taken before it is handed on first
            self._failure = error
        return batch

    def close(self) -> None:
        """Delete the consumer; on a link that is gone the server does it by itself."""
        self._connection.unsubscribe(self._sid)
        self._connection.forget(self._sid)
        frame = wire.pub(f"{self._api.prefix}.CONSUMER.DELETE.{self._stream}.{self._name}")
        self._connection.writer.write(frame)

    def _take(self, arrived: Sequence[_Arrived], batch: list[Delivery]) -> None:
        for one in arrived:
            if one.reply is None:
                self._status(one)
            elif (delivery := self._delivery(one)) is not None:
                batch.append(delivery)
        if batch:
            self._looked = time.monotonic()
            if place_in(batch[-1].token, 8) == 0:  # nothing is pending behind it
                self._look(at_once=True)

    def _delivery(self, one: _Arrived) -> Delivery | None:
        assert one.reply is not None
        sequence, number = place_in(one.reply, 5), place_in(one.reply, 6)
        if sequence is None or number is None:
            return None  # somebody's message that strayed into the inbox
        self._asked -= 1
        self._count += 1
        if number != self._count:
            raise NotConnectedError("messages were lost on their way")
        delivery = _new(JetStreamDelivery)
        delivery.topic, delivery.payload, delivery._block = one.topic, one.payload, one.block
        delivery.identity, delivery.token = (self._stream, sequence), one.reply
        before, stored = self._stretch.before, delivery.timestamp
        if before is not None and stored is not None and stored >= before:
            self._stretches.finish(self._stream)
        return delivery if self._stretches.admit(self._stream, sequence) else None

    def _ask(self) -> None:
        """Ask for more when half of what was asked for has come."""
        if self._asked > BATCH // 2:
            return
        most = 0 if self._is_too_large else MOST_BYTES
        size = BATCH - self._asked if most else 1
        if not most and self._asked:
            return
        self._is_too_large = False
        self._asked += size
        request = {"batch": size, "expires": int(EXPIRES * SECOND), "idle_heartbeat": int(HEARTBEAT * SECOND)}
        if most:
            request["max_bytes"] = most
        subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        self._connection.writer.write(wire.pub(subject, json.dumps(request).encode(), f"{self._inbox}.{most}"))

    def _status(self, one: _Arrived) -> None:
        code, text = wire.status_of(one.block)
        if code == 100:
            return
        fields = wire.parse_headers(one.block or b"")
        unfilled = fields.get("Nats-Pending-Messages", "")
        is_filled = code == 409 and _FILLED in text.lower()
        if code in (404, 408) or is_filled or (code == 409 and _COMPLETED in text.lower()):
            self._asked = max(0, self._asked - int(unfilled)) if unfilled.isdecimal() else 0
            # For the whole request: nothing has come of it.
            self._is_too_large |= is_filled and fields.get("Nats-Pending-Bytes") == one.topic.rpartition(".")[2]
            return
        raise NotConnectedError(f"reading {self._topic}: {text or 'no answer'} ({code})")

    def _look(self, at_once: bool = False) -> None:
        """Whether there is more to come at all: the last message may have been deleted."""
        now = time.monotonic()
        if now - self._heard > HEARTBEAT * MISSED:
            raise NotConnectedError(f"the server is silent about {self._topic}")
        if not self._stretches or (not at_once and now - self._looked < QUIET):
            return
        self._looked = now
        last = told(
            lambda: self._api.run(self._past.last(str(self._stream), self._topic), Deadline(ANSWER)), self._topic
        )
        since = self._stretch.since if self._stretch.begin == 1 else None
        if (at_once and last is None) or (
            last is not None and (last.sequence < self._stretch.begin or last.is_before(since))
        ):
            self._stretches.finish(self._stream)
