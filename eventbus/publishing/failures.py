"""What became of messages that nobody waits for, until `flush` asks."""

from __future__ import annotations

from collections import deque

from ..errors import PublishError, PublishRejectedError, PublishUnknownError
from ..threads import drained


def verdict_on(topic: str, id: str, error: Exception, may_be_stored: bool) -> PublishError:
    """What an answer means for a message. may_be_stored: by an earlier session, which had no answer.

    Anything but a PublishError means "unknown"; so does a refusal of what may be stored already.
    """
    if isinstance(error, PublishError) and not (may_be_stored and isinstance(error, PublishRejectedError)):
        return error
    text = f"refused, and an earlier session may have stored it: {error}" if may_be_stored else str(error)
    unknown = PublishUnknownError(f"{topic}: {text}", id)
    unknown.__cause__ = error
    return unknown


class Failures:
    """The latest failures of `publish_nowait`, and how many more there were. Added by threads of ours, under a lock."""

    MOST = 1000
    _FOLD = 1000

    def __init__(self) -> None:
        self._errors: deque[PublishError] = deque()
        self._left_out: deque[int] = deque()

    def add(self, error: PublishError) -> None:
        """Note one."""
        self._errors.append(error)
        if len(self._errors) > self.MOST:
            self._left_out.append(len(drained(self._errors, 1)))
        if len(self._left_out) > self._FOLD:
            self._left_out.append(sum(drained(self._left_out)))

    def take(self) -> tuple[tuple[PublishError, ...], int]:
        """The errors, and how many were left out, since the last call. Any thread: each is told once."""
        return tuple(drained(self._errors)), sum(drained(self._left_out))

    def put_back(self, errors: tuple[PublishError, ...], left_out: int) -> None:
        """Whoever took these was interrupted, and told nobody."""
        self._errors.extendleft(reversed(errors))
        self._left_out.append(left_out)
