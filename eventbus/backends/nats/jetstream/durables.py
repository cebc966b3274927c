"""Consumers on the server: one durable per group, pattern and stream, or one per process for a broadcast."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import evolve, frozen

from .... import log
from ....config import NatsConfig
from ....consuming.attachment import Attachment
from ..link.requests import Forbidden, NoResponders
from .api import (
    CONSUMER_EXISTS,
    CONSUMER_NOT_FOUND,
    DELIVERS_ALL_ONLY,
    MAX_ACK_PENDING_LIMITED,
    SECOND,
    JetStreamApi,
)
from .asking import ApiError, Asking, JsonObject
from .conflicts import check_usable
from .in_hand import in_hand_of
from .ordered_durable import LEASE, RESETS_SINCE, SAFETY_NET, Pinning, pinned, pinning_in
from .streams import Stream, StreamRefused

logger = log.get(__name__)

MAX_NAME = 255
"""Characters that the server lets the name of a consumer have."""
MAX_ACK_PENDING = 1000
"""Messages of one consumer that may be unacknowledged, where nothing else is configured."""
_INACTIVE = 300
"""Seconds without a request after which the server deletes a broadcast copy's consumer."""
UNKNOWN_BEFORE = 60.0
"""Seconds that are read again where the stream may be another one: members may have been at work for so long."""
Unasked = (Forbidden, NoResponders)
"""Not for us to ask: the account does not let us, or does not import it."""
_MODES = {False: "shared", True: "ordered"}
"""In a durable's name: members take messages as they come, or one of them all of them in order."""
_CODES = {"_": "__", ".": "_d", "*": "_s", ">": "_g"}


@frozen
class Target:
    """What a subscription reads from: a consumer of a stream, with the limits that the server has for it.

    pinning: where one member is given all messages. is_pinned: somebody is. is_untouched: nobody ever was given any.
    is_paused: by an operator.
    subject: asks it for messages. lag: messages that waited for the group when it was asked, None if it may not be.
    ack_wait, max_expires: seconds. window: messages that may be unacknowledged. max_batch, max_bytes: of one request.
    Of these 0 is for none.
    """

    stream: str
    incarnation: str
    consumer: str
    subject: str
    ack_wait: float
    window: int
    max_batch: int = 0
    max_expires: float = 0.0
    max_bytes: int = 0
    lag: int | None = None
    is_paused: bool = False
    pinning: Pinning | None = None
    is_pinned: bool = False
    is_untouched: bool = False

    def is_like(self, other: Target) -> bool:
        """Whether it is read in the same way."""
        return self._lasting() == other._lasting()

    def _lasting(self) -> Target:
        return evolve(self, lag=None, is_paused=False, is_pinned=False, is_untouched=False)


def encode(text: str) -> str:
    """Text that may stand in a name on the server; different texts stay different."""
    return "".join(_CODES.get(character, character) for character in text)


def durable_name(group: str, pattern: str, ordered: bool = False) -> str:
    """The name of a group's durable: `orders=shared=orders_d_s`; at most MAX_NAME characters."""
    return shortened(f"{encode(group)}={_MODES[ordered]}={encode(pattern)}")


def shortened(name: str) -> str:
    """A name of at most MAX_NAME characters; different ones stay different."""
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 3]}=h={digest}"


