"""The thread that makes sure of the topics that are published to, all of them side by side."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaException

from .... import log
from ....errors import NotConnectedError
from ....threads import Alarm, Deadline, StopToken, drained, join_all, spawn
from ..catalogue import FEW, Catalogue
from ..clients.errors import text_of
from ..topics import LEADERLESS_FOR, ROUND, UNKNOWN_FOR, TopicRefused, Topics, TopicUnready, why_not_made
from .limits import Limits, Topic
from .publisher import KafkaPublisher

logger = log.get(__name__)

ENSURE_AGAIN = 0.05
"""Seconds between two looks at a topic that is not there yet, at first; each pause is twice the one before."""
_LONGEST_PAUSE = 1.0
_NAP = 1.0
_AT_ONCE = 8
"""Topics that are asked about at a time."""
_GRACE = 0.5


class _Wanted:
    """A topic that is to be made sure of."""

    def __init__(self, name: str, stale: bool) -> None:
        self.name = name
        self.stale = stale
        self.partitions = 0
        self.unknown = Deadline(UNKNOWN_FOR)
        self.leaderless = Deadline(LEADERLESS_FOR)
        self.cause = ""
        self.pause = ENSURE_AGAIN
        self.due = 0.0

    def put_off(self, cause: str) -> None:
        """It is not ready."""
        self.cause = cause
        self.due = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)


class TopicKeeper:
    """Works for one session. `ensure` may be called by any thread, and never blocks; the rest is on its own threads.

    In rounds, each on a thread of its own: the topics of one are asked about at the same time, one request asks how
    those that are there are configured, and one creates those that are missing. Who comes while a round goes on does
    not wait for it.
    """

    def __init__(self, name: str, topics: Topics, catalogue: Catalogue) -> None:
        self._name = name
        self._topics = topics
        self._catalogue = catalogue
        self._stop = StopToken()
        self._alarm = Alarm()
        self._asked: deque[_Wanted] = deque()
        self._wanted: dict[str, _Wanted] = {}
        self._lock = threading.Lock()
        self._rounds: list[threading.Thread] = []
        self.thread: threading.Thread | None = None
        self.beat = time.monotonic()

    def serve(self, outbox: KafkaPublisher) -> None:
        """Tell this one what becomes of topics."""
        self._outbox = outbox

    def ensure(self, topic: str, stale: bool = False) -> None:
        """Make sure of a topic that is published to. stale: the producer knows an old one of that name."""
        self._asked.append(_Wanted(topic, stale))
        with self._lock:
            if self.thread is None and not self._stop.is_set():
                self.beat = time.monotonic()
                self.thread = spawn(self._name, self._run)
        self._alarm.set()

    def stop(self) -> None:
        """End the thread as soon as its questions are answered."""
        self._stop.set()
        self._alarm.set()

    def join(self, timeout: float) -> tuple[str, ...]:
        """The thread's name if it is not out within `timeout` seconds."""
        with self._lock:
            threads = [] if self.thread is None else [self.thread, *self._rounds]
        return join_all(threads, timeout)

    def check(self, patience: float) -> None:
        """NotConnectedError when the thread is dead, or hangs for more than `patience` seconds."""
        if self.thread is not None and not self.thread.is_alive():
            raise NotConnectedError("the thread that makes sure of topics has died")
        if self.thread is not None and time.monotonic() - self.beat > patience + 4 * ROUND:
            raise NotConnectedError("the thread that makes sure of topics hangs")

    def _run(self) -> None:
        while not self._stop.is_set():
            self.beat = time.monotonic()
            self._wanted.update((wanted.name, wanted) for wanted in drained(self._asked))
            self._rounds = [one for one in self._rounds if one.is_alive()]
            due = [one for one in list(self._wanted.values()) if one.due <= self.beat]
            if due and len(self._rounds) < _AT_ONCE:
                for one in due:
                    one.due = math.inf
                self._rounds.append(spawn(f"{self._name}-round", self._go_round, due))
            next_due = min((one.due for one in list(self._wanted.values())), default=math.inf)
            full = len(self._rounds) >= _AT_ONCE  # the end of one is told
            self._alarm.wait(_NAP if full else max(0.0, min(_NAP, next_due - time.monotonic())))

    def _go_round(self, due: Sequence[_Wanted]) -> None:
        try:
            self._round(due)
        except Exception:  # a bug of ours must not end what all publishing rests on
            logger.exception("%s goes on after an error", self._name)
        for one in due:
            if one.due == math.inf:
                one.put_off(one.cause)
        self._alarm.set()

    def _round(self, due: Sequence[_Wanted]) -> None:
        missing: list[_Wanted] = []
        there: list[_Wanted] = []
        unanswered: list[_Wanted] = []
        known = self._known(due)

        def look(one: _Wanted) -> None:
            try:
                (there if self._look(one, known.get(one.name)) else missing).append(one)
            except TopicRefused as error:
                self._refused(one, error)
            except TopicUnready as error:
                self._unready(one, str(error))
            except NotConnectedError as error:
                unanswered.append(one)
                self._unready(one, str(error))

        self._at_once(look, [one for one in due if one.name not in known])
        for one in due:
            if one.name in known:
                look(one)
        if unanswered and len(unanswered) == len(due):
            self._topics.renew()
        self._at_once(self._learn, [one for one in there if one.stale])
        self._ready(self._led([one for one in there if not one.stale]))
        self._create(missing)

    def _known(self, due: Sequence[_Wanted]) -> Mapping[str, list[bool]]:
        """Which partitions have leaders, of those of many topics that are there: one answer for all of them."""
        if len(due) <= FEW:
            return {}
        try:
            return self._catalogue.listing([one.name for one in due], ROUND).led
        except NotConnectedError as error:
            logger.info("asking for topics: %s", error)
            return {}

    def _look(self, one: _Wanted, leaders: list[bool] | None) -> bool:
        """Whether the topic is there; TopicUnready, TopicRefused, NotConnectedError."""
        leaders = self._topics.leaders(one.name, ROUND) if leaders is None else leaders
        if leaders is None:
            return False
        if leaders and (all(leaders) or (any(leaders) and one.leaderless.over)):
            one.partitions = len(leaders)
            return True
        raise TopicUnready("no partition has a leader" if not any(leaders) else "some partitions have no leader")

    def _create(self, missing: Sequence[_Wanted]) -> None:
        new: list[_Wanted] = []
        for one in missing:
            why_not = why_not_made(one.name, self._topics.may_create)
            text = f"topic {one.name} does not exist, and {why_not}"
            if why_not is None:
                new.append(one)
            elif one.unknown.over:
                self._refused(one, TopicRefused(text))
            else:
                self._unready(one, text)
        answers = self._topics.create([one.name for one in new], ROUND) if new else {}
        for one in new:
            error = answers.get(one.name)
            if isinstance(error, TopicRefused):
                self._refused(one, error)
            elif error is not None:
                self._unready(one, f"it cannot be created: {error}")
            else:
                one.due = 0.0  # it is there, as the next look will show
                one.stale = True

    def _led(self, there: Sequence[_Wanted]) -> list[_Wanted]:
        """Those whose leaders know that they are: of a topic that was just made, or moves, they may not yet.

        The first messages of a producer to a partition have no order that its broker knows: a second batch that
        arrives as the leader takes over is stored, and the first one, refused a moment before, is then taken for a
        duplicate, and lost.
        """
        places = [(one.name, number) for one in there for number in range(one.partitions)]
        without = {name for name, _ in self._catalogue.not_led(places, ROUND)}
        led: list[_Wanted] = []
        for one in there:
            if one.name in without and not one.leaderless.over:
                self._unready(one, "its leaders have not begun")
            else:
                led.append(one)
        return led

    def _learn(self, one: _Wanted) -> None:
        try:
            self._outbox.learn(one.name, ROUND)
        except (KafkaException, RuntimeError) as error:
            self._unready(one, text_of(error))
        else:
            one.stale = False

    def _ready(self, there: Sequence[_Wanted]) -> None:
        if not there:
            return
        configs = self._topics.configs([one.name for one in there], ROUND)
        for one in there:
            self._wanted.pop(one.name, None)
            config = configs.get(one.name)
            limits = Limits() if config is None else Limits.of(config)
            self._outbox.topic_ready(one.name, Topic(one.partitions, limits, time.monotonic()))

    def _refused(self, one: _Wanted, error: TopicRefused) -> None:
        self._wanted.pop(one.name, None)
        self._outbox.topic_refused(one.name, error)

    def _unready(self, one: _Wanted, cause: str) -> None:
        if cause != one.cause:
            logger.info("topic %s is not ready: %s", one.name, cause)
        one.put_off(cause)
        self._outbox.topic_unready(one.name, cause)

    def _at_once(self, call: Callable[[_Wanted], None], ones: Sequence[_Wanted]) -> None:
        """Make a call for each, several at a time; what is not over in time goes on, and is not waited for."""
        if len(ones) < 2:
            deque(map(call, ones))
            return
        left = deque(ones)

        def work() -> None:
            while one := next(iter(drained(left, 1)), None):
                call(one)

        threads = [spawn(f"{self._name}-asking", work) for _ in range(min(_AT_ONCE, len(ones)))]
        rounds = -(-len(ones) // _AT_ONCE)
        join_all(threads, rounds * ROUND + _GRACE)
