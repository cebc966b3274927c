"""The consume middleware that handles each message once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from secrets import token_hex

from .. import log
from ..callables import check_plain
from ..consuming.handling import current_subscription
from ..errors import RetryLater
from ..message import Message
from ..middleware import Consume
from ..outages import put_off
from ..threads import seconds
from .renewed import Renewed
from .stores import Claim, MemoryStore, RemoteStore, Store

logger = log.get(__name__)

KeyOf = Callable[[Message], "str | None"]
"""What a message is known by; None: by nothing, it is handled each time it comes."""

AGAIN = 1.0
"""Seconds until a message comes again that somebody else handles now: as after a redelivery that is given back."""


class Deduplication(Renewed):
    """Consume middleware, made by `deduplicate`. One may serve any number of buses.

    skipped: messages that were acknowledged without a call of the handler, as they had been handled.
    busy: how often a message was put off because somebody else was handling it at that moment.
    """

    takes_batches = False

    def __init__(self, store: Store, key: KeyOf, retry_after: float) -> None:
        self.store = store
        self._remote = store if isinstance(store, RemoteStore) else None
        self.skipped = self.busy = 0
        super().__init__()
        self._key = key
        self._retry_after = retry_after

    def __repr__(self) -> str:
        return f"deduplicate({type(self.store).__name__})"

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, message: Message, call_next: Consume) -> object:
        """Handle a message unless it was handled; RetryLater while somebody else does, or the store is away."""
        if not isinstance(message, Message):
            raise TypeError(f"deduplicate() is for handlers of single messages, not of a {type(message).__name__}")
        key = self._key(message)
        if key is None:
            return call_next(message)
        remote = self._remote
        if remote is None:
            return self._once(message, call_next, key)
        with put_off(message, self._retry_after, remote.outages, remote.what_is_away):
            return self._once(message, call_next, key)

    def _once(self, message: Message, call_next: Consume, key: str) -> object:
        owner = token_hex(16)
        claim = self.store.claim(key, owner)
        if claim is Claim.CLAIMED:
            return self._handle(message, call_next, key, owner)
        with self._lock:
            self.skipped += claim is Claim.DONE
            self.busy += claim is Claim.BUSY
        if claim is Claim.BUSY:
            raise RetryLater(self._retry_after, f"{message!r} is being handled elsewhere")
        return None

    def _handle(self, message: Message, call_next: Consume, key: str, owner: str) -> object:
        process = os.getpid()
        try:
            result = call_next(message)
            if os.getpid() == process:  # else the handler has forked, and the claim is the parent's
                self.store.done(key, owner)
            return result
        except BaseException:
            if os.getpid() == process:
                self._forget(message, key, owner)
            raise

    def _forget(self, message: Message, key: str, owner: str) -> None:
        try:
            self.store.forget(key, owner)
        except Exception:  # what the handler has raised matters more
            logger.exception(
                "taking back the claim on %r failed: it is handled again once the claim has expired", message
            )


def deduplicate(store: Store | None = None, *, key: KeyOf | None = None, retry_after: float = AGAIN) -> Deduplication:
    """Make consume middleware that handles each message of a group once: `bus.use(consume=deduplicate(...))`.

    store: keeps the marks, a `MemoryStore` unless you pass another one. What is marked is acknowledged without a call
    of the handler; a handler that fails takes its mark back. key(message): what a message is known by; None for one
    that is to be handled each time. Without a function of yours that is the subscription's group and topic with the
    message's topic and id, or where it has no id its partition, offset and timestamp. Broadcast copies have no group
    to share marks with, and are handled each time; so is what has neither id nor offset.
    retry_after: seconds until a message comes again that another thread or process is handling now: it is not
    acknowledged before that one has succeeded, and handled here if it has failed. As often as it takes a message comes
    again whose store is away (a `RemoteStore`): its handler has not failed.
    """
    if store is not None and (isinstance(store, type) or not isinstance(store, Store)):
        raise TypeError(f"store must be an object with claim, done and forget, as Store has them, not {store!r}")
    if key is not None:
        check_plain(key, "key", takes=1)
    pause = seconds(retry_after, AGAIN)
    return Deduplication(MemoryStore() if store is None else store, key or _key_of, pause)


def _key_of(message: Message) -> str | None:
    sub = current_subscription()
    if sub is not None and sub.group is None:
        return None
    known: list[object]
    if message.id:
        known = [message.id]
    elif message.offset is not None:
        # The time too: a topic that is made anew counts its offsets anew.
        known = [message.partition, message.offset, message.timestamp and message.timestamp.isoformat()]
    else:
        return None
    return json.dumps([sub and sub.group, sub and sub.topic, message.topic, *known])