class Durables:
    """Makes consumers and compares those that exist; its methods are questions.

    instance: tells this process from others. resets: whether the server lets a consumer begin again.
    """

    def __init__(self, api: JetStreamApi, config: NatsConfig, instance: str, resets: bool) -> None:
        self._api = api
        self._ack_wait = config.ack_wait
        self._settings = config.consumer
        self._name = config.durable
        self._instance = instance
        self._resets = resets
        self._asks_in_vain = False

    def ensure(self, attachment: Attachment, stream: Stream) -> Asking[Target]:
        """The consumer of a subscription on a stream, made if there is none; StreamRefused, ApiError."""
        name = self.name_of(attachment)
        if attachment.group is None:
            if attachment.ordered:
                raise StreamRefused("ordered=True needs a group: a broadcast copy is one process's alone")
            answer = yield from self._find(stream.name, name)
            if answer is None:
                answer = yield from self._create(self._broadcast(attachment, stream, name), stream.name)
        else:
            yield from self._check_mode(attachment, stream)
            answer = yield from self._shared(attachment, stream, name)
            if attachment.ordered and self._resets:
                answer = yield from self._pinned(answer, stream.name, name)
        note_position(attachment, stream.incarnation, answer, stream.last)
        return self._target(stream.name, stream.incarnation, name, answer)

    def _target(self, stream: str, incarnation: str, name: str, answer: JsonObject) -> Target:
        config = answer.get("config") or {}
        window = int(config.get("max_ack_pending") or 0)
        delivered, floor = answer.get("delivered") or {}, answer.get("ack_floor") or {}
        return Target(
            stream,
            incarnation,
            name,
            f"{self._api.prefix}.CONSUMER.MSG.NEXT.{stream}.{name}",
            # Where there is a backoff its parts count, and ack_wait does not.
            min(map(float, config.get("backoff") or [config.get("ack_wait") or self._ack_wait * SECOND])) / SECOND,
            window if window > 0 else MAX_ACK_PENDING,
            max_batch=int(config.get("max_batch") or 0),
            max_expires=float(config.get("max_expires") or 0) / SECOND,
            max_bytes=int(config.get("max_bytes") or 0),
            lag=lag_in(answer),
            is_paused=bool(answer.get("paused")),
            pinning=pinning_in(config),
            is_pinned=any(one.get("pinned_client_id") for one in answer.get("priority_groups") or ()),
            is_untouched=not (delivered.get("consumer_seq") or floor.get("stream_seq")) and "delivered" in answer,
        )

    def look(self, attachment: Attachment, target: Target) -> Asking[Target]:
        """A consumer as it is now; notes where its group stands.

        ApiError, Forbidden; StreamRefused: it was altered, and is of no use any more.
        """
        answer = yield from self._api.call(f"CONSUMER.INFO.{target.stream}.{target.consumer}")
        if attachment.group is not None:
            note_position(attachment, target.incarnation, answer, 0)
            self._check(attachment, answer, target.consumer, target.stream)
        return self._target(target.stream, target.incarnation, target.consumer, answer)

    def name_of(self, attachment: Attachment) -> str:
        """The consumer's name, the same in every session."""
        if attachment.group is None:
            return f"broadcast={self._instance}-{os.getpid()}-{attachment.number}"
        if self._name is None:
            return durable_name(attachment.group, attachment.topic, attachment.ordered)
        name = self._name.replace("{group}", encode(attachment.group)).replace("{topic}", encode(attachment.topic))
        return shortened(name)

    def _shared(self, attachment: Attachment, stream: Stream, name: str) -> Asking[JsonObject]:
        where = goes_on_at(attachment, stream)
        policy = where or _begins(attachment)
        wanted = {**self._common(attachment), "durable_name": name, "name": name, **policy}
        if where is None:
            try:
                answer = yield from self._create(wanted, stream.name)
                return answer
            except Unasked as error:
                logger.debug("durable %r of stream %r has to be there: %s", name, stream.name, error)
            except ApiError as error:
                if error.number != CONSUMER_EXISTS:
                    raise
                logger.info("durable %r of stream %r exists with settings of its own", name, stream.name)
        try:
            found = yield from self._find(stream.name, name)
        except Unasked:
            found = yield from self._unseen(stream.name, name)
        if found is None:
            note_remade(attachment, stream)
            answer = yield from self._again(wanted, stream.name)
            return answer
        if found:
            self._check(attachment, found, name, stream.name)
        return found

    def _pinned(self, answer: JsonObject, stream: str, name: str) -> Asking[JsonObject]:
        """The consumer of an ordered group; StreamRefused where we may not look after it.

        Where it is full nobody is pinned before it begins again, and whoever takes over has it begin again.
        """
        if answer and pinning_in(answer.get("config") or {}) is None:
            return answer
        try:
            found = yield from self._api.call(f"CONSUMER.INFO.{stream}.{name}")
            yield from self._api.see_right(f"CONSUMER.RESET.{stream}.{name}")
        except Unasked as error:
            text = f"ordered=True takes the rights to CONSUMER.INFO and CONSUMER.RESET of durable {name!r}: {error}"
            raise StreamRefused(text) from error
        return answer or found

    def _check(self, attachment: Attachment, found: Mapping[str, Any], name: str, stream: str) -> None:
        config = found.get("config") or {}
        check_usable(config, attachment.topic, name, stream, attachment.ordered)
        if pinning_in(config) and not self._resets:
            raise StreamRefused(f"durable {name!r} of stream {stream!r} needs nats-server {RESETS_SINCE}")

    def _check_mode(self, attachment: Attachment, stream: Stream) -> Asking[None]:
        """StreamRefused where the group reads this topic in the other mode."""
        group, topic, ordered = attachment.group, attachment.topic, attachment.ordered
        if group is None or self._name is not None or in_hand_of(attachment).has_begun or self._asks_in_vain:
            return
        name = durable_name(group, topic, not ordered)
        try:
            found = yield from self._find(stream.name, name)
        except Forbidden:
            return
        except NoResponders:  # it took a while
            self._asks_in_vain = True
            return
        if found is not None:
            raise StreamRefused(
                f"group {group!r} reads {topic!r} with ordered={not ordered}: end its members and delete durable "
                f"{name!r} of stream {stream.name!r}, or take ordered={not ordered}, or another group"
            )

    def _unseen(self, stream: str, name: str) -> Asking[JsonObject | None]:
        """Whether there is a durable that we may not ask for: {}, how it is set shows when it is pulled from."""
        try:
            yield from self._api.see_consumer(stream, name)
        except ApiError as error:
            if error.number != CONSUMER_NOT_FOUND:
                raise
            return None
        return {}

    def _again(self, wanted: JsonObject, stream: str) -> Asking[JsonObject]:
        """Make a durable that was there."""
        try:
            answer = yield from self._create(wanted, stream)
        except Forbidden as error:
            raise ApiError(
                404, CONSUMER_NOT_FOUND, f"consumer {wanted['name']!r} not found, and it may not be made"
            ) from error
        except ApiError as error:
            if error.number != DELIVERS_ALL_ONLY:
                raise
            # A work queue: what was acknowledged is not there any more.
            rest = {key: value for key, value in wanted.items() if not key.startswith("opt_start")}
            answer = yield from self._create({**rest, "deliver_policy": "all"}, stream)
        return answer

    def _common(self, attachment: Attachment) -> JsonObject:
        settings = {"max_ack_pending": MAX_ACK_PENDING, **self._settings}
        lease = settings.pop("priority_timeout", int(LEASE * SECOND))
        common = {
            **settings,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait * SECOND),
            "max_deliver": -1,
            "filter_subject": attachment.topic,
        }
        if attachment.ordered and self._resets:
            common |= pinned(lease, max(self._ack_wait, SAFETY_NET))
        elif attachment.ordered:
            common |= {"max_ack_pending": 1}
        return common

    def _broadcast(self, attachment: Attachment, stream: Stream, name: str) -> JsonObject:
        wanted = {**self._common(attachment), "name": name, "inactive_threshold": _INACTIVE * SECOND}
        return {**wanted, **(goes_on_at(attachment, stream) or {"deliver_policy": "new"})}

    def _create(self, wanted: JsonObject, stream: str) -> Asking[JsonObject]:
        operation = f"CONSUMER.CREATE.{stream}.{wanted['name']}.{wanted['filter_subject']}"
        request = {"stream_name": stream, "config": wanted, "action": "create"}
        try:
            answer = yield from self._api.call(operation, request)
        except ApiError as error:
            if error.number != MAX_ACK_PENDING_LIMITED or "max_ack_pending" in self._settings:
                raise
            allowed = {key: value for key, value in wanted.items() if key != "max_ack_pending"}  # the server's own
            answer = yield from self._api.call(operation, {**request, "config": allowed})
        return answer

    def _find(self, stream: str, name: str) -> Asking[JsonObject | None]:
        try:
            answer = yield from self._api.call(f"CONSUMER.INFO.{stream}.{name}")
        except ApiError as error:
            if error.number != CONSUMER_NOT_FOUND:
                raise
            return None
        return answer


