"""The contract between the bus and a broker: a recipe makes single-use sessions, nothing more.

A backend holds no retry loop around connect and no failure counter: the supervisor owns reconnecting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from attrs import Factory, frozen

from ..consuming.attachment import Attachment
from ..consuming.excerpts import Reading, Span, Stretches
from ..consuming.in_hand import InHand
from ..consuming.subscriptions import PartitionStatus, SubscriptionState
from ..features import Features
from ..message import Delivery
from ..publishing.port import Answers, PublishingPort
from ..reports import DeadLetterTopic
from ..threads import StopToken


class Served(Protocol):
    """How a session says what the broker makes of subscriptions that it was given."""

    def __call__(
        self, attachments: Sequence[Attachment], state: SubscriptionState = SubscriptionState.ACTIVE, /
    ) -> None:
        """ACTIVE: they get their messages. STANDBY: others have all of them. PENDING: they are on their way in."""


@frozen(kw_only=True)
class SessionContext:
    """What a session is born with.

    bus: name for thread names. timeout: seconds for the whole connect. stop: ends a connect at once
    (`Stopped` is raised). on_lost: `on_lost(session, cause)`, called once, from a session thread, when the
    link is known to be gone; it never blocks. on_error: something the user should hear of. on_served: the broker
    has taken these subscriptions; said once for each that was attached. on_refused: it will not, or not any more,
    serve this one, and why: the session has let go of it, and it will be prepared and attached again. Both on any
    thread, within `attach` too; they never block. prefetch_bytes: of payload that one subscription may have in hand.
    """

    bus: str
    timeout: float
    stop: StopToken
    answers: Answers
    on_lost: Callable[[Session, BaseException], None]
    on_error: Callable[[Exception], None]
    on_served: Served
    on_refused: Callable[[Attachment, Exception], None]
    prefetch_bytes: int = 32 * 1024 * 1024


@frozen(kw_only=True)
class Prepared:
    """What became of subscriptions that were to be prepared; those in neither are ready to be attached.

    refused: the broker does not want them, and why. pending: not ready in time; to be tried again.
    """

    refused: Mapping[Attachment, Exception] = Factory(dict)
    pending: Collection[Attachment] = ()

    def ready(self, attachments: Sequence[Attachment]) -> list[Attachment]:
        """Those of the attachments that may be attached now."""
        return [one for one in attachments if one not in self.refused and one not in self.pending]


class Session(Protocol):
    """One live connection, used once. All methods are thread-safe."""

    @property
    def lost(self) -> BaseException | None:
        """Why the link is gone for good; None while it may be alive."""

    @property
    def publisher(self) -> PublishingPort:
        """Where records are published."""

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """All network work for these, within `timeout` seconds: streams, durables, topics.

        Raises NotConnectedError when the link fails: then nothing is said about any of them. No lock is held.
        """

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Start delivering prepared subscriptions, all at once. Local and bounded; SessionRetired if it is too late.

        What the broker says to each is told by `SessionContext.on_served` or `on_refused`, now or later. Each
        is noted as its subscription's before: from here on deliveries may come, and be acknowledged.
        """

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Stop delivering; bounded. What is in hand may still be acknowledged. Unknown: nothing happens."""

    def resume(self, attachment: Attachment) -> None:
        """The lanes have room again."""

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """These are done. Any thread; on a link that is gone it does nothing, they will come again."""

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """These will not be handled here: give them to somebody else, after `delay` seconds where it takes back."""

    def lag(self, attachment: Attachment) -> int | None:
        """How many messages wait for the subscription's group, in hand or not; None where that is not known."""

    def partitions(self, attachment: Attachment) -> tuple[PartitionStatus, ...]:
        """The slices of its topics that this process has, where the backend has any; asks nobody."""

    def stretches_of(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        """What a span is made of now, in offsets, within `timeout` seconds; nothing is made on the broker.

        ReadError: the topic is not there, or may not be read. NotConnectedError: not known now. Stopped.
        """

    def read(self, topic: str, stretches: Stretches) -> Reading:
        """Read what is left of these, which are taken from as it is handed out; for the calling thread.

        No group is joined, and nothing acknowledged. ReadError, NotConnectedError.
        """

    def topics_of(self, pattern: str, timeout: float, stop: StopToken) -> Sequence[DeadLetterTopic]:
        """The topics that a pattern covers, with how many messages each holds and from when; empty ones may miss.

        Within `timeout` seconds. ReadError: they may not be asked for. NotConnectedError, Stopped.
        """

    def purge(self, topic: str, stretches: Stretches, timeout: float, stop: StopToken) -> int:
        """Delete all in front of the ends of these, within `timeout` seconds; how many, about.

        PurgeError: the broker does not let us. NotConnectedError: they may be deleted or not. Stopped.
        """

    def probe(self, timeout: float, stop: StopToken) -> str:
        """Broker round trip, consumer loops alive, progress; says what it found, raises what is wrong."""

    def abandon(self, patience: float = 0.0) -> None:
        """Stop using the link: retire the publisher, as `PublishingPort.retire` says, and stop all deliveries."""

    def drain(self, timeout: float) -> None:
        """Stop all deliveries and send out acknowledgements; bounded."""

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the link; idempotent, bounded, silent about a dead peer. Names threads that did not end."""


class Backend(Protocol):
    """An immutable recipe for sessions: it holds configuration only."""

    name: str
    features: Features
    waits_in_c: bool
    """Whether its client waits in C, where gevent can switch to no other greenlet."""

    @property
    def retry_interval(self) -> float | None:
        """Seconds between probes after a failed one, where the configuration leaves it open; None: the interval."""

    def connect(self, context: SessionContext) -> Session:
        """A session proven by a round trip; else ConnectFailedError, AuthenticationError or Stopped."""

    def new_in_hand(self, ordered: bool = False) -> InHand:
        """The record of what one subscription is given and has not finished; it outlives sessions."""

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Cheap: does a server *speak* (not only accept)? Never raises."""
