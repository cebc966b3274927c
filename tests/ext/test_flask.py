"""The extension for Flask: configuration, application contexts, when it connects, and what a request is told."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("flask")

from flask import Flask, current_app, g, has_app_context, has_request_context
from flask_support import Apps, bus_of, fresh
from werkzeug.exceptions import ServiceUnavailable

from eventbus import (
    AlreadyInitializedError,
    ConfigError,
    EventBus,
    Message,
    NotInitializedError,
    Phase,
    PublishManyError,
    PublishNotSentError,
    PublishRejectedError,
    PublishUnknownError,
    SubscribeError,
    SubscriptionState,
)
from eventbus.ext.flask import FlaskEventBus, app_bus
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages


@pytest.fixture
def apps() -> Iterator[Apps]:
    with Apps() as made:
        yield made


def phase(app: Flask) -> Phase:
    return bus_of(app).get_connection_state().phase


# -- configuration -------------------------------------------------------------------------------


def test_settings_come_from_the_application_s_config(apps: Apps) -> None:
    app = apps.make(
        PUBLISH_TIMEOUT=2, HEALTH_CHECK__INTERVAL="1.5", RECONNECT={"max_attempts": None}, GROUP="shop", NAME=""
    )
    config = bus_of(app).config
    assert (config.publish_timeout, config.health_check.interval) == (2.0, 1.5)
    assert (config.reconnect.max_attempts, config.group) == (None, "shop")
    assert config.name == app.name, "so that buses can be told apart"


def test_the_application_s_config_wins_over_the_environment(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_GROUP", "environment")
    monkeypatch.setenv("EVENTBUS_RECONNECT__MAX_ATTEMPTS", "7")
    monkeypatch.setenv("EVENTBUS_RECONNECT__JITTER", "0.5")
    monkeypatch.setenv("EVENTBUS_NAME", "named")
    config = bus_of(apps.make(GROUP="application", RECONNECT__MAX_ATTEMPTS=3)).config
    assert (config.group, config.reconnect.max_attempts) == ("application", 3)
    assert (config.reconnect.jitter, config.name) == (0.5, "named")


def test_the_environment_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_URL", "memory://from-the-environment?group=shop")
    app = Flask(fresh("shop"))
    FlaskEventBus(app)
    assert bus_of(app).config.group == "shop"


def test_flask_s_own_way_to_read_variables_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_EVENTBUS_URL", "memory://prefixed")
    monkeypatch.setenv("FLASK_EVENTBUS_RECONNECT__MAX_ATTEMPTS", "3")
    app = Flask(fresh("shop"))
    app.config.from_prefixed_env()
    FlaskEventBus(app)
    assert bus_of(app).config.reconnect.max_attempts == 3


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"GRUOP": "shop"}, "EVENTBUS_GRUOP; did you mean EVENTBUS_GROUP?"),
        ({"RECONNECT__MAX_ATEMPTS": 1}, "did you mean EVENTBUS_RECONNECT__MAX_ATTEMPTS?"),
        ({"RECONNECT": {"max_atempts": 1}}, "did you mean EVENTBUS_RECONNECT__MAX_ATTEMPTS?"),
        ({"PUBLISH_TIMEOUT": "soon"}, "publish_timeout"),
    ],
)
def test_a_wrong_setting_is_named(apps: Apps, config: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        apps.make(**config)
    assert hint in str(raised.value)


def test_no_setting_at_all_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="EVENTBUS_URL"):
        FlaskEventBus(Flask(fresh("shop")))


# -- applications --------------------------------------------------------------------------------


def test_each_application_has_a_bus_and_the_handlers_of_all(apps: Apps) -> None:
    events = FlaskEventBus()
    seen: list[tuple[str, int]] = []

    @events.on("orders.*", group="billing")
    def bill(message: Message) -> None:
        seen.append((current_app.name, message.json()["number"]))

    one, two = apps.make(events), apps.make(events)
    one.test_client().post("/orders/1")
    two.test_client().post("/orders/2")
    wait_until(lambda: len(seen) == 2)
    assert sorted(seen) == sorted([(one.name, 1), (two.name, 2)])
    with one.app_context():
        assert events.bus is bus_of(one)


def test_a_handler_that_is_registered_late_is_subscribed_too(apps: Apps) -> None:
    events, seen = FlaskEventBus(), threading.Event()
    app = apps.make(events)
    events.subscribe("orders.*", lambda message: seen.set(), group="before")
    app.test_client().get("/healthz/ready")
    events.subscribe("orders.*", lambda message: seen.set(), group="after")
    assert [sub.group for sub in bus_of(app).get_subscriptions()] == ["before", "after"]
    app.test_client().post("/orders/1")
    assert seen.wait(10)


def test_an_application_has_one_bus() -> None:
    app = Flask(fresh("shop"))
    app.config["EVENTBUS_URL"] = "memory://once"
    FlaskEventBus(app)
    with pytest.raises(AlreadyInitializedError, match="once for each application"):
        FlaskEventBus(app)


def test_there_is_no_bus_without_an_application(apps: Apps) -> None:
    events = FlaskEventBus()
    with pytest.raises(RuntimeError, match="application context"):
        _ = events.bus
    with Flask(fresh("other")).app_context(), pytest.raises(NotInitializedError, match="init_app"):
        _ = events.bus


def test_what_cannot_be_a_handler_is_refused_where_it_stands(apps: Apps) -> None:
    events = FlaskEventBus()

    async def never(message: Message) -> None: ...

    with pytest.raises(SubscribeError, match="coroutine"):
        events.subscribe("orders", never)
    apps.make(events)
    for options in ({"concurrency": 0}, {"group": ""}, {"start": "never"}):
        with pytest.raises(SubscribeError):
            events.on("orders", **options)(print)
    with pytest.raises(TypeError, match="grup"):
        events.on("orders", grup="billing")(print)
    with pytest.raises(TypeError, match=r"takes a topic first: @on\('orders"):
        events.on(print)  # type: ignore[arg-type]


@pytest.mark.parametrize("in_web", [True, False])
def test_options_are_judged_before_anything_is_connected(apps: Apps, in_web: bool) -> None:
    events = FlaskEventBus(handle_in_web=in_web)
    events.subscribe("orders", print, concurrency=0)
    with pytest.raises(SubscribeError, match="concurrency"):
        apps.make(events)


def test_an_application_that_is_dropped_is_not_kept(apps: Apps) -> None:
    events = FlaskEventBus()
    app = Flask(fresh("shop"))
    app.config["EVENTBUS_URL"] = "memory://dropped"
    events.init_app(app)
    kept = weakref.ref(app)
    del app
    gc.collect()
    assert kept() is None


# -- contexts ------------------------------------------------------------------------------------


def test_each_call_of_a_handler_has_a_context_of_its_own(apps: Apps) -> None:
    events = FlaskEventBus()
    ended: list[BaseException | None] = []
    seen: list[Any] = []

    @events.on("orders.*", group="billing")
    def bill(message: Message) -> None:
        assert not has_request_context()
        seen.append(g.get("number"))
        g.number = message.json()["number"]
        if message.attempt == 1 and g.number == 2:
            raise OSError("the database is away")

    app = apps.make(events, RETRY={"initial_backoff": 0.0, "max_backoff": 0.0})
    app.teardown_appcontext(lambda error: ended.append(error) if not has_request_context() else None)
    client = app.test_client()
    ended.clear()
    for number in (1, 2):
        client.post(f"/orders/{number}")
    wait_until(lambda: bus_of(app).get_statistics().handled == 2)
    assert seen == [None] * 3, "nothing of the call before"
    assert [str(error) for error in ended if error is not None] == ["the database is away"]
    assert not has_app_context()


def test_a_batch_has_a_context_too(apps: Apps) -> None:
    events, seen = FlaskEventBus(), list[tuple[str, int]]()
    events.subscribe("orders.*", lambda batch: seen.append((current_app.name, len(batch))), group="g", batch=(2, 30.0))
    app = apps.make(events)
    client = app.test_client()
    for number in (1, 2):
        client.post(f"/orders/{number}")
    wait_until(lambda: seen == [(app.name, 2)], message=lambda: str(seen))


def test_a_handler_publishes_as_a_view_does(apps: Apps) -> None:
    events, seen = FlaskEventBus(), threading.Event()
    events.subscribe("orders.*", lambda message: events.bus.publish("bills", message.payload), group="billing")
    events.subscribe("bills", lambda message: seen.set(), group="post")
    apps.make(events).test_client().post("/orders/1")
    assert seen.wait(10)


# -- when it connects ----------------------------------------------------------------------------


def test_nothing_is_connected_before_it_is_used(apps: Apps) -> None:
    before = threading.active_count()
    events = FlaskEventBus()
    events.subscribe("orders.*", print, group="billing")
    app = apps.make(events)
    assert (phase(app), threading.active_count()) == (Phase.NEW, before)
    assert app.test_client().get("/healthz/live").status_code == 200
    assert (phase(app), threading.active_count()) == (Phase.NEW, before), "to be alive it needs no bus"


def test_the_first_readiness_check_is_not_ahead_of_the_connection(apps: Apps) -> None:
    answer = apps.make().test_client().get("/healthz/ready")
    assert (answer.status_code, answer.json["status"]) == (200, "ready")


@pytest.mark.parametrize("path", ["/healthz/ready", "/no/such/page"])
def test_the_first_request_connects(apps: Apps, path: str) -> None:
    app = apps.make()
    app.test_client().get(path)
    assert bus_of(app).wait_connected(10)


def test_a_process_that_serves_nobody_publishes_only(apps: Apps) -> None:
    events, seen = FlaskEventBus(), threading.Event()
    events.subscribe("orders.*", lambda message: seen.set(), group="billing")
    app = apps.make(events)
    with app.app_context():
        assert events.bus.publish("orders.new", {"number": 1}).confirmed
    assert bus_of(app).get_subscriptions() == ()
    app.test_client().get("/healthz/ready")
    wait_until(lambda: [sub.topic for sub in bus_of(app).get_subscriptions()] == ["orders.*"])
    assert seen.wait(10), "what was published before it served requests, too"


def test_a_late_subscription_that_is_refused_fails_no_request(apps: Apps, caplog: pytest.LogCaptureFixture) -> None:
    events, name = FlaskEventBus(), fresh("refusing")
    events.subscribe("orders.*", print, group="billing")
    events.subscribe("bills", print, group="billing")
    app = apps.make(events, url=f"memory://{name}", HEALTH_CHECK__INTERVAL=0.05)
    broker = MemoryOutages(name)
    broker.refuse_topic("orders.*", "not for you")
    with app.app_context():
        assert events.bus.wait_connected(10)
    client = app.test_client()
    assert client.post("/orders/1").status_code == 200
    wait_until(lambda: [sub.topic for sub in bus_of(app).get_subscriptions()] == ["bills"])
    assert "not for you" in caplog.text
    broker.allow_topic("orders.*")

    def there() -> bool:
        assert client.post("/orders/1").status_code == 200
        return len(bus_of(app).get_subscriptions()) == 2

    wait_until(there)
    broker.forget()


def test_a_log_handler_that_publishes_holds_up_no_request(apps: Apps) -> None:
    events, seen = FlaskEventBus(), threading.Event()
    app = apps.make(events, CONNECT_TIMEOUT=20.0)

    @events.on("logs")  # of no group: that is logged, too
    def read(message: Message) -> None:
        seen.set()

    class Publishing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with app.app_context():
                events.bus.publish_nowait("logs", record.getMessage())

    ours, handler = logging.getLogger("eventbus"), Publishing(logging.INFO)
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        begun = time.monotonic()
        assert app.test_client().post("/orders/1").status_code == 200
        assert time.monotonic() - begun < 10.0
        assert seen.wait(10.0)
    finally:
        ours.setLevel(level)
        ours.removeHandler(handler)


def test_a_signal_handler_that_publishes_holds_up_no_request(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes by while the request that it interrupts opens the bus."""
    events = FlaskEventBus()
    events.subscribe("orders.*", print, group="billing")
    app = apps.make(events)
    open_bus = EventBus.open

    def interrupted(bus: EventBus, timeout: float | None = None, wait: bool = True) -> None:
        monkeypatch.undo()
        with app.app_context():
            events.bus.publish_nowait("orders.new", b"1")
        open_bus(bus, timeout, wait)

    monkeypatch.setattr(EventBus, "open", interrupted)
    client = app.test_client()
    assert client.post("/orders/1").status_code == 200
    wait_until(lambda: client.get("/") and len(bus_of(app).get_subscriptions()) == 1)


