"""Where lanes tell what became of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..message import Delivery
from .dead_letters import Answered
from .lease import Lease
from .retries import Tries, Verdict


class Outcomes(Protocol):
    """Where lanes tell what became of deliveries: on the lane's thread, or on the one that acknowledges."""

    def begin(self) -> None:
        """A lane's thread has started: handlers will run on it."""

    def claims(self, delivery: Delivery) -> bool:
        """Whether a delivery that came again is still to be handled; if not, it is done with."""

    def failed(self, delivery: Delivery, error: BaseException, tries: Tries, quiet: bool = False) -> Verdict:
        """The handler has failed on this message, once more than its tries say; what is to become of it.

        quiet: the same error has been told of another message of its batch.
        """

    def pause_after(self, failures: int) -> float:
        """Seconds until the next try of anything about a message that has failed so often."""

    def leave(self, delivery: Delivery, error: BaseException, attempts: int, answered: Answered) -> None:
        """Have it stored as a dead letter; never blocks, and `answered` may be called by any thread."""

    def left_behind(self, deliveries: Sequence[Delivery]) -> None:
        """These are done with, though no handler has taken them."""

    def overdue(self, delivery: Delivery, seconds: float, stack: str) -> None:
        """The handler runs for longer than it may, and stands there. On the thread that acknowledges."""

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """These are handled."""

    def dropped(self, deliveries: Sequence[Delivery], lease: Lease) -> None:
        """These will not be handled here."""

    def given_back(self, deliveries: Sequence[Delivery], lease: Lease, delay: float) -> None:
        """Somebody else may have these, after so many seconds."""

    def has_room(self) -> None:
        """More may be fetched."""

    def look(self, now: float) -> None:
        """See to leases that end with time."""
