"""Kafka, by way of confluent-kafka (librdkafka)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import KafkaBackend

__all__ = ["KafkaBackend"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the test servers use parts of this package without a client library.
    if name != "KafkaBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .backend import KafkaBackend
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        from ...errors import ConfigError

        raise ConfigError("Kafka needs its client library: pip install 'jxt-eventbus[kafka]'") from error
    return KafkaBackend
