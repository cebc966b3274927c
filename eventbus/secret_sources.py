"""Asking a user's function for a secret: on a thread of its own, with a deadline, one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .errors import AuthenticationError, ConnectFailedError
from .threads import Deadline, StopToken, spawn

_LOOK_EVERY = 0.05
"""Seconds between looks at the stop token while a function of the user's runs."""


class Asked:
    """One call of a source. `done` is set when it has ended; `outcome` is what it returned, or raised."""

    def __init__(self, source: Callable[[], object], then: Callable[[Asked], object]) -> None:
        self._source = source
        self._then = then
        self.outcome: object = None
        self.done = threading.Event()

    def run(self) -> None:
        """Call the source; on a thread of its own."""
        try:
            self.outcome = self._source()
        except BaseException as error:  # a SystemExit in a user's code may not end this thread unseen
            self.outcome = error
        try:
            self._then(self)
        finally:
            self.done.set()


class SecretSource:
    """A function of the user's that returns a secret. Where it hangs, only one call of it does.

    name: of the setting, for errors. thread: the name of the thread that calls it. then: told of each call that has
    ended, before those who wait for it, on that thread.
    """

    def __init__(
        self, name: str, source: Callable[[], object], thread: str, then: Callable[[Asked], object] = lambda asked: None
    ) -> None:
        self.name = name
        self._source = source
        self._thread = thread
        self._then = then
        self._lock = threading.Lock()
        self._asked: Asked | None = None
        self._caller: threading.Thread | None = None
        """Not alive where a call is not done: this is a forked child's copy."""

    def begin(self) -> Asked:
        """The call that is under way, or a new one. Never waits."""
        with self._lock:
            asked = self._asked
            if asked is None or asked.done.is_set() or self._caller is None or not self._caller.is_alive():
                asked = self._asked = Asked(self._source, self._then)
                self._caller = spawn(self._thread, asked.run)
            return asked

    def ask(self, deadline: Deadline, stop: StopToken) -> object:
        """What the function returns now; Stopped.

        ConnectFailedError: it raised, which is the cause, or was not back in time. AuthenticationError of its own goes
        through.
        """
        asked = self.begin()
        while not asked.done.wait(min(_LOOK_EVERY, deadline.remaining())):
            stop.check()
            if deadline.over:
                raise ConnectFailedError(f"{self.name!r} could not be read in time")
        return self.outcome_of(asked)

    def outcome_of(self, asked: Asked) -> object:
        """What a call that has ended returned; raises as `ask` does."""
        outcome = asked.outcome
        if isinstance(outcome, (ConnectFailedError, AuthenticationError)):
            raise outcome
        if isinstance(outcome, BaseException):
            raise ConnectFailedError(f"the callback for {self.name!r} failed: {type(outcome).__name__}") from outcome
        return outcome

    def refuse(self, returned: object) -> AuthenticationError:
        """What is said of something that it returned and that is no secret."""
        return AuthenticationError(
            f"the callback for {self.name!r} has returned no text, but {type(returned).__name__}"
        )
