"""The contract between the bus and a broker: a recipe makes single-use sessions, nothing more.

A backend holds no retry loop around connect and no failure counter: the supervisor owns reconnecting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from attrs import frozen

from ..consuming.subscriptions import Subscription
from ..message import Delivery
from ..publishing.port import Answers, PublishingPort
from ..threads import StopToken

Deliver = Callable[[Sequence[Delivery]], bool]
"""Takes a batch on a session thread and never blocks. False: the lanes are full, fetch no more until
`Session.resume`; the batch itself was taken (or, where nothing is redelivered, dropped and counted)."""


@frozen(kw_only=True)
class Features:
    """What a backend promises; the conformance suite and the README's tables read the same object.

    durable: messages are stored and survive a restart of the process. confirms_publish: a receipt means
    stored. replays: what is not acknowledged is delivered again. groups: members share the work.
    ordered_by_key: order per key inside a group whatever dies. deduplicates: one id is stored once.
    heals_itself: a session survives an outage of the broker. counts_attempts: `Message.attempt` grows with
    each delivery.
    """

    durable: bool
    confirms_publish: bool
    replays: bool
    groups: bool
    ordered_by_key: bool
    deduplicates: bool
    heals_itself: bool
    counts_attempts: bool


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


class Session(Protocol):
    """One live connection, used once. All methods are thread-safe."""

    @property
    def lost(self) -> BaseException | None:
        """Why the link is gone for good; None while it may be alive."""

    @property
    def publisher(self) -> PublishingPort:
        """Where records are published."""

    def prepare(self, subs: Sequence[Subscription], timeout: float) -> Mapping[Subscription, Exception]:
        """All network work for these: streams, durables, topics. Returns those that cannot be prepared.

        Raises when the link fails: then nothing is said about the others.
        """

    def attach(self, sub: Subscription, deliver: Deliver) -> None:
        """Start delivering a prepared subscription. Local and bounded; SessionRetired if it is too late."""

    def detach(self, sub: Subscription, timeout: float) -> None:
        """Stop delivering; bounded. What is in hand may still be acknowledged. Unknown: nothing happens."""

    def resume(self, sub: Subscription) -> None:
        """The lanes have room again."""

    def acknowledge(self, sub: Subscription, deliveries: Sequence[Delivery]) -> None:
        """These are done. Any thread; on a link that is gone it does nothing, they will come again."""

    def release(self, sub: Subscription, deliveries: Iterable[Delivery]) -> None:
        """These will not be handled here: give them to somebody else soon."""

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

    @property
    def retry_interval(self) -> float | None:
        """Seconds between probes after a failed one, where the configuration leaves it open; None: the interval."""

    def connect(self, context: SessionContext) -> Session:
        """A session proven by a round trip; else ConnectFailedError, AuthenticationError or Stopped."""

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Cheap: does a server *speak* (not only accept)? Never raises."""
