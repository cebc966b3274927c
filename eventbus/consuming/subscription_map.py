"""The map that keeps all subscriptions of a bus through every reconnect."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from ..errors import SubscribeError
from .attachment import Attachment, Link
from .consumption import Consumption
from .subscriptions import Subscription, SubscriptionState


class Carrier(Link, Protocol):
    """A session as the map sees it."""

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Start delivering these; `SessionRetired` if it is too late."""


class SubscriptionMap:
    """All subscriptions of a bus, under one RLock. Holding it, only local and bounded work is done."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._consumptions: dict[Subscription, Consumption] = {}

    def add(self, consumption: Consumption) -> None:
        """Keep a subscription: from now on every new session delivers it.

        SubscribeError where one of the same topic and group is there: the two would share the messages, and only
        one of them would ever be known to the broker.
        """
        sub = consumption.sub
        with self.lock:
            if sub.group is not None and any(
                (other.topic, other.group) == (sub.topic, sub.group)
                for other, working in self._consumptions.items()
                if not working.is_unwanted()
            ):
                raise SubscribeError(
                    f"{sub.topic!r} is subscribed in group {sub.group!r} already: "
                    "raise concurrency to handle more at once"
                )
            self._consumptions[sub] = consumption

    def remove(self, sub: Subscription) -> Attachment | None:
        """Forget a subscription and return what joins it to the session of now; CLOSED from now on.

        The attachment stays noted: what the handler finishes last is still acknowledged through it.
        """
        with self.lock:
            consumption = self._consumptions.pop(sub, None)
            if consumption is None:
                return None  # removed before, or another bus's
            sub.state = SubscriptionState.CLOSED
            return consumption.attachment

    def unattached(self, session: Carrier) -> list[Attachment]:
        """What would join those subscriptions to this session that it does not deliver yet.

        Asked again, it gives the same attachments, unless another session was asked for in between.
        """
        with self.lock:
            return [
                consumption.attachment_to(session)
                for consumption in self._consumptions.values()
                if not (consumption.is_attached_to(session) or consumption.is_unwanted())
            ]

    def attachment(self, sub: Subscription, session: Carrier) -> Attachment | None:
        """What would join one subscription to this session; None when it is removed, or is delivered already."""
        with self.lock:
            consumption = self._consumptions.get(sub)
            if consumption is None or consumption.is_attached_to(session):
                return None
            return consumption.attachment_to(session)

    def attach(self, session: Carrier, attachments: Iterable[Attachment]) -> None:
        """Let a session deliver these, all at once and each exactly once; what was removed meanwhile is left out.

        Each is noted before the session knows of it, so that nothing it delivers is acknowledged to nobody. A
        session that has ended raises `SessionRetired`; what was noted waits for the next one. Each is ACTIVE once
        the session says that it is `served`.
        """
        with self.lock:
            consumptions = {
                one: consumption
                for one in attachments
                if (consumption := self._consumptions.get(one.sub)) is not None
                and not consumption.is_attached_to(session)
            }
            if not consumptions:
                return
            for one, consumption in consumptions.items():
                consumption.flush()  # through the session before: it may be gone after this
                consumption.attachment = one
                one.attached = True
            try:
                session.attach(list(consumptions))
            except BaseException:
                for one in consumptions:
                    one.attached = False
                raise

    def served(self, attachments: Iterable[Attachment], state: SubscriptionState = SubscriptionState.ACTIVE) -> None:
        """The broker has taken these: what is still wanted through them stands so."""
        with self.lock:
            for one in attachments:
                if self._is_current(one):
                    one.sub.state = state
                    one.sub.error = None
                    if state is not SubscriptionState.PENDING:
                        self._consumptions[one.sub].is_refused = False

    def refused(self, attachment: Attachment, error: Exception) -> bool:
        """The broker does not serve this any more; True where that is news. What is finished is acknowledged."""
        with self.lock:
            if not self._is_current(attachment):
                return False
            attachment.attached = False
            return self._fail(self._consumptions[attachment.sub], error)

    def _is_current(self, attachment: Attachment) -> bool:
        consumption = self._consumptions.get(attachment.sub)
        return consumption is not None and consumption.attachment is attachment and attachment.attached

    def fail(self, sub: Subscription, error: Exception) -> bool:
        """Mark one that cannot be prepared; True where that is news: it was served before, or never refused."""
        with self.lock:
            consumption = self._consumptions.get(sub)
            if consumption is None or sub.state is SubscriptionState.CLOSED:
                return False
            consumption.attachment = None
            return self._fail(consumption, error)

    @staticmethod
    def _fail(consumption: Consumption, error: Exception) -> bool:
        # Not by its text, for the same refusal has several; nor by its state: it is PENDING while it is tried again.
        news, consumption.is_refused = not consumption.is_refused, True
        consumption.sub.state = SubscriptionState.FAILED
        consumption.sub.error = error
        return news

    def lose(self, session: object, only: Collection[Attachment] | None = None) -> None:
        """The session is gone: what it delivered, all or these, waits for the next one."""
        with self.lock:
            for sub, consumption in self._consumptions.items():
                attachment = consumption.attachment
                if attachment is not None and attachment.session is session and (only is None or attachment in only):
                    consumption.attachment = None
                    if sub.state is not SubscriptionState.CLOSED:
                        sub.state = SubscriptionState.PENDING

    def close(self) -> None:
        """The bus is closed: so is each subscription. What is finished late is still acknowledged."""
        with self.lock:
            for sub in self._consumptions:
                sub.state = SubscriptionState.CLOSED

    def consumption(self, sub: Subscription) -> Consumption | None:
        """What works on a subscription; None when it was removed, or is another bus's."""
        with self.lock:
            return self._consumptions.get(sub)

    def consumptions(self) -> list[Consumption]:
        """What works on all of them, now. Takes no lock, as `__iter__`."""
        return list(self._consumptions.values())

    def __iter__(self) -> Iterator[Subscription]:
        # One step in C, without the lock: statuses may be asked for in a signal handler, or in a forked child.
        return iter(list(self._consumptions))

    def __contains__(self, sub: object) -> bool:
        return sub in self._consumptions

    def __len__(self) -> int:
        return len(self._consumptions)
