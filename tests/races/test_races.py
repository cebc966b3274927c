"""Every interleaving of the small concurrent parts; and broken twins of them, in which the races must be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from race_explorer import UNTIL_FOUND, explore

from eventbus import Subscription, SubscriptionState
from eventbus.config import EventBusConfig
from eventbus.consuming.acknowledgements import Acknowledgements
from eventbus.consuming.attachment import Attachment
from eventbus.consuming.budget import Budget
from eventbus.consuming.consumption import Consumption, Surroundings
from eventbus.consuming.in_hand import Admitted, InHandByIdentity
from eventbus.consuming.subscription_map import SubscriptionMap
from eventbus.message import Delivery
from eventbus.publishing.pending import Pending
from eventbus.publishing.records import Record, SyncWaiter, number_of
from eventbus.recovery.phases import Phases
from eventbus.recovery.supervisor import Supervisor
from eventbus.state import Phase
from eventbus.threads import StopToken


def finds_a_race(setup: Callable[[], object], *workers: Callable, invariant: Callable[..., bool]) -> None:
    """The broken twin is seen: the exploration of the real thing could have failed."""
    with pytest.raises(AssertionError, match=r"Race condition|illegal move"):
        explore(setup, *workers, invariant=invariant, seconds=UNTIL_FOUND)


# -- the subscription map ------------------------------------------------------------------------


class Session:
    """Notes what it delivers."""

    def __init__(self) -> None:
        self.attached: list[object] = []

    def attach(self, attachments: Sequence[Attachment]) -> None:
        self.attached += [one.sub for one in attachments]

    def detach(self, attachment: Attachment) -> None:
        if attachment.sub in self.attached:
            self.attached.remove(attachment.sub)


AROUND = Surroundings(
    owner=None,
    bus="test",
    replays=True,
    report=lambda event: None,
    acknowledgements=Acknowledgements("eventbus.test.acknowledgements"),
    prefetch=10,
    prefetch_bytes=10,
    budget=Budget(10),
)


class Subscribed:
    """A map with one subscription and a new session for it."""

    def __init__(self, kind: type[SubscriptionMap] = SubscriptionMap) -> None:
        self.map = kind()
        self.sub = Subscription("t", group="g", concurrency=1, start="earliest")
        self.consumption = Consumption(self.sub, print, InHandByIdentity(), AROUND)
        self.map.add(self.consumption)
        self.old, self.session = Session(), Session()
        self.map.attach(self.old, self.map.unattached(self.old))
        self.waiting = self.map.unattached(self.session)

    def restore(self) -> None:
        self.map.attach(self.session, self.waiting)

    def restore_and_serve(self) -> None:
        self.restore()
        self.map.served(self.waiting)

    def remove(self) -> None:
        attachment = self.map.remove(self.sub)
        if attachment is not None:
            attachment.session.detach(attachment)

    @property
    def session_of_now(self) -> object:
        attachment = self.consumption.attachment
        return None if attachment is None else attachment.session

    def lose_old(self) -> None:
        self.map.lose(self.old)


class CarelessMap(SubscriptionMap):
    """Looks without the lock, then attaches."""

    def attach(self, session, attachments) -> None:
        for one in attachments:
            made = self._consumptions.get(one.sub)
            if made is not None and not made.is_attached_to(session):
                session.attach([one])
                made.attachment, one.attached = one, True
                one.sub.state = SubscriptionState.ACTIVE


def is_removed(made: Subscribed) -> bool:
    return made.session.attached == [] and made.sub.state is SubscriptionState.CLOSED


def test_restored_while_it_is_unsubscribed_it_stays_away() -> None:
    explore(Subscribed, Subscribed.restore, Subscribed.remove, invariant=is_removed)
    finds_a_race(lambda: Subscribed(CarelessMap), Subscribed.restore, Subscribed.remove, invariant=is_removed)


def test_restored_by_two_at_once_it_is_delivered_once() -> None:
    def is_once(made: Subscribed) -> bool:
        return made.session.attached == [made.sub] and made.session_of_now is made.session

    explore(Subscribed, Subscribed.restore, Subscribed.restore, invariant=is_once)
    finds_a_race(lambda: Subscribed(CarelessMap), Subscribed.restore, Subscribed.restore, invariant=is_once)


def test_the_loss_of_the_old_session_does_not_undo_the_new_one() -> None:
    explore(
        Subscribed,
        Subscribed.restore_and_serve,
        Subscribed.lose_old,
        invariant=lambda made: made.session_of_now is made.session and made.sub.state is SubscriptionState.ACTIVE,
    )


# -- publishing ----------------------------------------------------------------------------------


class Sink:
    """Takes records until it is retired."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.retired = False

    @property
    def publisher(self) -> Sink:
        return self

    def publish(self, records: Sequence[Record]) -> int:
        if self.retired:
            return 0
        self.taken += map(number_of, records)
        return len(records)

    def abandon(self, patience: float = 0.0) -> None:
        self.retired = True