def _begins(attachment: Attachment) -> JsonObject:
    if isinstance(attachment.start, datetime):
        return by_start_time(attachment.start)
    return {"deliver_policy": "new" if attachment.start == "latest" else "all"}


def by_start_time(moment: datetime) -> JsonObject:
    """How a consumer is told to begin at a moment."""
    at = moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    return {"deliver_policy": "by_start_time", "opt_start_time": at}


def note_position(attachment: Attachment, incarnation: str, answer: Mapping[str, Any], last: int) -> None:
    """Where a consumer stands: from there on an outage loses nothing, even before the first message.

    Of a group that is what all its members have acknowledged, of a broadcast copy what was delivered. last: of the
    stream, where the answer says nothing.
    """
    positions = in_hand_of(attachment).positions
    if attachment.group is not None:
        floor = (answer.get("ack_floor") or {}).get("stream_seq")
        if floor is not None:
            positions[incarnation] = int(floor)
        return
    delivered = (answer.get("delivered") or {}).get("stream_seq")
    positions.setdefault(incarnation, int(delivered if delivered is not None else last))


def lag_in(answer: Mapping[str, Any]) -> int | None:
    """The messages that are not acknowledged, delivered or not; None where the answer does not say."""
    if "num_pending" not in answer:
        return None
    return int(answer["num_pending"]) + int(answer.get("num_ack_pending") or 0)


