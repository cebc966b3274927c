"""The one way for subscriptions into a session: at the first connect, a swap, a repair, late ones, `subscribe()`.

Preparing is network work and changes nothing here; completing is local, and is done under the map's lock. What is
refused is FAILED with its cause, what is not ready in time stays PENDING, and neither holds up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import Factory, frozen

from .. import log
from ..backends.base import Prepared, Session
from ..consuming.attachment import Attachment
from ..consuming.subscription_map import SubscriptionMap
from ..errors import SessionRetired
from ..state import ErrorEvent

logger = log.get(__name__)


@frozen(kw_only=True)
class Arrival:
    """Subscriptions on their way into a session: prepared, and not attached yet."""

    session: Session
    attachments: Sequence[Attachment] = ()
    prepared: Prepared = Factory(Prepared)

    @property
    def is_whole(self) -> bool:
        """Whether none has to be tried again."""
        return not self.prepared.pending


class Attaching:
    """Prepares and completes arrivals; it remembers nothing between the two."""

    def __init__(self, bus: str, subscriptions: SubscriptionMap, report: Callable[[ErrorEvent], object]) -> None:
        self._bus = bus
        self._subscriptions = subscriptions
        self._report = report

    def prepare(self, session: Session, timeout: float, attachments: Sequence[Attachment] | None = None) -> Arrival:
        """All network work, within `timeout` seconds, for all that the session does not deliver yet or for these.

        Raises what the session does when the link fails; then nothing has changed.
        """
        if attachments is None:
            attachments = self._subscriptions.unattached(session)
        if not attachments:
            return Arrival(session=session)
        return Arrival(session=session, attachments=attachments, prepared=session.prepare(attachments, timeout))

    def complete(self, arrival: Arrival, is_current: Callable[[], bool]) -> None:
        """Attach what is ready. SessionRetired when the session has ended or is not the current one (any more).

        Whatever goes wrong: what is not attached then waits for the next try.
        """
        session, subscriptions = arrival.session, self._subscriptions
        ready = arrival.prepared.ready(arrival.attachments)
        with subscriptions.lock:
            if not is_current():
                raise SessionRetired("another session has taken over")
            news = [
                (one, error) for one, error in arrival.prepared.refused.items() if subscriptions.fail(one.sub, error)
            ]
            try:
                subscriptions.attach(session, ready)
            except BaseException:
                subscriptions.lose(session, ready)
                raise
        for attachment, error in news:
            self.tell(attachment, error)

    def tell(self, attachment: Attachment, error: Exception) -> None:
        """The broker does not serve this one: to the log and the error callbacks. Any thread."""
        logger.error("%s: %r failed: %s", self._bus, attachment.sub, error)
        self._report(ErrorEvent(source="subscription", error=error, topic=attachment.topic))
