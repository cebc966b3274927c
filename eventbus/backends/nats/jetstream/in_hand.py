"""What is in hand of a subscription on NATS, and what the next session must know of it."""

from __future__ import annotations

from datetime import datetime

from ....consuming.attachment import Attachment
from ....consuming.in_hand import InHandByIdentity
from ....message import Delivery


class NatsInHand(InHandByIdentity):
    """Deliveries by `Identity`.

    positions: where a group or a broadcast copy stands in each stream, by incarnation, for when its consumer is gone.
    has_begun: it was attached once: a stream that is found later is read from its start.
    left_out: streams that a pattern covers and that cannot be read.
    last_stored: when the newest message was stored that came from a stream whose incarnation is not known.
    renewed_at: `time.monotonic`; until then the server knew that what is in hand is ours.
    ack_wait: seconds after which it gives what was not renewed to somebody else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ack_wait = float("inf")
        self.positions: dict[str, int] = {}
        self.has_begun = False
        self.left_out: set[str] = set()
        self.last_stored: datetime | None = None
        self.renewed_at = 0.0

    def _is_repeat(self, delivery: Delivery, era: int) -> bool:
        # A consumer that gives for the first time what has come in this session already was set back by somebody.
        return era != self._era or getattr(delivery, "deliveries", delivery.attempt) > 1

    def look(self, now: float) -> None:
        """Give up what was not renewed in time: it is not ours any more."""
        if len(self) and now - self.renewed_at > self.ack_wait:
            self.end_lease()


def left_out(attachment: Attachment) -> bool:
    """Whether a pattern covers streams that could not be read when that was tried last."""
    return bool(in_hand_of(attachment).left_out)


def in_hand_of(attachment: Attachment) -> NatsInHand:
    """What the backend has made for this subscription."""
    in_hand = attachment.in_hand
    assert isinstance(in_hand, NatsInHand)
    return in_hand
