"""Waits for answers of the server, and how they may fail."""

from __future__ import annotations

import threading
from collections.abc import Callable

from attrs import define, field, frozen

from ....errors import NotConnectedError
from . import wire


class NoAnswer(NotConnectedError):
    """A request got no answer in time."""


class NoResponders(NoAnswer):
    """Nobody listens where a request was sent."""


class Forbidden(NotConnectedError):
    """The server does not let us ask this."""


@frozen
class Reply:
    """The answer to a request."""

    block: bytes | None
    payload: bytes


@define(eq=False)
class Waiting:
    """A wait for one answer from the reader thread. `told(waiting)`: called there at its end."""

    subject: str = ""
    told: Callable[[Waiting], object] | None = None
    reply: Reply | None = None
    error: BaseException | None = None
    _done: threading.Event = field(factory=threading.Event)

    def answer(self, reply: Reply | None = None) -> None:
        """End the wait well."""
        self.reply = reply
        self._end()

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        self.error = error
        self._end()

    def _end(self) -> None:
        self._done.set()
        if self.told is not None:
            self.told(self)

    @property
    def done(self) -> bool:
        """Whether the wait has ended, one way or the other."""
        return self._done.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; True when answered. Raises the error it failed with."""
        answered = self._done.wait(timeout)
        self._check()
        return answered

    def result(self) -> Reply:
        """The answer to a request, once the wait has ended. Raises the error it failed with, or NoResponders."""
        self._check()
        reply = self.reply
        assert reply is not None
        if wire.status_of(reply.block)[0] == 503:
            raise NoResponders(f"nobody answers {self.subject}")
        return reply

    def _check(self) -> None:
        if isinstance(self.error, Forbidden):
            raise self.error
        if self.error is not None:
            raise NotConnectedError(str(self.error)) from self.error
