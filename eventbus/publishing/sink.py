"""What publishing needs of a session, and what it lends to one for a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from .records import Record


class PublishNowait(Protocol):
    """The shape of `EventBus.publish_nowait`."""

    def __call__(
        self,
        topic: str,
        payload: object,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        """Publish without waiting."""


class Door(Protocol):
    """Where a shortcut gets numbers, and leaves the records that its session does not take."""

    next_number: Callable[[], int]
    """Draws the number of a record."""
    ceiling: int
    """The highest number for which there is room now."""

    def submit(self, record: Record, timeout: float) -> None:
        """Accept a record whatever the session does; as `Pending.submit`."""

    def refused(self) -> None:
        """The session refused the record of a drawn number for good."""


class Sink(Protocol):
    """The part of a session that takes records."""

    @property
    def unanswered_bytes(self) -> int:
        """As `Session.unanswered_bytes`."""

    def publish(self, record: Record) -> None:
        """As `Session.publish`."""

    def shortcut(self, door: Door, otherwise: PublishNowait) -> PublishNowait | None:
        """As `Session.shortcut`."""

    def unanswered(self, up_to: int) -> int:
        """As `Session.unanswered`."""

    def abandon(self, patience: float = 0.0) -> list[Record]:
        """As `Session.abandon`."""
