"""What the cluster says about single topics: whether they are there and how they are configured; new ones are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)

from ... import log
from ...config_kafka import KafkaConfig
from ...errors import EventBusError, NotConnectedError
from ...message import matches
from ...names import is_ours
from ...threads import Deadline
from .clients.errors import HOPELESS, text_of

logger = log.get(__name__)

ROUND = 2.0
"""Seconds that one question to the cluster may take."""
UNKNOWN_FOR = 1.0
"""Seconds that a topic may be unknown before we believe it: brokers learn of a new one at different times."""
AGAIN = 0.05
LEADERLESS_FOR = 2.0
"""Seconds that a topic's other partitions are waited for when some have a leader: a node may be down for long."""


class TopicRefused(EventBusError):
    """The topic cannot be had, however long one waits."""


class TopicUnready(NotConnectedError):
    """The cluster answers, but the topic does not work now."""


def why_not_made(topic: str, create_topics: bool) -> str | None:
    """Why a topic that is missing is not made; None if it is."""
    if not create_topics:
        return "create_topics is off"
    return None if is_ours(topic) else "its name is none for a new one: it could be used on Kafka only"


class Topics:
    """Questions about topics, asked through an admin client. All methods are thread-safe, and block."""

    def __init__(
        self,
        make_client: Callable[[], AdminClient],
        config: KafkaConfig,
        describes: bool = True,
    ) -> None:
        """make_client: another one for each call. describes: whether the brokers tell configurations."""
        self._make_client = make_client
        self._closed = False
        self.admin: Any = make_client()
        self.may_create = config.create_topics
        self._describes = describes
        self._partitions = config.partitions or -1
        self._replication = config.replication_factor or -1

    def close(self) -> None:
        """Drop the client; what is asked from now on is not answered."""
        self._closed = True
        self.admin = None

    def renew(self) -> None:
        """Replace the client: one that was not answered for long may be at fault itself, and nobody probes it."""
        self.admin = None if self._closed else self._make_client()
        if self._closed:  # meanwhile
            self.admin = None

    def leaders(self, topic: str, timeout: float) -> list[bool] | None:
        """Which partitions of a topic have a leader; None: there is no such topic.

        TopicRefused, TopicUnready; NotConnectedError without an answer.
        """
        metadata = self._metadata(topic, timeout, Deadline(timeout))
        error = metadata.error
        if error is None:
            return [metadata.partitions[number].leader >= 0 for number in sorted(metadata.partitions)]
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        if error.code() in HOPELESS:
            raise TopicRefused(f"topic {topic}: {text_of(error)}")
        raise TopicUnready(text_of(error))

    def create(self, topics: Sequence[str], timeout: float) -> dict[str, EventBusError | None]:
        """Ask for topics, by one request; for each None where it is made or there already, or what is wrong.

        TopicRefused: it cannot be had. TopicUnready, NotConnectedError: not now.
        """
        wait, deadline = max(0.1, timeout), Deadline(timeout + 0.2)
        new = [NewTopic(one, num_partitions=self._partitions, replication_factor=self._replication) for one in topics]
        answers: dict[str, EventBusError | None] = {}
        try:
            futures = self.client().create_topics(new, operation_timeout=wait, request_timeout=wait)
        except (NotConnectedError, KafkaException) as error:
            return dict.fromkeys(topics, NotConnectedError(text_of(error)))
        for topic, future in futures.items():
            answers[topic] = self._created(topic, future, deadline)
        return answers

    def _created(self, topic: str, future: Any, deadline: Deadline) -> EventBusError | None:
        try:
            self._result(future, deadline)
        except _Refused as error:
            if error.code == KafkaError.TOPIC_ALREADY_EXISTS:
                return None
            return TopicRefused(f"topic {topic} cannot be created: {error}") if error.code in HOPELESS else error
        except NotConnectedError as error:
            return error
        logger.info("created topic %s", topic)
        return None

    def configs(self, topics: Sequence[str], timeout: float) -> dict[str, dict[str, str]]:
        """How topics are configured, by one request; those that we may not know about are left out. Never raises."""
        if not self._describes:
            return {}
        deadline = Deadline(timeout)
        asked = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        found: dict[str, dict[str, str]] = {}
        try:
            futures = self.client().describe_configs(asked, request_timeout=max(0.1, timeout))
            for resource, future in futures.items():
                with suppress(TopicUnready):
                    values = self._result(future, deadline)
                    found[resource.name] = {name: entry.value for name, entry in values.items() if entry.value}
        except (NotConnectedError, KafkaException) as error:
            logger.info("asking how topics are configured: %s", text_of(error))
        return found

    @staticmethod
    def among(topics: Mapping[str, list[int]], pattern: str) -> dict[str, list[int]]:
        """Those of some topics that a pattern covers; Kafka's own are for those who name them."""
        return {
            name: topics[name]
            for name in sorted(topics)
            if matches(pattern, name) and (name == pattern or not name.startswith("__"))
        }

    def metadata(self, topic: str, timeout: float) -> Any:
        """What the cluster answers when it is asked for one topic. KafkaException; NotConnectedError at the end."""
        try:
            return self._list_topics(topic, timeout=timeout)
        finally:
            with suppress(KafkaException):
                self.client().poll(0)  # what goes wrong with the links is told there

    def _list_topics(self, *topic: str, timeout: float) -> Any:
        try:
            return self.client().list_topics(*topic, timeout=timeout)
        except KafkaException as error:
            # The client stands in the traceback, and ends only when it is forgotten: errors are kept for long.
            raise error.with_traceback(None) from None

    def client(self) -> Any:
        """The admin client of now; NotConnectedError when the session has ended."""
        if self.admin is None:
            raise NotConnectedError("the session has ended")
        return self.admin

    def _metadata(self, topic: str, timeout: float, deadline: Deadline) -> Any:
        try:
            return self._list_topics(topic, timeout=max(0.05, timeout)).topics[topic]
        except KafkaException as error:
            if error.args[0].code() in HOPELESS:
                raise TopicRefused(f"topic {topic}: {text_of(error.args[0])}") from error
            raise NotConnectedError(f"asking for topic {topic}: {text_of(error.args[0])}") from error

    @staticmethod
    def _result(future: Any, deadline: Deadline) -> Any:
        try:
            return future.result(max(0.05, deadline.remaining()))
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() < 0:  # librdkafka's own: the link, or the time
                raise NotConnectedError(text_of(cause)) from error
            raise _Refused(cause) from error
        except FutureTimeout as error:
            raise NotConnectedError("no answer from the cluster in time") from error


class _Refused(TopicUnready):
    """The cluster answered with an error."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(text_of(error))
        self.code = error.code()
