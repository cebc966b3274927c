"""A session with JetStream: streams are found or made, durables pulled from, acknowledgements sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from .... import log
from ....config import NatsConfig
from ....consuming.attachment import Attachment
from ....errors import NotConnectedError, PublishRejectedError, SubscribeError
from ....message import Delivery
from ....threads import Deadline, StopToken
from ....workers import Helpers
from ...base import Prepared, SessionContext
from ..core.feeds import Feed
from ..core.publishing import NatsPublisher
from ..core.session import NatsSession
from ..link import wire
from ..link.addresses import ServerPool
from ..link.connection import Forbidden
from ..link.dialing import Link
from ..link.interests import refused_subject
from .api import STREAM_NOT_FOUND, ApiError, JetStreamApi
from .durables import Durables, Target
from .in_hand import in_hand_of
from .publisher import JetStreamPublisher
from .pulls import PullFeed
from .streams import Place, StreamRefused, Streams

logger = log.get(__name__)

ERRAND = 5.0
"""Seconds that one piece of work of the helper thread may take."""
PATIENCE = 1.0
"""Seconds that a link has to answer a PING when subscriptions were not ready in time: else it is the link."""
_WATCH_EVERY = 1.0
_LOOK_EVERY = 2.0
_RENEW_EVERY = 0.25
"""Seconds between two looks at what is in hand: a durable may have an `ack_wait` of its own."""
_REPAIR_FIRST = 0.1
_REPAIR_AGAIN = 1.0


class JetStreamSession(NatsSession):
    """See `Session`. instance: names this process.

    warned, places: streams that were complained about, or published to, in earlier sessions.
    """

    def __init__(
        self,
        link: Link,
        config: NatsConfig,
        context: SessionContext,
        pool: ServerPool,
        warned: set[str],
        instance: str,
        places: dict[str, Place],
    ) -> None:
        self._places = places
        self._targets: dict[Attachment, list[Target]] = {}
        self._lookups = Helpers(f"eventbus.{context.bus}.nats-lookup", self._report_failure)
        super().__init__(link, config, context, pool)
        self._api = JetStreamApi(self._connection)
        servers = len(set(self._connection.info.get("connect_urls") or ()))
        self._streams = Streams(self._api, config, servers, warned)
        self._durables = Durables(self._api, config, instance)
        timer = self._connection.timer
        timer.every(_WATCH_EVERY, self._watch)
        timer.every(min(_RENEW_EVERY, config.ack_wait / 6), self._renew)
        timer.every(_LOOK_EVERY, self._look_for_streams)

    def _make_publisher(self) -> NatsPublisher:
        return JetStreamPublisher(
            self._connection, self._context.answers, self._ensure_for_publish, self._lookups.submit, self._places
        )

    def prove(self, timeout: float, stop: StopToken) -> None:
        """See that JetStream answers; ConnectFailedError, Stopped."""
        self._api.prove(Deadline(timeout), stop)

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """Find or make the streams and consumers; pending is what was not ready within `timeout` seconds."""
        deadline = Deadline(timeout)
        refused: dict[Attachment, Exception] = {}
        pending: list[Attachment] = []
        for one in attachments:
            self._check_lost()
            try:
                self._targets[one] = self._resolve(one, deadline)
            except SubscribeError as error:
                refused[one] = error
            except NotConnectedError as error:
                self._check_lost()
                logger.warning("%r is not ready in time: %s", one, error)
                pending.append(one)
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
            in_hand.ack_wait = min((target.ack_wait for target in targets), default=self._config.ack_wait)
            in_hand.look(time.monotonic())
            feed = PullFeed(self._connection, one, self._broken, self._refuse)
            with self._lock:
                self._feeds[one] = feed
            feed.renew()
            feed.read(targets)
            # What the server refuses of this comes in front of the PONG.
            self._connection.writer.ping(partial(self._answered, feed, ""))

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge to the server, on this link, also what came on an earlier one. Any thread; never blocks."""
        self._feed_of(attachment).acknowledge(deliveries)

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Give these back to the server: any member may have them, after `delay` seconds. Never blocks."""
        self._feed_of(attachment).release(deliveries, delay)

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Stop pulling, and wait up to `timeout` seconds for what was on its way; a broadcast's consumer is deleted."""
        attached = attachment in self._feeds
        super().detach(attachment, timeout)
        targets = self._targets.pop(attachment, ())
        if attached and attachment.group is None:
            frames = [wire.pub(f"$JS.API.CONSUMER.DELETE.{one.stream}.{one.consumer}") for one in targets]
            self._connection.writer.write(b"".join(frames))

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
                feed.attachment.hindered(error)
                return
            if feed.pulls_on(subject):
                self._refuse(feed, text)
                return
        super()._said(text)

    def _feed_of(self, attachment: Attachment) -> PullFeed:
        """Its feed; one that is detached may still acknowledge."""
        feed = self._feeds.get(attachment)
        if isinstance(feed, PullFeed):
            return feed
        return PullFeed(self._connection, attachment, self._broken, self._refuse)

    def _resolve(self, attachment: Attachment, deadline: Deadline) -> list[Target]:
        """What a subscription reads from; SubscribeError, NotConnectedError."""
        try:
            try:
                return self._targets_of(attachment, deadline)
            except ApiError as error:
                if error.number != STREAM_NOT_FOUND:
                    raise
                return self._targets_of(attachment, deadline)  # it was deleted in between
        except (StreamRefused, ApiError, Forbidden) as error:
            raise SubscribeError(f"cannot subscribe to {attachment.topic!r}: {error}") from error

    def _targets_of(self, attachment: Attachment, deadline: Deadline) -> list[Target]:
        streams = [self._streams.adopt(name, deadline) for name in self._streams.ensure(attachment.topic, deadline)]
        if is_wild(attachment):
            streams = [stream for stream in streams if stream.is_public]
        return [self._durables.ensure(attachment, stream, deadline) for stream in streams]

    def _ensure_for_publish(self, topic: str) -> Place | None:
        """A helper thread: find or make the stream of a topic. PublishRejectedError, NotConnectedError."""
        deadline = Deadline(ERRAND)
        try:
            found = [self._streams.adopt(name, deadline) for name in self._streams.ensure(topic, deadline)]
            return Place(found[0].name, found[0].subjects) if found and found[0].subjects else None
        except Forbidden as error:
            # Whoever may only publish has to rely on the stream being there.
            logger.info("the stream of %r cannot be looked for: %s", topic, error)
            return None
        except (StreamRefused, ApiError) as error:
            raise PublishRejectedError(str(error)) from error

    # -- timer thread: nothing here blocks --------------------------------------------------------------

    def _pull_feeds(self) -> list[PullFeed]:
        with self._lock:
            feeds: list[Feed] = list(self._feeds.values())
        return [feed for feed in feeds if isinstance(feed, PullFeed) and not feed.closed]

    def _watch(self) -> None:
        for feed in self._pull_feeds():
            feed.watch()

    def _renew(self) -> None:
        with self._lock:
            self._leaving_feeds = [feed for feed in self._leaving_feeds if len(feed.attachment.in_hand)]
            feeds = [*self._feeds.values(), *self._leaving_feeds]
        for feed in feeds:
            if isinstance(feed, PullFeed):
                feed.renew()

    def _look_for_streams(self) -> None:
        for feed in self._pull_feeds():
            if is_wild(feed.attachment) and not feed.repairing:
                feed.repairing = True
                self._helper.submit(self._look_again, feed)

    def _broken(self, feed: PullFeed, reason: str) -> None:
        """A consumer does not answer as it should. Any thread."""
        if feed.repairing or feed.closed:
            return
        feed.repairing = True
        logger.warning("%r: its consumer is gone or not served: %s", feed.attachment, reason)
        self._connection.timer.after(_REPAIR_FIRST, lambda: self._helper.submit(self._mend, feed, reason))

    # -- helper thread ----------------------------------------------------------------------------------

    def _look_again(self, feed: PullFeed) -> None:
        """Topics whose stream appeared later join."""
        deadline = Deadline(ERRAND)
        try:
            names = set(self._streams.find(feed.attachment.topic, deadline))
            if names != feed.seen:
                self._read(feed, self._resolve(feed.attachment, deadline))
                feed.seen = names
        except (SubscribeError, StreamRefused, NotConnectedError) as error:
            self._report(feed, error)
        else:
            feed.reported = ""
        finally:
            feed.repairing = False

    def _mend(self, feed: PullFeed, reason: str) -> None:
        """Make what is missing again, and go on pulling."""
        if feed.closed or self._connection.lost is not None:
            return
        try:
            targets = self._resolve(feed.attachment, Deadline(ERRAND))
        except (SubscribeError, NotConnectedError) as error:
            self._report(feed, error)
            self._connection.timer.after(_REPAIR_AGAIN, lambda: self._helper.submit(self._mend, feed, reason))
            return
        self._report(feed, SubscribeError(f"{feed.attachment!r} was repaired: {reason}"))
        feed.reported = ""
        feed.repairing = False
        self._read(feed, targets)

    def _read(self, feed: PullFeed, targets: list[Target]) -> None:
        if not feed.closed:
            self._targets[feed.attachment] = targets
            feed.read(targets)

    def _report(self, feed: PullFeed, error: Exception) -> None:
        """Tell the user, once for each kind of trouble."""
        if feed.reported != str(error) and self._connection.lost is None:
            feed.reported = str(error)
            self._context.on_error(error)


def is_wild(attachment: Attachment) -> bool:
    """Whether it reads all streams that match, and those that will."""
    return attachment.topic.startswith(("*", ">"))
