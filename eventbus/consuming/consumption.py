"""What happens to a subscription's deliveries: into the lanes, through the handler, back as done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from attrs import field, frozen

from .. import log
from ..errors import EventBusError
from ..message import Delivery
from ..middleware import Middleware
from ..state import ErrorEvent
from . import handling
from .acknowledgements import Acknowledgements
from .attachment import Attachment, Link
from .batches import size_of
from .budget import Budget
from .dead_letters import Answered
from .failing import Failing, Plan
from .in_hand import InHand
from .lanes import Lanes
from .lease import Lease
from .retries import Tries, Verdict
from .subscriptions import Handler, Subscription, SubscriptionState, SubscriptionStatus

logger = log.get(__name__)

HIGH_WATER_UNSTORED = 524_288
"""Deliveries that wait at most where nothing is redelivered: what comes beyond is lost, so more may wait than
elsewhere. As many as in nats-py."""
MOST_UNSTORED_BYTES = 128 * 1024 * 1024
"""Of payloads, where nothing is redelivered. As in nats-py."""


@frozen(kw_only=True)
class Surroundings:
    """What the consumptions of a bus share.

    owner: the `Consumers`. replays: what is not acknowledged is delivered again. prefetch, prefetch_bytes: what one
    may have in hand. budget: what all may have together. takes_back: the broker takes back what is not handled, to give
    it to others. durable: it keeps that after the end of this process, too. middleware: around each call of a handler.
    """

    owner: object
    bus: str
    replays: bool
    report: Callable[[ErrorEvent], object]
    acknowledgements: Acknowledgements
    prefetch: int
    prefetch_bytes: int
    budget: Budget
    takes_back: bool = False
    durable: bool = False
    middleware: Middleware = field(factory=Middleware)


class Consumption:
    """One subscription at work; it outlives all sessions.

    attachment: what joins it to the session of now, None between two; written under the map's lock only.
    is_refused: the broker has refused it, and has not served it since; written under the map's lock only.
    dead_letter_topic: where the dead letters of its topic go; None: nowhere.
    """

    def __init__(
        self,
        sub: Subscription,
        handler: Handler,
        in_hand: InHand,
        around: Surroundings,
        is_unwanted: Callable[[], bool] = lambda: False,
        plan: Plan | None = None,
    ) -> None:
        plan = plan or Plan()
        self.sub = sub
        sub._work = self
        self.dead_letter_topic = None if plan.dead_letters is None else plan.dead_letters.topic_of(sub.topic)
        self.in_hand = in_hand
        self.attachment: Attachment | None = None
        self.is_refused = False
        self.is_unwanted = is_unwanted
        self._next: Attachment | None = None
        self._around = around
        self._replays = around.replays
        self._lock = threading.Lock()
        self._last_error: BaseException | None = None
        self.delivered = self.handled = self.dropped_count = 0
        self._failing = Failing(sub, plan, around.report, gives_back=around.takes_back and not sub.ordered)
        self._lanes = Lanes(
            f"eventbus.{around.bus}.lane-{sub.topic}",
            sub.concurrency,
            handler,
            self,
            around.acknowledgements,
            max(around.prefetch, plan.least_in_hand) if around.replays else HIGH_WATER_UNSTORED,
            around.prefetch_bytes if around.replays else MOST_UNSTORED_BYTES,
            around.budget,
            around.takes_back and not sub.ordered,
            plan.handler_timeout,
            plan.batch,
            around.middleware,
        )

    @property
    def paused(self) -> bool:
        """Whether the user has paused it. Takes no lock."""
        return self._lanes.paused

    # -- sessions --------------------------------------------------------------------------------

    def attachment_to(self, session: Link) -> Attachment:
        """What would join it to a session, complete; the same again for the session that was asked for last."""
        attachment = self._next
        if attachment is None or attachment.session is not session:
            attachment = self._next = Attachment(self, session)
        return attachment

    def is_attached_to(self, session: object) -> bool:
        """Whether a session delivers it."""
        attachment = self.attachment
        return attachment is not None and attachment.attached and attachment.session is session

    @property
    def room(self) -> int:
        """So many messages may be fetched now, one at least."""
        return self._lanes.room

    @property
    def room_bytes(self) -> int:
        """So many bytes of payload may be asked for now."""
        return self._lanes.room_bytes

    @property
    def reason_for_nothing(self) -> str:
        """Why it gets nothing now, "" when it does."""
        sub = self.sub
        if sub.state in (SubscriptionState.PENDING, SubscriptionState.FAILED):
            return str(sub.error or "waits for the broker")
        if self._failing.guard.error is not None:
            return str(self._failing.guard.error)
        if self._lanes.is_stuck:
            return f"{self._in_hand_now} messages that wait for their retry take all of prefetch_bytes"
        return ""

    def hold(self) -> bool:
        """Have `has_room` called once there is room; False when nothing is in hand."""
        return self._lanes.wait_for_room()

    def take(self, attachment: Attachment, batch: Sequence[Delivery], lease: Lease) -> bool:
        """Take a batch that came through an attachment; see `Attachment.deliver`."""
        if not self._replays:
            return self._take_unstored(batch, lease)
        admitted = self.in_hand.admit(batch, lease)
        if admitted.finished:
            attachment.session.acknowledge(attachment, admitted.finished)
        with self._lock:
            self.delivered += len(admitted.fresh)
        return self._lanes.put(admitted.fresh, lease, admitted.check)

    def flush(self) -> None:
        """Acknowledge what is done so far."""
        self._lanes.flush()

    def hindered(self, error: Exception | None, is_news: bool = True) -> None:
        """Show and tell what the broker does not let it do, once for each text; None: that is over."""
        if error is None:
            if self.sub.state in (SubscriptionState.ACTIVE, SubscriptionState.STANDBY):
                self.sub.error = None
        elif str(self.sub.error) != str(error):
            self.sub.error = self._last_error = error
            if is_news:
                self._around.report(ErrorEvent(source="subscription", error=error, topic=self.sub.topic))

    def told(self, error: Exception) -> None:
        """Tell what went wrong, and is over."""
        self._last_error = error
        logger.error("%r: %s", self.sub, error)
        self._around.report(ErrorEvent(source="subscription", error=error, topic=self.sub.topic))

    # -- what others ask -------------------------------------------------------------------------

    @property
    def unhandled(self) -> int:
        """Deliveries in hand and not finished, those that were given up at the end included."""
        return self._in_hand_now + self._lanes.given_up

    @property
    def handed_over(self) -> int:
        """Of these, those that no handler was started for, and that the broker keeps for others."""
        return self._lanes.handed_over if self.is_given_again and self._around.durable else 0

    @property
    def at_work(self) -> tuple[str, ...]:
        """Names of the lanes that have something in hand."""
        return self._lanes.at_work

    @property
    def _in_hand_now(self) -> int:
        """Messages, each once: of one that came again under a new lease the lanes may have more than one copy."""
        backlog = self._lanes.backlog
        return min(backlog, self.in_hand.count) if self._replays else backlog

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand, and all that was handled is acknowledged and counted."""
        return self._lanes.is_idle

    def counts(self) -> dict[str, int]:
        """What was counted, by the names of `Statistics`. Takes no lock."""
        return {
            "delivered": self.delivered,
            "handled": self.handled,
            "failed": self._failing.failures,
            "retried": self._failing.retried,
            "duplicates": self.in_hand.duplicates,
            "dropped": self.dropped_count + self._failing.dropped,
            "dead_lettered": self._failing.stored,
        }

    def status(self) -> SubscriptionStatus:
        """How it stands, now."""
        state, oldest = self.sub.state, self._lanes.oldest
        # A session lets go of the attachment of a CLOSED one later, and shows its last figures until then.
        attachment = None if state is SubscriptionState.CLOSED else self.attachment
        pending = state is SubscriptionState.PENDING
        return SubscriptionStatus(
            state=state,
            error=self.sub.error or self._failing.error,
            last_error=self._last_error,
            in_hand=self._in_hand_now,
            oldest_in_hand=None if oldest is None else time.monotonic() - oldest,
            lag=None if attachment is None else attachment.session.lag(attachment),
            paused=self.paused,
            partitions=() if attachment is None else attachment.session.partitions(attachment),
            not_served=self.reason_for_nothing,
            is_joining=pending and attachment is not None and attachment.attached and self.sub.error is None,
        )

    def pause(self) -> None:
        """Start no handler, and let no more be fetched; what was fetched is kept."""
        self._lanes.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        self._lanes.resume()

    @property
    def is_given_again(self) -> bool:
        """Whether somebody gets what no handler is started for: of a group, where the broker keeps it."""
        return self._replays and self.sub.group is not None

    def begin_finish(self) -> None:
        """Take what is in the lanes to its end; from now on what fails is not tried again."""
        self._lanes.begin_finish()

    def end(self, timeout: float) -> tuple[str, ...]:
        """Start no more handlers, but for what a group was given that nobody else would get; wait up to `timeout` s."""
        return self.stop(timeout) if self._replays or self.sub.group is None else self.finish(timeout)

    def finish(self, timeout: float) -> tuple[str, ...]:
        """Handle what is in the lanes, up to `timeout` seconds; name those still at work."""
        return self._lanes.finish(timeout)

    def start_no_more(self) -> None:
        """Start no more handlers; those that run go on."""
        self._lanes.start_no_more()

    def stop(self, timeout: float) -> tuple[str, ...]:
        """Start no more handlers; wait up to `timeout` seconds for those that run, and name them."""
        return self._lanes.stop(timeout)

    # -- what lanes tell -------------------------------------------------------------------------

    def begin(self) -> None:
        """A lane's thread has started."""
        handling.begin(self._around.owner, self.sub)

    def claims(self, delivery: Delivery) -> bool:
        """Whether a delivery that came again is still to be handled.

        Its first copy runs no more if it has a key, for that is on one lane at a time: what that has done is known.
        """
        self.flush()
        return self.in_hand.claims(delivery)

    def failed(self, delivery: Delivery, error: BaseException, tries: Tries, quiet: bool = False) -> Verdict:
        """The handler has failed; what is to become of the message."""
        self._last_error = error
        verdict = self._failing.failed(delivery, error, tries, quiet)
        if self._failing.guard.holds:
            self._lanes.hold()
        return verdict

    def pause_after(self, failures: int) -> float:
        """Seconds until the next try of anything about a message that has failed so often."""
        return self._failing.pause_after(failures)

    def leave(self, delivery: Delivery, error: BaseException, attempts: int, answered: Answered) -> None:
        """Have it stored as a dead letter; never blocks."""
        self._failing.leave(delivery, error, attempts, answered)

    def left_behind(self, deliveries: Sequence[Delivery]) -> None:
        """These are done with, though no handler has taken them."""
        self._acknowledge(deliveries)

    def overdue(self, delivery: Delivery, seconds: float, stack: str) -> None:
        """A handler runs for longer than it may."""
        self._failing.overdue(delivery, seconds, stack)

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are handled."""
        with self._lock:
            self.handled += len(deliveries)
        self._failing.succeeded(len(deliveries))
        self._acknowledge(deliveries)

    def dropped(self, deliveries: Sequence[Delivery], lease: Lease) -> None:
        """These will not be handled here."""
        self._failing.forget(deliveries)
        self.given_back(deliveries, lease, 0.0)

    def given_back(self, deliveries: Sequence[Delivery], lease: Lease, delay: float) -> None:
        """Somebody else may have these, after so many seconds."""
        if not self._replays:
            return
        newest = self.in_hand.drop(deliveries, lease)
        attachment = self.attachment
        if attachment is not None:
            attachment.session.release(attachment, newest, delay)

    def has_room(self) -> None:
        """More may be fetched."""
        attachment = self.attachment
        if attachment is not None:
            attachment.session.resume(attachment)

    def look(self, now: float) -> None:
        """See to leases that end with time, and to a hold that does."""
        self.in_hand.look(now)
        self._failing.guard.look(now)
        self._failing.look(now)
        if self._lanes.held and not self._failing.guard.holds:
            self._lanes.let_go()

    # -- inside ----------------------------------------------------------------------------------

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if self._replays:
            newest = self.in_hand.finish(deliveries)
            attachment = self.attachment
            if attachment is not None:
                attachment.session.acknowledge(attachment, newest)

    def _take_unstored(self, batch: Sequence[Delivery], lease: Lease) -> bool:
        backlog = self._lanes.backlog
        if backlog >= HIGH_WATER_UNSTORED or self._lanes.size + size_of(batch) > MOST_UNSTORED_BYTES:
            with self._lock:
                first = not self.dropped_count
                self.dropped_count += len(batch)
            if first:
                why = f"{backlog} messages wait for its handlers, and new ones are dropped from now on"
                self.told(EventBusError(f"{self.sub.topic}: {why}: raise concurrency, or make the handler faster"))
            return False
        with self._lock:
            self.delivered += len(batch)
        return self._lanes.put(batch, lease)
