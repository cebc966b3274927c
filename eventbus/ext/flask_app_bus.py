"""The bus of one Flask application: from its configuration to its end with the process."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from attrs import frozen
from flask import Flask, current_app

from .. import (
    ClosedError,
    ConfigError,
    EventBus,
    EventBusConfig,
    EventBusError,
    ForkedError,
    NotInitializedError,
    Phase,
    Subscription,
    load_config,
    log,
)
from ..config_sources import settings_named
from ..forks import begin_in_child
from ..threads import spawn
from .process import close_at_exit, open_bus

logger = log.get(__name__)

NAME = "eventbus"
"""What the extension is called in `app.extensions`."""


@frozen(eq=False)
class Registered:
    """A handler as it was registered; several applications may share it."""

    topic: str
    handler: Callable[[Any], object]
    options: dict[str, Any]


@frozen(kw_only=True)
class Settings:
    """The settings of a `FlaskEventBus`, under the names of its arguments."""

    handle_in_web: bool = True
    ready_needs_subscriptions: bool = False
    stalled_after: float | None = None


class AppBus:
    """The bus of one application: what `app.extensions["eventbus"]` is. Any thread; also in a forked child.

    bus: the bus as it stands, opened or not. settings: those of the extension.
    """

    def __init__(self, app: Flask, settings: Settings) -> None:
        self.bus = EventBus(config_of(app))
        self.settings = settings
        self._lock = threading.RLock()  # a signal handler may come by on top of whoever has it
        self._subs: dict[Registered, Subscription | None] = {}
        """None: it is not subscribed in this process, or not yet."""
        self._complete = settings.handle_in_web
        """Whether all are subscribed. This and `_open` are read without the lock, so that no request has to take it."""
        self._open = False
        self._again_at = 0.0
        """When to subscribe what is missing; infinite while a thread is at it."""

        def in_context(message: Any, call_next: Callable[[Any], object]) -> object:
            with app.app_context():
                return call_next(message)

        self.bus.use(consume=in_context)
        _all.add(self)
        close_at_exit(self.bus)

    @property
    def handlers(self) -> tuple[Registered, ...]:
        """Those that were registered, whether this process calls them or not."""
        return tuple(self._subs)

    def register(self, one: Registered) -> None:
        """Take a handler over. SubscribeError: its options are wrong, or the broker of an open bus refuses it."""
        self._subs[one] = None
        phase = self.bus.get_connection_state().phase
        if phase is Phase.CLOSED:
            return
        if self._complete:
            self._subs[one] = self.bus.subscribe(one.topic, one.handler, **one.options)
        elif phase is Phase.NEW:
            self.bus.unsubscribe(self.bus.subscribe(one.topic, one.handler, **one.options))  # to have it checked

    def opened(self) -> EventBus:
        """The bus, open. If nobody has opened it before, this process publishes only, until it serves a request."""
        self.open(handle=False)
        return self.bus

    def serve(self) -> None:
        """Open the bus in a process that serves requests; with the handlers, unless `handle_in_web` is False."""
        self.open(handle=self.settings.handle_in_web)

    def open(self, handle: bool) -> None:
        """Open the bus unless it is, without waiting for the broker. handle: subscribe what is not subscribed yet."""
        if self._open and (self._complete or not handle):
            return
        if log.is_logging():  # a log handler that publishes, and the open that it was told of waits for it
            return
        with self._lock:
            phase = self.bus.get_connection_state().phase
            if phase is Phase.NEW:  # so subscribing is local, and cannot be refused
                self._subscribe_all() if handle else self._unsubscribe_all()
                open_bus(self.bus)
            elif phase is Phase.FORKED and self.bus.config.on_fork == "reopen":
                open_bus(self.bus)
            self._open = True  # not before: whoever is let through publishes
        if handle:
            self._subscribe_late()

    def inherited(self) -> None:
        """This is a forked child's copy; of the subscriptions some may be the parent's alone."""
        self._lock = threading.RLock()
        self._open = False
        self._again_at = 0.0
        there = self.bus.get_subscriptions()
        self._subs = {one: sub if sub in there else None for one, sub in self._subs.items()}
        self._complete = None not in self._subs.values() and self.settings.handle_in_web

    def _subscribe_all(self) -> None:
        for one, sub in self._subs.items():
            if sub is None:
                self._subs[one] = self.bus.subscribe(one.topic, one.handler, **one.options)
        self._complete = None not in self._subs.values()  # a signal handler may have opened it for publishing

    def _unsubscribe_all(self) -> None:
        self._complete = False
        for one, sub in self._subs.items():
            if sub is not None:
                self.bus.unsubscribe(sub)
                self._subs[one] = None

    def _subscribe_late(self) -> None:
        """Subscribe on a bus that is open, on a thread of its own, for the broker may take its time.

        What it refuses is tried again, by a request that comes `health_check.interval` later, and disturbs none.
        """
        with self._lock:
            if self._complete or time.monotonic() < self._again_at:
                return
            self._again_at = math.inf
            spawn(f"eventbus.{self.bus.config.name}.late", self._subscribe_rest)

    def _subscribe_rest(self) -> None:
        for one, sub in list(self._subs.items()):
            if sub is None:
                try:
                    self._subs[one] = self.bus.subscribe(one.topic, one.handler, **one.options)
                except (ClosedError, ForkedError):
                    return
                except EventBusError:
                    logger.exception("%s: %s is not subscribed yet", self.bus.config.name, one.topic)
        self._complete = None not in self._subs.values()
        self._again_at = time.monotonic() + self.bus.config.health_check.interval


def app_bus(app: Flask | None = None) -> AppBus:
    """The `AppBus` of an application, of the current one by default; NotInitializedError where there is none."""
    found: AppBus | None = (app or current_app).extensions.get(NAME)
    if found is None:
        raise NotInitializedError(f"{(app or current_app).name} has no event bus: call init_app(app) first")
    return found


def config_of(app: Flask) -> EventBusConfig:
    """What `app.config` says in `EVENTBUS_...`, over the environment; ConfigError. The bus is called as the app is."""
    try:
        values = settings_named(app.config)
    except ConfigError as error:
        raise ConfigError(f"app.config: {error}") from error
    if "name" not in values and not os.environ.get("EVENTBUS_NAME"):
        values["name"] = app.name
    return load_config(values)


_all: weakref.WeakSet[AppBus] = weakref.WeakSet()


@begin_in_child
def _steps_in_child() -> list[Callable[[], None]]:
    return [own.inherited for own in list(_all)]
