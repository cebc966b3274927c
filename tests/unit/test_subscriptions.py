"""The subscription map: each exactly once on a session, through removal, failure and loss."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from fakes import FakeSession, consumption

from eventbus import BROADCAST, SubscribeError, Subscription, SubscriptionState
from eventbus.consuming.attachment import Attachment
from eventbus.consuming.consumption import Consumption
from eventbus.consuming.subscription_map import SubscriptionMap
from eventbus.errors import SessionRetired


class Session(FakeSession):
    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]


def filled(count: int = 2) -> tuple[SubscriptionMap, list[Subscription]]:
    made = SubscriptionMap()
    for number in range(count):
        made.add(consumption(f"t{number}"))
    return made, list(made)


def subs_of(attachments: Sequence[Attachment]) -> list[Subscription]:
    return [one.sub for one in attachments]


def at_work(made: SubscriptionMap, sub: Subscription) -> Consumption:
    found = made.consumption(sub)
    assert found is not None
    return found


def session_of(made: SubscriptionMap, sub: Subscription) -> object:
    attachment = at_work(made, sub).attachment
    return None if attachment is None else attachment.session


def test_attached_once_however_often_it_is_asked_for() -> None:
    made, subs = filled()
    session = Session()
    waiting = made.unattached(session)
    assert subs_of(waiting) == subs
    for _ in range(3):
        made.attach(session, waiting)
    assert all(sub.state is SubscriptionState.PENDING for sub in subs)
    made.served(waiting)
    assert session.attached == subs
    assert made.unattached(session) == []
    assert all(sub.state is SubscriptionState.ACTIVE and session_of(made, sub) is session for sub in subs)


def test_asked_again_it_gives_the_same_attachments() -> None:
    made, (sub, _) = filled()
    session = Session()
    assert made.unattached(session) == made.unattached(session)
    assert made.attachment(sub, session) is made.unattached(session)[0]
    made.attach(session, made.unattached(session)[:1])
    assert made.attachment(sub, session) is None
    other = made.attachment(sub, Session())
    assert other is not None
    assert other.session is not session


def test_all_are_attached_in_one_call() -> None:
    calls: list[int] = []

    class Counts(Session):
        def attach(self, attachments: Sequence[Attachment]) -> None:
            calls.append(len(attachments))

    made, _ = filled(5)
    session = Counts()
    made.attach(session, made.unattached(session))
    assert calls == [5]


def test_an_attachment_is_noted_before_the_session_knows_of_it() -> None:
    """What the session delivers at once is acknowledged, and its resume is heard."""
    noted: list[bool] = []

    class Looks(Session):
        def attach(self, attachments: Sequence[Attachment]) -> None:
            noted.extend(at_work(made, one.sub).attachment is one for one in attachments)

    made, _ = filled(3)
    session = Looks()
    made.attach(session, made.unattached(session))
    assert noted == [True] * 3


def test_one_that_was_removed_meanwhile_is_left_out() -> None:
    made, subs = filled()
    session = Session()
    waiting = made.unattached(session)
    assert made.remove(subs[0]) is None
    made.attach(session, waiting)
    made.served(waiting)
    assert session.attached == [subs[1]]
    assert subs[0].state is SubscriptionState.CLOSED
    assert made.remove(subs[1]) is waiting[1]
    assert made.remove(subs[1]) is None
    assert len(made) == 0


def test_a_session_that_has_ended_leaves_all_of_them_waiting() -> None:
    made, subs = filled(3)
    session = Session()
    session.retired = True
    with pytest.raises(SessionRetired):
        made.attach(session, made.unattached(session))
    made.lose(session)
    assert all(sub.state is SubscriptionState.PENDING and session_of(made, sub) is None for sub in subs)
    assert subs_of(made.unattached(session)) == subs


def test_a_failure_is_news_once_and_undone_by_attaching() -> None:
    made, (sub, other) = filled()
    session = Session()
    assert made.fail(sub, ValueError("no permission"))
    assert not made.fail(sub, ValueError("no permission"))
    assert not made.fail(sub, ValueError("no stream")), "it waits for the same, whatever it is called now"
    assert (sub.state, str(sub.error), other.state) == (
        SubscriptionState.FAILED,
        "no stream",
        SubscriptionState.PENDING,
    )
    made.lose(session)
    assert sub.state is SubscriptionState.FAILED
    waiting = made.unattached(session)[:1]
    made.attach(session, waiting)
    assert sub.state is SubscriptionState.FAILED, "until the broker has said something else"
    made.served(waiting)
    assert (sub.state, sub.error) == (SubscriptionState.ACTIVE, None)
    made.remove(sub)
    assert not made.fail(sub, ValueError("late"))
    assert sub.state is SubscriptionState.CLOSED


def test_what_is_refused_after_it_was_attached_is_failed_and_waits_for_another_try() -> None:
    made, (sub, other) = filled()
    session = Session()
    waiting = made.unattached(session)
    made.attach(session, waiting)
    made.served(waiting)
    assert made.refused(waiting[0], ValueError("taken away"))
    assert not made.refused(waiting[0], ValueError("taken away")), "told once"
    assert (sub.state, str(sub.error), other.state) == (
        SubscriptionState.FAILED,
        "taken away",
        SubscriptionState.ACTIVE,
    )
    assert session_of(made, sub) is session, "what its handler finishes is still acknowledged"
    assert subs_of(made.unattached(session)) == [sub]
    made.served(waiting)  # said before, heard after
    assert sub.state is SubscriptionState.FAILED
    made.attach(session, made.unattached(session))
    assert not made.refused(waiting[0], ValueError("taken away")), "still no news"
    made.attach(session, made.unattached(session))
    made.served(waiting, SubscriptionState.PENDING)
    assert not made.refused(waiting[0], ValueError("taken away")), "it was on its way, and no further"
    made.attach(session, made.unattached(session))
    made.served(waiting)
    assert made.refused(waiting[0], ValueError("taken away")), "it was given back meanwhile"


def test_what_a_session_of_before_says_is_not_heard() -> None:
    made, (sub, _) = filled()
    before, now = Session(), Session()
    old, new = made.unattached(before), made.unattached(now)
    made.attach(before, old)
    made.attach(now, new)
    made.served(old)
    assert sub.state is SubscriptionState.PENDING
    made.served(new)
    assert not made.refused(old[0], ValueError("late"))
    assert sub.state is SubscriptionState.ACTIVE


def test_losing_another_session_changes_nothing() -> None:
    made, subs = filled()
    session = Session()
    waiting = made.unattached(session)
    made.attach(session, waiting)
    made.served(waiting)
    made.lose(Session())
    assert all(sub.state is SubscriptionState.ACTIVE for sub in subs)


def test_a_second_one_of_the_same_topic_and_group_is_refused() -> None:
    made = SubscriptionMap()
    made.add(consumption("t", "g"))
    with pytest.raises(SubscribeError, match="raise concurrency"):
        made.add(consumption("t", "g"))
    made.add(consumption("t", "h"))
    made.add(consumption("u", "g"))
    for _ in range(2):
        made.add(consumption("t", None))  # each copy gets everything
    made.remove(next(iter(made)))
    made.add(consumption("t", "g"))


def test_iterating_is_a_snapshot() -> None:
    made, subs = filled()
    for sub in made:
        made.remove(sub)
    assert len(made) == 0
    assert len(subs) == 2


def test_the_lock_is_held_while_attaching() -> None:
    made, _ = filled(1)
    held: list[bool] = []

    class Looks(Session):
        def attach(self, attachments: Sequence[Attachment]) -> None:
            thread = threading.Thread(target=lambda: held.append(made.lock.acquire(timeout=0.02)))
            thread.start()
            thread.join()

    session = Looks()
    made.attach(session, made.unattached(session))
    assert held == [False]


def test_how_they_show_themselves() -> None:
    assert "'t' group 'g' pending" in repr(consumption().sub)
    assert "broadcast" in repr(consumption(group=None).sub)
    assert repr(BROADCAST) == "eventbus.BROADCAST"
