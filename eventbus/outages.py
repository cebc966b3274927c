"""What becomes of a message whose handler needs something that is away: it waits, and has not failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import log
from .errors import RetryLater

logger = log.get(__name__)

WhatIsAway = Callable[[], str]
"""Says what cannot be reached at this moment, "" where all of it can. It asks, and may take as long as that does."""


@contextmanager
def put_off(message: object, seconds: float, errors: tuple[type[Exception], ...], away: WhatIsAway) -> Iterator[None]:
    """Around a handler: for one of these errors RetryLater, after so many seconds, where `away()` says what.

    Where nothing is away such an error is the handler's failure, as any other one. On the lane's thread.
    """
    try:
        yield
    except errors as error:
        why = away()
        if not why:
            raise
        logger.warning("%s: %s, again in %g s: %s", message, why, seconds, error)
        raise RetryLater(seconds, why) from error
