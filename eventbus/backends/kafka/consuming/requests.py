"""What a consumer's thread is asked to do."""

from __future__ import annotations

from enum import IntEnum


class Request(IntEnum):
    """Fetch; only acknowledge; leave once nothing is in hand; leave now. Each overrules those before it."""

    FETCH = 0
    ACKNOWLEDGE = 1
    LEAVE = 2
    END = 3