class Publishing:
    """A pending with a session, about to be replaced. Whoever works the sender does it by hand."""

    def __init__(self) -> None:
        self.pending = Pending(100, 1000, lambda record, error: None)
        self.old, self.new = Sink(), Sink()
        self.pending.swap(self.old)
        self.waiter = SyncWaiter(1)
        self.outcome = False

    def publish(self) -> None:
        self.pending.accept((self.waiter.number, "t", b"x", None, self.waiter), 0.0)

    def work(self) -> None:
        self.pending.sender.work()

    def withdraw(self) -> None:
        self.outcome = self.pending.withdraw(self.waiter, self.waiter.number)

    def sleep_and_work(self) -> None:
        """As the sender's thread does, which sleeps for ever if nobody wakes it."""
        self.pending.inbox.wait(5.0)
        self.pending.sender.work()


class ForgetfulWaiter(SyncWaiter):
    """Looks whether it is free, and takes it afterwards."""

    def claim(self, number: int = 0) -> bool:
        free = bool(self._free)
        self._free = []
        return free


def test_what_is_published_as_the_sender_falls_asleep_is_sent() -> None:
    def is_sent(made: Publishing) -> bool:
        return made.old.taken == [1] or not made.pending.inbox.idle

    explore(Publishing, Publishing.publish, Publishing.sleep_and_work, invariant=is_sent)


def test_what_is_taken_back_is_not_sent_and_what_is_sent_is_not_taken_back() -> None:
    class Published(Publishing):
        def __init__(self, waiter: type[SyncWaiter] = SyncWaiter) -> None:
            super().__init__()
            self.waiter = waiter(1)
            self.publish()

    def is_one_of_both(made: Publishing) -> bool:
        return made.outcome == (made.old.taken == [])

    explore(Published, Publishing.withdraw, Publishing.work, invariant=is_one_of_both)
    finds_a_race(lambda: Published(ForgetfulWaiter), Publishing.withdraw, Publishing.work, invariant=is_one_of_both)


# -- what is in hand -----------------------------------------------------------------------------


class CarelessHand(InHandByIdentity):
    """Looks at both books one after the other, without the lock."""

    def admit(self, batch, lease):
        fresh, again = [], []
        for delivery in batch:
            if delivery.identity in self._held:
                self._held[delivery.identity] = delivery
            elif delivery.identity in self._finished:
                again.append(delivery)
            else:
                self._held[delivery.identity] = delivery
                fresh.append(delivery)
        return Admitted(fresh, again)


class Hand:
    """One delivery in hand; the broker delivers it again as it is finished."""

    def __init__(self, kind: type[InHandByIdentity] = InHandByIdentity) -> None:
        self.hand = kind()
        self.first, self.second = self._delivery("first"), self._delivery("second")
        self.hand.admit([self.first], self.hand.lease)
        self.acknowledged: list[str] = []
        self.started: list[str] = []

    @staticmethod
    def _delivery(token: str) -> Delivery:
        made = Delivery("t", b"")
        made.identity, made.token = 1, token
        return made

    def finish(self) -> None:
        self.acknowledged += [one.token for one in self.hand.finish([self.first])]

    def redeliver(self) -> None:
        admitted = self.hand.admit([self.second], self.hand.lease)
        self.started += [one.token for one in admitted.fresh]
        self.acknowledged += [one.token for one in admitted.finished]


def test_a_redelivery_that_meets_the_finish_is_acknowledged_and_not_started() -> None:
    def is_done(made: Hand) -> bool:
        return made.started == [] and "second" in made.acknowledged and len(made.hand) == 0

    explore(Hand, Hand.finish, Hand.redeliver, invariant=is_done)
    finds_a_race(lambda: Hand(CarelessHand), Hand.finish, Hand.redeliver, invariant=is_done)


# -- stop tokens ---------------------------------------------------------------------------------


class CarelessToken(StopToken):
    """Looks before it registers."""

    def child(self) -> StopToken:
        token, late = StopToken(), self._is_set
        self._callbacks[token] = token.set
        if late:
            token.set()
        return token


class Stopping:
    """A token, and what comes of it."""

    def __init__(self, kind: type[StopToken] = StopToken) -> None:
        self.token = kind()
        self.child: StopToken | None = None
        self.called = 0
        self.was_set_inside = False

    def stop(self) -> None:
        self.token.set()

    def have_a_child(self) -> None:
        self.child = self.token.child()

    def be_interrupted(self) -> None:
        with self.token.interrupts(self._call):
            self.was_set_inside = self.token.is_set()

    def _call(self) -> None:
        self.called += 1


