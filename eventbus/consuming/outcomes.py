"""Where lanes tell what became of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..message import Delivery
from .lease import Lease


class Outcomes(Protocol):
    """Where lanes tell what became of deliveries: on the lane's thread, or on the one that acknowledges."""

    def begin(self) -> None:
        """A lane's thread has started: handlers will run on it."""

    def claims(self, delivery: Delivery) -> bool:
        """Whether a delivery that came again is still to be handled; if not, it is done with."""

    def failed(self, delivery: Delivery, error: BaseException, pause: float) -> None:
        """The handler has failed; the next try is after so many seconds."""

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are handled."""

    def dropped(self, deliveries: Sequence[Delivery], lease: Lease) -> None:
        """These will not be handled here."""

    def given_back(self, deliveries: Sequence[Delivery], lease: Lease, delay: float) -> None:
        """These wait for a lane that stands still: somebody may have them after so many seconds."""

    def has_room(self) -> None:
        """More may be fetched."""

    def look(self, now: float) -> None:
        """See to leases that end with time."""
