"""Which subscription's handler the calling thread runs: by what it does, never by its name."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..forks import let_go_in_child
from .subscriptions import Subscription

_local = threading.local()


def begin(owner: object, sub: Subscription) -> None:
    """From now on this thread runs the handlers of a subscription, of an owner."""
    _local.owner, _local.sub = owner, sub


def current_subscription() -> Subscription | None:
    """The subscription whose handler the calling thread runs; None outside of handlers and their middleware."""
    return getattr(_local, "sub", None)


def is_handler_of(owner: object) -> bool:
    """Whether this thread runs a handler of that owner, which is the `Consumers` of a bus."""
    return getattr(_local, "owner", None) is owner


def in_child(call: Callable[[], object]) -> None:
    """When this thread forks, from a handler, have this called in the child. It takes no lock."""
    _local.in_child = call


@let_go_in_child
def _after_fork_in_child() -> None:
    call = getattr(_local, "in_child", None)
    if call is not None:
        call()
