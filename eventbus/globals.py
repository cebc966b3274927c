"""One bus for the whole process, for those who want it so."""

from __future__ import annotations

from collections.abc import Callable

from .bus import EventBus
from .config_sources import ConfigSource
from .errors import AlreadyInitializedError, ClosedError, NotInitializedError
from .forks import let_go_in_child
from .state import CloseReport, Phase
from .threads import seconds


class _Place:
    """One `initialize_from_config()`, from its beginning to the end of its bus. It ends once and for all."""

    __slots__ = ("bus", "ended", "inherited", "next", "opened")

    def __init__(self) -> None:
        self.bus: EventBus | None = None
        self.opened = False
        self.ended = False
        self.inherited = False
        self.next: list[_Place] = []
        """Those that tried to follow it; the first one did."""

    def is_taken(self) -> bool:
        """Whether it stands in the way of another one; a forked child's copy of the parent's does once it is used."""
        return not (self.ended or self.is_closed() or (self.inherited and not self.is_used()))

    def is_used(self) -> bool:
        bus = self.bus
        return bus is not None and bus.get_connection_state().phase not in (Phase.NEW, Phase.FORKED)

    def is_closed(self) -> bool:
        bus = self.bus
        return bus is not None and bus.get_connection_state().phase is Phase.CLOSED


# No lock: a signal handler may run, and an exception be raised, at any line here. Each step that others see is a single
# one: appending to `next` (whoever comes first there has the place), and setting an attribute.
_place = _Place()
_place.ended = True


def initialize_from_config(
    source: ConfigSource = None, wait: bool = True, prepare: Callable[[EventBus], object] | None = None
) -> EventBus:
    """Make and open the global bus. A failure leaves none; AlreadyInitializedError when there is one.

    prepare(bus): called before it is opened: what the broker refuses of that which is subscribed there is FAILED, and
    holds nothing else back. What it raises goes through.
    ClosedError: `close_global()` was called meanwhile. A bus that was closed in another way, by its `with` block say,
    is no global bus any more. In a forked child the parent's does not count until it is used: a `post_fork` hook may
    simply call this again.
    """
    place = _Place()
    try:
        _take(place)
        bus = place.bus = EventBus(source)
        _check(place)
        if prepare is not None:
            prepare(bus)
        bus.open(wait=wait)
        place.opened = True
        _check(place)
        return bus
    except BaseException:
        place.ended = True
        made = place.bus
        if made is not None:
            made.close(0.0)
        raise


def get_global() -> EventBus:
    """The global bus; NotInitializedError when there is none, or when it was closed.

    In a forked child that has not initialized its own it is the copy of the parent's, which opens itself at its first
    use (`on_fork`).
    """
    place = _last()
    bus = place.bus
    if bus is None or not place.opened or place.ended or place.is_closed():
        raise NotInitializedError("there is no global bus: call initialize_from_config() first")
    return bus


def close_global(timeout: float | None = None) -> CloseReport | None:
    """Close the global bus and forget it, one that is being opened, too; None when there was none. Idempotent.

    timeout: seconds, None for the configured. May be called from a signal handler.
    """
    seconds(timeout, 0.0)  # a wrong one changes nothing
    place = _last()
    place.ended = True
    bus = place.bus  # only now: an opening looks whether it has ended after it has put its bus there
    report = None if bus is None or place.is_closed() else bus.close(timeout)
    place.bus = None  # only now: a call that was interrupted can be made again
    return report


def _last() -> _Place:
    global _place  # noqa: PLW0603 - the one global that this module is for
    place = _place
    while place.next:
        place = place.next[0]
    _place = place  # so that those before it are forgotten
    return place


def _take(place: _Place) -> None:
    while True:
        last = _last()
        if last.is_taken():
            raise AlreadyInitializedError("there is a global bus already; close_global() ends it")
        last.next.append(place)
        if last.next[0] is place:
            return


def _check(place: _Place) -> None:
    if place.ended:
        raise ClosedError("the global bus was closed while it was being opened")


@let_go_in_child
def _after_fork_in_child() -> None:
    _last().inherited = True  # one that another thread of the parent was opening is opened by nobody here
