"""Every interleaving of the small concurrent parts; and broken twins of them, in which the races must be found."""

from __future__ import annotations

import threading
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
from eventbus.errors import ClosedError, SessionRetired
from eventbus.message import Delivery
from eventbus.publishing.pending import Pending
from eventbus.publishing.records import Record
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
        Subscribed.restore,
        Subscribed.lose_old,
        invariant=lambda made: made.session_of_now is made.session and made.sub.state is SubscriptionState.ACTIVE,
    )


# -- publisher against swap ----------------------------------------------------------------------


class Sink:
    """Takes records until it is retired."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken: list[Record] = []
        self.retired = False

    @property
    def unanswered_bytes(self) -> int:
        return 0

    def publish(self, record: Record) -> None:
        with self.lock:
            if self.retired:
                raise SessionRetired
            self.taken.append(record)

    def unanswered(self, up_to: int) -> int:
        return len(self.taken)

    def abandon(self, patience: float = 0.0) -> list[Record]:
        with self.lock:
            self.retired = True
            taken, self.taken = self.taken, []
            return taken


class CarelessPending(Pending):
    """Parks without another look at the session."""

    def place(self, record: Record) -> None:
        session = self.session
        try:
            if session is not None:
                session.publish(record)
                return
        except SessionRetired:
            pass
        with self._lock:
            self._parked.append(record)


class Publishing:
    """A pending with a session, about to be replaced."""

    def __init__(self, kind: type[Pending] = Pending) -> None:
        self.pending = kind(100, 1000, lambda record, error: None)
        self.old, self.new = Sink(), Sink()
        self.pending.swap(self.old)
        self.failed = 0
        self.refused = 0

    def publish(self, count: int = 2) -> None:
        for _ in range(count):
            record = Record(self.pending.next_number(), "t", b"x", None, None, None, None)
            try:
                self.pending.submit(record, 0.0)
            except ClosedError:
                self.refused += 1

    def replace(self) -> None:
        self.pending.retire(self.old)
        self.pending.swap(self.new)

    def close(self) -> None:
        self.failed = self.pending.fail_all(self.old.abandon(), ClosedError)

    @property
    def numbers(self) -> list[int]:
        return [record.number for record in self.new.taken]


def test_a_publisher_overtaken_by_a_swap_loses_and_doubles_nothing() -> None:
    def is_complete(made: Publishing) -> bool:
        return made.numbers == [1, 2] and not made.old.taken and made.pending.parked == 0

    explore(Publishing, Publishing.publish, Publishing.replace, invariant=is_complete)
    finds_a_race(lambda: Publishing(CarelessPending), Publishing.publish, Publishing.replace, invariant=is_complete)


def test_two_publishers_and_a_swap() -> None:
    def one(made: Publishing) -> None:
        made.publish(1)

    explore(
        Publishing,
        one,
        one,
        Publishing.replace,
        invariant=lambda made: sorted(made.numbers) == [1, 2] and made.pending.parked == 0,
        preemptions=1,
    )


def test_a_publisher_that_meets_the_close_is_answered_or_refused() -> None:
    explore(
        Publishing,
        Publishing.publish,
        Publishing.close,
        invariant=lambda made: made.failed + made.refused == 2 and not made.pending.parked and not made.old.taken,
    )


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
        token, late = StopToken(), self._event.is_set()
        with self._lock:
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


def test_two_stops_call_each_callback_once_between_them() -> None:
    def setup() -> Stopping:
        made = Stopping()
        made.token._callbacks["x"] = made._call
        return made

    explore(setup, Stopping.stop, Stopping.stop, invariant=lambda made: made.called == 1)


# -- stop against reconnect ----------------------------------------------------------------------


class Episode:
    """A supervisor that lost its session; an episode of one attempt. It is its own backend."""

    features = SimpleNamespace(heals_itself=False)

    def __init__(self, kind: type[Supervisor] = Supervisor) -> None:
        callbacks = type("Quiet", (), {"moved": lambda self, state: None, "reconnected": lambda self, event: None})()
        pending = Pending(10, 1000, lambda record, error: None)
        self.supervisor = kind(EventBusConfig(), self, SubscriptionMap(), pending, callbacks)  # type: ignore[arg-type]
        self.supervisor._run_episode = self._run_episode  # type: ignore[method-assign]
        for phase in (Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING):
            self.supervisor.phases.move(phase)
        self.connected: bool | None = None

    def _run_episode(self, cause: BaseException, stop: StopToken, force: bool) -> bool:
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
    return made.connected is True and made.supervisor.phases.phase is Phase.CONNECTED


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
