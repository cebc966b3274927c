"""What is done about messages whose handler fails: counted, told, tried again, or made dead letters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence

from attrs import Factory, define, field, frozen

from .. import log
from ..config_delivery import GuardConfig, RetryConfig
from ..errors import EventBusError, HandlerTimeoutError, NotConnectedError, PublishRejectedError, RetryLater
from ..message import Delivery
from ..state import ErrorEvent
from .batch_lane import BatchLimits
from .dead_letters import Answered, DeadLetters
from .guard import Guard
from .in_hand import REMEMBERED, newest
from .retries import Next, Retries, Tries, Verdict
from .subscriptions import Subscription

logger = log.get(__name__)

BATCHES_IN_HAND = 4
"""Batches of a handler's that may be in hand, the one that it has included."""

UNANSWERED_FOR = 3.0
"""Seconds without an answer to a dead letter until that is told: Kafka's client tries again without a word."""

_THEN = {
    Next.AGAIN: "again in {pause:.1f} s",
    Next.BACK: "given back for {pause:.1f} s",
    Next.LEAVE: "it becomes a dead letter",
    Next.DROP: "it is dropped",
}


@frozen(kw_only=True)
class Plan:
    """What is to become of messages that fail. dead_letters: None where such a message is tried without end.

    handler_timeout: seconds after which a handler that still runs is told; None: never. batch: what a handler gets at
    once; None: one message.
    """

    retry: RetryConfig = Factory(RetryConfig)
    guard: GuardConfig = Factory(GuardConfig)
    dead_letters: DeadLetters | None = None
    handler_timeout: float | None = None
    batch: BatchLimits | None = None

    @property
    def least_in_hand(self) -> int:
        """Messages that may be in hand at least: while a handler has a batch, the next ones are fetched."""
        return 0 if self.batch is None else BATCHES_IN_HAND * self.batch.size


@define(eq=False)
class _Letter:
    """A dead letter that is sent. since: by `time.monotonic`. why(): what keeps it, "" where that is not known."""

    since: float = field(factory=time.monotonic)
    why: Callable[[], str] = str


