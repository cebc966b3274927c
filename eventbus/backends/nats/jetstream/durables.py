"""Consumers on the server: one durable per group, pattern and stream, or one per process for a broadcast."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from .... import log
from ....config import NatsConfig
from ....consuming.attachment import Attachment
from ....threads import Deadline
from ..link.connection import Forbidden
from .api import CONSUMER_EXISTS, CONSUMER_NOT_FOUND, SECOND, ApiError, JetStreamApi
from .in_hand import in_hand_of
from .streams import Stream, StreamRefused

logger = log.get(__name__)

MAX_NAME = 255
MAX_ACK_PENDING = 1000
_INACTIVE = 300
_SHARED = "shared"
"""The mode in a durable's name: members take messages as they come. Ordered groups will have another."""
_CODES = {"_": "__", ".": "_d", "*": "_s", ">": "_g"}


@frozen
class Target:
    """What a subscription reads from: a consumer of a stream, with the limits that the server has for it.

    ack_wait, max_expires: seconds. window: messages that may be unacknowledged. max_batch, max_bytes: of one request.
    Of these 0 is for none.
    """

    stream: str
    incarnation: str
    consumer: str
    ack_wait: float
    window: int
    max_batch: int = 0
    max_expires: float = 0.0
    max_bytes: int = 0


def encode(text: str) -> str:
    """Text that may stand in a name on the server; different texts stay different."""
    return "".join(_CODES.get(character, character) for character in text)


def durable_name(group: str, pattern: str) -> str:
    """The name of a group's durable: `orders=shared=orders_d_s`; at most MAX_NAME characters."""
    name = f"{encode(group)}={_SHARED}={encode(pattern)}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 3]}=h={digest}"


