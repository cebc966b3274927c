"""The one current session of a bus: made, filled with subscriptions, swapped, given up."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from .. import log
from ..backends.base import Backend, Session, SessionContext
from ..config import EventBusConfig
from ..consuming.attachment import Attachment
from ..consuming.subscription_map import SubscriptionMap
from ..consuming.subscriptions import Subscription, SubscriptionState
from ..errors import EventBusError, NotConnectedError, SessionRetired, SubscribeError
from ..publishing.pending import Pending
from ..state import ErrorEvent
from ..threads import Deadline, StopToken, spawn
from .attaching import Arrival, Attaching

logger = log.get(__name__)

OVERLAP = 1.0
"""Seconds that a replaced session may stay until its successor's subscriptions are in place."""
OLD_CLOSE = 5.0
"""Seconds that a replaced session has for its close, on a thread of its own."""


class CurrentSession:
    """Holds the session that is current, and changes it. When that happens the supervisor decides.

    on_lost(session, cause): the link of the current one is gone; never blocks.
    """

    def __init__(
        self,
        config: EventBusConfig,
        backend: Backend,
        subscriptions: SubscriptionMap,
        pending: Pending,
        report: Callable[[ErrorEvent], object],
        on_lost: Callable[[BaseException], object],
        on_refused: Callable[[], object],
    ) -> None:
        self._config = config
        self._backend = backend
        self._subscriptions = subscriptions
        self._pending = pending
        self._report = report
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._attaching = Attaching(config.name, subscriptions, report)
        self.session: Session | None = None
        """It may be lost already; None before the first one, and when one was given up without a successor."""
        self._closers: list[threading.Thread] = []
        self._subscribing: dict[Subscription, threading.Event] = {}
        """Those whose `subscribe()` waits for what the broker says to them, and what ends the wait."""

    @property
    def lost(self) -> BaseException | None:
        """Why the current session is gone for good; None while it may live, or when there is none."""
        session = self.session
        return None if session is None else session.lost

    @property
    def has_late(self) -> bool:
        """Whether subscriptions wait that were added while the session was being made, or were not ready in time."""
        session = self.session
        waiting = [] if session is None else self._subscriptions.unattached(session)
        return any(one.sub.state is SubscriptionState.PENDING for one in waiting)

    @property
    def has_unserved(self) -> bool:
        """Whether any subscription is not delivered, late ones and refused ones."""
        session = self.session
        return session is not None and bool(self._subscriptions.unattached(session))

    def candidate(self, timeout: float, stop: StopToken) -> Arrival:
        """A new session, proven, with what it was shown of the subscriptions. The old one was not touched."""
        deadline = Deadline(timeout)
        context = SessionContext(
            bus=self._config.name,
            timeout=timeout,
            stop=stop,
            answers=self._pending,
            on_lost=self.note_lost,
            on_error=self._note_error,
            on_served=self._note_served,
            on_refused=self._note_refused,
            prefetch_bytes=self._config.prefetch_bytes,
        )
        candidate = self._backend.connect(context)
        try:
            with stop.interrupts(partial(candidate.close, 0.0)):
                arrival = self._attaching.prepare(candidate, deadline.remaining())
            stop.check()
        except BaseException:
            self.discard(candidate)
            raise
        return arrival

    def install(self, arrival: Arrival) -> None:
        """The swap: from here on the old session is given up. A candidate that fails now, in whatever way, is, too."""
        old, candidate = self.session, arrival.session
        try:
            if old is not None:
                self._pending.retire(old, successor=True)
            self.session = candidate
            self._attaching.complete(arrival, lambda: candidate is self.session)
            if old is not None:
                self._subscriptions.lose(old)  # those that were not ready in time
            self._pending.swap(candidate)
        except BaseException as error:
            self.give_up(candidate)
            if not isinstance(error, Exception):
                raise
            raise NotConnectedError(f"the new connection was lost at once: {candidate.lost or error}") from error
        finally:
            if old is not None:
                self.discard(old, self.session)

    def give_up(self, session: Session) -> None:
        """Nobody is to use a session any more, and there is no other yet: its records wait for the next one."""
        if self.session is session:
            self.session = None  # never to be found "healed"
        self._subscriptions.lose(session)
        self._pending.retire(session)
        self.discard(session)

    def bring_late(self, timeout: float) -> bool:
        """Bring what the current session does not deliver yet, within `timeout` seconds; False: some wait on."""
        session = self.session
        if session is None or session.lost is not None:
            return True
        try:
            arrival = self._attaching.prepare(session, timeout)
            self._attaching.complete(arrival, lambda: session is self.session)
        except (EventBusError, OSError) as error:
            logger.warning("%s: subscriptions wait for the next try: %s", self._config.name, error)
            return False
        return arrival.is_whole

    def activate(self, sub: Subscription, stop: StopToken, is_connected: Callable[[], bool]) -> None:
        """Bring a subscription that was just added to the current session. SubscribeError: it is refused.

        Without a connection it waits for the next session. Stopped: nobody wants it any more.
        """
        self._subscribing[sub] = told = threading.Event()
        try:
            with stop.interrupts(told.set):
                self._activate(sub, stop, is_connected, told)
            if sub.state is SubscriptionState.FAILED:
                raise SubscribeError(_naming(sub.topic, sub.error)) from sub.error
        finally:
            del self._subscribing[sub]

    def _activate(
        self, sub: Subscription, stop: StopToken, is_connected: Callable[[], bool], told: threading.Event
    ) -> None:
        timeout = self._config.connect_timeout
        while is_connected() and sub.state is SubscriptionState.PENDING:
            stop.check()
            session = self.session
            attachment = None if session is None else self._subscriptions.attachment(sub, session)
            if session is None or session.lost is not None or attachment is None:
                return
            try:
                arrival = self._attaching.prepare(session, timeout, [attachment])
                refused = arrival.prepared.refused.get(attachment)
                if refused is not None:
                    raise SubscribeError(_naming(sub.topic, refused)) from refused
                self._attaching.complete(arrival, lambda session=session: session is self.session)  # type: ignore[misc]
                if not arrival.is_whole:
                    return
                # Where nothing is kept for it, what others publish after this call must find it on the server.
                if not told.wait(timeout):
                    return
                told.clear()
            except (SessionRetired, NotConnectedError, OSError) as cause:
                logger.info("%s: %r waits for the next session: %s", self._config.name, sub, cause)
                if session is self.session:
                    return

    def discard(self, session: Session, successor: Session | None = None) -> None:
        """Close a session that is not wanted, on a thread that nobody waits for.

        Where nothing is kept for whoever is not there, only once the broker knows of the successor's subscriptions.
        """
        name = f"eventbus.{self._config.name}.closing"
        try:
            self._closers.append(spawn(name, self._close, session, successor))
        except RuntimeError:  # the interpreter is ending, and starts no thread any more
            session.close(0.0)

    def closers(self) -> list[threading.Thread]:
        """Threads that are closing replaced sessions."""
        return list(self._closers)

    def _close(self, session: Session, successor: Session | None) -> None:
        try:
            if successor is not None and session.lost is None and not self._backend.features.replays:
                with suppress(EventBusError, OSError):  # then there is none, or it does not answer
                    successor.probe(OVERLAP, StopToken())
            session.close(OLD_CLOSE)
        finally:
            for thread in [
                one for one in list(self._closers) if one is threading.current_thread() or not one.is_alive()
            ]:
                with suppress(ValueError):  # another one that ends took it out
                    self._closers.remove(thread)

    def note_lost(self, session: Session, cause: BaseException) -> None:
        """A session says that its link is gone; of one that is not current it is no news."""
        if session is not self.session:
            return
        self._subscriptions.lose(session)
        for told in list(self._subscribing.values()):
            told.set()
        self._on_lost(cause)

    def _note_served(
        self, attachments: Sequence[Attachment], state: SubscriptionState = SubscriptionState.ACTIVE, /
    ) -> None:
        self._subscriptions.served(attachments, state)
        for one in attachments:
            self._wake(one.sub)

    def _note_refused(self, attachment: Attachment, error: Exception) -> None:
        news = self._subscriptions.refused(attachment, error)
        if self._wake(attachment.sub):
            return  # its `subscribe()` raises it
        if news:
            self._attaching.tell(attachment, error)
        self._on_refused()

    def _wake(self, sub: Subscription) -> bool:
        """End the wait of its `subscribe()`; whether there was one."""
        told = self._subscribing.get(sub)
        if told is not None:
            told.set()
        return told is not None

    def _note_error(self, error: Exception) -> None:
        self._report(ErrorEvent(source="connection", error=error))


def _naming(topic: str, error: object) -> str:
    """An error's text with the topic in it once: some backends name it, others do not."""
    text = str(error)
    return text if topic in re.split(r"[\s'\":,;()]+", text) else f"{topic}: {text}"
