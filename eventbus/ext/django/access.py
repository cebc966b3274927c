"""The one bus of a Django process: made from the settings when it is used first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from django.conf import settings
from django.dispatch import Signal

from ... import EventBus, NotInitializedError, close_global, get_global, initialize_from_config, log
from ...config_sources import ConfigSource
from ...forks import let_go_in_child
from ..process import close_at_exit, open_bus
from .connections import with_fresh_connections

_turn = threading.RLock()
"""Of those who use the bus first, outermost of all locks; a signal handler on top of one is told, and not held up."""
_making: EventBus | None = None
"""What `bus_made` is sent for, on the thread that has the turn: its receivers may ask for the bus, too."""
_prepared: EventBus | None = None

bus_made = Signal()
"""Sent with `bus` before it is opened, on the thread that uses it first: the place for middleware and callbacks of your
own. What a receiver raises goes to that user, and there is no bus."""


def config_source() -> ConfigSource:
    """What the settings say: `EVENTBUS`, a URL, a mapping or an EventBusConfig; None without it: the environment."""
    source: ConfigSource = getattr(settings, "EVENTBUS", None)
    return source


def get_bus() -> EventBus:
    """The bus of this process, opened at the first call without waiting for the broker: it connects by itself.

    It is the global one, `eventbus.get_global()`; a project may make that itself. Any thread. Around each handler it
    has `with_fresh_connections`. After it was closed the next call makes another one. ConfigError: the settings are
    wrong; `manage.py check` says so, too.
    """
    with suppress(NotInitializedError):
        bus = get_global()
        if bus is _prepared:
            return bus
    if log.is_logging():  # the bus is being made, and waits for the log handler that asks for it
        raise NotInitializedError("the bus is not open yet, and a log handler cannot wait for it")
    return _prepared_bus()


def get_bus_with(subscribe: Callable[[EventBus], object]) -> EventBus:
    """The bus of this process, once `subscribe(bus)` was called: before it is opened, if this makes it."""
    return _prepared_bus(subscribe)


def _prepared_bus(subscribe: Callable[[EventBus], object] | None = None) -> EventBus:
    global _prepared  # noqa: PLW0603
    with _turn:
        if _making is not None:
            return _making
        try:
            bus = get_global()
        except NotInitializedError:
            bus = initialize_from_config(config_source(), wait=False, prepare=partial(_prepare, subscribe))
        else:
            _prepare(subscribe, bus)
        open_bus(bus)
        _prepared = bus
    return bus


def _prepare(subscribe: Callable[[EventBus], object] | None, bus: EventBus) -> None:
    global _making  # noqa: PLW0603
    if bus is not _prepared:
        bus.use(consume=partial(with_fresh_connections, bus.config.retry))
        _making = bus
        try:
            bus_made.send(sender=type(bus), bus=bus)
        finally:
            _making = None
        close_at_exit(bus)
    if subscribe is not None:
        subscribe(bus)


def setting_changed(setting: str, **kwargs: object) -> None:
    """A test has overridden a setting: the bus that was made from it is closed, and the next use makes another."""
    if setting == "EVENTBUS":
        close_global()


@let_go_in_child
def _after_fork_in_child() -> None:
    global _turn, _making
    _turn, _making = threading.RLock(), None
