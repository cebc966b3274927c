"""A session with JetStream: streams are found or made, durables pulled from, acknowledgements sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from .... import log
from ....config import NatsConfig
from ....consuming.attachment import Attachment
from ....consuming.excerpts import Span, Stretches
from ....consuming.subscriptions import SubscriptionState
from ....errors import NotConnectedError, PublishRejectedError, PurgeError, SubscribeError
from ....message import Delivery
from ....reports import DeadLetterTopic
from ....threads import Deadline, StopToken
from ....workers import Helpers
from ...base import Prepared, SessionContext
from ..core.feeds import Feed, cannot_subscribe
from ..core.publishing import NatsPublisher
from ..core.session import NatsSession
from ..link import wire
from ..link.addresses import ServerPool
from ..link.dialing import Link
from ..link.interests import refused_subject
from ..link.requests import Forbidden, NoResponders
from .api import NO_PEERS, STREAM_NOT_FOUND, JetStreamApi
from .asking import ApiError
from .durables import Durables, Target
from .excerpts import SERVER_FAULT, Past, StreamReading, told
from .in_hand import in_hand_of
from .ordered_durable import resets
from .ordered_feed import OrderedFeed
from .pubacks import Verdict, verdict_on
from .publisher import JetStreamPublisher
from .pulls import PullFeed
from .reading import Reading
from .streams import Learned, Place, StreamRefused, Streams
from .upkeep import ERRAND, Upkeep

logger = log.get(__name__)

TICK = 0.05
"""Seconds between two looks at ordered subscriptions: what is done waits at most so long for its acknowledgement."""
PATIENCE = 1.0
"""Seconds that a link has to answer a PING when subscriptions were not ready in time: else it is the link."""


class JetStreamSession(NatsSession):
    """A session with JetStream; see `Session`. instance: names this process. learned: by it and those before it."""

    def __init__(
        self,
        link: Link,
        config: NatsConfig,
        context: SessionContext,
        pool: ServerPool,
        instance: str,
        learned: Learned,
    ) -> None:
        self._learned = learned
        self._targets: dict[Attachment, list[Target]] = {}
        self._ordered: dict[Attachment, OrderedFeed] = {}
        """Those that leave are in it until they have handed over."""
        self._ticks = False
        self._forbidden_until = 0.0
        """Until then no stream is looked for, to publish to it: that was not ours to ask."""
        self._lookups = Helpers(f"eventbus.{context.bus}.nats-lookup", self._report_failure)
        super().__init__(link, config, context, pool)
        self._api = JetStreamApi(self._connection, config.jetstream_api)
        self._streams = Streams(self._api, config, bool(self._connection.info.get("cluster")), learned)
        self._durables = Durables(self._api, config, instance, resets(self._connection.info.get("version")))
        self._reading = Reading(self._api, self._streams, self._durables, self._left_out)
        self._past = Past(self._api, self._streams)
        self._upkeep = Upkeep(
            self._connection,
            self._reading,
            self._helper,
            self._pull_feeds,
            self._feeds_leaving,
            self._read,
            self._refuse,
            context.on_error,
        )
        self._upkeep.start(config.ack_wait)

    def _make_publisher(self) -> NatsPublisher:
        return JetStreamPublisher(
            self._connection,
            self._context.answers,
            self._ensure_for_publish,
            self._lookups.submit,
            self._learned.places,
        )

    def prove(self, timeout: float, stop: StopToken) -> None:
        """See that JetStream answers; ConnectFailedError, Stopped."""
        self._api.prove(Deadline(timeout), stop)

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """Find or make the streams and consumers; pending is what was not ready within `timeout` seconds."""
        self._check_lost()
        refused: dict[Attachment, Exception] = {}
        pending: list[Attachment] = []
        for one, targets in self._reading.targets(attachments, Deadline(timeout)).items():
            if isinstance(targets, SubscribeError):
                refused[one] = targets
            elif isinstance(targets, NotConnectedError):
                self._check_lost()
                logger.warning("%r is not ready in time: %s", one, targets)
                pending.append(one)
            elif isinstance(targets, Exception):
                raise targets
            else:
                self._targets[one] = targets
        if pending:
            self._connection.ping(PATIENCE)  # else it is not the streams that are slow
        return Prepared(refused=refused, pending=pending)

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Pull from the prepared consumers from now on. SessionRetired: too late."""
        self._check_alive()
        for one in attachments:
            targets = self._targets.get(one)
            if targets is None:
                raise SubscribeError(f"{one!r} was not prepared")
            in_hand = in_hand_of(one)
            in_hand.begin_era()
            if not all(target.incarnation.rpartition("@")[2] for target in targets):
                in_hand.forget_finished()  # another stream of that name would look the same
            self._note_ack_wait(one, targets)
            in_hand.look(time.monotonic())
            feed = self._new_feed(one)
            with self._lock:
                self._feeds[one] = feed
                if isinstance(feed, OrderedFeed):
                    self._ordered[one] = feed
            feed.seen = {target.stream for target in targets}
            feed.lag = None if None in (lags := [target.lag for target in targets]) else sum(filter(None, lags))
            feed.renew()
            feed.read(targets)
            # What the server refuses of this comes in front of the PONG.
            self._connection.writer.ping(partial(self._taken, feed))
        if self._ordered and not self._ticks:
            self._ticks = True
            self._connection.timer.every(TICK, self._tick)

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge to the server, on this link, also what came on an earlier one. Any thread; never blocks."""
        self._feed_of(attachment).acknowledge(deliveries)

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Give these back to the server: any member may have them, after `delay` seconds. Never blocks."""
        self._feed_of(attachment).release(deliveries, delay)

    def lag(self, attachment: Attachment) -> int | None:
        """How many messages waited for the group when that was asked for last; half a minute ago if nothing moved."""
        feed = self._feeds.get(attachment)
        return feed.lag if isinstance(feed, PullFeed) else None

    def stretches_of(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        """Where the topic's stream begins and ends, within `timeout` seconds; it is not made."""
        self._check_lost()
        deadline = Deadline(timeout)
        found: Stretches = told(lambda: self._api.run(self._past.stretches_of(span), deadline), span.topic)
        return found

    def read(self, topic: str, stretches: Stretches) -> StreamReading:
        """Through a consumer that is made for it."""
        self._check_lost()
        return StreamReading(self._connection, self._api, self._past, topic, stretches)

    def topics_of(self, pattern: str, timeout: float, stop: StopToken) -> list[DeadLetterTopic]:
        """Of all streams that take such topics, within `timeout` seconds."""
        self._check_lost()
        deadline = Deadline(timeout)
        holdings = told(lambda: self._api.run(self._past.topics(pattern), deadline), pattern)
        asked = {topic: self._past.times(topic, holding) for topic, holding in holdings.items()}
        return [one for one in self._api.run_all(asked, deadline).values() if isinstance(one, DeadLetterTopic)]

    def purge(self, topic: str, stretches: Stretches, timeout: float, stop: StopToken) -> int:
        """Of the topic's stream this topic alone, within `timeout` seconds."""
        self._check_lost()
        try:
            return self._api.run(self._past.purge(topic, stretches), Deadline(timeout))
        except (ApiError, Forbidden, NoResponders) as error:
            if isinstance(error, ApiError) and (error.passes or error.code >= SERVER_FAULT):
                raise NotConnectedError(str(error)) from error
            raise PurgeError(f"{topic} cannot be purged: {error}") from error

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Stop pulling, and wait up to `timeout` seconds for what was on its way; a broadcast's consumer is deleted."""
        attached = attachment in self._feeds
        super().detach(attachment, timeout)
        targets = self._targets.pop(attachment, ())
        if attached and attachment.group is None:
            frames = [wire.pub(f"{self._api.prefix}.CONSUMER.DELETE.{one.stream}.{one.consumer}") for one in targets]
            self._connection.writer.write(b"".join(frames))

    def drain(self, timeout: float) -> None:
        """Take no more, send out acknowledgements, and hand ordered groups over once nothing of them is in hand."""
        self._hand_over()
        super().drain(timeout)
        self._hand_over()

    def abandon(self, patience: float = 0.0) -> None:
        """Stop using the link; what is ordered ends at once, whatever is in hand."""
        super().abandon(patience)
        with self._lock:
            leaving, self._ordered = list(self._ordered.values()), {}
        for feed in leaving:
            feed.leave(at_once=True)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the link and its threads within `timeout` seconds, and name those that did not end. Idempotent."""
        deadline = Deadline(timeout)
        return super().close(timeout) + self._lookups.close(deadline.remaining())

    def _probe_more(self, deadline: Deadline, stop: StopToken) -> None:
        self._api.info(deadline, stop)

    def _said(self, text: str) -> None:
        subject = refused_subject(text, "publish") or ""
        for feed in self._pull_feeds():
            if name := feed.acknowledges_on(subject):
                error = SubscribeError(f"the server takes no acknowledgements for {name}: not permitted")
                feed.hindrance.denied(error)
                return
            if feed.pulls_on(subject):
                if name := feed.leave_out(subject):
                    topic = feed.attachment.topic
                    self._left_out(
                        feed.attachment, SubscribeError(f"{topic!r} is not read from stream {name!r}: {text}")
                    )
                else:
                    self._refuse(feed, cannot_subscribe(feed.attachment, text))
                return
        super()._said(text)

    def _feed_of(self, attachment: Attachment) -> PullFeed:
        """Its feed; one that is detached may still acknowledge."""
        feed = self._feeds.get(attachment)
        if isinstance(feed, PullFeed):
            return feed
        return self._ordered.get(attachment) or self._new_feed(attachment)

    def _new_feed(self, attachment: Attachment) -> PullFeed:
        if attachment.ordered:
            return OrderedFeed(self._connection, attachment, self._upkeep.broken, self._refuse, self._stands)
        return PullFeed(self._connection, attachment, self._upkeep.broken, self._refuse)

    def _taken(self, feed: PullFeed) -> None:
        """The server has taken what was asked of it. Reader thread."""
        if isinstance(feed, OrderedFeed):
            feed.begin()
        else:
            self._answered(feed, "")

    def _stands(self, feed: OrderedFeed, state: SubscriptionState) -> None:
        with self._lock:
            serves = self._feeds.get(feed.attachment) is feed
        if serves:
            self._context.on_served([feed.attachment], state)

    def _tick(self) -> None:
        """See to what is ordered. Timer thread."""
        for attachment, feed in list(self._ordered.items()):
            if feed.tick():
                self._ordered.pop(attachment, None)

    def _hand_over(self) -> None:
        for feed in list(self._ordered.values()):
            if feed.closed:
                feed.leave()

    def _ended(self, cause: BaseException) -> None:
        for feed in list(self._ordered.values()):
            feed.lost()
        super()._ended(cause)

    def _ensure_for_publish(self, topic: str) -> Place | None:
        """A helper thread: find or make the stream of a topic. PublishRejectedError, NotConnectedError."""
        if time.monotonic() < self._forbidden_until:
            return None
        try:
            return self._api.run(self._streams.place_of(topic), Deadline(ERRAND))
        except Forbidden as error:
            # Whoever may only publish has to rely on the stream being there.
            logger.info("the stream of %r cannot be looked for: %s", topic, error)
            self._forbidden_until = time.monotonic() + ERRAND
            return None
        except (StreamRefused, ApiError) as error:
            cause = error if isinstance(error, ApiError) else error.__cause__
            if isinstance(cause, ApiError) and self._may_pass(cause):
                raise NotConnectedError(str(error)) from error
            raise PublishRejectedError(str(error)) from error

    def _may_pass(self, error: ApiError) -> bool:
        """Whether a stream may be found or made a moment later, also where one was gone between two questions."""
        if error.number == STREAM_NOT_FOUND:
            return self._config.stream_name is None
        verdict = verdict_on(error.code, error.number, str(error))
        return error.number in NO_PEERS or verdict not in (Verdict.REFUSED, Verdict.DOUBTFUL)

    # -- for the upkeep ---------------------------------------------------------------------------------

    def _pull_feeds(self) -> list[PullFeed]:
        with self._lock:
            feeds: list[Feed] = list(self._feeds.values())
        return [feed for feed in feeds if isinstance(feed, PullFeed) and not feed.closed]

    def _feeds_leaving(self) -> list[PullFeed]:
        with self._lock:
            self._leaving_feeds = [feed for feed in self._leaving_feeds if len(feed.attachment.in_hand)]
            return [feed for feed in self._leaving_feeds if isinstance(feed, PullFeed)]

    def _read(self, feed: PullFeed, targets: list[Target]) -> None:
        if not feed.closed:
            self._targets[feed.attachment] = targets
            self._note_ack_wait(feed.attachment, targets)
            feed.read(targets)

    def _note_ack_wait(self, attachment: Attachment, targets: Sequence[Target]) -> None:
        waits = [one.ack_wait for one in targets if one.pinning is None]
        in_hand_of(attachment).ack_wait = min(waits, default=self._config.ack_wait if not targets else float("inf"))

    def _left_out(self, attachment: Attachment, error: Exception) -> None:
        """One of the streams of a pattern cannot be read: told once for each text."""
        if str(error) not in self._told:
            self._told.add(str(error))
            self._context.on_error(error)
