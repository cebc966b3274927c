"""Which subscription's handler the calling thread runs: by what it does, never by its name."""

from __future__ import annotations

import threading

from .subscriptions import Subscription

_local = threading.local()


def begin(owner: object, sub: Subscription) -> None:
    """From now on this thread runs the handlers of a subscription, of an owner."""
    _local.owner, _local.sub = owner, sub


def current() -> Subscription | None:
    """The subscription whose handler this thread runs; None outside of handlers."""
    return getattr(_local, "sub", None)


def is_handler_of(owner: object) -> bool:
    """Whether this thread runs a handler of that owner, which is the `Consumers` of a bus."""
    return getattr(_local, "owner", None) is owner
