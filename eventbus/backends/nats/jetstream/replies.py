"""What is said to the server about deliveries."""

from __future__ import annotations

from collections.abc import Iterable

from ....message import Delivery
from .api import SECOND

ACK = b" 0\r\n\r\n"
_NAK = b" 4\r\n-NAK\r\n"
RENEW = b" 4\r\n+WPI\r\n"


def answers(deliveries: Iterable[Delivery], what: bytes) -> bytes:
    """The frames that say the same about each delivery; b"" for none."""
    tokens = [delivery.token for delivery in deliveries if delivery.token is not None]
    return b"PUB " + (what + b"PUB ").join(tokens) + what if tokens else b""


def nak(delay: float) -> bytes:
    """The answer that has a message delivered again after so many seconds."""
    if not delay:
        return _NAK
    said = b'-NAK {"delay": %d}' % int(delay * SECOND)
    return b" %d\r\n%s\r\n" % (len(said), said)