class Failing:
    """Sees to the messages of one subscription that fail; any thread.

    gives_back: whether the broker takes single messages back.

    failures: handler calls that raised. retried: those after which the message was to be tried again. dropped: rejected
    messages without a dead letter. stored: dead letters that are confirmed.
    """

    def __init__(
        self, sub: Subscription, plan: Plan, report: Callable[[ErrorEvent], object], *, gives_back: bool
    ) -> None:
        self._sub = sub
        self._report = report
        self._dead_letters = plan.dead_letters
        self.guard = Guard(plan.guard, repr(sub.topic))
        self._retries = Retries(plan.retry, self.guard, leaves=plan.dead_letters is not None, gives_back=gives_back)
        self._lock = threading.Lock()
        self.failures = self.retried = self.dropped = self.stored = 0
        self._waiting: dict[int, _Letter] = {}
        """Dead letters without an answer, by the ids of their deliveries, which are in hand; the oldest first."""
        self._troubles: dict[int, Exception] = {}
        """Why dead letters could not be stored, by the ids of their deliveries, which wait for that."""
        self._unanswered: NotConnectedError | None = None
        """What was told of those that wait, until none does."""
        self._put_off: dict[Hashable, int] = {}
        """Failures of what was given back for a while: it may come again."""
        self._logged: BaseException | None = None
        """What was logged last: its traceback grows each time that the same one is raised."""

    @property
    def error(self) -> Exception | None:
        """What keeps messages that fail from leaving."""
        trouble = next(iter(list(self._troubles.values())), None)  # without the lock: a status waits for nobody
        return self.guard.error or trouble or self._unanswered

    def look(self, now: float) -> None:
        """Tell why dead letters wait, once until none waits any more."""
        with self._lock:
            letter = next(iter(self._waiting.values()), None)
        if letter is None:
            self._unanswered = None
        elif self._unanswered is None:
            is_late = now - letter.since >= UNANSWERED_FOR
            cause = letter.why() or (f"no answer for {UNANSWERED_FOR:g} s" if is_late else "")
            if cause:
                error = NotConnectedError(f"dead letters wait, and their messages with them: {cause}")
                self._unanswered = error
                logger.error("%r: %s", self._sub, error)
                self._tell("subscription", error)

    def pause_after(self, failures: int) -> float:
        """Seconds until the next try of anything about a message that has failed so often."""
        return self._retries.pause_after(failures)

    def succeeded(self, count: int) -> None:
        """So many were handled."""
        if self.guard.succeeded(count):
            logger.warning("%r: a message was handled; dead letters leave again", self._sub)

    def failed(self, delivery: Delivery, error: BaseException, tries: Tries, quiet: bool = False) -> Verdict:
        """A handler has failed; what is to become of the message. quiet: that error has been told of another one."""
        held = self.guard.error
        if tries.place is None:
            tries.place = self.guard.place
        failures = tries.failures + 1 + self._put_off.get(delivery.identity, 0)
        verdict = self._retries.judge(error, failures, tries.place)
        with self._lock:
            if verdict.next is Next.BACK:
                self._put_off[delivery.identity] = failures - 1
                if len(self._put_off) > 2 * REMEMBERED:
                    self._put_off = newest(self._put_off, REMEMBERED)
            self.failures += 1
            self.retried += verdict.next in (Next.AGAIN, Next.BACK)
            self.dropped += verdict.next is Next.DROP
        then = _THEN[verdict.next].format(pause=verdict.pause)
        if isinstance(error, RetryLater):
            logger.info("handler of %r on %r: %s; %s", self._sub, delivery, error, then)
            return verdict
        if quiet:
            return verdict
        known, self._logged = self._logged is error, error
        logger.warning("handler of %r failed on %r; %s", self._sub, delivery, then, exc_info=None if known else error)
        self._tell("handler", error, delivery)
        if self.guard.error is not None and held is None:
            logger.error("%r: %s", self._sub, self.guard.error)
            self._tell("subscription", self.guard.error)
        return verdict

    def leave(self, delivery: Delivery, error: BaseException, attempts: int, answered: Answered) -> None:
        """Have it stored as a dead letter; never blocks."""
        assert self._dead_letters is not None

        letter = _Letter()
        with self._lock:
            self._waiting[id(delivery)] = letter
            bare = isinstance(self._troubles.get(id(delivery)), PublishRejectedError)

        def told(trouble: Exception | None) -> None:
            self._note(delivery, letter, trouble)
            answered(trouble)

        try:
            letter.why = self._dead_letters.send(delivery, error, attempts, told, bare=bare)
        except Exception as trouble:  # whatever stands in another program's message, or in a user's error
            told(trouble)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """These are not ours any more: what kept their dead letters is over."""
        if self._troubles or self._waiting:
            with self._lock:
                for one in deliveries:
                    self._troubles.pop(id(one), None)
                    self._waiting.pop(id(one), None)

    def overdue(self, delivery: Delivery, seconds: float, stack: str) -> None:
        """A handler runs for longer than it may."""
        error = HandlerTimeoutError(f"the handler of {self._sub!r} runs for {seconds:.1f} s on {delivery!r}:\n{stack}")
        logger.error("%s", error)
        self._tell("handler", error, delivery)

    def _note(self, delivery: Delivery, letter: _Letter, trouble: Exception | None) -> None:
        """Count a dead letter that is stored; show one that is not, and tell it once for each text."""
        with self._lock:
            self.stored += trouble is None
            if self._waiting.get(id(delivery)) is not letter:
                return  # its message was given up meanwhile: nothing waits here, and nobody would ever take it back
            del self._waiting[id(delivery)]
            known = list(self._troubles.values())
            if trouble is None:
                self._troubles.pop(id(delivery), None)
                return
            self._troubles[id(delivery)] = trouble
        if str(trouble) not in map(str, known):
            # Any other is a bug, ours or a user's: with its traceback.
            cause = None if isinstance(trouble, EventBusError) else trouble
            text = "%r: the dead letter of %r is not stored, and tried again: %s"
            logger.error(text, self._sub, delivery, trouble, exc_info=cause)
            self._tell("subscription", trouble, delivery)

    def _tell(self, source: str, error: BaseException, message: Delivery | None = None) -> None:
        topic = self._sub.topic if message is None else message.topic
        self._report(ErrorEvent(source=source, error=error, topic=topic, message=message))
