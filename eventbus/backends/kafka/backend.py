"""The recipe for Kafka sessions."""

from __future__ import annotations

import os
import socket
from functools import partial

from ...config_kafka import KafkaConfig
from ...errors import ConnectFailedError
from ...features import Features
from ...threads import Deadline, StopToken
from ..base import SessionContext
from .clients.api_versions import DESCRIBE_CONFIGS, INIT_PRODUCER_ID, known_apis, speaks
from .clients.connecting import check_options, connected_admin, drop, new_client
from .clients.errors import ClientErrors
from .clients.fork_safety import AdminClient, keep
from .clients.group_protocol import GroupProtocol
from .clients.login import Login
from .clients.options import ClientOptions
from .consuming.in_hand import KafkaInHand
from .session import KafkaSession
from .topics import Topics

_FIRST = os.getpid()
"""The process that has imported this: those that it forks are others."""


class KafkaBackend:
    """Makes sessions on a Kafka cluster.

    It holds configuration, and what sessions learn for each other: whether the cluster knows the consumer group
    protocol, and who we are now.
    """

    name = "kafka"
    waits_in_c = True
    retry_interval: float | None = None
    features = Features(
        durable=True,
        confirms_publish=True,
        replays=True,
        groups=True,
        ordered_by_key=True,
        ordered_groups=True,
        deduplicates=False,
        heals_itself=True,
        counts_attempts=False,
        carries_bytes=True,
        tombstones=True,
        foreign_names=True,
        places=True,
        readable=True,
    )

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        static = config.group_instance_id is not None
        self._protocol = GroupProtocol("classic" if static else config.group_protocol)
        self._login = Login(config)
        self._checked = False

    def connect(self, context: SessionContext) -> KafkaSession:
        """Prove by an admin client that the cluster answers, within the context's time: that takes no rights."""
        options = ClientOptions(
            self._config, f"eventbus-{context.bus}@{socket.gethostname()}", self._login, self._static_id
        )
        errors = ClientErrors(f"eventbus.{context.bus}.kafka")
        deadline = Deadline(context.timeout)
        self._login.on_trouble = context.on_error
        self._login.refresh(deadline, context.stop)
        if not self._checked:
            check_options(options)
            self._checked = True
        admin = [connected_admin(options, errors, deadline.remaining(), context.stop)]
        try:
            apis = known_apis(self._config.brokers, self._config.tls, max(0.5, deadline.remaining()), context.stop)
            context.stop.check()
            if apis is not None and INIT_PRODUCER_ID not in apis:
                raise ConnectFailedError("idempotent producers are not supported: the brokers are too old", True)
            self._protocol.learn(apis)
        except BaseException:
            drop(admin, options.name)
            raise
        describes = apis is None or DESCRIBE_CONFIGS in apis
        topics = Topics(partial(_client, admin, options, errors), self._config, describes)
        return KafkaSession(topics, errors, options, self._config, context, self._protocol)

    @property
    def _static_id(self) -> str | None:
        """Of this process: a forked child with its parent's would fence it."""
        given, pid = self._config.group_instance_id, os.getpid()
        return given if given is None or pid == _FIRST else f"{given}-{pid}"

    def new_in_hand(self, ordered: bool = False) -> KafkaInHand:
        """By partition and offset."""
        return KafkaInHand()

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Whether one of the brokers answers an ApiVersions request within `timeout` seconds. Never raises."""
        return speaks(self._config.brokers, self._config.tls, timeout, stop)


def _client(proven: list[AdminClient], options: ClientOptions, errors: ClientErrors) -> AdminClient:
    """The one that was proven, at first; then others that are made like it."""
    return keep(proven.pop() if proven else new_client(AdminClient, options.admin, errors))
