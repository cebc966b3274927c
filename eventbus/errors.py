"""The errors that the library raises. All of them are an `EventBusError`.

A publish error says what became of the message: *rejected* (refused, and the same again is refused
again), *not sent* (certainly not stored, try again later) or *unknown* (may be stored: publish again
with the same id, and a broker that deduplicates stores it once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .message import Receipt
    from .reports import ReplayReport


LONGEST_WAIT = 365.0 * 86400
"""Seconds: what waits for longer is forgotten by whoever has asked for it."""


class EventBusError(Exception):
    """Anything that goes wrong in the library."""


class ConfigError(EventBusError, ValueError):
    """A setting is unknown, malformed or contradicts another; the text names it."""


class NotInitializedError(EventBusError):
    """There is no global bus: call `initialize_from_config` first."""


class AlreadyInitializedError(EventBusError):
    """There is a global bus already: call `close_global` first."""


class ClosedError(EventBusError):
    """The bus is closed, and a closed bus stays closed."""


class ForkedError(EventBusError):
    """What was opened or begun before `os.fork()` belongs to the parent: the bus, a call or an iterator."""


class UnsupportedError(EventBusError):
    """The backend, the server or the thread that asks cannot do what was asked."""


class NotConnectedError(EventBusError):
    """There is no connection to the broker, or it was lost while the call was waiting."""


class ConnectFailedError(EventBusError):
    """No connection could be made.

    `server_spoke` tells whether a server of the right kind answered before it failed: then waiting for
    it to come up is pointless, and the next attempt follows the backoff.
    """

    def __init__(self, message: str, server_spoke: bool = False) -> None:
        super().__init__(message, server_spoke)
        self.server_spoke = server_spoke

    def __str__(self) -> str:
        return str(self.args[0])


class AuthenticationError(ConnectFailedError):
    """The broker refused the credentials. Not hammered: tried again at `max_backoff` pace."""

    def __init__(self, message: str, server_spoke: bool = True) -> None:
        super().__init__(message, server_spoke)


class PublishError(EventBusError):
    """A message was not confirmed. `id` is the message's id: publish again with it to be safe."""

    def __init__(self, message: str, id: str = "") -> None:
        super().__init__(message, id)
        self.id = id

    def __str__(self) -> str:
        return str(self.args[0])


class PublishRejectedError(PublishError):
    """The message was refused: the same again is refused again."""


class PublishNotSentError(PublishError):
    """Certainly not stored: try again later."""


class PublishUnknownError(PublishError):
    """May be stored or not: publish again with the same id."""


class PublishManyError(PublishError):
    """Some messages of a `publish_many` were not confirmed.

    `results` holds, in the order of the messages, a `Receipt` or the `PublishError` of each.
    """

    def __init__(self, message: str, results: Sequence[Receipt | PublishError] = ()) -> None:
        failed = [result for result in results if isinstance(result, PublishError)]
        super().__init__(message, failed[0].id if failed else "")
        self.args = (message, results)
        self.results = tuple(results)
        self.failed = tuple(failed)


class SubscribeError(EventBusError):
    """A subscription cannot be made: its arguments are wrong, or the broker refuses it."""


class HandlerTimeoutError(EventBusError):
    """A handler runs for longer than `handler_timeout`; it goes on. The text says where it stands.

    Reported only: a thread of Python cannot be ended from outside.
    """


class GuardError(EventBusError):
    """Most messages of a subscription would become dead letters: it is paused, and tried again slowly."""


class Reject(EventBusError):
    """Raised by a handler: this message will never be handled, make it a dead letter at once."""


class BatchError(EventBusError):
    """Raised by a batch handler: these messages have failed, by their places in the batch, and all others are done.

    `errors` maps places to the exceptions; each message is tried again on its own, as its exception says.
    """

    errors: Mapping[int, BaseException] = MappingProxyType({})
    """Of a subclass that does not call this one's `__init__`."""

    def __init__(self, errors: Mapping[int, BaseException]) -> None:
        super().__init__(errors)
        if not isinstance(errors, Mapping) or not all(
            isinstance(place, int) and isinstance(error, BaseException) for place, error in errors.items()
        ):
            raise TypeError("BatchError takes a mapping of places in the batch to exceptions")
        self.errors = dict(errors)

    def __str__(self) -> str:
        first = next(iter(sorted(self.errors.items())), None)
        return f"{len(self.errors)} messages of the batch failed" + (f"; [{first[0]}]: {first[1]!r}" if first else "")


class RetryLater(EventBusError):
    """Raised by a handler: give me this message again after so many seconds. It counts as no failure.

    JetStream takes it back, and may give it to another process of the group; elsewhere it waits in this one, and its
    key with it.
    """

    seconds: float = 1.0
    """Of a subclass that does not call this one's `__init__`."""

    def __init__(self, seconds: float, why: str = "") -> None:
        super().__init__(seconds, why)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_WAIT:
            raise ValueError(f"RetryLater takes a number of seconds, 0 to {LONGEST_WAIT:.0f}, not {seconds!r}")
        self.seconds = float(seconds)

    def __str__(self) -> str:
        return f"again in {self.seconds:g} s" + (f": {self.args[1]}" if self.args[1] else "")


class ReadError(EventBusError):
    """A topic cannot be read: an argument is wrong, the topic is not there, or the broker does not let us."""


class PurgeError(EventBusError):
    """Dead letters cannot be deleted: it is no topic of dead letters, or the broker does not let us."""


class ReplayError(EventBusError):
    """A replay of dead letters ended early; `report` says what it had done, and where to go on."""

    def __init__(self, message: str, report: ReplayReport) -> None:
        super().__init__(message, report)
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])


class ReconnectExhaustedError(EventBusError):
    """All attempts of one reconnect failed. The health check goes on, and begins anew when a server speaks again."""


class SessionRetired(EventBusError):
    """Internal: the session takes nothing more; the record was not accepted. Never reaches users."""
