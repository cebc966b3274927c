"""The contract between the bus and a broker: a recipe makes single-use sessions, nothing more.

A backend holds no retry loop around connect and no failure counter: the supervisor owns reconnecting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from attrs import Factory, frozen

from ..consuming.attachment import Attachment
from ..consuming.in_hand import InHand
from ..message import Delivery
from ..publishing.records import Record
from ..publishing.sink import Door, PublishNowait
from ..threads import StopToken


@frozen(kw_only=True)
class Features:
    """What a backend promises; the conformance suite and the README's tables read the same object.

    durable: messages are stored and survive a restart of the process. confirms_publish: a receipt means
    stored. replays: what is not acknowledged is delivered again. groups: members share the work.
    ordered_by_key: order per key inside a group whatever dies. deduplicates: one id is stored once.
    heals_itself: a session survives an outage of the broker. counts_attempts: `Message.attempt` grows with
    each delivery. takes_back: one delivery may be given back, after which it comes to any member again.
    """

    durable: bool
    confirms_publish: bool
    replays: bool
    groups: bool
    ordered_by_key: bool
    deduplicates: bool
    heals_itself: bool
    counts_attempts: bool
    takes_back: bool = False


class Answers(Protocol):
    """Where a session puts the answers to publishes. All methods are thread-safe and never block."""

    @property
    def origin(self) -> str:
        """The first part of minted ids; the id of a record without one is `f"{origin}-{number:012d}"`."""

    def sent(self, records: Sequence[Record]) -> None:
        """The broker has read these, and stores nothing (`confirmed=False`)."""

    def confirmed(self, record: Record, partition: int | str, offset: int, duplicate: bool = False) -> None:
        """The broker has stored this one."""

    def stored(self, count: int) -> None:
        """The broker has stored so many more records without a waiter: for sessions that count, not note."""

    def failed(self, record: Record, error: Exception) -> None:
        """This one is answered with an error: a PublishError, or made one of "unknown"."""

    def loaded(self) -> None:
        """`Session.unanswered_bytes` has grown: check the bounds again. Answers check them by themselves."""


@frozen(kw_only=True)
class SessionContext:
    """What a session is born with.

    bus: name for thread names. timeout: seconds for the whole connect. stop: ends a connect at once
    (`Stopped` is raised). on_lost: `on_lost(session, cause)`, called once, from a session thread, when the
    link is known to be gone; it never blocks. on_error: something the user should hear of.
    """

    bus: str
    timeout: float
    stop: StopToken
    answers: Answers
    on_lost: Callable[[Session, BaseException], None]
    on_error: Callable[[Exception], None]


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
    def unanswered_bytes(self) -> int:
        """Payload bytes accepted and unanswered."""

    def publish(self, record: Record) -> None:
        """Accept a record, in order; never blocks. SessionRetired: not accepted. PublishRejectedError: never."""

    def shortcut(self, door: Door, otherwise: PublishNowait) -> PublishNowait | None:
        """A `publish_nowait` made for this session, in one frame; None: the usual way is all there is.

        It takes plain messages (a known topic, bytes, nothing else) while there is room and the session lives, and
        leaves all others to `otherwise`. People may hold it for longer than the session lasts.
        """

    def unanswered(self, up_to: int) -> int:
        """How many accepted records with a number of at most `up_to` have no answer."""

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """All network work for these, within `timeout` seconds: streams, durables, topics.

        Raises NotConnectedError when the link fails: then nothing is said about any of them. No lock is held.
        """

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Start delivering prepared subscriptions, all at once. Local and bounded; SessionRetired if it is too late.

        Each is noted as its subscription's before: from here on deliveries may come, and be acknowledged.
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

    def probe(self, timeout: float, stop: StopToken) -> str:
        """Broker round trip, consumer loops alive, progress; says what it found, raises what is wrong."""

    def abandon(self, patience: float = 0.0) -> list[Record]:
        """Stop using the link; hand back unanswered records in order. They get no answer from it any more.

        What is handed back may have been stored: while answers go on coming, up to `patience` seconds are spent on
        those that are due. Nothing new is taken meanwhile.
        """

    def drain(self, timeout: float) -> None:
        """Stop all deliveries and send out acknowledgements; bounded."""

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the link; idempotent, bounded, silent about a dead peer. Names threads that did not end."""


class Backend(Protocol):
    """An immutable recipe for sessions: it holds configuration only."""

    name: str
    features: Features

    @property
    def retry_interval(self) -> float | None:
        """Seconds between probes after a failed one, where the configuration leaves it open; None: the interval."""

    def connect(self, context: SessionContext) -> Session:
        """A session proven by a round trip; else ConnectFailedError, AuthenticationError or Stopped."""

    def new_in_hand(self) -> InHand:
        """The record of what one subscription is given and has not finished; it outlives sessions."""

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Cheap: does a server *speak* (not only accept)? Never raises."""
