"""What is in hand of a subscription on NATS, and what the next session must know of it."""

from __future__ import annotations

from ...consuming.attachment import Attachment
from ...consuming.in_hand import InHandByIdentity


class NatsInHand(InHandByIdentity):
    """Deliveries by stream and sequence.

    positions: where a broadcast copy stands in each stream, for the next session.
    renewed_at: `time.monotonic`; until then the server knew that what is in hand is ours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, int] = {}
        self.renewed_at = 0.0


def in_hand_of(attachment: Attachment) -> NatsInHand:
    """What the backend has made for this subscription."""
    in_hand = attachment.in_hand
    assert isinstance(in_hand, NatsInHand)
    return in_hand