class Durables:
    """Makes consumers and compares those that exist. instance: tells this process from others."""

    def __init__(self, api: JetStreamApi, config: NatsConfig, instance: str) -> None:
        self._api = api
        self._ack_wait = config.ack_wait
        self._settings = config.consumer
        self._instance = instance
        self._lock = threading.Lock()

    def ensure(self, attachment: Attachment, stream: Stream, deadline: Deadline) -> Target:
        """The consumer of a subscription on a stream, made if there is none; StreamRefused, ApiError."""
        name = self.name_of(attachment)
        if attachment.group is None:
            answer = self._find(stream.name, name, deadline)
            if answer is None:
                answer = self._create(self._broadcast(attachment, stream, name), stream.name, deadline)
            self._note_position(attachment, stream, answer)
        else:
            answer = self._shared(attachment, stream, name, deadline)
        config = answer.get("config") or {}
        window = int(config.get("max_ack_pending") or 0)
        return Target(
            stream.name,
            stream.incarnation,
            name,
            # Where there is a backoff its parts count, and ack_wait does not.
            min(map(float, config.get("backoff") or [config.get("ack_wait") or self._ack_wait * SECOND])) / SECOND,
            window if window > 0 else MAX_ACK_PENDING,
            max_batch=int(config.get("max_batch") or 0),
            max_expires=float(config.get("max_expires") or 0) / SECOND,
            max_bytes=int(config.get("max_bytes") or 0),
        )

    def name_of(self, attachment: Attachment) -> str:
        """The consumer's name, the same in every session."""
        if attachment.group is None:
            return f"broadcast={self._instance}-{os.getpid()}-{attachment.number}"
        return durable_name(attachment.group, attachment.topic)

    def _shared(self, attachment: Attachment, stream: Stream, name: str, deadline: Deadline) -> dict[str, Any]:
        policy = "new" if attachment.start == "latest" else "all"
        wanted = {**self._common(attachment), "durable_name": name, "name": name, "deliver_policy": policy}
        try:
            return self._create(wanted, stream.name, deadline)
        except Forbidden as error:
            logger.debug("durable %r of stream %r has to be there: %s", name, stream.name, error)
        except ApiError as error:
            if error.number != CONSUMER_EXISTS:
                raise
        try:
            answer = self._find(stream.name, name, deadline)
        except Forbidden:
            self._api.see_consumer(stream.name, name, deadline)
            return {}  # how it is set shows when it is pulled from
        if answer is None:  # deleted in this moment
            return self._create(wanted, stream.name, deadline)
        existing = answer.get("config") or {}
        if differences := conflicts(existing, attachment.topic):
            text = f"durable {name!r} of stream {stream.name!r} exists with other settings"
            raise StreamRefused(f"{text}: {', '.join(differences)}")
        logger.info("durable %r of stream %r exists with settings of its own", name, stream.name)
        return answer

    def _common(self, attachment: Attachment) -> dict[str, Any]:
        return {
            "max_ack_pending": MAX_ACK_PENDING,
            **self._settings,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait * SECOND),
            "max_deliver": -1,
            "filter_subject": attachment.topic,
        }

    def _broadcast(self, attachment: Attachment, stream: Stream, name: str) -> dict[str, Any]:
        wanted = {**self._common(attachment), "name": name, "inactive_threshold": _INACTIVE * SECOND}
        start = first_wanted(attachment, stream)
        if start is None:
            return {**wanted, "deliver_policy": "new"}
        return {**wanted, "deliver_policy": "by_start_sequence", "opt_start_seq": start}

    @staticmethod
    def _note_position(attachment: Attachment, stream: Stream, answer: Mapping[str, Any]) -> None:
        """From here on an outage loses nothing, even before the first message."""
        delivered = (answer.get("delivered") or {}).get("stream_seq")
        position = int(delivered if delivered is not None else stream.last)
        in_hand_of(attachment).positions.setdefault(stream.incarnation, position)

    def _create(self, wanted: dict[str, Any], stream: str, deadline: Deadline) -> dict[str, Any]:
        operation = f"CONSUMER.CREATE.{stream}.{wanted['name']}.{wanted['filter_subject']}"
        return self._api.call(operation, {"stream_name": stream, "config": wanted, "action": "create"}, deadline)

    def _find(self, stream: str, name: str, deadline: Deadline) -> dict[str, Any] | None:
        try:
            return self._api.call(f"CONSUMER.INFO.{stream}.{name}", None, deadline)
        except ApiError as error:
            if error.number != CONSUMER_NOT_FOUND:
                raise
            return None


def first_wanted(attachment: Attachment, stream: Stream) -> int | None:
    """Where a broadcast copy goes on in a stream; None for: from now on.

    In a stream that was made anew everything is new.
    """
    position = in_hand_of(attachment).positions.get(stream.incarnation)
    if position is None:
        known = any(key.rpartition("@")[0] == stream.name for key in in_hand_of(attachment).positions)
        return 1 if known else None
    held: list[Any] = [one.identity for one in in_hand_of(attachment).snapshot()]
    unfinished = [int(sequence) for incarnation, sequence in held if incarnation == stream.incarnation]
    return min([position + 1, *unfinished])


def conflicts(existing: Mapping[str, Any], pattern: str) -> list[str]:
    """What makes an existing consumer unusable for this pattern: each difference, named."""
    filters = existing.get("filter_subjects") or [existing.get("filter_subject") or ">"]
    found = []
    if existing.get("ack_policy") != "explicit":
        found.append(f"ack_policy is {existing.get('ack_policy')!r}, not 'explicit'")
    if list(filters) != [pattern]:
        found.append(f"filter is {', '.join(map(str, filters))!r}, not {pattern!r}")
    if existing.get("deliver_subject"):
        found.append("it is a push consumer")
    if existing.get("headers_only"):
        found.append("headers_only is set: it leaves the payloads out")
    if (existing.get("max_deliver") or -1) > 0:
        found.append(f"max_deliver is {existing['max_deliver']}: it gives up on messages")
    return found
