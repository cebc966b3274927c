"""The supervisor and the health check against a backend that does what a test tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from unittest import mock

import attrs
import pytest
from fakes import FakeBackend

from eventbus import (
    AuthenticationError,
    ConnectFailedError,
    EventBus,
    EventBusConfig,
    HealthCheckConfig,
    NotConnectedError,
    Phase,
    PublishNotSentError,
    ReconnectConfig,
    ReconnectEvent,
    SubscribeError,
    SubscriptionState,
)
from eventbus.backends.base import Prepared
from eventbus.testing import wait_until

Make = Callable[..., EventBus]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def make(backend: FakeBackend) -> Iterator[Make]:
    buses: list[EventBus] = []

    def made(check: dict | None = None, **reconnect: object) -> EventBus:
        config = EventBusConfig(
            name=f"fake-{len(buses)}",
            health_check=HealthCheckConfig(**{"interval": 0.02, "timeout": 0.1, **(check or {})}),
            reconnect=ReconnectConfig(**{"initial_backoff": 0.01, "max_backoff": 0.05, "jitter": 0, **reconnect}),
            publish_timeout=0.1,
        )
        with mock.patch("eventbus.wiring.backend_for", return_value=backend):
            bus = EventBus(config)
        buses.append(bus)
        return bus

    yield made
    for bus in buses:
        bus.close(3.0)


def state(bus: EventBus) -> Phase:
    return bus.get_connection_state().phase


# -- the health check ----------------------------------------------------------------------------


def test_every_field_of_the_health_status_changes(make: Make, backend: FakeBackend) -> None:
    bus = make(failure_threshold=1000)
    new = bus.get_health_status()
    assert (new.is_healthy, new.is_running, new.consecutive_failures, new.detail) == (False, False, 0, "")
    assert (new.last_success_time, new.last_failure_time) == (None, None)
    bus.open()
    wait_until(lambda: bus.get_health_status().detail == "fine")
    well = bus.get_health_status()
    assert (well.is_healthy, well.is_running, well.consecutive_failures) == (True, True, 0)
    assert well.last_success_time is not None
    assert well.last_success_time.tzinfo is not None
    assert well.last_failure_time is None
    backend.sessions[0].fault = NotConnectedError("no answer")
    wait_until(lambda: bus.get_health_status().consecutive_failures >= 3)
    sick = bus.get_health_status()
    assert (sick.is_healthy, sick.detail) == (False, "no answer")
    assert sick.last_failure_time is not None
    assert sick.last_failure_time > well.last_success_time
    assert bus.get_reconnect_status().failure_count >= 3
    backend.sessions[0].fault = None
    wait_until(lambda: bus.get_health_status().is_healthy)
    assert bus.get_health_status().consecutive_failures == 0
    assert backend.connects == 1
    bus.stop_health_check()
    assert not bus.get_health_status().is_running


def test_at_the_threshold_it_hands_off_and_the_count_goes_back_to_zero(make: Make, backend: FakeBackend) -> None:
    bus = make(failure_threshold=3)
    events: list[ReconnectEvent] = []
    errors: list[str] = []
    bus.register_reconnect_callback(events.append)
    bus.register_error_callback(lambda event: errors.append(event.source))
    bus.open()
    backend.sessions[0].fault = NotConnectedError("no answer")
    with mock.patch("eventbus.recovery.supervisor.HEAL_GRACE", 0.02):
        wait_until(lambda: events)
    assert errors == ["health"] * 3
    assert (events[0].how, events[0].attempts, events[0].reconnect_count) == ("rebuilt", 1, 1)
    assert str(events[0].cause) == "no answer"
    assert events[0].downtime > 0
    assert events[0].time.tzinfo is not None
    wait_until(lambda: bus.get_health_status().is_healthy)
    assert bus.get_health_status().consecutive_failures == 0
    wait_until(lambda: backend.sessions[0].closed)


def test_a_lost_link_counts_as_the_threshold_reached(make: Make, backend: FakeBackend) -> None:
    bus = make(check={"interval": 30.0}, failure_threshold=5)
    bus.open()
    backend.always = ConnectFailedError("refused")
    backend.sessions[0].lose(NotConnectedError("reset by peer"))
    wait_until(lambda: state(bus) is Phase.RECONNECTING, 2.0)
    assert bus.get_health_status().consecutive_failures >= 5
    backend.always = None
    wait_until(lambda: state(bus) is Phase.CONNECTED)


def test_events_of_a_session_that_is_no_longer_current_are_ignored(make: Make, backend: FakeBackend) -> None:
    bus = make(check={"interval": 30.0})
    bus.open()
    bus.reconnect(5.0)
    old, current = backend.sessions
    old.lose(NotConnectedError("late news"))
    assert state(bus) is Phase.CONNECTED
    assert bus.get_health_status().is_healthy
    assert current.lost is None
    assert backend.connects == 2


def test_an_unexpected_error_in_a_probe_does_not_end_the_watch(make: Make, backend: FakeBackend) -> None:
    bus = make(failure_threshold=1000)
    bus.open()
    backend.sessions[0].fault = ZeroDivisionError("a bug in a backend")
    wait_until(lambda: bus.get_health_status().consecutive_failures >= 2)
    assert bus.get_health_status().is_running
    backend.sessions[0].fault = None
    wait_until(lambda: bus.get_health_status().is_healthy)


# -- attempts ------------------------------------------------------------------------------------


def test_a_pause_ends_when_a_server_begins_to_speak(make: Make, backend: FakeBackend) -> None:
    bus = make(initial_backoff=30.0, max_backoff=30.0)
    bus.open()
    backend.always = ConnectFailedError("refused")
    backend.sessions[0].lose(NotConnectedError("reset"))
    wait_until(lambda: backend.connects == 2)
    backend.always = None
    started = time.monotonic()
    backend.speaks.set()
    assert bus.wait_connected(5.0)
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "error", [ConnectFailedError("no quorum", server_spoke=True), RuntimeError("can't start new thread")]
)
def test_a_server_that_speaks_is_not_hammered_where_that_does_not_help(
    make: Make, backend: FakeBackend, error: Exception
) -> None:
    """It refused, or something here failed: that it speaks is no news, the backoff holds."""
    bus = make(initial_backoff=0.2, max_backoff=10.0, backoff_factor=1.0)
    bus.open()
    backend.speaks.set()
    backend.always = error
    backend.sessions[0].lose(NotConnectedError("reset"))
    started = time.monotonic()
    wait_until(lambda: backend.connects == 4)
    assert time.monotonic() - started >= 2 * 0.2


def test_a_refused_password_ends_the_episode_and_is_tried_at_max_backoff_pace(make: Make, backend: FakeBackend) -> None:
    bus = make(max_backoff=0.3)
    errors: list[BaseException] = []
    bus.register_error_callback(lambda event: errors.append(event.error))
    bus.open()
    backend.speaks.set()
    backend.always = AuthenticationError("wrong password")
    backend.sessions[0].lose(NotConnectedError("reset"))
    wait_until(lambda: state(bus) is Phase.DISCONNECTED)
    assert isinstance(bus.get_connection_state().last_error, AuthenticationError)
    wait_until(lambda: any(isinstance(error, AuthenticationError) for error in errors))
    before, started = backend.connects, time.monotonic()
    wait_until(lambda: backend.connects >= before + 2)
    assert time.monotonic() - started >= 0.3, "hammered"
    backend.always = None
    assert bus.wait_connected(5.0)


def test_a_refused_password_at_the_first_connect_is_raised(make: Make, backend: FakeBackend) -> None:
    bus = make()
    backend.always = AuthenticationError("wrong password")
    with pytest.raises(AuthenticationError):
        bus.open()
    assert state(bus) is Phase.NEW
    assert backend.connects == 1


def test_a_healed_link_is_kept_and_counts(make: Make, backend: FakeBackend) -> None:
    bus = make()
    events: list[ReconnectEvent] = []
    bus.register_reconnect_callback(events.append)
    bus.open()
    session = backend.sessions[0]
    backend.always = ConnectFailedError("refused")
    session.fault = NotConnectedError("no answer")
    wait_until(lambda: bus.get_reconnect_status().attempt >= 2)
    session.fault = None
    wait_until(lambda: events)
    assert [event.how for event in events] == ["healed"]
    assert bus._supervisor.session is session
    assert bus.get_connection_state().reconnect_count == 1


def test_what_was_refused_in_an_outage_is_asked_for_at_once_on_a_link_that_has_healed(
    make: Make, backend: FakeBackend
) -> None:
    bus = make({"interval": 1.0}, failure_threshold=1)
    sub = bus.subscribe("t", print, group="g")
    original = backend.connect

    def connect(context):
        session = original(context)
        session.refused["t"] = SubscribeError("nobody answers")
        return session

    backend.connect = connect  # type: ignore[method-assign]
    bus.open()
    assert sub.state is SubscriptionState.FAILED
    session, backend.always = backend.sessions[0], ConnectFailedError("refused")
    session.fault = NotConnectedError("no answer")
    wait_until(lambda: bus.get_reconnect_status().attempt >= 1)
    session.refused.clear()
    session.fault = None
    wait_until(lambda: bus.get_connection_state().reconnect_count == 1)
    wait_until(lambda: sub.state is SubscriptionState.ACTIVE, 0.5)  # not only when the health check looks again


def test_rebuild_always_replaces_one_that_healed(make: Make, backend: FakeBackend) -> None:
    bus = make(rebuild="always")
    bus.open()
    session = backend.sessions[0]
    backend.always = ConnectFailedError("refused")
    session.fault = NotConnectedError("no answer")
    wait_until(lambda: bus.get_reconnect_status().attempt >= 2)
    session.fault = None
    backend.always = None
    wait_until(lambda: state(bus) is Phase.CONNECTED)
    assert bus._supervisor.session is backend.sessions[1]
    wait_until(lambda: session.closed)


def test_every_connect_gets_the_same_settings(make: Make, backend: FakeBackend) -> None:
    bus = make()
    bus.open()
    for _ in range(3):
        bus.reconnect(5.0)
    assert len({(context.bus, context.timeout, id(context.answers)) for context in backend.contexts}) == 1


def test_subscriptions_deliver_before_pending_publishes_go_out(make: Make, backend: FakeBackend) -> None:
    """Where nothing is stored, a message is lost to whoever is not there yet."""
    bus = make(check={"enabled": False})
    bus.open()
    sub = bus.subscribe("t", print, group="g")
    backend.sessions[0].lose(NotConnectedError("reset"))
    bus.publish_nowait("t", b"x")
    order: list[str] = []
    original = backend.connect

    def connect(context):
        session = original(context)
        session.attach = lambda attachments: (order.append("attach"), context.on_served(attachments))
        session.publish = lambda records: order.append("publish") or len(records)
        return session

    backend.connect = connect  # type: ignore[method-assign]
    bus.reconnect(5.0)
    assert order == ["attach", "publish"]
    assert sub.state is SubscriptionState.ACTIVE


def test_a_late_subscription_that_is_not_attached_at_once_does_not_wait_for_the_next_probe(
    make: Make, backend: FakeBackend
) -> None:
    bus = make(check={"interval": 30.0, "retry_interval": 0.02}, failure_threshold=1)
    bus.open()
    session = backend.sessions[0]
    backend.always = ConnectFailedError("refused")
    session.fault = NotConnectedError("no answer")
    bus._monitor.poke()
    wait_until(lambda: state(bus) is Phase.RECONNECTING)
    sub = bus.subscribe("t", print, group="g")
    failures = iter([NotConnectedError("not prepared in time")] * 2)

    def prepare(attachments, timeout):
        for failure in failures:
            raise failure
        return Prepared()

    session.prepare = prepare  # type: ignore[method-assign]
    session.fault = None
    wait_until(lambda: sub.state is SubscriptionState.ACTIVE)
    assert state(bus) is Phase.CONNECTED
    assert list(failures) == []


# -- ends ----------------------------------------------------------------------------------------


def test_stop_in_the_grace_closes_the_candidate(make: Make, backend: FakeBackend) -> None:
    bus = make(failure_threshold=1)
    bus.open()
    entered = threading.Event()

    def hangs(timeout: float, stop) -> str:
        if len(backend.sessions) > 1:
            entered.set()
            stop.wait(20.0)
            stop.check()
        raise NotConnectedError("no answer")

    backend.sessions[0].probe = hangs  # type: ignore[method-assign]
    assert entered.wait(5.0)
    assert bus.stop_health_check(timeout=1.0)
    wait_until(lambda: backend.sessions[1].closed)
    assert state(bus) is Phase.DISCONNECTED


def test_a_candidate_that_comes_after_close_is_closed(make: Make, backend: FakeBackend) -> None:
    bus, entered, release = make(), threading.Event(), threading.Event()
    bus.open()
    original = backend.connect

    def slow(context):
        entered.set()
        release.wait(20.0)
        return original(context.__class__(**{**_fields(context), "stop": type(context.stop)()}))

    backend.connect = slow  # type: ignore[method-assign]
    backend.sessions[0].lose(NotConnectedError("reset"))
    assert entered.wait(5.0)
    report = bus.close(timeout=0.3)
    assert report.unfinished_threads == (f"eventbus.{bus.config.name}.health",)
    release.set()
    wait_until(lambda: len(backend.sessions) == 2 and backend.sessions[1].closed)
    assert state(bus) is Phase.CLOSED


def test_a_link_lost_with_the_health_check_off_is_disconnected(make: Make, backend: FakeBackend) -> None:
    bus = make(check={"enabled": False})
    bus.open()
    backend.sessions[0].lose(NotConnectedError("reset"))
    assert state(bus) is Phase.DISCONNECTED
    assert not bus.get_health_status().is_healthy
    with pytest.raises(PublishNotSentError):
        bus.publish("t", b"x")
    bus.reconnect(5.0)
    assert state(bus) is Phase.CONNECTED
    assert bus.get_health_status().is_healthy


def test_a_link_lost_as_reconnect_ends_is_not_overlooked(make: Make, backend: FakeBackend) -> None:
    """No health check runs: nobody else would notice."""
    bus = make(check={"enabled": False})
    bus.open()
    original = bus._supervisor._finish

    def finish_and_lose(how: str, cause: BaseException) -> bool:
        result = original(how, cause)
        backend.sessions[-1].lose(NotConnectedError("gone again"))
        return result

    with mock.patch.object(bus._supervisor, "_finish", finish_and_lose), pytest.raises(NotConnectedError):
        bus.reconnect(2.0)
    assert state(bus) is Phase.DISCONNECTED
    assert not bus.get_health_status().is_healthy


def test_a_candidate_that_is_thrown_away_does_not_judge_subscriptions(make: Make, backend: FakeBackend) -> None:
    """The candidate refuses it, and then the old link heals, which delivers it all the time."""
    bus = make(failure_threshold=1)
    bus.open()
    sub = bus.subscribe("t", print, group="g")
    old = backend.sessions[0]
    original = backend.connect

    def connect(context):
        session = original(context)
        session.refused["t"] = ConnectFailedError("no permission")
        old.fault = None
        return session

    backend.connect = connect  # type: ignore[method-assign]
    old.fault = NotConnectedError("no answer")
    wait_until(lambda: bus.get_connection_state().reconnect_count == 1)
    assert bus._supervisor.session is old
    assert sub.state is SubscriptionState.ACTIVE
    assert old.attached == [sub]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("no permission", "q.z: no permission"),
        ("q.z: no permission", "q.z: no permission"),
        ("cannot subscribe to 'q.z': no permission", "cannot subscribe to 'q.z': no permission"),
        ("topic q.z.a: no permission", "q.z: topic q.z.a: no permission"),
    ],
)
def test_a_refused_subscribe_names_its_topic_once(make: Make, backend: FakeBackend, said: str, text: str) -> None:
    bus = make()
    bus.open()
    backend.sessions[0].refused["q.z"] = SubscribeError(said)
    with pytest.raises(SubscribeError) as caught:
        bus.subscribe("q.z", print, group="g")
    assert str(caught.value) == text


def _fields(value) -> dict:
    return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}


def test_what_was_not_ready_in_time_is_brought_without_a_health_check(make: Make, backend: FakeBackend) -> None:
    bus = make(check={"enabled": False})
    sub = bus.subscribe("t", print, group="g")
    original, tries = backend.connect, 0

    def connect(context):
        session = original(context)

        def prepare(attachments, timeout):
            nonlocal tries
            tries += 1
            return Prepared(pending=attachments) if tries < 3 else Prepared()

        session.prepare = prepare
        return session

    backend.connect = connect  # type: ignore[method-assign]
    with mock.patch("eventbus.recovery.lifecycle.LATE_AGAIN", 0.02):
        bus.open()
        assert sub.state is SubscriptionState.PENDING
        assert any("t" in one for one in bus.get_health_status().not_served)
        wait_until(lambda: sub.state is SubscriptionState.ACTIVE, 5.0)
    assert bus.get_health_status().not_served == ()
