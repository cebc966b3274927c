"""Reading the past: each excerpt has a thread that reads through the current session, whichever that is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from .. import log
from ..backends.base import Session
from ..consuming.excerpts import Channel, Excerpt, Reading, Span, Stretches, first_of
from ..errands import Errand, Errands, NotInTime
from ..errors import NotConnectedError, SessionRetired
from ..gate import Gate
from ..reports import DeadLetterTopic
from ..state import Phase
from ..threads import Deadline, Stopped, StopToken, join_all, spawn
from .supervisor import Supervisor

logger = log.get(__name__)

T = TypeVar("T")

AGAIN = 0.1
"""Seconds before the next try."""
POLL = 0.05
"""Seconds between two looks whether anybody still wants it, and which session is current."""


class Past:
    """The excerpts of one bus. stop: ends all of them."""

    def __init__(
        self, bus: str, supervisor: Supervisor, gate: Gate, errands: Errands, stop: StopToken, owner: object
    ) -> None:
        self._bus = bus
        self._errands = errands
        self._supervisor = supervisor
        self._gate = gate
        self._stop = stop
        self._owner = owner
        self._threads: list[threading.Thread] = []

    def read(self, span: Span, timeout: float, asked: list[Errand[Excerpt]]) -> Excerpt:
        """See `EventBus.read`. asked: for the caller to leave if an exception comes as this returns."""
        return self._run_errand(
            "read", span.topic, lambda stop: self._begin(span, timeout, stop), timeout, asked, undo=Excerpt.close
        )

    def find(self, span: Span, timeout: float, asked: list[Errand[Stretches]]) -> Stretches:
        """What there is to read of a topic now."""
        return self._run_errand("find", span.topic, lambda stop: self._find(span, timeout, stop), timeout, asked)

    def purge(self, topic: str, stretches: Stretches, timeout: float, asked: list[Errand[int]]) -> int:
        """Delete what was found in a topic, which `stretches` are; see `Session.purge`."""
        deadline = Deadline(timeout)

        def purge(stop: StopToken) -> int:
            return self._ask(
                topic, lambda session: session.purge(topic, stretches, deadline.remaining(), stop), deadline, stop
            )

        return self._run_errand("purge", topic, purge, timeout, asked)

    def survey(self, pattern: str, timeout: float, asked: list[Errand[list[DeadLetterTopic]]]) -> list[DeadLetterTopic]:
        """See `Session.topics_of`."""
        deadline = Deadline(timeout)

        def survey(stop: StopToken) -> list[DeadLetterTopic]:
            found = self._ask(
                pattern, lambda session: session.topics_of(pattern, deadline.remaining(), stop), deadline, stop
            )
            return sorted(found, key=lambda one: one.topic)

        return self._run_errand("list", pattern, survey, timeout, asked)

    def _run_errand(
        self,
        what: str,
        topic: str,
        call: Callable[[StopToken], T],
        timeout: float,
        asked: list[Errand[T]],
        undo: Callable[[T], object] | None = None,
    ) -> T:
        self._gate.check()
        if self._supervisor.phases.phase is Phase.NEW:
            raise NotConnectedError("the bus is not open: call open() first")
        try:
            return self._errands.run(what, call, timeout, undo=undo, asked=asked)
        except (Stopped, NotConnectedError, NotInTime) as error:
            self._gate.check()  # closed meanwhile
            if isinstance(error, NotConnectedError):
                raise
            raise NotConnectedError(f"{topic}: the broker did not answer within {timeout:g} s") from error

    def _begin(self, span: Span, timeout: float, stop: StopToken) -> Excerpt:
        """Find out what there is to read, and begin; on a thread of ours. ReadError, NotConnectedError, Stopped."""
        stretches = self._find(span, timeout, stop)
        own = self._stop.child()
        channel = Channel(own)
        if not stretches or span.limit == 0:
            self._stop.forget(own)
            channel.end()
            return Excerpt(channel, self._gate.check, None)
        passage = _Passage(self._supervisor, span, stretches, channel, timeout)
        thread = spawn(f"eventbus.{self._bus}.read-{span.topic}", self._run, passage, own, owner=self._owner)
        self._threads.append(thread)
        self._forget_ended()
        return Excerpt(channel, self._gate.check, thread)

    def close(self, timeout: float) -> tuple[str, ...]:
        """Wait for the threads, once the stop is set; names those that did not end."""
        return join_all(list(self._threads), timeout)

    def _find(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        deadline = Deadline(timeout)
        return self._ask(
            span.topic, lambda session: session.stretches_of(span, deadline.remaining(), stop), deadline, stop
        )

    def _ask(self, topic: str, question: Callable[[Session], T], deadline: Deadline, stop: StopToken) -> T:
        """Have the current session answer, whichever that is; NotConnectedError: none did in time."""
        cause: Exception | None = None
        with self._stop.interrupts(stop.set):
            while True:
                stop.check()
                session = _living(self._supervisor)
                if session is not None:
                    try:
                        return question(session)
                    except (NotConnectedError, SessionRetired, OSError) as error:
                        cause = error
                if deadline.over:
                    why = cause or self._supervisor.phases.connection_state().last_error or "there is no connection"
                    raise NotConnectedError(f"no answer about {topic} now: {why}") from cause
                stop.wait(min(AGAIN, deadline.remaining()))

    def _run(self, passage: _Passage, own: StopToken) -> None:
        try:
            passage.run()
        finally:
            self._stop.forget(own)
            self._forget_ended()

    def _forget_ended(self) -> None:
        for thread in [one for one in list(self._threads) if not one.is_alive()]:
            with suppress(ValueError):  # another one took it out
                self._threads.remove(thread)


class _Passage:
    """One excerpt on its way. It knows nothing of the iterator: that ends when nobody wants it any more."""

    def __init__(
        self, supervisor: Supervisor, span: Span, stretches: Stretches, channel: Channel, timeout: float
    ) -> None:
        self._supervisor = supervisor
        self._topic = span.topic
        self._left = span.limit
        self._stretches = stretches
        self._channel = channel
        self._timeout = timeout
        self._patience = Deadline(timeout)
        self._cause: object = None

    def run(self) -> None:
        """Read to the end; what goes wrong is told to whoever iterates."""
        try:
            while self._wants_more():
                session = _living(self._supervisor)
                if session is not None:
                    self._try(session)
                self._channel.stop.check()
                if self._wants_more():
                    self._check_patience()
                    self._channel.stop.wait(AGAIN)
        except Stopped:
            self._channel.end()
        except Exception as error:
            self._channel.end(error)
        else:
            self._channel.end()

    def _wants_more(self) -> bool:
        return bool(self._stretches) and self._left != 0

    def _check_patience(self) -> None:
        if self._patience.over:
            why = self._cause or self._supervisor.phases.connection_state().last_error or "nothing came"
            raise NotConnectedError(f"{self._topic}: no message within {self._timeout:g} s: {why}")

    def _try(self, session: Session) -> None:
        try:
            reading = session.read(self._topic, self._stretches)
            try:
                self._read(session, reading)
            finally:
                reading.close()
        except (NotConnectedError, SessionRetired, OSError) as error:
            logger.info("%s is read on from where it is: %s", self._topic, error)
            self._cause = error

    def _read(self, session: Session, reading: Reading) -> None:
        """As long as the session is the current one and messages come."""
        while self._wants_more() and _living(self._supervisor) is session:
            self._channel.stop.check()
            batch = first_of(reading.next(POLL), self._left)
            if batch:
                if self._left is not None:
                    self._left -= len(batch)
                self._cause = None
                self._channel.put(batch)
                self._patience = Deadline(self._timeout)
            elif self._patience.over:
                self._cause = reading.trouble or self._cause
                return


def _living(supervisor: Supervisor) -> Session | None:
    session = supervisor.session
    return None if session is None or session.lost is not None else session
