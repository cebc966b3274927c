"""What waits for one stream: which records may go out, and which wait for which answer."""

from __future__ import annotations

import time
from enum import Enum
from itertools import islice

from ....message import matches
from ....publishing.records import Record, number_of, topic_of
from ....threads import Pauses

WINDOW = 2048
"""Records on the wire to one stream. A server takes up to 10,000 from all publishers together, and refuses more (429):
then some of a run are stored and others before them are not."""
PAUSES = Pauses(first=0.02, factor=2.0, longest=1.0)
"""Between two tries of a stream in trouble."""


class State(Enum):
    """How a stream's queue stands.

    NEW: its stream is looked for. OPEN: records go out as they come. WINDOW: as many as may be are on the wire.
    TROUBLE: one was refused for now, or has no answer: later ones wait behind it, the oldest goes alone until it is
    answered, then the rest in order.
    """

    NEW = "new"
    OPEN = "open"
    WINDOW = "window"
    TROUBLE = "trouble"


class StreamQueue:
    """The topics of one stream. Not locked: its owner does that.

    Topics whose streams are not known share one by their first token; one whose own limit is reached has one for
    itself. name: the stream's, the token, or the topic. subjects: of the stream, () where they are not known.
    flying: how many of its records are on the wire, or about to be. held: what waits, by number. probe: the number of
    the one that is tried for all.
    """

    def __init__(self, name: str, subjects: tuple[str, ...] = (), state: State = State.NEW) -> None:
        self.name = name
        self.subjects = subjects
        self.state = state
        self.topics: set[str] = set()
        self.held: dict[int, Record] = {}
        self.flying = 0
        self.window = WINDOW
        self.probe: int | None = None
        self.looking: set[str] = set()
        """Topics whose streams are being looked for."""
        self.scheduled = False
        self.looked_at = self.troubled_at = time.monotonic()
        self.is_split = False
        """Whether it is one topic's, whose own limit was reached."""
        self._tries = 0
        self._in_order, self._latest = True, 0
        """Whether `held` is sorted, so far, and its greatest number."""
        self.is_well = False
        """Whether the one that was tried last is stored."""
        self.cause = ""
        """Why it is in trouble."""
        self._refused: set[str] = set()
        """Topics the one of which that was tried was not stored, since one was."""
        self.doubts: set[str] = set()
        """Topics that were refused when another one was stored, and are not stored since."""

    def covers(self, topic: str) -> bool:
        """Whether the stream takes a topic, as far as is known."""
        return any(matches(subject, topic) for subject in self.subjects)

    def hold(self, record: Record) -> None:
        """Let a record wait."""
        number = number_of(record)
        self._in_order = self._in_order and number > self._latest
        self._latest = max(self._latest, number)
        self.held[number] = record

    def room(self) -> int:
        """How many more may go on the wire."""
        return max(0, self.window - self.flying)

    def take(self, most: int) -> list[Record]:
        """The oldest that wait, in order; they wait no more."""
        self._sort()
        return [self.held.pop(number) for number in list(islice(self.held, most))]

    def next_probe(self) -> Record:
        """The oldest that waits, of the topics in turn; it waits no more: what one is refused for may be its alone."""
        self._sort()
        records = self.held.values()
        found = next((one for one in records if topic_of(one) not in self._refused), None)
        if found is None:
            self._refused.clear()
            found = next(iter(records))
        del self.held[number_of(found)]
        return found

    def suspects(self, topic: str) -> bool:
        """Whether a topic that is refused now was so, too, when another one was stored: what is wrong is its own."""
        return topic in self.doubts and len(self.topics) > 1

    def _sort(self) -> None:
        if not self._in_order:
            self.held = dict(sorted(self.held.items()))
            self._in_order = True

    def trouble(self, cause: str) -> bool:
        """Something was refused for now, or has no answer; whether that is news."""
        news = self.state is not State.TROUBLE
        self.is_well, self.cause = False, cause
        if news:
            self._refused.clear()
            self.state, self.troubled_at, self._tries = State.TROUBLE, time.monotonic(), 0
        return news

    def next_pause(self) -> float:
        """Seconds until the next try."""
        self._tries += 1
        return PAUSES.after(self._tries)

    def answered(self, topic: str, stored: bool) -> None:
        """The one that was tried has its answer, or will get none."""
        self.is_well = stored
        if stored:
            self._tries = 0
            self.doubts |= self._refused & self.topics
            self.doubts.discard(topic)
            self._refused.clear()
        else:
            self._refused.add(topic)

    def narrow(self) -> None:
        """The server has too much to do: put less on the wire."""
        self.window = max(1, self.window // 2)

    def widen(self) -> None:
        """It has taken what was on the wire: a little more may be."""
        self.window = min(WINDOW, self.window + max(1, self.window // 8))
