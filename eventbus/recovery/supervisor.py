"""The owner of the current session: first connect, reconnect, and what every swap must keep."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial

from ..backends.base import Backend, Prepared, Session, SessionContext
from ..config import EventBusConfig
from ..consuming.attachment import Attachment
from ..consuming.subscription_map import SubscriptionMap
from ..consuming.subscriptions import Subscription, SubscriptionState
from ..errors import (
    ClosedError,
    ConnectFailedError,
    EventBusError,
    NotConnectedError,
    ReconnectExhaustedError,
    SessionRetired,
    SubscribeError,
)
from ..publishing.pending import Pending
from ..state import ErrorEvent, Phase, ReconnectEvent
from ..threads import Deadline, Stopped, StopToken, spawn
from .backoff import FINAL, retrying
from .callbacks import Callbacks
from .healing import HEAL_GRACE, HEAL_PROBE, Healing
from .phases import Phases

logger = logging.getLogger(__name__)

OLD_CLOSE = 5.0
"""Seconds that a replaced session has for its close, on a thread of its own."""


class Supervisor:
    """Makes sessions and replaces them. Nothing about a particular broker is in here.

    An episode (`reconnect`) runs on the thread that calls it: the health monitor's, or that of a user who
    calls `bus.reconnect()` while the monitor is stopped. There is one at a time.
    """

    def __init__(
        self,
        config: EventBusConfig,
        backend: Backend,
        subscriptions: SubscriptionMap,
        pending: Pending,
        callbacks: Callbacks,
    ) -> None:
        self._config = config
        self._backend = backend
        self._subscriptions = subscriptions
        self._pending = pending
        self._callbacks = callbacks
        self._healing = Healing(backend.features.heals_itself)
        self.phases = Phases(config.name, callbacks.moved)
        self.on_lost: Callable[[BaseException], object] = lambda cause: None
        self._session: Session | None = None
        self._turn = threading.Lock()
        self._in_episode = False
        self._was_connected = False
        self._closers: list[threading.Thread] = []

    @property
    def session(self) -> Session | None:
        """The current session; it may be lost already."""
        return self._session

    @property
    def was_connected(self) -> bool:
        """Whether there ever was a session: only then an episode counts as a reconnect."""
        return self._was_connected

    @property
    def lost(self) -> BaseException | None:
        """Why the current session is gone for good; None while it may live, or when there is none."""
        session = self._session
        return None if session is None else session.lost

    @property
    def has_late(self) -> bool:
        """Whether subscriptions wait that were added while the session was being made, or while it healed."""
        session = self._session
        waiting = [] if session is None else self._subscriptions.unattached(session)
        return any(one.sub.state is SubscriptionState.PENDING for one in waiting)

    # -- first connect ---------------------------------------------------------------------------

    def connect(self, timeout: float, stop: StopToken) -> None:
        """The first connect, from CONNECTING to CONNECTED within `timeout` seconds; raises why not."""
        try:
            self._install(*self._candidate(timeout, stop))
        except (NotConnectedError, OSError) as error:
            raise ConnectFailedError(str(error)) from error
        if not self._arrive(reconnected=False):
            raise ClosedError("the bus was closed while it was connecting")
        self._attach_late()

    # -- reconnect -------------------------------------------------------------------------------

    def reconnect(self, cause: BaseException, stop: StopToken, *, force: bool = False) -> bool:
        """One episode: attempts until one succeeds, they are used up, or `stop` is set. True: CONNECTED.

        Never raises. `force` replaces the session even if the old one is well.
        """
        with self._turn:
            if self._in_episode:
                return False
            self._in_episode = True
        connected = False
        try:
            if self.phases.phase is Phase.RECONNECTING or self._begin(cause):
                connected = self._run_episode(cause, stop, force or self._config.reconnect.rebuild == "always")
        finally:
            self.phases.attempt = 0
            with self._turn:
                self._in_episode = False
        lost = self.lost
        if connected and lost is not None:  # it went before the episode was over, when `abort` did nothing
            self.on_lost(lost)
        return connected and lost is None

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Whether a server speaks, within `timeout` seconds."""
        return self._backend.reachable(timeout, stop)

    def abort(self, cause: BaseException) -> None:
        """Nobody will reconnect any more: a connection that is not there is DISCONNECTED.

        While an episode runs it does nothing: the episode says how it ended.
        """
        with self._turn:
            if self._in_episode:
                return
            if self.phases.phase is Phase.RECONNECTING:
                self.phases.move(Phase.DISCONNECTED, cause, only_from=Phase.RECONNECTING)
            elif self.lost is not None:
                self.phases.move(Phase.DISCONNECTED, self.lost, only_from=Phase.CONNECTED)

    def repair(self) -> bool:
        """Prepare and attach what the current session does not deliver yet: failed ones, late ones.

        False: the link failed meanwhile. Bounded by the probe's timeout, and not interruptible: the
        session is at work, and whoever stops the health check does not ask for its end.
        """
        session = self._session
        waiting = [] if session is None or session.lost is not None else self._subscriptions.unattached(session)
        if session is None or not waiting:
            return True
        try:
            prepared = session.prepare(waiting, self._config.health_check.timeout)
            self._note_refused(prepared)
            self._attach(session, prepared.ready(waiting))
        except (EventBusError, OSError) as error:
            logger.warning("%s: subscriptions wait for the next try: %s", self._config.name, error)
            return False
        return True

    def activate(self, sub: Subscription) -> None:
        """Bring a subscription that was just added to the current session. SubscribeError: it is refused.

        Without a connection it waits for the next session.
        """
        while self.phases.phase is Phase.CONNECTED and sub.state is SubscriptionState.PENDING:
            session = self._session
            if session is None or session.lost is not None:
                return
            attachment = self._subscriptions.attachment(sub, session)
            if attachment is None:
                return
            try:
                prepared = session.prepare([attachment], self._config.connect_timeout)
                if attachment in prepared.refused:
                    error = prepared.refused[attachment]
                    raise SubscribeError(f"{sub.topic}: {error}") from error
                if not prepared.ready([attachment]):
                    return
                self._attach(session, [attachment])
                if not self._backend.features.replays:
                    # Nothing is kept for it: what others publish after this call must find it on the server.
                    session.probe(self._config.connect_timeout, StopToken())
            except (SessionRetired, NotConnectedError, OSError) as cause:
                logger.info("%s: %r waits for the next session: %s", self._config.name, sub, cause)
                if session is self._session:
                    return

    def _attach(self, session: Session, attachments: Sequence[Attachment]) -> None:
        """Deliver prepared subscriptions through a session, if it still is the current one."""
        with self._subscriptions.lock:
            if session is not self._session:
                raise SessionRetired("another session has taken over")
            self._subscriptions.attach(session, attachments)

    # -- closing ---------------------------------------------------------------------------------

    def closers(self) -> list[threading.Thread]:
        """Threads that are closing replaced sessions."""
        self._closers = [thread for thread in self._closers if thread.is_alive()]
        return list(self._closers)

    # -- inside ----------------------------------------------------------------------------------

    def _begin(self, cause: BaseException) -> bool:
        self._pending.suspend(True)
        return self.phases.move(Phase.RECONNECTING, cause)

    def _run_episode(self, cause: BaseException, stop: StopToken, force: bool) -> bool:
        last: BaseException = cause
        turns = retrying(
            self._config.reconnect,
            stop,
            lambda seconds: self._pause(seconds, stop, last),
            without_limit=not self._was_connected,
        )
        try:
            for turn in turns:
                with turn:
                    self.phases.attempt = turn.retry_state.attempt_number
                    try:
                        return self._attempt(cause, stop, force)
                    except Exception as error:
                        last = error
                        self._note_attempt(error)
                        raise
        except Exception as error:
            self._end_episode(error, cause, stop)
        return False

    def _end_episode(self, error: Exception, cause: BaseException, stop: StopToken) -> None:
        if isinstance(error, Stopped) or stop.is_set():
            self.phases.move(Phase.DISCONNECTED, NotConnectedError(f"reconnecting was stopped ({cause})"))
        elif isinstance(error, FINAL):
            self._give_up(error)
        else:
            exhausted = ReconnectExhaustedError(
                f"{self.phases.attempt} attempts failed, the last with: {error}; the health check goes on"
            )
            exhausted.__cause__ = error
            self._give_up(exhausted)

    def _attempt(self, cause: BaseException, stop: StopToken, force: bool) -> bool:
        stop.check()
        old = self._session
        if not force and self._healing.healed(old, HEAL_PROBE, stop):
            return self._finish("healed", cause)
        candidate, attachments, prepared = self._candidate(self._config.connect_timeout, stop)
        try:
            healed = not force and self._healing.healed(old, HEAL_GRACE, stop)
            stop.check()
            if not (force or healed):
                self._healing.check_pace(old)
        except BaseException:
            self._discard(candidate)
            raise
        if healed:
            self._discard(candidate)
            return self._finish("healed", cause)
        self._install(candidate, attachments, prepared)
        if not force:
            self._healing.replaced(old)
        return self._finish("rebuilt", cause)

    def _candidate(self, timeout: float, stop: StopToken) -> tuple[Session, list[Attachment], Prepared]:
        """A new session, proven, what it was shown, and what became of that. The old one was not touched."""
        deadline = Deadline(timeout)
        context = SessionContext(
            bus=self._config.name,
            timeout=timeout,
            stop=stop,
            answers=self._pending,
            on_lost=self._session_lost,
            on_error=self._session_error,
        )
        candidate = self._backend.connect(context)
        attachments = self._subscriptions.unattached(candidate)
        try:
            with stop.interrupts(partial(candidate.close, 0.0)):
                prepared = candidate.prepare(attachments, max(deadline.remaining(), 1.0)) if attachments else Prepared()
            stop.check()
        except BaseException:
            self._discard(candidate)
            raise
        return candidate, attachments, prepared

    def _note_refused(self, prepared: Prepared) -> None:
        for attachment, error in prepared.refused.items():
            sub = attachment.sub
            if self._subscriptions.fail(sub, error):
                logger.error("%s: %r failed: %s", self._config.name, sub, error)
                self._callbacks.report(ErrorEvent(source="subscription", error=error, topic=sub.topic))

    def _install(self, candidate: Session, attachments: Sequence[Attachment], prepared: Prepared) -> None:
        """The swap: from here on the old session is given up. A candidate that dies now is given up too."""
        old = self._session
        if old is not None:
            self._pending.retire(old)
        try:
            with self._subscriptions.lock:
                self._session = candidate
                self._note_refused(prepared)
                self._subscriptions.attach(candidate, prepared.ready(attachments))
            self._pending.swap(candidate)
        except SessionRetired as error:
            self._subscriptions.lose(candidate)
            self._pending.retire(candidate)
            self._discard(candidate)
            raise NotConnectedError(f"the new connection was lost at once: {candidate.lost or error}") from error
        finally:
            if old is not None:
                self._discard(old)

    def _finish(self, how: str, cause: BaseException) -> bool:
        downtime = self.phases.downtime()
        attempts = self.phases.attempt
        reconnected = self._was_connected
        if not self._arrive(reconnected=reconnected):
            return False
        logger.info("%s: connected again (%s) after %.2f s, attempt %d", self._config.name, how, downtime, attempts)
        if reconnected:
            event = ReconnectEvent(
                how=how,
                attempts=attempts,
                downtime=downtime,
                cause=cause,
                time=datetime.now(timezone.utc),
                reconnect_count=self.phases.connection_state().reconnect_count,
            )
            self._callbacks.reconnected(event)
        self._attach_late()
        return True

    def _arrive(self, *, reconnected: bool) -> bool:
        session = self._session
        assert session is not None
        if not self.phases.move(Phase.CONNECTED, reconnected=reconnected):
            self._pending.retire(session)
            self._discard(session)
            return False
        self._was_connected = True
        self._pending.suspend(False)
        if session.lost is not None:  # it was lost before it was current, when nobody listened
            self._session_lost(session, session.lost)
        return True

    def _attach_late(self) -> None:
        if self.has_late:
            self.repair()

    def _pause(self, seconds: float, stop: StopToken, last: BaseException) -> None:
        """Sleep between attempts; ends early when a server begins to speak."""
        deadline = Deadline(seconds)
        spoke = isinstance(last, ConnectFailedError) and last.server_spoke
        poll = 0.01
        while not deadline.over:
            if stop.wait(min(poll, deadline.remaining())):
                return
            speaks = self._backend.reachable(min(1.0, max(deadline.remaining(), 0.05)), stop)
            if speaks and not spoke:
                return
            spoke = speaks
            poll = min(poll * 1.2, 0.25)

    def _note_attempt(self, error: BaseException) -> None:
        if isinstance(error, Stopped):
            return
        self.phases.failed(error)
        unexpected = not isinstance(error, (EventBusError, OSError))
        logger.warning(
            "%s: attempt %d failed: %s",
            self._config.name,
            self.phases.attempt,
            error,
            exc_info=error if unexpected else None,
        )

    def _give_up(self, error: BaseException) -> None:
        self.phases.move(Phase.DISCONNECTED, error)
        logger.error("%s: %s", self._config.name, error)
        self._callbacks.report(ErrorEvent(source="connection", error=error))

    def _discard(self, session: Session) -> None:
        """Close a session that is not wanted, on a thread that nobody waits for."""
        name = f"eventbus.{self._config.name}.closing"
        self._closers = [*self.closers(), spawn(name, session.close, OLD_CLOSE)]

    def _session_lost(self, session: Session, cause: BaseException) -> None:
        if session is not self._session:
            return
        self.phases.trouble()
        self._subscriptions.lose(session)
        self.on_lost(cause)

    def _session_error(self, error: Exception) -> None:
        self._callbacks.report(ErrorEvent(source="connection", error=error))