def has_stopped_child(made: Stopping) -> bool:
    return made.child is not None and made.child.is_set()


def test_a_child_born_during_the_stop_is_stopped() -> None:
    explore(Stopping, Stopping.stop, Stopping.have_a_child, invariant=has_stopped_child)
    finds_a_race(lambda: Stopping(CarelessToken), Stopping.stop, Stopping.have_a_child, invariant=has_stopped_child)


def test_a_stop_within_the_block_always_interrupts() -> None:
    explore(
        Stopping,
        Stopping.stop,
        Stopping.be_interrupted,
        invariant=lambda made: made.called >= made.was_set_inside and made.called <= 2,
    )


def test_two_stops_call_each_callback_between_them() -> None:
    """Once or twice: a lock to make it once would be one that a signal handler may meet."""

    def setup() -> Stopping:
        made = Stopping()
        made.token._callbacks["x"] = made._call
        return made

    explore(setup, Stopping.stop, Stopping.stop, invariant=lambda made: made.called in (1, 2))


# -- stop against reconnect ----------------------------------------------------------------------


class Episode:
    """A supervisor that lost its session; an episode of one attempt. It is its own backend."""

    features = SimpleNamespace(heals_itself=False)

    def __init__(self, kind: type[Supervisor] = Supervisor) -> None:
        quiet = dict.fromkeys(("moved", "reconnected", "report"), lambda self, event: None)
        callbacks = type("Quiet", (), quiet)()
        pending = Pending(10, 1000, lambda record, error: None)
        self.supervisor = kind(EventBusConfig(), self, SubscriptionMap(), pending, callbacks, print, print, print)  # type: ignore[arg-type]
        self.supervisor._run_episode = self._run_episode  # type: ignore[method-assign]
        for phase in (Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING):
            self.supervisor.phases.move(phase)
        self.connected: bool | None = None

    def _run_episode(self, cause: BaseException, stop: StopToken) -> bool:
        """As the real one ends: with a move."""
        if stop.is_set():
            self.supervisor.phases.move(Phase.DISCONNECTED)
            return False
        return self.supervisor.phases.move(Phase.CONNECTED, reconnected=True)

    def reconnect(self) -> None:
        self.connected = self.supervisor.reconnect(OSError("lost"), StopToken())

    def abort(self) -> None:
        """As a health check that ends, or a session that reports its loss."""
        self.supervisor.abort(OSError("stopped"))

    def close(self) -> None:
        self.supervisor.phases.move(Phase.CLOSED)


class CarelessSupervisor(Supervisor):
    """Aborts whatever runs."""

    def abort(self, cause: BaseException) -> None:
        self.phases.move(Phase.DISCONNECTED, cause, only_from=Phase.RECONNECTING)


def ends_well(made: Episode) -> bool:
    supervisor = made.supervisor
    return made.connected is True and supervisor.phases.phase is Phase.CONNECTED and not supervisor.in_episode


def test_an_abort_does_not_pull_the_phase_from_under_an_episode() -> None:
    explore(Episode, Episode.reconnect, Episode.abort, invariant=ends_well)
    finds_a_race(lambda: Episode(CarelessSupervisor), Episode.reconnect, Episode.abort, invariant=ends_well)


def test_two_reconnects_are_one_episode() -> None:
    explore(
        Episode,
        Episode.reconnect,
        Episode.reconnect,
        invariant=lambda made: (
            made.supervisor.phases.connection_state().reconnect_count in (1, 2)
            and made.supervisor.phases.phase is Phase.CONNECTED
            and not made.supervisor.in_episode  # the turn is free for the next one
        ),
    )


def test_a_close_is_final_whenever_it_comes() -> None:
    explore(
        Episode,
        Episode.reconnect,
        Episode.close,
        invariant=lambda made: made.supervisor.phases.phase is Phase.CLOSED,
    )


def test_waiting_for_connected_sees_it_whenever_it_comes() -> None:
    class Waiting:
        def __init__(self) -> None:
            self.phases = Phases("test", lambda state: None)
            self.phases.move(Phase.CONNECTING)
            self.saw: bool | None = None

        def wait(self) -> None:
            self.saw = self.phases.wait_connected(5.0)

        def connect(self) -> None:
            self.phases.move(Phase.CONNECTED)

    explore(Waiting, Waiting.wait, Waiting.connect, invariant=lambda made: made.saw is True, clock="virtual")
