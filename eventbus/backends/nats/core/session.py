"""One live NATS connection as the bus sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from .... import log
from ....config import NatsConfig
from ....consuming.attachment import Attachment
from ....consuming.excerpts import Reading, Span, Stretches
from ....consuming.subscriptions import PartitionStatus
from ....errors import EventBusError, NotConnectedError, SessionRetired, SubscribeError, UnsupportedError
from ....message import Delivery
from ....reports import DeadLetterTopic
from ....threads import Deadline, StopToken
from ....workers import OrderedWorker
from ...base import Prepared, SessionContext
from ..link.addresses import ServerPool
from ..link.connection import Connection, Hooks
from ..link.dialing import Link
from ..link.interests import refused_subject
from .feeds import CoreFeed, Feed, cannot_subscribe
from .publisher import CorePublisher
from .publishing import NatsPublisher

logger = log.get(__name__)

_MOST_TOLD = 100
"""Different texts of a server that are told."""
_LAST_SHARE = 0.5
"""Seconds that a replaced link has for what the server has sent to it: one that is well needs a millisecond."""
STUCK = 30.0
"""Seconds after which an unanswered publish is a failed probe."""


class NatsSession:
    """What core NATS and JetStream have in common. Made by the backend; see `Session` for the promises."""

    def __init__(self, link: Link, config: NatsConfig, context: SessionContext, pool: ServerPool) -> None:
        self._config = config
        self._context = context
        self._pool = pool
        self._server = link.server
        self._feeds: dict[Attachment, Feed] = {}
        self._lock = threading.Lock()
        self._announced = False
        self._closing = False
        self._leaving = False
        self._leaving_feeds: list[Feed] = []
        """Detached or drained, with messages in hand."""
        self._abandoned_feeds: list[Feed] = []
        """The server sends to them until the link is closed."""
        self._told: set[str] = set()
        hooks = Hooks(said=self._said, info=self._take_info, ended=self._ended)
        self._connection = Connection(link, context.bus, hooks, config.inbox_prefix)
        self._helper = OrderedWorker(f"eventbus.{context.bus}.nats-helper", self._report_failure)
        self._publisher = self._make_publisher()
        self._take_info(self._connection.info)
        self._connection.start(config.ping_interval, config.max_pings_out)

    def _make_publisher(self) -> NatsPublisher:
        return CorePublisher(self._connection.writer, self._context.answers, self._connection.max_payload)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server}{' lost' if self.lost else ''}>"

    def announce(self) -> None:
        """From now on the loss of the link is reported; NotConnectedError if it is lost already."""
        with self._lock:
            # Lost before: raised here. Lost after: reported. `_ended` looks under the lock.
            self._check_lost()
            self._announced = True

    @property
    def lost(self) -> BaseException | None:
        """Why the link is gone for good; None while it may be alive."""
        return self._connection.lost

    @property
    def publisher(self) -> NatsPublisher:
        """What publishes on this link."""
        return self._publisher

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """Nothing needs to be made; the server says what it refuses once it is asked for it, by `attach`."""
        self._check_lost()
        return Prepared()

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Subscribe to the topics on this link and deliver what comes from now on. SessionRetired: too late."""
        self._check_alive()
        with self._lock:
            for one in attachments:
                self._feeds[one] = CoreFeed(self._connection, one, self._answered)

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Unsubscribe, and wait up to `timeout` seconds for what was on its way."""
        with self._lock:
            feed = self._feeds.pop(attachment, None)
        if feed is not None:
            self._stop([feed], timeout)

    def resume(self, attachment: Attachment) -> None:
        """Deliver again: the lanes have room. What is unknown here is left alone."""
        feed = self._feeds.get(attachment)
        if feed is not None:
            feed.resume()

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """Nothing: core NATS asks for no acknowledgement."""

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Nothing: core NATS takes no message back."""

    def lag(self, attachment: Attachment) -> int | None:
        """None: the broker is not asked for it."""
        return None

    def partitions(self, attachment: Attachment) -> tuple[PartitionStatus, ...]:
        """Nothing: topics have no partitions here."""
        return ()

    def stretches_of(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        """UnsupportedError: core NATS keeps no messages."""
        raise UnsupportedError("core NATS keeps no messages to read")

    def read(self, topic: str, stretches: Stretches) -> Reading:
        """UnsupportedError: core NATS keeps no messages."""
        raise UnsupportedError("core NATS keeps no messages to read")

    def topics_of(self, pattern: str, timeout: float, stop: StopToken) -> Sequence[DeadLetterTopic]:
        """UnsupportedError: core NATS does not know which there are."""
        raise UnsupportedError("core NATS keeps no messages to list")

    def purge(self, topic: str, stretches: Stretches, timeout: float, stop: StopToken) -> int:
        """UnsupportedError: core NATS keeps no messages."""
        raise UnsupportedError("core NATS keeps no messages to delete")

    def probe(self, timeout: float, stop: StopToken) -> str:
        """Ping the server, and see that no publish waits too long; says what it found. NotConnectedError, Stopped."""
        self._check_lost()
        started = time.monotonic()
        deadline = Deadline(timeout)
        self._connection.ping(deadline.remaining(), stop)
        self._probe_more(deadline, stop)
        oldest = self._publisher.oldest()
        if oldest is not None and started - oldest > STUCK:
            raise NotConnectedError(f"a publish has had no answer for {started - oldest:.0f} s")
        return f"rtt {(time.monotonic() - started) * 1000:.1f} ms"

    def _probe_more(self, deadline: Deadline, stop: StopToken) -> None:
        """What else must answer."""

    def abandon(self, patience: float = 0.0) -> None:
        """Publish no more, `patience` seconds later at most; what comes for a queue group is taken until `close`."""
        self._publisher.retire(patience)
        with self._lock:
            feeds = list(self._feeds.values())
            self._feeds.clear()
            self._leaving_feeds.clear()
            self._abandoned_feeds += feeds
        for feed in feeds:
            feed.closed = not feed.shares

    def drain(self, timeout: float) -> None:
        """Unsubscribe all, and wait up to `timeout` seconds for what was on its way. Silent about a dead peer."""
        with self._lock:
            feeds = list(self._feeds.values())
            self._feeds.clear()
        self._stop(feeds, timeout)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the link and its threads within `timeout` seconds, and name those that did not end. Idempotent."""
        deadline = Deadline(timeout)
        with self._lock:
            self._closing = True
            abandoned, self._abandoned_feeds = self._abandoned_feeds, []
        self._publisher.retire()
        if abandoned:
            self._unsubscribe(abandoned, min(_LAST_SHARE, deadline.share(0.3)))
            self._settle(min(_LAST_SHARE, deadline.share(0.3)))  # what came was given back
        unfinished = self._connection.close(deadline.remaining())
        return unfinished + self._helper.close(deadline.remaining())

    def _stop(self, feeds: Sequence[Feed], timeout: float) -> None:
        """Take no more from these; what was on its way is given back, or taken. Silent about a dead peer."""
        for feed in feeds:
            feed.closed = feed.gives_back
        with self._lock:
            self._leaving_feeds += [feed for feed in feeds if len(feed.attachment.in_hand)]
        self._unsubscribe(feeds, timeout)
        for feed in feeds:
            feed.closed = True

    def _unsubscribe(self, feeds: Sequence[Feed], timeout: float) -> None:
        """Have the server send nothing more for these; silent about a dead peer."""
        sids = [sid for feed in feeds for sid in feed.sids()]
        if sids:
            self._connection.unsubscribe(*sids)
        self._settle(timeout)
        self._connection.forget(*sids)

    def _settle(self, timeout: float) -> None:
        """Wait until the server has read whatever was sent to it, acknowledgements included."""
        try:
            self._connection.barrier(timeout)
        except NotConnectedError as error:
            logger.debug("the server did not answer in time: %s", error)

    def _check_lost(self) -> None:
        if self.lost is not None:
            raise NotConnectedError(str(self.lost)) from self.lost

    def _check_alive(self) -> None:
        if self.lost is not None or self._closing:
            raise SessionRetired("the session is lost or closed")

    # -- the reader thread ------------------------------------------------------------------------------

    def _ended(self, cause: BaseException) -> None:
        self._publisher.retire()
        with self._lock:
            report = self._announced and not self._closing
        if report:
            self._context.on_lost(self, cause)

    def _said(self, text: str) -> None:
        """A -ERR that is not the end of the link."""
        topic = refused_subject(text, "publish")
        if topic is not None and self._publisher.refused(topic, text):
            return  # whoever published it is told
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            self._context.on_error(EventBusError(f"the server said: {text}"))

    def _answered(self, feed: Feed, text: str) -> None:
        """What the server says to a subscription, now ("": it has taken it) or later."""
        if text:
            self._refuse(feed, cannot_subscribe(feed.attachment, text))
            return
        with self._lock:  # `attach` may not have noted it yet
            serves = self._feeds.get(feed.attachment) is feed
        if serves:
            self._context.on_served([feed.attachment])

    def _refuse(self, feed: Feed, error: SubscribeError) -> None:
        """The server does not let it read: let go of it, and say so, once."""
        with self._lock:
            if self._feeds.get(feed.attachment) is not feed:
                return
            del self._feeds[feed.attachment]
            if len(feed.attachment.in_hand):
                self._leaving_feeds.append(feed)
        feed.closed = feed.gives_back
        sids = feed.sids()
        self._connection.unsubscribe(*sids)
        self._connection.forget(*sids)
        self._context.on_refused(feed.attachment, error)

    def _take_info(self, info: Mapping[str, object]) -> None:
        self._publisher.limit_payload(self._connection.max_payload)
        self._pool.learn(info.get("connect_urls"), self._server)
        leaving = bool(info.get("ldm"))
        self._pool.leave(self._server, leaving)
        if leaving and not self._leaving:
            logger.warning("server %s is about to end (lame duck)", self._server)
            self._context.on_error(EventBusError(f"server {self._server} is about to end (lame duck mode)"))
        self._leaving = leaving

    def _report_failure(self, error: BaseException) -> None:
        """Something failed on the helper thread."""
        self._context.on_error(error if isinstance(error, Exception) else EventBusError(str(error)))
