"""One bus for the whole process, for those who want it so."""

from __future__ import annotations

import os
import threading

from .bus import EventBus
from .config_sources import ConfigSource
from .errors import AlreadyInitializedError, NotInitializedError
from .state import CloseReport

_lock = threading.Lock()
_bus: EventBus | None = None
_opening = False
_inherited: EventBus | None = None
"""In a forked child: the parent's bus, which is no bus here."""


def initialize_from_config(source: ConfigSource = None, wait: bool = True) -> EventBus:
    """Make and open the global bus. A failure leaves none; AlreadyInitializedError when there is one.

    In a forked child the parent's does not count: a `post_fork` hook simply calls this again.
    """
    global _bus, _opening  # noqa: PLW0603 - the one global this module is for
    with _lock:
        if (_bus is not None and _bus is not _inherited) or _opening:
            raise AlreadyInitializedError("there is a global bus already; close_global() ends it")
        _opening = True
    bus = None
    try:
        bus = EventBus(source)
        bus.open(wait=wait)
    except BaseException:
        if bus is not None:
            bus.close(0.0)
        bus = None
        raise
    finally:
        with _lock:
            _opening = False
            _bus = bus
    return bus


def get_global() -> EventBus:
    """The global bus; NotInitializedError when there is none."""
    bus = _bus
    if bus is None:
        raise NotInitializedError("there is no global bus: call initialize_from_config() first")
    return bus


def close_global(timeout: float | None = None) -> CloseReport | None:
    """Close the global bus and forget it; None when there was none. Idempotent."""
    global _bus
    with _lock:
        bus, _bus = _bus, None
    return None if bus is None else bus.close(timeout)


def _after_fork_in_child() -> None:
    global _lock, _opening, _inherited  # noqa: PLW0603 - the same one
    # Another thread of the parent may have been in the middle of something; it does not exist here.
    _lock = threading.Lock()
    _opening = False
    _inherited = _bus


os.register_at_fork(after_in_child=_after_fork_in_child)
