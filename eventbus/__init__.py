"""eventbus: one synchronous API over Kafka, NATS (core and JetStream) and memory that survives its broker."""

import logging

from .bus import EventBus
from .config import EventBusConfig, HealthCheckConfig, MemoryConfig, NatsConfig, ReconnectConfig
from .config_delivery import GuardConfig, RetryConfig
from .config_kafka import KafkaConfig
from .config_sources import (
    get_default_kafka_config,
    get_default_memory_config,
    get_default_nats_config,
    load_config,
)
from .config_tls import TlsConfig
from .consuming.batches import Batch
from .consuming.excerpts import Excerpt
from .consuming.handling import current_subscription
from .consuming.subscriptions import BROADCAST, PartitionStatus, Subscription, SubscriptionState, SubscriptionStatus
from .deduplication import deduplicate
from .errors import (
    AlreadyInitializedError,
    AuthenticationError,
    BatchError,
    ClosedError,
    ConfigError,
    ConnectFailedError,
    EventBusError,
    ForkedError,
    GuardError,
    HandlerTimeoutError,
    NotConnectedError,
    NotInitializedError,
    PublishError,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    PurgeError,
    ReadError,
    ReconnectExhaustedError,
    Reject,
    ReplayError,
    RetryLater,
    SubscribeError,
    UnsupportedError,
)
from .globals import close_global, get_global, initialize_from_config
from .kafka_token import KafkaToken
from .message import TOMBSTONE, Message, Receipt, Tombstone
from .reports import DeadLetterTopic, ReplayReport
from .state import (
    CloseReport,
    ConnectionState,
    ErrorEvent,
    FlushReport,
    HealthStatus,
    Phase,
    ReconnectEvent,
    ReconnectStatus,
    Statistics,
)
from .stop_signals import StopSignals

__version__ = "0.1.0"

__all__ = [
    "BROADCAST",
    "TOMBSTONE",
    "AlreadyInitializedError",
    "AuthenticationError",
    "Batch",
    "BatchError",
    "CloseReport",
    "ClosedError",
    "ConfigError",
    "ConnectFailedError",
    "ConnectionState",
    "DeadLetterTopic",
    "ErrorEvent",
    "EventBus",
    "EventBusConfig",
    "EventBusError",
    "Excerpt",
    "FlushReport",
    "ForkedError",
    "GuardConfig",
    "GuardError",
    "HandlerTimeoutError",
    "HealthCheckConfig",
    "HealthStatus",
    "KafkaConfig",
    "KafkaToken",
    "MemoryConfig",
    "Message",
    "NatsConfig",
    "NotConnectedError",
    "NotInitializedError",
    "PartitionStatus",
    "Phase",
    "PublishError",
    "PublishManyError",
    "PublishNotSentError",
    "PublishRejectedError",
    "PublishUnknownError",
    "PurgeError",
    "ReadError",
    "Receipt",
    "ReconnectConfig",
    "ReconnectEvent",
    "ReconnectExhaustedError",
    "ReconnectStatus",
    "Reject",
    "ReplayError",
    "ReplayReport",
    "RetryConfig",
    "RetryLater",
    "Statistics",
    "StopSignals",
    "SubscribeError",
    "Subscription",
    "SubscriptionState",
    "SubscriptionStatus",
    "TlsConfig",
    "Tombstone",
    "UnsupportedError",
    "close_global",
    "current_subscription",
    "deduplicate",
    "get_default_kafka_config",
    "get_default_memory_config",
    "get_default_nats_config",
    "get_global",
    "initialize_from_config",
    "load_config",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
