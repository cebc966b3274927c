"""Keeps subscriptions at work on one session: renewals, missing heartbeats, lost consumers, new streams, the lag."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from .... import log
from ....errors import NotConnectedError, SubscribeError
from ....threads import Deadline
from ....workers import OrderedWorker
from ..link.connection import Connection
from .durables import Target
from .in_hand import left_out
from .pulls import PullFeed
from .reading import Reading
from .streams import is_wild

logger = log.get(__name__)

ERRAND = 5.0
"""Seconds that one piece of work of the helper thread may take."""
WATCH_EVERY = 1.0
"""Seconds between two looks for requests that the server is silent about."""
LOOK_EVERY = 1.0
"""Seconds between two looks at consumers and where their groups stand, if anything has moved."""
LOOK_FOR_STREAMS = 2
"""Each so many looks new streams are looked for."""
LOOK_FOR_MOVED = 4
"""Each so many looks also topics that are no patterns are looked for: they may have moved."""
LOOK_AT_ALL = 30
"""Each so many looks also what did not move is asked for: others may have published."""
RENEW_EVERY = 0.25
"""Seconds between two looks at what is in hand: a durable may have an `ack_wait` of its own."""
_REPAIR_FIRST = 0.1
"""Seconds until a consumer that is gone is made again: others may go with it."""
_REPAIR_AGAIN = 1.0
"""Seconds between two tries of that."""


class Upkeep:
    """Its methods without a thread in their text run on the timer thread, and do not block.

    feeds(), leaving(): the feeds at work, and those that have only what is in hand. read(feed, targets): from now on it
    reads from these. refuse(feed, error): there is nothing that it may read.
    """

    def __init__(
        self,
        connection: Connection,
        reading: Reading,
        helper: OrderedWorker,
        feeds: Callable[[], list[PullFeed]],
        leaving: Callable[[], list[PullFeed]],
        read: Callable[[PullFeed, list[Target]], None],
        refuse: Callable[[PullFeed, SubscribeError], object],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._connection = connection
        self._reading = reading
        self._helper = helper
        self._feeds = feeds
        self._leaving = leaving
        self._read = read
        self._refuse = refuse
        self._on_error = on_error
        self._lock = threading.Lock()
        self._broken: dict[PullFeed, str] = {}
        """Those to be mended, and why."""
        self._looks = 0
        self._is_looking = False

    def start(self, ack_wait: float) -> None:
        """Begin. ack_wait: seconds, as configured."""
        timer = self._connection.timer
        timer.every(WATCH_EVERY, self._watch)
        timer.every(min(RENEW_EVERY, ack_wait / 6), self._renew)
        timer.every(LOOK_EVERY, self._look)

    def broken(self, feed: PullFeed, reason: str) -> None:
        """A consumer does not answer as it should. Any thread."""
        with self._lock:
            if feed.closed or feed in self._broken:
                return
            first = not self._broken
            self._broken[feed] = reason
        logger.warning("%r: its consumer is gone or not served: %s", feed.attachment, reason)
        if first:
            self._mend_after(_REPAIR_FIRST)

    def _watch(self) -> None:
        for feed in self._feeds():
            feed.watch()

    def _renew(self) -> None:
        for feed in [*self._feeds(), *self._leaving()]:
            feed.renew()

    def _look(self) -> None:
        if not self._is_looking:
            self._is_looking = self._helper.submit(self._look_around)

    def _mend_after(self, pause: float) -> None:
        self._connection.timer.after(pause, lambda: self._helper.submit(self._mend))

    # -- helper thread ----------------------------------------------------------------------------------

    def _look_around(self) -> None:
        try:
            self._looks += 1
            if not self._looks % LOOK_FOR_STREAMS:
                moved = not self._looks % LOOK_FOR_MOVED
                self._look_for_streams([feed for feed in self._feeds() if moved or is_wild(feed.attachment.topic)])
            self._look_at([one for one in self._feeds() if one.is_worth_a_look or not self._looks % LOOK_AT_ALL])
        finally:
            self._is_looking = False

    def _look_for_streams(self, feeds: Sequence[PullFeed]) -> None:
        """Topics whose stream appeared later join."""
        by_attachment = {feed.attachment: feed for feed in feeds}
        found = self._reading.streams_of(list(by_attachment), Deadline(ERRAND))
        again = not self._looks % LOOK_FOR_MOVED  # what could not be read is tried again
        changed = {
            one: names for one, names in found.items() if names != by_attachment[one].seen or (again and left_out(one))
        }
        left = self._resolve([by_attachment[one] for one in changed])
        for one, names in changed.items():
            if by_attachment[one] not in left:
                by_attachment[one].seen = names

    def _look_at(self, feeds: Sequence[PullFeed]) -> None:
        """Note how much waits, and where groups stand: if their consumers are deleted, they go on from there.

        What was altered is read as it is now.
        """
        asked = {feed: [(feed.attachment, target) for target in feed.targets] for feed in feeds}
        for feed in feeds:
            feed.has_moved = False
            feed.hindrance.look_begins()
        found = self._reading.looks([each for questions in asked.values() for each in questions], Deadline(ERRAND))
        altered: list[PullFeed] = []
        for feed, questions in asked.items():
            now = [found.get(each) for each in questions]
            targets = [one for one in now if isinstance(one, Target)]
            if any(isinstance(one, str) for one in now) or not feed.reads_like(targets):
                altered.append(feed)
            known = [one.lag for one in targets if one.lag is not None]
            feed.lag = sum(known) if len(known) == len(questions) else None
            feed.note_state(targets)
        self._resolve(altered)

    def _mend(self) -> None:
        """Make what is missing again, and go on pulling."""
        with self._lock:
            broken, self._broken = self._broken, {}
        if self._connection.lost is not None:
            return
        left = self._resolve([feed for feed in broken if not feed.closed])
        for feed, reason in broken.items():
            if feed not in left and not feed.closed:
                self._tell(feed, SubscribeError(f"{feed.attachment.topic!r} is read again: {reason}"))
                feed.reported = ""
        if left:
            with self._lock:
                self._broken = {**{feed: broken[feed] for feed in left}, **self._broken}
            self._mend_after(_REPAIR_AGAIN)

    def _resolve(self, feeds: Iterable[PullFeed]) -> set[PullFeed]:
        """Have feeds read what there is for them now; returns those that must wait for that."""
        by_attachment = {feed.attachment: feed for feed in feeds}
        failed: set[PullFeed] = set()
        for attachment, targets in self._reading.targets(list(by_attachment), Deadline(ERRAND)).items():
            feed = by_attachment[attachment]
            if isinstance(targets, SubscribeError):
                self._refuse(feed, targets)
            elif isinstance(targets, Exception):
                failed.add(feed)
                if not isinstance(targets, NotConnectedError):  # a bug of ours: the others are seen to all the same
                    logger.error("%r: looking for what it reads failed", attachment, exc_info=targets)
                self._tell(feed, targets)
            else:
                self._read(feed, targets)
        return failed

    def _tell(self, feed: PullFeed, error: Exception) -> None:
        """Tell the user, once for each kind of trouble."""
        if feed.reported != str(error) and self._connection.lost is None:
            feed.reported = str(error)
            self._on_error(error)
