"""The recipe for Kafka sessions."""

from __future__ import annotations

import socket

from ...config import KafkaConfig
from ...threads import Deadline, StopToken
from ..base import Features, SessionContext
from .clients.api_versions import known_apis, speaks
from .clients.connecting import check_options, connected_producer, discard
from .clients.errors import ClientErrors
from .clients.group_protocol import GroupProtocol
from .clients.login import Login
from .clients.options import ClientOptions
from .consuming.in_hand import KafkaInHand
from .session import KafkaSession


class KafkaBackend:
    """Makes sessions on a Kafka cluster.

    It holds configuration, and what sessions learn for each other: whether the cluster knows the consumer group
    protocol, and who we are now.
    """

    name = "kafka"
    retry_interval: float | None = None
    features = Features(
        durable=True,
        confirms_publish=True,
        replays=True,
        groups=True,
        ordered_by_key=True,
        deduplicates=False,
        heals_itself=True,
        counts_attempts=False,
        carries_bytes=True,
        tombstones=True,
        foreign_names=True,
    )

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._protocol = GroupProtocol(config.group_protocol)
        self._login = Login(config)
        self._checked = False

    def connect(self, context: SessionContext) -> KafkaSession:
        """Make a producer and prove it by a metadata answer, within the context's time."""
        options = ClientOptions(self._config, f"eventbus-{context.bus}@{socket.gethostname()}", self._login)
        errors = ClientErrors(f"eventbus.{context.bus}.kafka")
        deadline = Deadline(context.timeout)
        self._login.on_trouble = context.on_error
        self._login.refresh(deadline, context.stop)
        if not self._checked:
            check_options(options)
            self._checked = True
        producer = connected_producer(options, errors, deadline.remaining(), context.stop)
        try:
            apis = known_apis(self._config.brokers, self._config.tls, max(0.5, deadline.remaining()), context.stop)
            context.stop.check()
            self._protocol.learn(apis)
        except BaseException:
            discard(producer, options.name)
            raise
        return KafkaSession(producer, errors, options, self._config, context, self._protocol)

    def new_in_hand(self) -> KafkaInHand:
        """By partition and offset."""
        return KafkaInHand()

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Whether one of the brokers answers an ApiVersions request within `timeout` seconds. Never raises."""
        return speaks(self._config.brokers, self._config.tls, timeout, stop)
