"""A session: an admin client, consumers that subscriptions share, and a producer once something is published."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ... import log
from ...config_kafka import KafkaConfig
from ...consuming.attachment import Attachment
from ...consuming.excerpts import Span, Stretches
from ...consuming.subscriptions import PartitionStatus
from ...errors import AuthenticationError, NotConnectedError, SessionRetired
from ...message import Delivery
from ...reports import DeadLetterTopic
from ...threads import Deadline, Stopped, StopToken, interruptibly, join_all
from ..base import Prepared, SessionContext
from .catalogue import Catalogue
from .clients.errors import ClientErrors, text_of
from .clients.group_protocol import GroupProtocol
from .clients.options import ClientOptions
from .consuming.consumers import Consumers
from .consuming.excerpts import Past, TopicReading
from .consuming.preparing import Preparing
from .metadata import Metadata
from .publishing.ensuring import TopicKeeper
from .publishing.makers import Maker
from .publishing.progress import Progress
from .publishing.publisher import KafkaPublisher
from .topics import Topics

logger = log.get(__name__)

CLOSING_GRACE = 0.3
"""Seconds that librdkafka has at least to end its clients, when a close has no time left."""
INTERNAL_TOPIC = "__consumer_offsets"
"""What is asked for where no topic is in use: it exists wherever there was a group."""
_HEALTHY_ENOUGH = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED})
"""What a topic may be without a reconnect having anything to mend."""


class KafkaSession:
    """A session on a Kafka cluster; see `Session`.

    It survives outages by itself: librdkafka connects again and keeps what is queued.
    """

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
        self.topics = topics
        self._catalogue = Catalogue(self.topics)
        self._preparing = Preparing(self._catalogue, self._stop)
        self.consumers = Consumers(self._catalogue, self._preparing, options, config, context, protocol)
        self._past = Past(self._catalogue, options, self._name, f"eventbus-{context.bus}-{secrets.token_hex(8)}")
        self._watch = Metadata(f"{self._name}-watch", self.consumers.survey.look)
        self._watch.start()
        self._keeper = TopicKeeper(f"{self._name}-topics", self.topics, self._catalogue)
        self._producer_errors = ClientErrors(f"{self._name}-producer")
        maker = Maker(options, self._producer_errors)
        self.outbox = KafkaPublisher(
            maker, f"{self._name}-reports", context.answers, self._keeper.ensure, self._beyond_help
        )
        self._keeper.serve(self.outbox)
        self._progress = Progress(
            self.outbox, config.stall_timeout, self._catalogue.takes_nothing, self._context.on_error
        )

    # -- publishing ------------------------------------------------------------------------------

    @property
    def lost(self) -> BaseException | None:
        """Why the producer failed for good; None while it works or may work again."""
        return self._lost

    @property
    def publisher(self) -> KafkaPublisher:
        """What publishes on this cluster."""
        return self.outbox

    # -- subscriptions ---------------------------------------------------------------------------

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        """Make sure of the topics and ask where "now" is, within `timeout` seconds."""
        refused: dict[Attachment, Exception] = {}
        work = partial(self._preparing.run, attachments, refused, timeout * 0.9)
        try:
            self._interruptibly("prepare", work, timeout, self._stop)
        except Stopped as error:
            raise NotConnectedError("the session has ended") from error
        except TimeoutError as error:
            if not refused and not any(one in self._preparing.prepared for one in attachments):
                raise NotConnectedError(f"subscriptions are not prepared within {timeout:g} s") from error
        done = {*self._preparing.prepared, *refused}
        return Prepared(refused=dict(refused), pending=[one for one in attachments if one not in done])

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Have each read by its consumer, which delivers once it has joined the group. SessionRetired: too late."""
        if self._lost is not None:
            raise SessionRetired(str(self._lost))
        self.consumers.attach(attachments)

    def detach(self, attachment: Attachment, timeout: float) -> None:
        """Read no more for it, and leave what it reads once nothing of it is in hand; returns at once."""
        self.consumers.detach(attachment)

    def resume(self, attachment: Attachment) -> None:
        """Deliver again: the lanes have room. What is unknown here is left alone."""
        reader = self.consumers.reader_of(attachment)
        if reader is not None:
            reader.resume()

    def acknowledge(self, attachment: Attachment, deliveries: Sequence[Delivery]) -> None:
        """Nothing: what is done the attachment's `in_hand` has noted already, and it is committed from there."""

    def release(self, attachment: Attachment, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Nothing: what is given back the attachment's `in_hand` has noted already, and it is fetched again."""

    def lag(self, attachment: Attachment) -> int | None:
        """Of the partitions that this process has, as of the last second."""
        reader = self.consumers.reader_of(attachment)
        return None if reader is None else reader.lag

    def partitions(self, attachment: Attachment) -> tuple[PartitionStatus, ...]:
        """Those that this process has for it, as of the last second."""
        reader = self.consumers.reader_of(attachment)
        return () if reader is None else reader.partitions

    # -- the past --------------------------------------------------------------------------------

    def stretches_of(self, span: Span, timeout: float, stop: StopToken) -> Stretches:
        """Where the topic's partitions begin and end, within `timeout` seconds; it is not made."""
        work = partial(self._past.stretches_of, span, timeout, stop)
        try:
            found: Stretches = self._interruptibly("read", work, timeout + 0.5, stop)
        except TimeoutError as error:
            raise NotConnectedError(f"no answer about {span.topic} within {timeout:g} s") from error
        return found

    def read(self, topic: str, stretches: Stretches) -> TopicReading:
        """Through a consumer that is made for it."""
        return self._past.read(topic, stretches)

    def topics_of(self, pattern: str, timeout: float, stop: StopToken) -> list[DeadLetterTopic]:
        """Of those that we may know of, within `timeout` seconds; counted in offsets."""
        found: list[DeadLetterTopic] = self._past_call(
            "list", partial(self._past.topics, pattern, timeout), timeout, stop
        )
        return found

    def purge(self, topic: str, stretches: Stretches, timeout: float, stop: StopToken) -> int:
        """Have the records deleted, within `timeout` seconds; counted in offsets."""
        work = partial(self._past.purge, topic, stretches, timeout)
        purged: int = self._past_call("purge", work, timeout, stop)
        return purged

    def _past_call(self, what: str, call: Callable[[], Any], timeout: float, stop: StopToken) -> Any:
        try:
            return self._interruptibly(what, call, timeout + 0.5, stop)
        except TimeoutError as error:
            raise NotConnectedError(f"no answer within {timeout:g} s") from error

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
            del ask  # the error is kept for long, with all that stands in its traceback
            cause = error.with_traceback(None)
            if self._errors.refused is not None:
                raise AuthenticationError(text_of(self._errors.refused)) from cause
            raise NotConnectedError(f"no metadata within {timeout:g} s: {text_of(error)}") from cause
        wrong = metadata.topics[topic].error
        if wrong is not None and wrong.code() not in _HEALTHY_ENOUGH:
            raise NotConnectedError(f"topic {topic}: {text_of(wrong)}")
        self.consumers.check()
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
        consumers = [thread.consumer for thread in self.consumers.threads]
        producer = self.outbox.producer
        return (*([] if producer is None else [producer]), self.topics.admin, *consumers)

    def abandon(self, patience: float = 0.0) -> None:
        """Leave the groups, take no more records; up to `patience` seconds go to reports that go on coming."""
        self._retire()
        self.outbox.retire(patience)

    def drain(self, timeout: float) -> None:
        """Fetch no more, and have all that is done committed within `timeout` seconds, else NotConnectedError."""
        deadline = Deadline(timeout)
        self.consumers.stop_fetching()
        while not self.consumers.is_settled:
            if deadline.over:
                raise NotConnectedError("acknowledgements were not confirmed in time")
            self._stop.wait(0.01)

    def close(self, timeout: float) -> tuple[str, ...]:
        """End the clients and their threads within `timeout` seconds; names those that did not end. Idempotent."""
        deadline = Deadline(max(timeout, CLOSING_GRACE))
        self._retire()
        unfinished = list(self.outbox.close(deadline.share(0.5)))
        unfinished += self.consumers.wait_ended(deadline.remaining())
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
        self.consumers.end()
        self._keeper.stop()

    def _ask(self, topic: str, timeout: float) -> Any:
        producer = None if self.outbox.throttled else self.outbox.producer
        return (self.topics.metadata if producer is None else producer.list_topics)(topic, timeout=timeout)

    def _topic_to_ask_for(self) -> str:
        """One that exists: for any other librdkafka would go on asking by itself, twice a second."""
        return self.consumers.topic or self.outbox.known_topic or INTERNAL_TOPIC

    def _interruptibly(self, what: str, call: Callable[[], Any], timeout: float, stop: StopToken) -> Any:
        return interruptibly(f"{self._name}-{what}", call, timeout, stop)

    def _beyond_help(self, cause: BaseException) -> None:
        with self._lock:
            if self._lost is not None or self._retired:
                return
            self._lost = cause
        self._context.on_lost(self, cause)
