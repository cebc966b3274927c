"""What shared and ordered pulls have in common: how they are used, and the words that the server ends requests with."""

from __future__ import annotations

from typing import Protocol

from ....consuming.attachment import Attachment
from ....consuming.lease import Lease
from ....message import Delivery
from .durables import Target
from .ordered_in_hand import OrderedInHand

FILLED = "exceeds maxbytes"
"""The end of a request whose bytes do not take the next message."""
COMPLETED = "batch completed"
"""The end of a request that has brought all it asked for: said where that had a bound of bytes."""
NOT_AS_WE_KNOW_IT = ("consumer deleted", "push", "exceeded maxrequest", "batch size")
"""In the end of a request: the consumer is gone, or was altered."""
LEFT_OUT = b"Nats-Msg-Size:"
"""In the headers of a message that comes without its payload."""
SOON = 0.1
"""Seconds after which is asked again where a request has ended with its consumer's leader."""


def is_plain_end(code: int, text: str) -> bool:
    """Whether a request has ended as any may: nothing is amiss with its consumer."""
    return code in (404, 408) or (code == 409 and any(word in text.lower() for word in (FILLED, COMPLETED)))


class AnyPull(Protocol):
    """What pulls from one consumer. All methods are for any thread, and do not block."""

    target: Target
    subject: str
    sid: int

    @property
    def serves(self) -> bool:
        """Whether it gets what there is for it."""

    def restart(self) -> None:
        """Ask anew."""

    def top_up(self) -> None:
        """The lanes have room: ask for more."""

    def watch(self) -> None:
        """Ask anew when the server has been silent for too long."""

    def close(self) -> None:
        """Take no more."""


class Owner(Protocol):
    """The feed that an ordered pull belongs to."""

    attachment: Attachment
    in_hand: OrderedInHand
    closed: bool
    paused: bool

    @property
    def share(self) -> int:
        """Bytes that this pull may ask for now."""

    def is_ours(self, topic: str, block: bytes | None) -> bool:
        """Whether a message is for the subscription."""

    def hand_over(self, batch: list[Delivery], lease: Lease) -> bool:
        """Give a batch to the lanes."""

    def answered(self, text: str) -> None:
        """The server does not let us read."""

    def broken(self, reason: str) -> None:
        """The consumer is gone, or not as it was."""

    def changed(self) -> None:
        """Whether it is active may be otherwise than before."""
