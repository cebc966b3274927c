"""All consumptions of a bus: made, found, counted and ended together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import asdict, frozen

from .. import log
from ..config import EventBusConfig, names_of
from ..errors import SubscribeError, UnsupportedError
from ..features import Features
from ..middleware import Middleware, takes_batches
from ..state import ErrorEvent
from ..threads import Deadline
from . import handling
from .acknowledgements import Acknowledgements
from .arguments import Arguments, Checked
from .budget import Budget
from .consumption import Consumption, Surroundings
from .dead_letters import DeadLetters, Letterbox, comes_back
from .failing import Plan
from .in_hand import InHand
from .subscription_map import SubscriptionMap
from .subscriptions import BROADCAST, Subscription, SubscriptionState

logger = log.get(__name__)

_STARTS = 0.5
"""Part of the time to finish in that handlers are still started; those that run have the rest of it, too."""
_LAST_LOOK = 0.5
"""Seconds that an acknowledgement on its way has at least."""


@frozen(kw_only=True)
class Counts:
    """Sums over all subscriptions, those that have ended included."""

    delivered: int = 0
    handled: int = 0
    failed: int = 0
    retried: int = 0
    duplicates: int = 0
    dropped: int = 0
    dead_lettered: int = 0


class Consumers:
    """The subscriptions of a bus and what works on each. All methods are thread-safe.

    features: of the backend. new_in_hand(ordered): its record for one subscription. report(event): something went wrong
    outside of any call. letterbox: where dead letters are published; None: there are none.
    """

    def __init__(
        self,
        config: EventBusConfig,
        features: Features,
        new_in_hand: Callable[[bool], InHand],
        report: Callable[[ErrorEvent], object],
        letterbox: Letterbox | None = None,
        middleware: Middleware | None = None,
    ) -> None:
        self._config, self._letterbox = config, letterbox
        self.subscriptions = SubscriptionMap()
        self._bus, self._default_group = config.name, config.group
        self._names = names_of(config.backend)
        self._new_in_hand = new_in_hand
        self._features = features
        self._acknowledgements = Acknowledgements(f"eventbus.{config.name}.acknowledgements")
        self._around = Surroundings(
            owner=self,
            bus=config.name,
            replays=features.replays,
            report=report,
            acknowledgements=self._acknowledgements,
            prefetch=config.prefetch,
            prefetch_bytes=config.prefetch_bytes,
            budget=Budget(config.max_prefetch_bytes, lambda: len(self.subscriptions)),
            takes_back=features.takes_back,
            durable=features.durable,
            middleware=middleware or Middleware(),
        )
        self._given: dict[Subscription, Arguments] = {}
        self._bus_of_mine = object()
        """Owns the subscriptions, in this process and in those that it forks."""
        self._past: tuple[Counts, tuple[Consumption, ...]] = (Counts(), ())
        """Of what was unsubscribed: the sums, and those that may still have a handler at work, not in the sums.

        One attribute, replaced as a whole: it is looked at without a lock.
        """

    def add(self, given: Arguments, unwanted: Callable[[], bool] = lambda: False) -> Subscription:
        """Keep a subscription made from what a user passed; SubscribeError says what is wrong with it.

        UnsupportedError: this broker cannot keep the order.

        unwanted(): whether its caller has left before it was there; then it stands in nobody's way.
        """
        try:
            pattern = self._names.pattern(given.topic)
            checked = given.check()
            group = self._group_name(pattern, given.group)
            plan = self._plan(pattern, group, given.dead_letter, checked)
        except ValueError as error:
            raise SubscribeError(str(error)) from error
        if checked.batch is not None:
            for middleware in self._around.middleware.without_batches:
                raise UnsupportedError(
                    f"{pattern}: {middleware!r} is in use, which takes no batches: subscribe without batch="
                )
        if isinstance(checked.start, datetime) and not self._features.replays:
            raise UnsupportedError("start: no messages are kept here, so none can be had from a time on")
        if checked.ordered and not self._features.ordered_groups:
            raise UnsupportedError(
                f"{pattern}: ordered=True needs a broker that stores messages, and this one does not"
            )
        if group is not None and given.dead_letter is ... and plan.dead_letters is None:
            logger.info("%s: %s has no dead letters: they would come back to it", self._bus, pattern)
        sub = Subscription(
            pattern,
            group=group,
            concurrency=checked.concurrency,
            start=checked.start,
            ordered=checked.ordered,
            in_children=checked.in_children,
            owner=self._bus_of_mine,
        )
        in_hand = self._new_in_hand(checked.ordered)
        self._keep(Consumption(sub, checked.handler, in_hand, self._around, unwanted, plan), given)
        return sub

    def check_middleware(self, consume: object) -> None:
        """UnsupportedError where consume middleware is for single messages only, and a handler gets batches."""
        if takes_batches(consume):
            return
        for sub, given in list(self._given.items()):
            if given.batch is not None:
                raise UnsupportedError(f"{consume!r} takes no batches, and {sub.topic} is subscribed with batch=")

    def inherit(self, parents: Consumers, is_wanted: Callable[[Subscription], bool]) -> None:
        """In a forked child, before anything runs: take over those of the parent's subscriptions that are wanted.

        They stay what their users hold; the others stay CLOSED, with the cause.
        """
        self._bus_of_mine = parents._bus_of_mine
        for consumption in parents.subscriptions.consumptions():
            sub = consumption.sub
            given = parents._given.get(sub)
            if given is None or consumption.is_unwanted() or not is_wanted(sub):
                continue
            checked, paused = given.check(), consumption.paused
            plan = self._plan(sub.topic, sub.group, given.dead_letter, checked)
            sub.state, sub.error = SubscriptionState.PENDING, None
            mine = Consumption(sub, checked.handler, self._new_in_hand(sub.ordered), self._around, plan=plan)
            self._given[sub] = given
            self.subscriptions.add(mine)
            if paused:
                mine.pause()

    def remove(self, sub: Subscription, timeout: float, *, from_handler: bool = False) -> tuple[str, ...]:
        """End a subscription: no more deliveries, then its lanes; up to `timeout` seconds.

        What no handler was started for goes to others, or is handled still where nobody else would get it.

        Names the lanes that are still in a handler then. From a handler of this bus it waits for no lane: that one's
        handler may be waiting for this one's.
        """
        deadline = Deadline(timeout)
        with self.subscriptions.lock:
            consumption = self.subscriptions.consumption(sub)
            if consumption is not None:
                self._note_past(consumption)  # first: whoever counts meanwhile meets it in both places, or in one
            attachment = self.subscriptions.remove(sub)
        self._given.pop(sub, None)
        if attachment is not None:
            attachment.session.detach(attachment, deadline.remaining() / 2)
        if consumption is None:
            return ()
        return consumption.end(0.0 if from_handler else deadline.remaining())

    def finish(self, timeout: float) -> tuple[str, ...]:
        """Handle what is in the lanes, then start nothing more; names the lanes still at work.

        Of what somebody gets again handlers are started for half of the time only: who runs then is not cut off.
        Those of ended subscriptions are waited for, too. From now on every subscription is CLOSED.
        """
        deadline = Deadline(timeout)
        consumptions = self._all()
        for consumption in consumptions:
            consumption.begin_finish()
        starts = Deadline(timeout * _STARTS)
        for consumption in sorted(consumptions, key=lambda one: not one.is_given_again):
            consumption.finish((starts if consumption.is_given_again else deadline).remaining())
            consumption.start_no_more()
        unfinished: list[str] = []
        for consumption in consumptions:
            unfinished.extend(consumption.stop(deadline.remaining()))
            consumption.flush()
        self.subscriptions.close()
        unfinished.extend(self._acknowledgements.close(max(_LAST_LOOK, deadline.remaining())))
        return tuple(unfinished)

    def counts(self) -> Counts:
        """The sums, now. Takes no lock: any thread, a signal handler's included, may ask."""
        while True:
            past = self._past
            total = past[0]
            for consumption in dict.fromkeys([*self.subscriptions.consumptions(), *past[1]]):
                total = self._plus(total, consumption)
            if past is self._past:  # else one may have been counted twice, or not at all
                return total

    @property
    def unhandled(self) -> int:
        """Deliveries in hand, now."""
        return sum(consumption.unhandled for consumption in self._all())

    @property
    def handed_over(self) -> int:
        """Of these, those that no handler was started for, and that the broker gives to others."""
        return sum(consumption.handed_over for consumption in self._all())

    @property
    def at_work(self) -> tuple[str, ...]:
        """Names of the lanes that have something in hand. Takes no lock."""
        return tuple(name for consumption in self._all() for name in consumption.at_work)

    def not_served(self) -> tuple[str, ...]:
        """The subscriptions that get nothing now, each with its reason. Takes no lock."""
        found = [(one.sub, one.reason_for_nothing) for one in self.subscriptions.consumptions()]
        return tuple(f"{sub.topic}: {why.removeprefix(f'{sub.topic}: ')}" for sub, why in found if why)

    def knows(self, sub: Subscription) -> bool:
        """Whether it is one of these subscriptions, ended or not."""
        return sub._owner is self._bus_of_mine

    def is_handling(self) -> bool:
        """Whether the calling thread runs a handler of this bus."""
        return handling.is_handler_of(self)

    def forked(self, error: Exception) -> None:
        """This is a forked child's copy: nothing is delivered here. Takes no lock."""
        for sub in self.subscriptions:
            sub.state, sub.error = SubscriptionState.CLOSED, error
            sub._forget_work()

    def _group_name(self, topic: str, group: object) -> str | None:
        if group is BROADCAST:
            return None
        if group is not None:
            return self._names.group(group)
        if self._default_group is None:
            logger.info("%s: %s has no group: this process gets its own copy, from now on", self._bus, topic)
        return self._default_group

    def _plan(self, pattern: str, group: str | None, dead_letter: object, checked: Checked) -> Plan:
        """What is to become of messages that fail; ValueError."""
        config, timeout = self._config, checked.handler_timeout
        return Plan(
            retry=checked.retry or config.retry,
            guard=config.guard,
            dead_letters=self._dead_letters(pattern, group, dead_letter),
            handler_timeout=config.handler_timeout if timeout is None else timeout,
            batch=checked.batch,
        )

    def _dead_letters(self, pattern: str, group: str | None, given: object) -> DeadLetters | None:
        if given is None or self._letterbox is None:
            return None
        topic = None if given is ... else self._names.topic(given)
        if group is None:
            if topic is not None:
                raise ValueError("dead_letter: a broadcast copy has no dead letters; name a group, or leave it out")
            return None
        if comes_back(pattern, group, self._names, topic):
            if topic is not None:
                raise ValueError(f"dead_letter: {topic!r} would come back to the same handler by {pattern!r}")
            return None
        return DeadLetters(group, topic, self._names, self._letterbox)

    def _keep(self, new: Consumption, given: Arguments) -> None:
        self._given[new.sub] = given  # first: who finds the subscription finds this
        try:
            with self.subscriptions.lock:
                self._check_letters(new)
                self.subscriptions.add(new)
        except BaseException:
            del self._given[new.sub]
            raise

    def _check_letters(self, new: Consumption) -> None:
        """SubscribeError where the broker cannot have a topic for its dead letters beside that of another one's."""
        mine, told_apart_by = new.dead_letter_topic, self._names.told_apart_by
        for one in self.subscriptions.consumptions():
            other = one.dead_letter_topic
            if mine is None or other is None or mine == other or one.is_unwanted():
                continue
            if told_apart_by(mine) == told_apart_by(other):
                raise SubscribeError(
                    f"{new.sub.topic}: the broker makes no topic {mine!r} for its dead letters beside {other!r}, where "
                    f"those of {one.sub.topic!r} in group {one.sub.group!r} go: name another one with dead_letter="
                )

    def _note_past(self, consumption: Consumption) -> None:
        """Note one that was unsubscribed, and sum up those that have ended meanwhile. Under the map's lock."""
        total, ending = self._past
        still = [consumption]
        for one in ending:
            if one.is_idle:
                total = self._plus(total, one)
            else:
                still.append(one)
        self._past = total, tuple(still)

    def _all(self) -> list[Consumption]:
        return list(dict.fromkeys([*self.subscriptions.consumptions(), *self._past[1]]))

    @staticmethod
    def _plus(counts: Counts, consumption: Consumption) -> Counts:
        more = consumption.counts()
        return Counts(**{name: value + more[name] for name, value in asdict(counts).items()})
