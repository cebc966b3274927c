"""The handlers of a Django project: collected from the `events.py` of its apps, subscribed by `eventbus_consume`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import frozen

from ... import EventBus, Subscription
from ...callables import refuse_bare
from ...consuming.subscriptions import BatchHandler, Handler

_Handler = TypeVar("_Handler", bound=Handler | BatchHandler)


@frozen
class Subscriber:
    """A handler under `@subscriber`, and what it was given."""

    topic: str
    handler: Handler | BatchHandler
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Where the handler is: module and name."""
        handler = self.handler
        return f"{handler.__module__}.{getattr(handler, '__qualname__', repr(handler))}"

    def subscribe(self, bus: EventBus) -> Subscription:
        """Subscribe it on a bus; raises what `EventBus.subscribe` does."""
        return bus.subscribe(self.topic, self.handler, **self.options)


_found: list[Subscriber] = []


def subscriber(topic: str, **options: Any) -> Callable[[_Handler], _Handler]:
    """Have a function handle a topic or pattern in the processes of `manage.py eventbus_consume`.

    options: those of `EventBus.subscribe` (group, concurrency, ordered, retry, ...); TypeError for another one. What
    else is wrong with them `manage.py check` says. The function stays what it is: call it in tests. Above one function
    it may stand several times.
    """
    refuse_bare(topic, "subscriber")

    def decorate(handler: _Handler) -> _Handler:
        inspect.signature(EventBus.subscribe).bind(None, topic, handler, **options)
        _found.append(Subscriber(topic, handler, options))
        return handler

    return decorate


def subscribers() -> tuple[Subscriber, ...]:
    """All that were found, in the order of the apps and of their modules."""
    return tuple(_found)
