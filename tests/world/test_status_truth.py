"""Every field of every status object is a measurement: after the end, in a child, and while disconnected, too."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from rounds import limit
from world_support import MakeBus, Outages, Seen, in_child

import eventbus
from eventbus import EventBus, Message, Phase, SubscriptionState
from eventbus.testing import wait_until

pytestmark = [
    pytest.mark.watchdog(limit(20.0)),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

FAST = {"interval": 0.1, "timeout": 0.1, "retry_interval": 0.05}


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """What a handler waits for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_after_close_all_of_it_says_so(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.open()
    subscription = bus.subscribe("status-closed", lambda message: None, group="group")
    wait_until(lambda: bus.get_health_status().is_healthy)
    bus.close()
    assert subscription.state is SubscriptionState.CLOSED
    assert subscription.status().state is SubscriptionState.CLOSED
    assert subscription.status().in_hand == 0
    health, state, reconnecting = bus.get_health_status(), bus.get_connection_state(), bus.get_reconnect_status()
    assert (health.is_healthy, health.is_running) == (False, False)
    assert (state.phase, state.is_connected) == (Phase.CLOSED, False)
    assert (reconnecting.is_reconnecting, reconnecting.attempt) == (False, 0)
    assert "closed" in repr(bus) and "closed" in repr(subscription)


def test_in_a_forked_child_all_of_it_says_so(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.open()
    subscription = bus.subscribe("status-forked", lambda message: None, group="group")

    def look() -> tuple[object, ...]:
        health, state = bus.get_health_status(), bus.get_connection_state()
        return (
            state.phase is Phase.FORKED,
            state.is_connected,
            health.is_healthy,
            health.is_running,
            bus.get_reconnect_status().is_reconnecting,
            subscription.state.value,
            subscription.status().in_hand,
            bus.get_statistics().in_flight,
        )

    phase, *others, state, in_hand, in_flight = in_child(look)
    assert phase
    assert others == [False] * 4
    assert state == "closed" and (in_hand, in_flight) == (0, 0)
    assert bus.get_connection_state().is_connected and subscription.state is SubscriptionState.ACTIVE


def test_while_disconnected_nothing_is_active_or_healthy(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus(health_check=FAST, reconnect={"max_attempts": 1, "initial_backoff": 0.05})
    subscription = bus.subscribe("topic", lambda message: None, group="group")
    bus.open()
    outages.refuse()
    wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED)
    assert subscription.state is SubscriptionState.PENDING
    assert not bus.get_health_status().is_healthy
    assert bus.get_connection_state().last_error is not None
    outages.restore()
    wait_until(lambda: subscription.state is SubscriptionState.ACTIVE, 5.0)
    wait_until(lambda: bus.get_health_status().is_healthy)


def test_a_lost_link_without_a_health_check_is_not_healthy(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus()
    subscription = bus.subscribe("topic", lambda message: None, group="group")
    bus.open()
    assert bus.stop_health_check(2.0)
    outages.refuse()
    wait_until(lambda: bus.get_connection_state().phase is Phase.DISCONNECTED)
    assert not bus.get_health_status().is_healthy
    assert subscription.state is SubscriptionState.PENDING


def test_a_subscription_s_status_moves(memory_bus: MakeBus, blocked: threading.Event) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()

    def handle(message: Message) -> None:
        seen(message)
        blocked.wait(15.0)

    subscription = bus.subscribe("topic", handle, group="group")
    idle = subscription.status()
    assert (idle.state, idle.error, idle.in_hand, idle.lag, idle.paused) == (
        SubscriptionState.ACTIVE,
        None,
        0,
        0,
        False,
    )
    assert not idle.oldest_in_hand
    bus.publish_many([Message("topic", str(number), key="key") for number in range(10)])
    wait_until(lambda: subscription.status().in_hand == 10, 3.0, message=lambda: f"{subscription.status()}")
    assert subscription.status().lag == 10
    wait_until(lambda: subscription.status().oldest_in_hand > 0.2, 3.0, message=lambda: f"{subscription.status()}")
    blocked.set()
    wait_until(lambda: subscription.status().in_hand == 0, 3.0, message=lambda: f"{subscription.status()}")
    wait_until(lambda: subscription.status().lag == 0, 3.0)
    assert not subscription.status().oldest_in_hand


def test_a_paused_subscription_s_lag_grows(memory_bus: MakeBus) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()
    subscription = bus.subscribe("topic", seen, group="group")
    subscription.pause()
    bus.publish_many([Message("topic", b"x") for _ in range(7)])
    wait_until(lambda: subscription.status().lag == 7, 3.0, message=lambda: f"{subscription.status()}")
    assert subscription.status().paused and not seen.messages
    subscription.resume()
    wait_until(lambda: (subscription.status().lag, subscription.status().paused) == (0, False), 3.0)
    seen.wait(7)


def test_a_handler_s_failure_is_the_subscription_s_last_error(memory_bus: MakeBus) -> None:
    bus = memory_bus()
    bus.open()

    def fail(message: Message) -> None:
        raise ValueError("the database is down")

    subscription = bus.subscribe("topic", fail, group="group")
    assert subscription.status().last_error is None
    bus.publish("topic", b"x")
    wait_until(lambda: subscription.status().last_error is not None, 3.0)
    assert "the database is down" in str(subscription.status().last_error)
    assert subscription.state is SubscriptionState.ACTIVE


def test_health_says_which_subscriptions_are_not_served(memory_bus: MakeBus, outages: Outages) -> None:
    outages.refuse_topic("refused")
    bus = memory_bus(health_check=FAST)
    bus.subscribe("refused", lambda message: None, group="group")
    bus.subscribe("fine", lambda message: None, group="group")
    bus.open()
    wait_until(lambda: "refused" in repr(bus.get_health_status()), 3.0, message=lambda: f"{bus.get_health_status()}")
    assert "fine" not in repr(bus.get_health_status())
    outages.allow_topic("refused")
    wait_until(lambda: "refused" not in repr(bus.get_health_status()), 10.0)


def test_a_refusal_names_its_topic_once(memory_bus: MakeBus, outages: Outages) -> None:
    outages.refuse_topic("q.z")
    bus = memory_bus()
    bus.subscribe("q.z", lambda message: None, group="before")
    bus.open()
    assert bus.get_health_status().not_served == ("q.z: no permission",)
    with pytest.raises(eventbus.SubscribeError) as caught:
        bus.subscribe("q.z", lambda message: None, group="group")
    assert str(caught.value) == "q.z: no permission"


@pytest.mark.parametrize("enabled", [True, False])
def test_health_says_why_a_bus_that_was_opened_without_waiting_does_not_connect(
    memory_bus: MakeBus, outages: Outages, enabled: bool
) -> None:
    outages.refuse()
    bus = memory_bus(health_check={"enabled": enabled})
    assert bus.get_health_status().detail == ""
    bus.open(wait=False)
    wait_until(lambda: bus.get_connection_state().last_error is not None, 3.0)
    assert bus.get_health_status().detail == str(bus.get_connection_state().last_error) != ""
    outages.restore()
    assert bus.wait_connected(5.0)
    wait_until(lambda: bus.get_health_status().is_healthy, 3.0)
    assert bus.get_health_status().detail != str(bus.get_connection_state().last_error)


@pytest.mark.parametrize("fails", [True, False])
def test_a_close_report_counts_what_was_delivered_and_not_handled(
    memory_bus: MakeBus, blocked: threading.Event, fails: bool
) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()

    def handle(message: Message) -> None:
        seen(message)
        if fails:
            raise RuntimeError("the database is down")
        if len(seen.messages) > 4:
            blocked.wait(15.0)

    subscription = bus.subscribe("topic", handle, group="group")
    bus.publish_many([Message("topic", str(number), key="key") for number in range(10)])
    wait_until(lambda: len(seen.messages) >= (1 if fails else 5) and bus.get_statistics().delivered == 10)
    report = bus.close(0.5)
    blocked.set()
    assert report.unhandled == (10 if fails else 6), report
    assert bool(report.unfinished_threads) is not fails, report
    assert subscription.state is SubscriptionState.CLOSED


def test_an_unsubscribed_handler_that_still_runs_is_in_the_close_report(
    memory_bus: MakeBus, blocked: threading.Event
) -> None:
    bus, seen = memory_bus(), Seen()
    bus.open()
    subscription = bus.subscribe("topic", lambda message: (seen(message), blocked.wait(15.0)), group="group")
    bus.publish("topic", b"x")
    seen.wait(1)
    assert not bus.unsubscribe(subscription, 0.05)
    report = bus.close(0.3)
    blocked.set()
    assert report.unfinished_threads and report.unhandled == 1, report


def test_unanswered_publishes_are_in_the_close_report(memory_bus: MakeBus, outages: Outages) -> None:
    bus = memory_bus()
    bus.open()
    outages.freeze()
    futures = [bus.publish_async("topic", b"x") for _ in range(5)]
    assert bus.get_statistics().in_flight == 5
    report = bus.close(0.3)
    assert report.unanswered == 5, report
    assert all(isinstance(future.exception(1.0), eventbus.PublishError) for future in futures)
    assert bus.get_statistics().in_flight == 0


def test_a_close_that_does_not_end_in_time_tells_of_what_it_has_failed_so_far(
    memory_bus: MakeBus, outages: Outages, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, go_on = memory_bus(), threading.Event()
    bus.open()
    outages.freeze()
    futures = [bus.publish_async("topic", b"x") for _ in range(5)]
    end = bus._callbacks.close  # the last step of a close
    monkeypatch.setattr(bus._callbacks, "close", lambda timeout: go_on.wait(5.0) and end(timeout))
    report = bus.close(0.3)
    go_on.set()
    assert all(future.done() for future in futures)
    assert (report.unanswered, report.unfinished_threads) == (5, ("eventbus.bus.errands",))


def test_a_bus_that_was_never_opened_tells_so_and_closes(memory_bus: MakeBus) -> None:
    bus: EventBus = memory_bus()
    health = bus.get_health_status()
    assert (health.is_healthy, health.is_running) == (False, False)
    assert bus.get_connection_state().phase is Phase.NEW
    assert bus.close() == eventbus.CloseReport(unanswered=0, unhandled=0, unfinished_threads=())
    assert bus.get_connection_state().phase is Phase.CLOSED
