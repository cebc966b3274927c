"""A session: an admin client, a consumer for each subscription, and a producer once something is published."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ... import log
from ...config import KafkaConfig
from ...consuming.attachment import Attachment
from ...errors import NotConnectedError, SessionRetired, SubscribeError
from ...message import Delivery
from ...threads import Deadline, Stopped, StopToken, interruptibly, join_all
from ..base import Prepared, SessionContext
from .clients.errors import ClientErrors, text_of
from .clients.group_protocol import GroupProtocol
from .clients.options import ClientOptions
from .consuming.consumer_thread import ConsumerThread, Shared
from .consuming.in_hand import in_hand_of
from .consuming.requests import Request
from .metadata import Metadata
from .names import TopicPartition, group_id, is_pattern
from .publishing.ensuring import TopicKeeper
from .publishing.makers import Maker
from .publishing.progress import Progress
from .publishing.publisher import KafkaPublisher
from .topics import AGAIN, LEADERLESS_FOR, TopicRefused, Topics, TopicUnready

logger = log.get(__name__)

CLOSING_GRACE = 0.3
"""Seconds that librdkafka has at least to end its clients, when a close has no time left."""
INTERNAL_TOPIC = "__consumer_offsets"
"""What is asked for where no topic is in use: it exists wherever there was a group."""
_HEALTHY_ENOUGH = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED})
"""What a topic may be without a reconnect having anything to mend."""


class KafkaSession:
    """See `Session`. It survives outages by itself: librdkafka connects again and keeps what is queued."""

    def __init__(
        self,
        topics: Topics,
        errors: ClientErrors,
        options: ClientOptions,
        config: KafkaConfig,
        context: SessionContext,
        protocol: GroupProtocol,
    ) -> None:
        """topics: with the client that was proven. errors: what that says."""
        self._context = context
        self._errors = errors
        self._config = config
        self._name = f"eventbus.{context.bus}.kafka"
        self._lost: BaseException | None = None
        self._retired = False
        self._stop = StopToken()
        self._lock = threading.Lock()
        self._feeds: dict[Attachment, ConsumerThread] = {}
        self._leaving: list[ConsumerThread] = []
        self._prepared: dict[Attachment, Mapping[str, Sequence[int]]] = {}
        self.topics = topics
        self._shared = Shared(
            options=options,
            thread_name=f"{self._name}",
            instance=f"eventbus-{context.bus}-{secrets.token_hex(8)}",
            protocol=protocol,
            on_error=context.on_error,
        )
        self._watch = Metadata(f"{self._name}-watch", self.topics, self._running_feeds, config.stall_timeout)
        self._watch.start()
        self._keeper = TopicKeeper(f"{self._name}-topics", self.topics)
        self._producer_errors = ClientErrors(f"{self._name}-producer")
        maker = Maker(options, self._producer_errors)
        self.outbox = KafkaPublisher(
            maker, f"{self._name}-reports", context.answers, self._keeper.ensure, self._beyond_help
        )
        self._keeper.serve(self.outbox)
        self._progress = Progress(self.outbox, config.stall_timeout)

    # -- publishing ------------------------------------------------------------------------------

    @property
    def lost(self) -> BaseException | None:
        """Why the producer failed for good; None while it works or may work again."""
        return self._lost

    @property
    def publisher(self) -> KafkaPublisher:
        """The outbox."""
        return self.outbox

    # -- subscriptions ---------------------------------------------------------------------------

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """Make sure of the topics and ask where "now" is, within `timeout` seconds."""
        deadline = Deadline(timeout)
        refused: dict[Attachment, Exception] = {}
        work = partial(self._prepare, attachments, refused, deadline)
        try:
            self._interruptibly("prepare", work, timeout, self._stop)
        except Stopped as error:
            raise NotConnectedError("the session has ended") from error
        except TimeoutError as error:
            done = {one for one in attachments if one in self._prepared or one in refused}
            if not done:
                raise NotConnectedError(f"subscriptions are not prepared within {timeout:g} s") from error
            return Prepared(refused=dict(refused), pending=[one for one in attachments if one not in done])
        return Prepared(refused=refused)

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Start a consumer for each: it joins the group and delivers from now on. SessionRetired: too late."""
        with self._lock:
            if self._retired or self._lost is not None:
                raise SessionRetired(str(self._lost or "the session has ended"))
            for one in attachments:
                if one not in self._prepared:
                    raise SubscribeError(f"{one!r} was not prepared")
            for one in attachments:
                self._feeds[one] = ConsumerThread(one, self._shared, self._prepared[one])
        self._context.on_served(attachments)

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Ask its consumer to leave, which it does once what is in hand is done; returns at once."""
        with self._lock:
            feed = self._feeds.get(attachment)
            if feed is not None and feed not in self._leaving:
                self._leaving.append(feed)
        if feed is not None:
            feed.obey(Request.LEAVE)

    def resume(self, attachment: Attachment) -> None:
        """Deliver again: the lanes have room. What is unknown here is left alone."""
        self._with_feed(attachment, lambda feed: feed.resume())

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """Have what is done committed soon: the journal, the attachment's `in_hand`, has noted it already."""
        self._with_feed(attachment, lambda feed: feed.note_done())

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Have these fetched again, here or where their partition went; the journal has noted them already."""
        self._with_feed(attachment, lambda feed: feed.note_done())

    def lag(self, attachment: Attachment) -> int | None:
        """None: the broker is not asked for it."""
        return None

    # -- health ----------------------------------------------------------------------------------

    def probe(self, timeout: float, stop: StopToken) -> str:
        """Ask for metadata through the living producer, look at threads and progress; raises what is wrong.

        Without a producer, or while a quota puts off what it is answered, the admin client asks.
        """
        if self._lost is not None:
            raise NotConnectedError(str(self._lost))
        topic = self._topic_to_ask_for()
        ask = partial(self._ask, topic, timeout)
        try:
            metadata = self._interruptibly("probe", ask, timeout + 0.5, stop)
        except (KafkaException, RuntimeError, TimeoutError) as error:
            self._progress.excuse()
            raise NotConnectedError(f"no metadata within {timeout:g} s: {text_of(error)}") from error
        wrong = metadata.topics[topic].error
        if wrong is not None and wrong.code() not in _HEALTHY_ENOUGH:
            raise NotConnectedError(f"topic {topic}: {text_of(wrong)}")
        for feed in self._running_feeds():
            feed.check(self._config.stall_timeout)
        self._watch.check(self._config.stall_timeout)
        self._keeper.check(self._config.stall_timeout)
        self._progress.check()
        self._errors.forget()
        self._producer_errors.forget()
        return f"{len(metadata.brokers)} Kafka broker(s) answer"

    # -- the end ---------------------------------------------------------------------------------

    @property
    def clients(self) -> tuple[Any, ...]:
        """The librdkafka clients at work: producer, if there is one, admin client, consumers."""
        consumers = [feed.consumer for feed in self._running_feeds()]
        producer = self.outbox.producer
        return (*([] if producer is None else [producer]), self.topics.admin, *consumers)

    def abandon(self, patience: float = 0.0) -> None:
        """Leave the groups, take no more records; up to `patience` seconds go to reports that go on coming."""
        self._retire()
        self.outbox.retire(patience)

    def drain(self, timeout: float) -> None:
        """Fetch no more, and have all that is done committed within `timeout` seconds, else NotConnectedError."""
        deadline = Deadline(timeout)
        feeds = self._all_feeds()
        for feed in feeds:
            feed.obey(Request.ACKNOWLEDGE)
        while not all(feed.settled() for feed in feeds):
            if deadline.over:
                raise NotConnectedError("acknowledgements were not confirmed in time")
            self._stop.wait(0.01)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the clients and their threads within `timeout` seconds; names those that did not end. Idempotent."""
        deadline = Deadline(max(timeout, CLOSING_GRACE))
        self._retire()
        unfinished = list(self.outbox.close(deadline.share(0.5)))
        unfinished += join_all([feed.thread for feed in self._all_feeds()], deadline.remaining())
        unfinished += join_all([self._watch.thread], deadline.remaining())
        unfinished += self._keeper.join(deadline.remaining())
        self.topics.close()
        return tuple(unfinished)

    # -- inside ----------------------------------------------------------------------------------

    def _retire(self) -> None:
        with self._lock:
            self._retired = True
        self._stop.set()
        self._watch.stop()
        self._keeper.stop()
        for feed in self._all_feeds():
            feed.obey(Request.END)

    def _prepare(
        self, attachments: Sequence[Attachment], refused: dict[Attachment, Exception], deadline: Deadline
    ) -> None:
        for one in attachments:
            try:
                found = self._find(one, deadline)
                journal = in_hand_of(one)
                if journal.begins is None and (one.group is None or one.start == "latest"):
                    places = [(topic, partition) for topic, partitions in found.items() for partition in partitions]
                    journal.begins = self._ends(places, deadline)
                if one.group is not None and one not in self._prepared:
                    group = group_id(one.group, one.topic)
                    options = self._shared.options.consumer(group, protocol="classic", start="earliest")
                    self.topics.check_group(options, one.topic, min(1.0, deadline.remaining()))
                self._prepared[one] = found
            except (TopicRefused, TopicUnready) as error:  # the others run
                refused[one] = error

    def _ends(self, places: Sequence[TopicPartition], deadline: Deadline) -> dict[TopicPartition, int]:
        leaderless = Deadline(min(LEADERLESS_FOR, deadline.share(0.5)))
        while True:
            try:
                return self.topics.ends(places, deadline.remaining())
            except TopicUnready:  # leaders may be changing
                if leaderless.over:
                    raise
            self._stop.wait(AGAIN)
            self._stop.check()

    def _find(self, attachment: Attachment, deadline: Deadline) -> Mapping[str, Sequence[int]]:
        if is_pattern(attachment.topic):
            return self.topics.matching(attachment.topic, max(0.1, deadline.remaining()))
        return {attachment.topic: self.topics.ensure(attachment.topic, deadline.share(0.5), self._stop)}

    def _ask(self, topic: str, timeout: float) -> Any:
        producer = None if self.outbox.throttled else self.outbox.producer
        return (self.topics.metadata if producer is None else producer.list_topics)(topic, timeout=timeout)

    def _topic_to_ask_for(self) -> str:
        """One that exists: for any other librdkafka would go on asking by itself, twice a second."""
        for feed in self._running_feeds():
            for topic in feed.topics:
                return topic
        return self.outbox.known_topic or INTERNAL_TOPIC

    def _interruptibly(self, what: str, call: Callable[[], Any], timeout: float, stop: StopToken) -> Any:
        return interruptibly(f"{self._name}-{what}", call, timeout, stop)

    def _beyond_help(self, cause: BaseException) -> None:
        with self._lock:
            if self._lost is not None or self._retired:
                return
            self._lost = cause
        self._context.on_lost(self, cause)

    def _with_feed(self, attachment: Attachment, call: Callable[[ConsumerThread], object]) -> None:
        feed = self._feeds.get(attachment)
        if feed is not None:
            call(feed)

    def _all_feeds(self) -> list[ConsumerThread]:
        with self._lock:
            return list(self._feeds.values())

    def _running_feeds(self) -> list[ConsumerThread]:
        with self._lock:
            return [feed for feed in self._feeds.values() if feed not in self._leaving]
