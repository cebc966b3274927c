"""The subscription map: each exactly once on a session, through removal, failure and loss."""

from __future__ import annotations

import threading

import pytest
from fakes import FakeSession

from eventbus import BROADCAST, Subscription, SubscriptionState
from eventbus.consuming.subscriptions import SubscriptionMap
from eventbus.errors import SessionRetired


class Session(FakeSession):
    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]


def make(topic: str = "t", group: str | None = "g") -> Subscription:
    return Subscription(topic, print, group=group, concurrency=1, start="earliest")


def filled(count: int = 2) -> tuple[SubscriptionMap, list[Subscription]]:
    subs = [make(f"t{number}") for number in range(count)]
    made = SubscriptionMap()
    for sub in subs:
        made.add(sub)
    return made, subs


def attach(made: SubscriptionMap, session: Session, subs: list[Subscription]) -> None:
    made.attach(session, subs, lambda sub: lambda batch: True)


def test_attached_once_however_often_it_is_asked_for() -> None:
    made, subs = filled()
    session = Session()
    assert made.unattached(session) == subs
    for _ in range(3):
        attach(made, session, subs)
    assert session.attached == subs
    assert made.unattached(session) == []
    assert all(sub.state is SubscriptionState.ACTIVE and sub.session is session for sub in subs)


def test_one_that_was_removed_meanwhile_is_left_out() -> None:
    made, subs = filled()
    session = Session()
    assert made.remove(subs[0]) is None
    attach(made, session, subs)
    assert session.attached == [subs[1]]
    assert subs[0].state is SubscriptionState.CLOSED
    assert made.remove(subs[1]) is session
    assert made.remove(subs[1]) is None
    assert len(made) == 0


def test_a_session_that_ends_in_the_middle_leaves_the_rest_as_they_were() -> None:
    made, subs = filled(3)

    class Dies(Session):
        def attach(self, sub, deliver) -> None:
            super().attach(sub, deliver)
            self.retired = True

    session = Dies()
    with pytest.raises(SessionRetired):
        attach(made, session, subs)
    assert [sub.state for sub in subs] == [
        SubscriptionState.ACTIVE,
        SubscriptionState.PENDING,
        SubscriptionState.PENDING,
    ]
    made.lose(session)
    assert all(sub.state is SubscriptionState.PENDING and sub.session is None for sub in subs)


def test_a_failure_is_news_once_and_undone_by_attaching() -> None:
    made, (sub, other) = filled()
    session = Session()
    assert made.fail(sub, ValueError("no permission"))
    assert not made.fail(sub, ValueError("no permission"))
    assert made.fail(sub, ValueError("no stream"))
    assert (sub.state, str(sub.error), other.state) == (
        SubscriptionState.FAILED,
        "no stream",
        SubscriptionState.PENDING,
    )
    made.lose(session)
    assert sub.state is SubscriptionState.FAILED
    attach(made, session, [sub])
    assert (sub.state, sub.error) == (SubscriptionState.ACTIVE, None)
    made.remove(sub)
    assert not made.fail(sub, ValueError("late"))
    assert sub.state is SubscriptionState.CLOSED


def test_losing_another_session_changes_nothing() -> None:
    made, subs = filled()
    session = Session()
    attach(made, session, subs)
    made.lose(Session())
    assert all(sub.state is SubscriptionState.ACTIVE for sub in subs)


def test_iterating_is_a_snapshot() -> None:
    made, subs = filled()
    for sub in made:
        made.remove(sub)
    assert len(made) == 0
    assert len(subs) == 2


def test_the_lock_is_held_while_attaching() -> None:
    made, subs = filled(1)
    held: list[bool] = []

    class Looks(Session):
        def attach(self, sub, deliver) -> None:
            thread = threading.Thread(target=lambda: held.append(made.lock.acquire(timeout=0.02)))
            thread.start()
            thread.join()

    attach(made, Looks(), subs)
    assert held == [False]


def test_how_they_show_themselves() -> None:
    assert "'t' group 'g' pending" in repr(make())
    assert "broadcast" in repr(make(group=None))
    assert repr(BROADCAST) == "eventbus.BROADCAST"
