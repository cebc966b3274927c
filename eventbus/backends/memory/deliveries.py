"""What the memory broker hands over."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from ...fields import RawHeaders, shown, shown_headers
from ...message import Delivery


class MemoryDelivery(Delivery):
    """A delivery that makes of what is stored what it is asked for. token: progress, partition, offset."""

    __slots__ = ("deliveries", "raw_headers", "raw_key", "stored")

    deliveries: int
    raw_key: bytes | None
    raw_headers: RawHeaders
    stored: float

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """How often it was delivered, and its handler was started in this process since."""
        return self.deliveries + self.starts

    @property
    def key(self) -> str | None:
        """The key as text; bytes that are not UTF-8 are shown as escapes."""
        return None if self.raw_key is None else shown(self.raw_key)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers as text: immutable, and this message's own."""
        return shown_headers(self.raw_headers)

    @property
    def partition(self) -> int:  # type: ignore[override]
        """The partition that the key chose."""
        partition: int = self.token[1]
        return partition

    @property
    def offset(self) -> int:  # type: ignore[override]
        """The place in its topic."""
        offset: int = self.token[2]
        return offset

    @property
    def timestamp(self) -> datetime:  # type: ignore[override]
        """When the broker stored it."""
        return datetime.fromtimestamp(self.stored, timezone.utc)
