"""Old sessions that may come back by themselves: whether one did, and how soon the next may be replaced."""

from __future__ import annotations

import time

from .. import log
from ..backends.base import Session
from ..errors import EventBusError, NotConnectedError
from ..threads import StopToken

logger = log.get(__name__)

HEAL_PROBE = 0.25
"""Seconds that the old session has to show that it came back, before a new one is tried."""
HEAL_GRACE = 1.5
"""Seconds that it has once a new one was made: then it is not the broker that is wrong."""
REPLACE_EVERY = 30.0
"""Seconds between two replacements of sessions that heal by themselves: slow brokers look like broken links."""


class Healing:
    """Judges whether an old session is kept. Used by one episode at a time.

    heals_itself: the backend's sessions survive outages.
    """

    def __init__(self, heals_itself: bool) -> None:
        self._heals_itself = heals_itself
        self._replaced_at = -REPLACE_EVERY

    def healed(self, session: Session | None, timeout: float, stop: StopToken) -> bool:
        """Whether the session is well again, asked for up to `timeout` seconds."""
        if session is None or session.lost is not None:
            return False
        try:
            session.probe(timeout, stop)
        except (EventBusError, OSError) as error:
            logger.debug("the old session has not healed: %s", error)
            return False
        return True

    def check_pace(self, session: Session | None) -> None:
        """NotConnectedError while a session that may yet heal was replaced too short a time ago."""
        if not self._heals_itself or session is None or session.lost is not None:
            return
        left = self._replaced_at + REPLACE_EVERY - time.monotonic()
        if left > 0:
            raise NotConnectedError(f"the clients were replaced lately: not again for {left:.0f} s, they may heal")

    def replaced(self, session: Session | None) -> None:
        """The session was given up although it might have healed."""
        if session is not None and session.lost is None:
            self._replaced_at = time.monotonic()
