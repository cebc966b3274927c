"""Publishing what a transaction has done, once it is committed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from secrets import token_hex

from attrs import frozen
from django.db import connections, transaction

from ... import ErrorEvent, EventBus, EventBusError, Message, PublishRejectedError, Receipt, UnsupportedError, log
from ...config import names_of
from ...fields import BadType, BadValue, Headers, check_headers, check_key
from ...message import check_id, parts_of
from ...threads import seconds
from .access import get_bus

logger = log.get(__name__)

ErrorCallback = Callable[[ErrorEvent], object]


def publish_on_commit(
    topic: str,
    payload: object,
    *,
    key: str | bytes | None = None,
    headers: Headers | None = None,
    id: str | None = None,
    timeout: float | None = None,
    using: str | None = None,
    on_error: ErrorCallback | None = None,
) -> str:
    """Publish once the current transaction is committed, and nothing if it is rolled back; returns the message's id.

    Outside of a transaction: at once. using: the alias of the database, None for the default one. The payload is
    encoded now: a later change of it is not published. What cannot be carried raises now, while the transaction can
    still be rolled back: PublishRejectedError, UnsupportedError, TypeError for a payload of None. What only the broker
    knows (its limit for the size), or NATS cannot have (a null header, a key that is no text), fails after the commit.

    After the commit it does not wait for the broker: during an outage the message stays in this process, and is sent,
    in order, when the broker is back (`on_outage="raise"`: it fails). *If the process ends before the broker has
    confirmed, the message is lost*, although the transaction is committed: when it is killed or crashes in the moment
    after the commit, or during an outage. An orderly end (gunicorn's TERM) waits for it, up to half of
    `close_timeout`. Where that is not good enough, write the message into a table in the same transaction, and publish
    from there.

    What fails after the commit breaks neither the response nor what else waits for the commit: it is logged as an
    error, with the id, and `on_error(event)` is called, which gets the error and the message: on a thread of the bus,
    or on this one when the message is not even accepted. timeout: seconds to wait for room in a bus that is full.
    """
    message = _checked(get_bus(), topic, payload, key, headers, id)
    seconds(timeout, 0.0)  # now, for behind the commit nobody is left to be told
    if not (on_error is None or callable(on_error)):
        raise TypeError(f"on_error must be a function, not {type(on_error).__name__}")
    transaction.on_commit(_Committed(message, timeout, on_error).publish, using=using, robust=True)
    return str(message.id)


@frozen
class _Committed:
    """A message whose transaction may be committed."""

    message: Message
    timeout: float | None
    on_error: ErrorCallback | None

    def publish(self) -> None:
        topic, payload, key, headers, id = parts_of(self.message)
        here = threading.get_ident()

        def answered(future: Future[Receipt]) -> None:
            try:
                future.result(0.0)
            except (EventBusError, CancelledError) as error:
                self._failed(error)
                if threading.get_ident() != here:  # a thread of the bus: nobody else closes what `on_error` has opened
                    connections.close_all()

        try:
            future = get_bus().publish_async(topic, payload, key=key, headers=headers, id=id, timeout=self.timeout)
        except EventBusError as error:
            self._failed(error)
        else:
            future.add_done_callback(answered)

    def _failed(self, error: BaseException) -> None:
        message = self.message
        logger.error("%s: message %s was not published after the commit: %s", message.topic, message.id, error)
        if self.on_error is not None:
            try:
                self.on_error(ErrorEvent(source="publish", error=error, topic=message.topic, message=message))
            except Exception:  # the transaction is committed, and nobody is left to be told otherwise
                logger.exception("%s: on_error %r failed", message.topic, self.on_error)


def _checked(
    bus: EventBus, topic: str, payload: object, key: str | bytes | None, headers: Headers | None, id: str | None
) -> Message:
    """The message, with an id; raises what publishing it would raise at the door."""
    id = token_hex(16) if id is None else id
    try:
        message = Message(
            names_of(bus.config.backend).topic(topic),
            payload,
            key=None if key is None else check_key(key),
            headers=None if headers is None else check_headers(headers),
            id=check_id(id),
        )
    except (BadValue, BadType) as error:
        raise PublishRejectedError(str(error), str(id)) from error
    if message.is_tombstone and not bus.features.tombstones:
        raise UnsupportedError("TOMBSTONE: only Kafka has messages without a value; publish b'' for an empty one")
    return message
