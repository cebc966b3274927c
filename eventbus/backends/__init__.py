"""The brokers. Only the code below this package knows one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import BackendConfig, MemoryConfig

if TYPE_CHECKING:
    from .base import Backend


def backend_for(config: BackendConfig) -> Backend:
    """The recipe for a configuration. Imports a broker's code, and its client library, on first use."""
    if isinstance(config, MemoryConfig):
        from .memory import MemoryBackend

        return MemoryBackend(config)
    from .nats import NatsBackend

    return NatsBackend(config)
