"""The recipe for Kafka sessions."""

from __future__ import annotations

import socket

from ...config import KafkaConfig
from ...threads import StopToken
from ..base import Features, SessionContext
from .connecting import connected_producer
from .options import ClientOptions
from .problems import ClientErrors
from .reach import speaks
from .session import KafkaSession


class KafkaBackend:
    """Makes sessions on a Kafka cluster.

    It holds configuration, and the one thing that sessions learn for each other: whether the cluster knows
    the consumer group protocol.
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
    )

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._protocol = ["classic" if config.group_protocol == "classic" else "consumer"]

    def connect(self, context: SessionContext) -> KafkaSession:
        """As `Backend.connect`: a metadata answer on the new producer is the proof."""
        options = ClientOptions(self._config, f"eventbus-{context.bus}@{socket.gethostname()}")
        errors = ClientErrors(f"eventbus.{context.bus}.kafka")
        producer = connected_producer(options, errors, context.timeout, context.stop)
        return KafkaSession(producer, errors, options, self._config, context, self._protocol)

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """As `Backend.reachable`: one of the brokers answers an ApiVersions request."""
        return speaks(self._config.brokers, self._config.tls is not None, timeout, stop)