def note_remade(attachment: Attachment, stream: Stream) -> None:
    """A durable is made again: what was finished just now and comes again is no new message, if the stream is known."""
    in_hand = in_hand_of(attachment)
    if stream.is_known:
        in_hand.begin_era()
    else:
        in_hand.forget_finished()


def goes_on_at(attachment: Attachment, stream: Stream) -> JsonObject | None:
    """From where a consumer is made that is not there any more; None: as the subscription begins.

    Where a stream may have been made anew without our knowing it goes by time: what is stored there is new, then.
    """
    in_hand = in_hand_of(attachment)
    if stream.is_known or not in_hand.has_begun:
        start = first_wanted(attachment, stream)
        return None if start is None else {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
    if in_hand.last_stored is None:
        return {"deliver_policy": "all"}
    return by_start_time(in_hand.last_stored - timedelta(seconds=UNKNOWN_BEFORE))


def first_wanted(attachment: Attachment, stream: Stream) -> int | None:
    """Where a subscription goes on in a stream, if its consumer is not there (any more); None for: as it begins.

    In a stream that was found later, or made anew, everything is new.
    """
    in_hand = in_hand_of(attachment)
    position = in_hand.positions.get(stream.incarnation)
    if position is None:
        return 1 if in_hand.has_begun else None
    if position > stream.last:  # a backup was restored: what comes has these sequences again
        position = in_hand.positions[stream.incarnation] = stream.last
    held: list[Any] = [one.identity for one in in_hand.snapshot()]
    unfinished = [int(sequence) for incarnation, sequence, _ in held if incarnation == stream.incarnation]
    return min([position + 1, *unfinished])
