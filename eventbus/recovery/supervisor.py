"""The owner of the current session: first connect, reconnect, and what every swap must keep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from .. import log
from ..backends.base import Backend, Session
from ..config import EventBusConfig
from ..consuming.subscription_map import SubscriptionMap
from ..consuming.subscriptions import Subscription
from ..errors import (
    ClosedError,
    ConnectFailedError,
    EventBusError,
    NotConnectedError,
    ReconnectExhaustedError,
)
from ..publishing.pending import Pending
from ..state import ErrorEvent, Phase, ReconnectEvent
from ..threads import Deadline, Pauses, Stopped, StopToken
from .backoff import FINAL, retrying, was_there
from .callbacks import Callbacks
from .current import CurrentSession
from .healing import HEAL_GRACE, HEAL_PROBE, Healing
from .phases import Phases

logger = log.get(__name__)

LOOKS = Pauses(first=0.01, factor=1.2, longest=0.25)
"""Between two looks at a broker that does not speak, while an episode waits for its next attempt."""


class Replacement:
    """Somebody's wish for another session than the one of now. is_there: it was made, and was connected."""

    def __init__(self, before: Session | None) -> None:
        self.before = before
        self.is_there = False


class Supervisor:
    """Makes sessions and replaces them. Nothing about a particular broker is in here.

    An episode (`reconnect`) runs on the thread that calls it, never a user's. There is one at a time.
    on_lost(cause): the current session is gone. on_connected(detail): there is a connection, proven. Neither blocks.
    """

    def __init__(
        self,
        config: EventBusConfig,
        backend: Backend,
        subscriptions: SubscriptionMap,
        pending: Pending,
        callbacks: Callbacks,
        on_lost: Callable[[BaseException], object],
        on_connected: Callable[[str], object],
        on_refused: Callable[[], object],
        begins: Phase = Phase.NEW,
    ) -> None:
        self._config = config
        self._backend = backend
        self._pending = pending
        self._callbacks = callbacks
        self._on_lost = on_lost
        self._on_connected = on_connected
        self._healing = Healing(backend.features.heals_itself)
        self.phases = Phases(config.name, callbacks.moved, begins)
        self.current = CurrentSession(
            config, backend, subscriptions, pending, callbacks.report, self._session_lost, on_refused
        )
        self._turn = threading.Lock()
        self._in_episode = False
        self._was_connected = False
        self._wanted: set[Replacement] = set()
        self._asked = 0
        """How often a replacement was asked for: a pause ends when it grows."""

    @property
    def session(self) -> Session | None:
        """The current session; it may be lost already."""
        return self.current.session

    @property
    def in_episode(self) -> bool:
        """Whether an episode runs, on whatever thread."""
        return self._in_episode

    @property
    def was_connected(self) -> bool:
        """Whether there ever was a connection."""
        return self._was_connected

    @property
    def lost(self) -> BaseException | None:
        """Why the current session is gone for good; None while it may live, or when there is none."""
        return self.current.lost

    # -- first connect ---------------------------------------------------------------------------

    def connect(self, timeout: float, stop: StopToken) -> None:
        """The first connect, from CONNECTING to CONNECTED within `timeout` seconds; raises why not."""
        deadline = Deadline(timeout)
        try:
            self.current.install(self.current.candidate(timeout, stop))
        except (NotConnectedError, OSError) as error:
            raise ConnectFailedError(str(error)) from error
        if not self._arrive(reconnected=False):
            raise ClosedError("the bus was closed while it was connecting")
        if self.current.has_late and not deadline.over:
            self._bring_late(min(deadline.remaining(), self._config.health_check.timeout))

    # -- reconnect -------------------------------------------------------------------------------

    @property
    def is_replacement_wanted(self) -> bool:
        """Whether somebody waits for another session than the present one."""
        return bool(self._wanted)

    @contextmanager
    def replacement_wanted(self) -> Iterator[Replacement]:
        """Until there is another session than now, or the block ends, every episode replaces the present one.

        Even one that is well; a pause in an episode ends at once.
        """
        wanted = Replacement(self.current.session)
        self._wanted.add(wanted)
        self._asked += 1
        try:
            yield wanted
        finally:
            self._wanted.discard(wanted)

    def reconnect(self, cause: BaseException, stop: StopToken) -> bool | None:
        """One episode: attempts until one succeeds, they are used up, or `stop` is set.

        True: CONNECTED by it. False: not. None: another thread's episode runs. Never raises.
        """
        if not self._take_turn():
            return None
        connected = False
        try:
            kept = self.current.session if self._is_forced and self.phases.phase is Phase.CONNECTED else None
            if self.phases.phase is Phase.RECONNECTING or self._begin(cause, kept):
                connected = self._run_episode(cause, stop) or self._keep(kept, cause)
        finally:
            self.phases.attempt = 0
            self._in_episode = False
        lost = self.lost
        if connected and lost is not None:  # it went before the episode was over, when `abort` did nothing
            self._on_lost(lost)
        return connected and lost is None

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Whether a server speaks, within `timeout` seconds."""
        return self._backend.reachable(timeout, stop)

    def abort(self, cause: BaseException) -> None:
        """Nobody will reconnect any more: a connection that is not there is DISCONNECTED.

        While an episode runs it does nothing: the episode says how it ended.
        """
        if not self._take_turn():
            return
        try:
            if self.phases.phase is Phase.RECONNECTING:
                self.phases.move(Phase.DISCONNECTED, cause, only_from=Phase.RECONNECTING)
            elif self.lost is not None:
                self.phases.move(Phase.DISCONNECTED, self.lost, only_from=Phase.CONNECTED)
        finally:
            self._in_episode = False

    def _take_turn(self) -> bool:
        """Be the one who moves the phase because of the connection; whoever gives it back sets `_in_episode`."""
        with self._turn:
            if self._in_episode:  # and nothing is written: whoever has the turn may be giving it back
                return False
            self._in_episode = True
        return True

    def take_back(self) -> None:
        """Undo the first connect: `open()` is called again, or never."""
        session = self.current.session
        if session is not None:
            self.current.give_up(session)
        self._was_connected = False
        self.phases.take_back(None)

    def repair(self, stop: StopToken) -> bool:
        """Bring what the current session does not deliver yet: failed ones, late ones. False: some wait on.

        Bounded by the probe's timeout, and not interruptible: the session is at work, and whoever stops the
        health check does not ask for its end.
        """
        return stop.is_set() or self.current.bring_late(self._config.health_check.timeout)

    def activate(self, sub: Subscription, stop: StopToken) -> None:
        """Bring a subscription that was just added; see `CurrentSession.activate`."""
        self.current.activate(sub, stop, lambda: self.phases.phase is Phase.CONNECTED)

    # -- an episode ------------------------------------------------------------------------------

    @property
    def _is_forced(self) -> bool:
        return bool(self._wanted) or self._config.reconnect.rebuild == "always"

    def _begin(self, cause: BaseException, kept: Session | None) -> bool:
        if kept is None or kept.lost is not None:
            self._pending.suspend(True)
        return self.phases.move(Phase.RECONNECTING, cause)

    def _keep(self, kept: Session | None, cause: BaseException) -> bool:
        """Whether a session that could not be replaced as somebody asked for goes on all the same."""
        if kept is None or kept is not self.current.session or not self._healing.healed(kept, HEAL_PROBE, StopToken()):
            return False
        self.phases.move(Phase.RECONNECTING, only_from=Phase.DISCONNECTED)
        return self._finish("healed", cause)

    def _run_episode(self, cause: BaseException, stop: StopToken) -> bool:
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
                        return self._attempt(cause, stop)
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

    def _attempt(self, cause: BaseException, stop: StopToken) -> bool:
        stop.check()
        old = self.current.session
        if not self._is_forced and self._healing.healed(old, HEAL_PROBE, stop):
            return self._finish("healed", cause)
        arrival = self.current.candidate(self._config.connect_timeout, stop)
        try:
            healed = not self._is_forced and self._healing.healed(old, HEAL_GRACE, stop)
            stop.check()
            forced = self._is_forced
            if not (forced or healed):
                self._healing.check_pace(old)
        except BaseException:
            self.current.discard(arrival.session)
            raise
        if healed:
            self.current.discard(arrival.session)
            return self._finish("healed", cause)
        self.current.install(arrival)
        if not forced:
            self._healing.replaced(old)
        return self._finish("rebuilt", cause)

    def _finish(self, how: str, cause: BaseException) -> bool:
        downtime = self.phases.downtime()
        attempts = self.phases.attempt
        reconnected = self._was_connected
        if not self._arrive(reconnected=reconnected):
            return False
        told = f"connected again ({how})" if reconnected else "connected"
        logger.info("%s: %s after %.2f s, attempt %d", self._config.name, told, downtime, attempts)
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
        # One that was refused in the outage was not asked for again on a session that has healed.
        if self.current.has_late or (how == "healed" and self.current.has_unserved):
            self._bring_late(self._config.health_check.timeout)
        return True

    def _bring_late(self, timeout: float) -> None:
        """Bring late ones to a session that is connected already, whatever becomes of that."""
        try:
            self.current.bring_late(timeout)
        except Exception:  # theirs alone: the connection stands, and they are tried again
            logger.exception("%s: late subscriptions could not be brought", self._config.name)

    def _arrive(self, *, reconnected: bool) -> bool:
        session = self.current.session
        assert session is not None
        granted = [wanted for wanted in list(self._wanted) if wanted.before is not session]
        self._wanted.difference_update(granted)  # before the move: whoever it wakes must not ask for another one
        for wanted in granted:
            wanted.is_there = True
        if not self.phases.move(Phase.CONNECTED, reconnected=reconnected):
            self.current.give_up(session)
            return False
        self._was_connected = True
        self._pending.suspend(False)
        self._on_connected("reconnected" if reconnected else "connected")
        if session.lost is not None:  # it was lost before it was current, when nobody listened
            self.current.note_lost(session, session.lost)
        return True

    def _pause(self, seconds: float, stop: StopToken, last: BaseException) -> None:
        """Sleep between attempts; ends early when a server begins to speak, or somebody asks for a reconnect."""
        deadline = Deadline(seconds)
        spoke = was_there(last)
        looks, asked = 0, self._asked
        while not deadline.over and asked == self._asked:
            looks += 1
            if stop.wait(min(LOOKS.after(looks), deadline.remaining())):
                return
            speaks = self._backend.reachable(min(1.0, max(deadline.remaining(), 0.05)), stop)
            if speaks and not spoke:
                return
            spoke = speaks

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

    def _session_lost(self, cause: BaseException) -> None:
        self.phases.trouble()
        self._on_lost(cause)
