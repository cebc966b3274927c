"""The brokers. Only the code below this package knows one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import BackendConfig, MemoryConfig
from ..config_kafka import KafkaConfig

if TYPE_CHECKING:
    from .base import Backend


def backend_for(config: BackendConfig) -> Backend:
    """The recipe for a configuration. Imports a broker's code, and its client library, on first use."""
    if isinstance(config, MemoryConfig):
        from .memory import MemoryBackend

        return MemoryBackend(config)
    if isinstance(config, KafkaConfig):
        from .kafka import KafkaBackend

        backend: Backend = KafkaBackend(config)
        return backend
    from .nats import NatsBackend

    return NatsBackend(config)