def test_an_application_whose_bus_was_closed_takes_no_more_handlers_and_holds_up_no_other(apps: Apps) -> None:
    events = FlaskEventBus()
    closed = apps.make(events)
    closed.test_client().get("/")
    bus_of(closed).close()
    app = apps.make(events)
    events.subscribe("orders.*", print, group="billing")
    assert [sub.topic for sub in bus_of(app).get_subscriptions()] == ["orders.*"]


def test_handlers_can_be_kept_out_of_web_processes(apps: Apps) -> None:
    events = FlaskEventBus(handle_in_web=False)
    events.subscribe("orders.*", print, group="billing")
    app = apps.make(events)
    assert app.test_client().post("/orders/1").json["confirmed"]
    assert bus_of(app).get_subscriptions() == ()
    assert [one.topic for one in app_bus(app).handlers] == ["orders.*"]


def test_requests_that_come_at_once_subscribe_once(apps: Apps) -> None:
    events = FlaskEventBus()
    for number in range(20):
        events.subscribe("orders.*", lambda message: None, group=f"g{number}")
    app = apps.make(events)
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(app.test_client().post("/orders/1").status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 8
    assert len(bus_of(app).get_subscriptions()) == 20
    assert {sub.state for sub in bus_of(app).get_subscriptions()} == {SubscriptionState.ACTIVE}


def in_child(call: Callable[[], bool]) -> bool:
    """What it returns in a forked child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if call() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def handling(apps: Apps, **config: Any) -> tuple[Flask, threading.Event]:
    """An application with a handler that says when it was called."""
    events, seen = FlaskEventBus(), threading.Event()
    events.subscribe("orders.*", lambda message: seen.set(), group="billing")
    return apps.make(events, **config), seen


def test_a_child_that_is_forked_before_the_first_use_works(apps: Apps) -> None:
    """A worker of `gunicorn --preload`."""
    app, seen = handling(apps)
    lock = app_bus(app)._lock
    lock.acquire()  # as another thread of the master may at that moment
    assert in_child(lambda: app.test_client().post("/orders/1").status_code == 200 and seen.wait(10))
    lock.release()
    assert phase(app) is Phase.NEW


@pytest.mark.parametrize("serves", [False, True])
def test_a_child_that_is_forked_after_the_first_use_works(apps: Apps, serves: bool) -> None:
    """The master has published while it loaded the application, or even served a request."""
    app, seen = handling(apps)
    with app.app_context():
        app_bus().opened().wait_connected(10)
    if serves:
        app.test_client().get("/healthz/ready")

    def serve() -> bool:
        client = app.test_client()
        wait_until(lambda: client.get("/healthz/ready").status_code == 200)
        return client.post("/orders/1").status_code == 200 and seen.wait(10)

    assert in_child(serve)
    assert phase(app) is Phase.CONNECTED
    assert not seen.is_set()


def test_where_forks_are_to_raise_requests_that_publish_nothing_go_on(apps: Apps) -> None:
    app, _ = handling(apps, ON_FORK="raise")
    app.test_client().get("/healthz/ready")

    def serve() -> bool:
        client = app.test_client()
        codes = [client.get(path).status_code for path in ("/healthz/live", "/healthz/ready", "/no/such/page")]
        return codes == [200, 503, 404] and client.post("/orders/1").status_code == 500

    assert in_child(serve)


# -- what a request is told of an outage ---------------------------------------------------------


def raising(apps: Apps, error: Exception) -> Flask:
    app = apps.make(HEALTH_CHECK__INTERVAL=1.5)

    @app.get("/raise")
    def fail() -> str:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PublishNotSentError("no connection to 10.0.0.7", "id-1"), "Nothing was published"),
        (PublishUnknownError("no answer from 10.0.0.7", "id-1"), "It is not known what was published"),
        (PublishManyError("two failed", [PublishNotSentError("no"), PublishUnknownError("yes")]), "It is not known"),
    ],
)
def test_an_outage_is_503_with_the_time_to_come_back(
    apps: Apps, error: Exception, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = raising(apps, error).test_client().get("/raise")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), "the health check's interval, whole"
    assert text in answer.text
    assert "10.0.0.7" not in answer.text
    assert str(error) in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        PublishRejectedError("too large", "id-1"),
        PublishManyError("two failed", [PublishNotSentError("no"), PublishRejectedError("too large")]),
    ],
)
def test_what_will_not_pass_is_no_503(apps: Apps, error: Exception) -> None:
    app = raising(apps, error)
    assert app.test_client().get("/raise").status_code == 500
    app.testing = True
    with pytest.raises(type(error)) as raised:
        app.test_client().get("/raise")
    assert raised.value is error


def test_an_application_s_own_page_for_503_is_shown(apps: Apps) -> None:
    app = raising(apps, PublishNotSentError("no connection", "id-1"))
    seen: list[BaseException | None] = []

    @app.errorhandler(ServiceUnavailable)
    def page(error: ServiceUnavailable) -> tuple[str, int]:
        seen.append(error.__cause__)
        return "come back in a while", 503

    assert app.test_client().get("/raise").text == "come back in a while"
    assert isinstance(seen[0], PublishNotSentError)
    assert seen[0].id == "id-1"


def test_an_application_may_see_to_it_itself(apps: Apps) -> None:
    app = raising(apps, PublishNotSentError("no connection", "id-1"))
    app.register_error_handler(PublishNotSentError, lambda error: (error.id, 202))
    assert app.test_client().get("/raise").text == "id-1"


def test_a_publish_that_fails_is_503_and_the_next_one_passes(apps: Apps) -> None:
    name = fresh("outage")
    app = apps.make(url=f"memory://{name}", PUBLISH_TIMEOUT=0.2, HEALTH_CHECK__INTERVAL=0.1)
    client, broker = app.test_client(), MemoryOutages(name)
    assert client.post("/orders/1").status_code == 200
    broker.refuse()
    assert client.post("/orders/2").status_code == 503
    broker.restore()
    assert bus_of(app).wait_connected(10)
    assert client.post("/orders/3").status_code == 200
    broker.forget()
