"""What becomes of a message whose handler has failed."""

from __future__ import annotations

from enum import Enum

from attrs import define, frozen

from ..config_delivery import RetryConfig
from ..errors import Reject, RetryLater
from .guard import Guard


class Next(Enum):
    """What is done next about a message that has failed.

    AGAIN: the handler is started again after a pause. BACK: the broker gets it back, for so many seconds.
    LEAVE: it becomes a dead letter. DROP: it is acknowledged as it is.
    """

    AGAIN = "again"
    BACK = "back"
    LEAVE = "leave"
    DROP = "drop"


@define
class Tries:
    """What was tried with one message.

    starts: of its handler. failures: how many of them count, and how often its dead letter failed.
    place: among which messages it came, see `Guard`; None before its first failure.
    """

    starts: int = 0
    failures: int = 0
    place: int | None = None


@frozen
class Verdict:
    """What becomes of a message that has failed.

    pause: seconds. counts: whether this was a failure, of which a message may have so many.
    """

    next: Next
    pause: float = 0.0
    counts: bool = True


class Retries:
    """Judges the failures of one subscription.

    leaves: whether it has dead letters. gives_back: whether its broker takes messages back.
    """

    def __init__(self, config: RetryConfig, guard: Guard, *, leaves: bool, gives_back: bool) -> None:
        self._config = config
        self._guard = guard
        self._leaves = leaves
        self._gives_back = gives_back

    def judge(self, error: BaseException, failures: int, place: int) -> Verdict:
        """After an error that was this message's so many failure, from 1 on. place: see `Guard.lets_leave`."""
        if isinstance(error, RetryLater):
            return Verdict(Next.BACK if self._gives_back else Next.AGAIN, error.seconds, counts=False)
        if isinstance(error, Reject) and not self._leaves:
            return Verdict(Next.DROP)
        final = self._leaves and (isinstance(error, Reject) or self._config.is_final(error, failures))
        if final and self._guard.lets_leave(place):
            return Verdict(Next.LEAVE)
        return Verdict(Next.AGAIN, self.pause_after(failures))

    def pause_after(self, failures: int) -> float:
        """Seconds until the next try of anything about a message, after so many failures."""
        return self._config.pause_after(failures)
