"""Middleware: what users put around each call of a handler and around each publish of a bus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from .callables import check_argument, refuse_unawaited
from .message import Message, Receipt

Consume = Callable[[Message], object]
"""The rest of the way to the handler, and the handler."""
ConsumeMiddleware = Callable[[Message, Consume], object]
"""`fn(message, call_next)`, on the lane's thread. What it raises is the handler's failure; it returns: done.

An object whose `takes_batches` is False is for single messages: a bus has it or batch handlers; the later is refused.
"""
Publish = Callable[[Message], "Future[Receipt]"]
"""The rest of the way to the bus, which accepts the message, or raises."""
PublishMiddleware = Callable[[Message, Publish], "Future[Receipt]"]
"""`fn(message, call_next)`, on the publisher's thread; returns what `call_next` has returned."""

_Link = TypeVar("_Link")


class Links(NamedTuple):
    """All middleware of a bus, in order: the first is outermost."""

    consume: tuple[Callable[[Any, Callable[[Any], Any]], Any], ...] = ()
    publish: tuple[PublishMiddleware, ...] = ()


class Middleware:
    """The middleware of one bus. Takes no lock: any thread, a signal handler's included, may add to it.

    links: replaced as a whole. Whoever has composed a chain knows by its identity whether that is still the one.
    """

    __slots__ = ("_used", "links")

    def __init__(self) -> None:
        self._used: list[tuple[ConsumeMiddleware | None, PublishMiddleware | None]] = []
        self.links = Links()

    @property
    def without_batches(self) -> tuple[object, ...]:
        """The consume middleware in use that is for single messages only."""
        return tuple(one for one in self.links.consume if not takes_batches(one))

    def use(self, consume: ConsumeMiddleware | None, publish: PublishMiddleware | None) -> None:
        """Put one more inside of those that are there; one that is there already stays where it is."""
        self._used.append((consume, publish))
        seen = 0
        while seen < len(self._used):  # another thread may have added one, and be slower
            used = tuple(self._used)
            self.links = Links(_each_once(one for one, _ in used), _each_once(one for _, one in used))
            seen = len(used)


class Wrapped:
    """A handler inside of a bus's consume middleware. One thread uses it: a chain is composed when it has changed.

    handler: takes one argument, whatever that is. Without middleware `now` returns the handler itself.
    """

    __slots__ = ("_call", "_links", "handler", "middleware")

    def __init__(self, handler: Callable[[Any], object], middleware: Middleware) -> None:
        self.handler = handler
        self.middleware = middleware
        self._links: Links | None = None
        self._call = handler

    def now(self) -> Callable[[Any], object]:
        """What is to be called, as long as `middleware.links` stays what it is."""
        links = self.middleware.links
        if links is not self._links:
            self._call = around(self.handler, links)
            self._links = links
        return self._call


def check_middleware(consume: object, publish: object) -> None:
    """TypeError unless one of them is given, and what is given are plain functions."""
    if consume is None and publish is None:
        raise TypeError("use() takes consume=, publish=, or both")
    for middleware, kind in ((consume, "consume"), (publish, "publish")):
        if middleware is not None:
            check_argument(middleware, f"the {kind} middleware", takes=2)


def takes_batches(consume: object) -> bool:
    """Whether a consume middleware is for batch handlers, too: unless its attribute `takes_batches` is False."""
    return getattr(consume, "takes_batches", True) is not False


def around(handler: Callable[[Any], object], links: Links) -> Callable[[Any], object]:
    """A handler with the consume middleware around it; without any the handler itself."""
    if not links.consume:
        return handler
    call = _awaited_by_nobody(handler)
    for link in reversed(links.consume):
        call = _consuming(link, call)
    return call


def through(links: Links, accept: Publish) -> Publish:
    """The way through the publish middleware to what accepts a message."""
    call = accept
    for link in reversed(links.publish):
        call = _publishing(link, call)
    return call


def _consuming(
    link: Callable[[Any, Callable[[Any], Any]], Any], call_next: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    return _awaited_by_nobody(lambda message: link(message, call_next))


def _awaited_by_nobody(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Looked at on each floor: the one above may throw a result away, and call it a success."""

    def checked(message: Any) -> Any:
        result = call(message)
        if result is not None:
            refuse_unawaited(result)
        return result

    return checked


def _publishing(link: PublishMiddleware, call_next: Publish) -> Publish:
    def call(message: Message) -> Future[Receipt]:
        future = link(message, call_next)
        if not isinstance(future, Future):
            raise TypeError(
                f"{link!r} returned a {type(future).__name__}, not the Future that call_next() has returned"
            )
        return future

    return call


def _each_once(links: Iterable[_Link | None]) -> tuple[_Link, ...]:
    found: list[_Link] = []
    for link in links:
        if link is not None and link not in found:
            found.append(link)
    return tuple(found)
