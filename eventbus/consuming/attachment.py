"""What joins a subscription to a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..message import Delivery
from .in_hand import InHand
from .lease import Lease
from .subscriptions import PartitionStatus, Subscription


class Link(Protocol):
    """What an attachment needs of its session; see `Session` in `backends/base.py`."""

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Stop delivering."""

    def resume(self, attachment: Attachment) -> None:
        """There is room again."""

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """These are done."""

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """These will not be handled here."""

    def lag(self, attachment: Attachment) -> int | None:
        """How many messages wait for the subscription's group; None where that is not known."""

    def partitions(self, attachment: Attachment) -> tuple[PartitionStatus, ...]:
        """The slices of its topics that this process has, where the backend has any."""


class Work(Protocol):
    """What handles the deliveries of a subscription, whichever session they come through."""

    @property
    def sub(self) -> Subscription:
        """The subscription."""

    @property
    def in_hand(self) -> InHand:
        """What it was given and has not finished."""

    @property
    def room(self) -> int:
        """So many messages may be fetched at once, one at least."""

    @property
    def room_bytes(self) -> int:
        """So many bytes of payload may be asked for now."""

    def hold(self) -> bool:
        """Have `Link.resume` called once there is room; False when nothing is in hand."""

    def take(self, attachment: Attachment, batch: Sequence[Delivery], lease: Lease) -> bool:
        """Take a batch; False when no more should be fetched until `Link.resume`."""

    def flush(self) -> None:
        """Acknowledge what is done so far."""

    def hindered(self, error: Exception | None, is_news: bool = True) -> None:
        """Show and, where it is news, tell what the broker does not let it do; None: that is over."""

    def told(self, error: Exception) -> None:
        """Tell what went wrong, and is over."""


class Attachment:
    """One subscription on one session: the way in for deliveries, the way back for acknowledgements.

    It is complete, and noted where acknowledgements look for it, before the session may deliver anything.

    session: the only one it is ever used with.
    topic, group, start, ordered: as subscribed.
    number: of the subscription, unique in this process and the same in every session.
    in_hand: of the subscription, made by the backend; it outlives the attachment.
    attached: whether the session delivers it; written under the map's lock only.
    """

    __slots__ = ("_work", "attached", "group", "in_hand", "number", "ordered", "session", "start", "sub", "topic")

    def __init__(self, work: Work, session: Link) -> None:
        self._work = work
        self.session = session
        self.sub = sub = work.sub
        self.topic = sub.topic
        self.group = sub.group
        self.start = sub.start
        self.ordered = sub.ordered
        self.number = sub._number
        self.in_hand = work.in_hand
        self.attached = False

    def __repr__(self) -> str:
        return f"<Attachment of {self.sub!r}>"

    @property
    def room(self) -> int:
        """So many messages may be fetched now, one at least: `prefetch`, less what is in hand. Takes no lock."""
        return self._work.room

    @property
    def room_bytes(self) -> int:
        """So many bytes of payload may be asked for now, of `prefetch_bytes` and its share of `max_prefetch_bytes`.

        0: it is not worth while. Takes no lock.
        """
        return self._work.room_bytes

    def hold(self) -> bool:
        """Ask for `Session.resume` once there is room; False when nothing is in hand, and nothing would free any."""
        return self._work.hold()

    def deliver(self, batch: Sequence[Delivery], lease: Lease) -> bool:
        """Take a batch on a session thread; never blocks. What is not started when the lease ends, never is.

        False: the lanes are full, fetch no more until `Session.resume`; the batch itself was taken (or, where
        nothing is redelivered, dropped and counted).
        """
        return self._work.take(self, batch, lease)

    def hindered(self, error: Exception | None, is_news: bool = True) -> None:
        """The broker does not let it do something: that is shown and told, once for each text. None: that is over.

        is_news: False of what was told before, and is only to be shown again.
        """
        self._work.hindered(error, is_news)

    def told(self, error: Exception) -> None:
        """Something went wrong that is over: it is told, and shown as the last error."""
        self._work.told(error)

    def flush(self) -> None:
        """Acknowledge what is done so far: what is not, comes again where the lease ends."""
        self._work.flush()
