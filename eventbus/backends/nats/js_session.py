"""A session with JetStream: streams are found or made, durables pulled from, acknowledgements sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from ...config import NatsConfig
from ...consuming.subscriptions import Subscription
from ...errors import NotConnectedError, PublishRejectedError, SubscribeError
from ...message import Delivery
from ...threads import Deadline, StopToken
from ..base import Deliver, SessionContext
from . import wire
from .addresses import ServerPool
from .connection import Forbidden
from .dialing import Link
from .durables import Durables, Target
from .feeds import Feed
from .jetstream import STREAM_NOT_FOUND, ApiError, JetStreamApi
from .js_publisher import JetStreamPublisher
from .pulls import PullFeed
from .session import NatsSession, Publishing
from .streams import StreamRefused, Streams

logger = logging.getLogger(__name__)

ERRAND = 5.0
"""Seconds that one piece of work of the helper thread may take."""
_WATCH_EVERY = 1.0
_LOOK_EVERY = 2.0
_REPAIR_FIRST = 0.1
_REPAIR_AGAIN = 1.0


class JetStreamSession(NatsSession):
    """See `Session`. warned: streams that were complained about before. instance: names this process."""

    def __init__(
        self,
        link: Link,
        config: NatsConfig,
        context: SessionContext,
        pool: ServerPool,
        warned: set[str],
        instance: str,
    ) -> None:
        self._targets: dict[Subscription, list[Target]] = {}
        self._renew_every = config.ack_wait / 3
        super().__init__(link, config, context, pool)
        self._api = JetStreamApi(self._connection)
        servers = len(set(self._connection.info.get("connect_urls") or ()))
        self._streams = Streams(self._api, config, servers, warned)
        self._durables = Durables(self._api, config, instance)
        timer = self._connection.timer
        timer.every(_WATCH_EVERY, self._watch)
        timer.every(self._renew_every, self._renew)
        timer.every(_LOOK_EVERY, self._look_for_streams)

    def _make_publisher(self) -> Publishing:
        return JetStreamPublisher(
            self._connection, self._context.answers, self._ensure_for_publish, self._helper.submit
        )

    def prove(self, timeout: float, stop: StopToken) -> None:
        """See that JetStream answers; ConnectFailedError, Stopped."""
        self._api.prove(Deadline(timeout), stop)

    def prepare(self, subs: Sequence[Subscription], timeout: float) -> Mapping[Subscription, Exception]:
        """As `Session.prepare`: finds or makes the streams and consumers."""
        deadline = Deadline(timeout)
        refused: dict[Subscription, Exception] = {}
        for sub in subs:
            self._check_lost()
            try:
                self._targets[sub] = self._resolve(sub, deadline)
            except SubscribeError as error:
                refused[sub] = error
        return refused

    def attach(self, sub: Subscription, deliver: Deliver) -> None:
        """As `Session.attach`."""
        self._check_alive()
        targets = self._targets.get(sub)
        if targets is None:
            raise SubscribeError(f"{sub!r} was not prepared")
        feed = PullFeed(self._connection, sub, deliver, self._broken)
        if len(sub.in_hand) and time.monotonic() - sub.renewed_at > self._config.ack_wait:
            sub.discard_unstarted()
        with self._lock:
            self._feeds[sub] = feed
        feed.renew()
        feed.read(targets)

    def acknowledge(self, sub: Subscription, deliveries: Iterable[Delivery]) -> None:
        """As `Session.acknowledge`; those of an earlier session are as good."""
        self._feed_of(sub).acknowledge(deliveries)

    def release(self, sub: Subscription, deliveries: Iterable[Delivery]) -> None:
        """As `Session.release`."""
        self._feed_of(sub).release(deliveries)

    def detach(self, sub: Subscription, timeout: float) -> None:
        """As `Session.detach`; a broadcast's consumer is deleted."""
        attached = sub in self._feeds
        super().detach(sub, timeout)
        targets = self._targets.pop(sub, ())
        if attached and sub.group is None:
            frames = [wire.pub(f"$JS.API.CONSUMER.DELETE.{one.stream}.{one.consumer}") for one in targets]
            self._connection.writer.write(b"".join(frames))

    def _probe_more(self, deadline: Deadline, stop: StopToken) -> None:
        self._api.info(deadline, stop)

    def _feed_of(self, sub: Subscription) -> PullFeed:
        """Its feed; one that is detached may still acknowledge."""
        feed = self._feeds.get(sub)
        if isinstance(feed, PullFeed):
            return feed
        return PullFeed(self._connection, sub, _deliver_nothing, self._broken)

    def _resolve(self, sub: Subscription, deadline: Deadline) -> list[Target]:
        """What a subscription reads from; SubscribeError, NotConnectedError."""
        try:
            try:
                return self._targets_of(sub, deadline)
            except ApiError as error:
                if error.number != STREAM_NOT_FOUND:
                    raise
                return self._targets_of(sub, deadline)  # it was deleted in between
        except (StreamRefused, ApiError, Forbidden) as error:
            raise SubscribeError(f"cannot subscribe to {sub.topic!r}: {error}") from error

    def _targets_of(self, sub: Subscription, deadline: Deadline) -> list[Target]:
        streams = [self._streams.adopt(name, deadline) for name in self._streams.ensure(sub.topic, deadline)]
        if is_wild(sub):
            streams = [stream for stream in streams if stream.is_public]
        return [self._durables.ensure(sub, stream, deadline) for stream in streams]

    def _ensure_for_publish(self, topic: str) -> None:
        """The helper thread: find or make the stream of a topic. PublishRejectedError, NotConnectedError."""
        deadline = Deadline(ERRAND)
        try:
            for name in self._streams.ensure(topic, deadline):
                self._streams.adopt(name, deadline)
        except Forbidden as error:
            # Whoever may only publish has to rely on the stream being there.
            logger.info("the stream of %r cannot be looked for: %s", topic, error)
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
            self._leaving_feeds = [feed for feed in self._leaving_feeds if len(feed.sub.in_hand)]
            feeds = [*self._feeds.values(), *self._leaving_feeds]
        for feed in feeds:
            if isinstance(feed, PullFeed):
                feed.renew()

    def _look_for_streams(self) -> None:
        for feed in self._pull_feeds():
            if is_wild(feed.sub) and not feed.repairing:
                feed.repairing = True
                self._helper.submit(self._look_again, feed)

    def _broken(self, feed: PullFeed, reason: str) -> None:
        """A consumer does not answer as it should. Any thread."""
        if feed.repairing or feed.closed:
            return
        feed.repairing = True
        logger.warning("%r: its consumer is gone or not served: %s", feed.sub, reason)
        self._connection.timer.after(_REPAIR_FIRST, lambda: self._helper.submit(self._mend, feed, reason))

    # -- helper thread ----------------------------------------------------------------------------------

    def _look_again(self, feed: PullFeed) -> None:
        """Topics whose stream appeared later join."""
        deadline = Deadline(ERRAND)
        try:
            names = set(self._streams.find(feed.sub.topic, deadline))
            if names != feed.seen:
                self._read(feed, self._resolve(feed.sub, deadline))
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
            targets = self._resolve(feed.sub, Deadline(ERRAND))
        except (SubscribeError, NotConnectedError) as error:
            self._report(feed, error)
            self._connection.timer.after(_REPAIR_AGAIN, lambda: self._helper.submit(self._mend, feed, reason))
            return
        self._report(feed, SubscribeError(f"{feed.sub!r} was repaired: {reason}"))
        feed.reported = ""
        feed.repairing = False
        self._read(feed, targets)

    def _read(self, feed: PullFeed, targets: list[Target]) -> None:
        if not feed.closed:
            self._targets[feed.sub] = targets
            feed.read(targets)

    def _report(self, feed: PullFeed, error: Exception) -> None:
        """Tell the user, once for each kind of trouble."""
        if feed.reported != str(error) and self._connection.lost is None:
            feed.reported = str(error)
            self._context.on_error(error)


def is_wild(sub: Subscription) -> bool:
    """Whether it reads all streams that match, and those that will."""
    return sub.topic.startswith(("*", ">"))


def _deliver_nothing(batch: Sequence[Delivery]) -> bool:
    return False
