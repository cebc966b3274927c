"""NATS: core and JetStream, on a connection engine of our own behind pynats2's handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import NatsBackend

__all__ = ["NatsBackend"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the parts that need no client library stay usable without it.
    if name != "NatsBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .backend import NatsBackend

    return NatsBackend
