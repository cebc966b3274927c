"""What is in hand of a subscription on NATS, and what the next session must know of it."""

from __future__ import annotations

from ....consuming.attachment import Attachment
from ....consuming.in_hand import InHandByIdentity


class NatsInHand(InHandByIdentity):
    """Deliveries by stream and sequence.

    positions: where a group or a broadcast copy stands in each stream, by incarnation, for when its consumer is gone.
    has_begun: it was attached once: a stream that is found later is read from its start.
    renewed_at: `time.monotonic`; until then the server knew that what is in hand is ours.
    ack_wait: seconds after which it gives what was not renewed to somebody else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ack_wait = float("inf")
        self.positions: dict[str, int] = {}
        self.has_begun = False
        self.renewed_at = 0.0

    def look(self, now: float) -> None:
        """Give up what was not renewed in time: it is not ours any more."""
        if len(self) and now - self.renewed_at > self.ack_wait:
            self.end_lease()


def in_hand_of(attachment: Attachment) -> NatsInHand:
    """What the backend has made for this subscription."""
    in_hand = attachment.in_hand
    assert isinstance(in_hand, NatsInHand)
    return in_hand
