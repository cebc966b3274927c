"""What the integration for Django promises, one function each; settings are global, so each has a process of its own.

Run as `python django_scenarios.py NAME` by test_django.py, in the project of scripts/examples/django_shop.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import django

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "examples" / "django_shop"))
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
os.environ.setdefault("EVENTBUS_URL", "memory://shop")
django.setup()

from django.core.checks import run_checks  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402
from django.db import OperationalError, connection, connections, transaction  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from shop.models import Bill, Order  # noqa: E402

import eventbus  # noqa: E402
from eventbus.ext.django import bus_made, get_bus, publish_on_commit, subscriber  # noqa: E402
from eventbus.ext.django.subscribers import subscribers  # noqa: E402
from eventbus.testing import wait_until  # noqa: E402
from eventbus.testing.memory import MemoryOutages  # noqa: E402

connection.settings_dict["CONN_MAX_AGE"] = 0  # else those of lanes end with their threads, and psycopg warns

SCENARIOS: dict[str, Callable[[], None]] = {}
NEEDS_DATABASE: set[str] = set()


def scenario(function: Callable[[], None]) -> Callable[[], None]:
    """Have a test run it."""
    SCENARIOS[function.__name__] = function
    return function


def with_database(function: Callable[[], None]) -> Callable[[], None]:
    """Have a test run it with tables, on each kind of database."""
    NEEDS_DATABASE.add(function.__name__)
    return scenario(function)


def stored(topic: str = "orders") -> list[object]:
    """What a topic holds."""
    return [message.json() for message in get_bus().read(topic)]


@contextmanager
def raises(kind: type[BaseException], text: str = "") -> Iterator[None]:
    """The block must raise this, and say that."""
    try:
        yield
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


class Undone(Exception):
    """Has a transaction rolled back."""


# -- the one bus ---------------------------------------------------------------------------------


@scenario
def nothing_is_made_before_the_first_use() -> None:
    call_command("check")
    assert Client().get("/healthz/live").status_code == 200
    with raises(eventbus.NotInitializedError):
        eventbus.get_global()
    wait_until(lambda: [thread.name for thread in threading.enumerate()] == ["MainThread"])


@scenario
def all_threads_get_the_same_bus_and_it_is_the_global_one() -> None:
    found: list[eventbus.EventBus] = []
    threads = [threading.Thread(target=lambda: found.append(get_bus())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(found) == 20
    assert set(map(id, found)) == {id(eventbus.get_global())}
    assert found[0].config.group == "shop"


@scenario
def a_global_bus_that_the_project_made_is_used() -> None:
    made = eventbus.initialize_from_config("memory://own")
    assert get_bus() is made
    eventbus.close_global()
    assert get_bus() is not made


@scenario
def who_wants_to_be_told_when_it_is_made_is_told_once() -> None:
    seen: list[str] = []

    def made(bus: eventbus.EventBus, **kwargs: object) -> None:
        assert get_bus() is bus
        bus.use(publish=lambda message, call_next: (seen.append(message.topic), call_next(message))[1])

    bus_made.connect(made)
    for _ in range(2):
        get_bus().publish("orders", 1)
    assert seen == ["orders", "orders"]


@scenario
def it_is_made_while_the_broker_is_away_and_connects_later() -> None:
    broker = MemoryOutages("shop")
    broker.refuse()
    assert not get_bus().get_connection_state().is_connected
    with raises(eventbus.PublishNotSentError):
        get_bus().publish("orders", 1, timeout=0.2)
    broker.restore()
    assert get_bus().publish("orders", 2, timeout=30.0).confirmed


@scenario
def a_forked_child_makes_its_own() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if get_bus().publish("orders", 1).confirmed else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert get_bus().publish("orders", 1).confirmed


@scenario
def one_that_was_opened_before_a_fork_works_in_the_child() -> None:
    assert get_bus().publish("orders", 1).confirmed
    a_forked_child_makes_its_own()


@scenario
def an_overridden_setting_makes_another_bus() -> None:
    before = get_bus()
    with override_settings(EVENTBUS="memory://another?group=tests"):
        assert get_bus() is not before
        assert get_bus().config.group == "tests"
        assert before.get_connection_state().phase is eventbus.Phase.CLOSED
    assert get_bus().config.group == "shop"


@scenario
def it_ends_with_the_process_in_order() -> None:
    for number in range(1000):
        get_bus().publish_nowait("orders", number)  # warnings are errors here: a bus that is forgotten would tell


# -- publishing on commit ------------------------------------------------------------------------


@with_database
def what_is_rolled_back_is_not_published() -> None:
    with raises(Undone), transaction.atomic():
        Order.objects.create(customer="a", total=1)
        publish_on_commit("orders", "undone")
        raise Undone
    with transaction.atomic():
        publish_on_commit("orders", "outside")
        with raises(Undone), transaction.atomic():
            publish_on_commit("orders", "inside")
            raise Undone
        with transaction.atomic():
            publish_on_commit("orders", "saved")
    get_bus().flush()
    texts = [message.text() for message in get_bus().read("orders")]
    assert texts == ["outside", "saved"]
    assert not Order.objects.exists()


@with_database
def each_database_has_transactions_of_its_own() -> None:
    connections.databases["other"] = connections.databases["default"]
    with raises(Undone), transaction.atomic(using="other"):
        publish_on_commit("orders", "rolled back", using="other")
        publish_on_commit("orders", "of the default one")
        raise Undone
    connections["other"].close()
    get_bus().flush()
    assert [message.text() for message in get_bus().read("orders")] == ["of the default one"]


@with_database
def what_is_committed_is_published_once_in_order_as_it_was() -> None:
    with transaction.atomic():
        order = {"number": 1}
        ids = [publish_on_commit("orders", order, key="k", headers={"from": "shop"}), publish_on_commit("orders", 2)]
        order["number"] = 99
        get_bus().publish("orders", 0)
        assert stored() == [0], "nothing before the commit"
    get_bus().flush()
    found = sorted(get_bus().read("orders"), key=lambda message: str(message.payload))
    assert [message.json() for message in found] == [0, 2, {"number": 1}]
    assert [found[2].id, found[1].id] == ids
    assert (found[2].key, found[2].headers["from"]) == ("k", "shop")


@with_database
def outside_of_a_transaction_it_is_published_at_once() -> None:
    id = publish_on_commit("orders", 1, id="given")
    get_bus().flush()
    assert (id, stored()) == ("given", [1])


@with_database
def what_cannot_be_published_raises_inside_of_the_transaction() -> None:
    for topic, payload, options, kind in (
        ("no blanks", 1, {}, eventbus.PublishRejectedError),
        ("orders", object(), {}, eventbus.PublishRejectedError),
        ("orders", float("nan"), {}, eventbus.PublishRejectedError),
        ("orders", 1, {"key": 1}, eventbus.PublishRejectedError),
        ("orders", 1, {"headers": {"Nats-Msg-Id": "x"}}, eventbus.PublishRejectedError),
        ("orders", 1, {"id": "no blanks"}, eventbus.PublishRejectedError),
        ("orders", eventbus.TOMBSTONE, {}, eventbus.UnsupportedError),
        ("orders", None, {}, TypeError),
        ("orders", 1, {"timeout": "5"}, ValueError),
        ("orders", 1, {"on_error": "log"}, TypeError),
    ):
        with raises(kind), transaction.atomic():
            Order.objects.create(customer="a", total=1)
            publish_on_commit(topic, payload, **options)
    assert not Order.objects.exists()


@with_database
def an_outage_holds_up_no_response_and_loses_nothing() -> None:
    broker, client = MemoryOutages("shop"), Client()
    assert get_bus().wait_connected(10.0)
    broker.refuse()
    for number in range(5):
        answer = client.post("/orders", {"customer": "a", "total": number + 1}, content_type="application/json")
        assert answer.status_code == 201
    broker.restore()
    assert get_bus().flush(30.0).unanswered == 0
    assert sorted(one["total"] for one in stored("orders.created")) == [1, 2, 3, 4, 5]


@with_database
def an_on_error_that_fails_breaks_nothing_either() -> None:
    def failed(event: eventbus.ErrorEvent) -> None:
        raise Undone

    get_bus().close()
    done: list[str] = []
    with override_settings(EVENTBUS="memory://shop?on_outage=raise"):
        MemoryOutages("shop").refuse()
        with transaction.atomic():
            publish_on_commit("orders", 1, on_error=failed)
            transaction.on_commit(lambda: done.append("the next one"))
    assert done == ["the next one"]


@with_database
def a_failure_after_the_commit_is_told_and_breaks_nothing_else() -> None:
    told: list[eventbus.ErrorEvent] = []
    threads: list[str] = []
    lines: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("eventbus.ext.django").addHandler(handler)

    def failed(event: eventbus.ErrorEvent) -> None:
        Bill.objects.create(order=len(told) + 1, total=0)
        threads.append(threading.current_thread().name)
        told.append(event)

    with override_settings(EVENTBUS="memory://shop?max_in_flight=1&publish_timeout=0.1"):
        broker = MemoryOutages("shop")
        assert get_bus().wait_connected(10.0)
        broker.refuse()
        wait_until(lambda: not get_bus().get_connection_state().is_connected)
        with transaction.atomic():
            ids = [publish_on_commit("orders", number, on_error=failed) for number in (1, 2)]
            transaction.on_commit(lambda: told.append(eventbus.ErrorEvent(source="later", error=Undone())))
            Order.objects.create(customer="a", total=1)
        assert Order.objects.count() == 1
        no_room, later = told
        assert (no_room.source, no_room.topic, later.source) == ("publish", "orders", "later")
        assert isinstance(no_room.error, eventbus.PublishNotSentError)
        assert no_room.message is not None
        assert (no_room.message.id, no_room.message.json()) == (ids[1], 2)
        assert eventbus.close_global(1.0).unanswered == 1
        wait_until(lambda: len(told) == 3)
        assert told[2].message is not None
        assert (told[2].message.id, told[2].message.json()) == (ids[0], 1)
        assert threads[0] == "MainThread" != threads[1]
        wait_until(lambda: len(lines) == 2)
        assert all(id in line for id, line in zip(reversed(ids), lines, strict=True))


# -- handlers ------------------------------------------------------------------------------------


@with_database
def connections_are_looked_after_around_each_message() -> None:
    def handle(message: eventbus.Message) -> None:
        assert connection.connection is None, "the one of the message before is closed"
        Order.objects.create(customer=message.text(), total=1)

    get_bus().subscribe("orders", handle, retry=eventbus.RetryConfig(max_attempts=1))
    for number in range(3):
        get_bus().publish("orders", f"customer {number}")
    wait_until(lambda: get_bus().get_statistics().handled == 3)
    assert Order.objects.count() == 3


@with_database
def a_failure_in_a_database_that_is_there_is_a_failure() -> None:
    attempts: list[int] = []

    def handle(message: eventbus.Message) -> None:
        Order.objects.count()
        attempts.append(message.attempt)
        raise OperationalError("deadlock detected")

    get_bus().subscribe("orders", handle, retry=eventbus.RetryConfig(max_attempts=2, initial_backoff=0.01))
    get_bus().publish("orders", 1)
    wait_until(lambda: get_bus().get_statistics().dead_lettered == 1)
    assert attempts == [1, 2]


@scenario
def while_the_database_is_away_no_message_is_used_up() -> None:
    seen: list[int] = []

    def handle(batch: eventbus.Batch) -> None:
        seen.append(len(batch))
        if len(seen) <= 8:
            connection.ensure_connection()  # the path of its file does not exist
        get_bus().publish("done", sorted(batch.payloads)[0])

    get_bus().subscribe("orders", handle, batch=(2, 0.1), retry=eventbus.RetryConfig(initial_backoff=0.01))
    for number in range(2):
        get_bus().publish("orders", number)
    wait_until(lambda: get_bus().get_statistics().handled > 0)
    assert get_bus().get_statistics().dead_lettered == 0
    assert len(seen) > 8


@scenario
def subscribers_are_found_in_the_events_of_all_apps() -> None:
    (found,) = subscribers()
    assert (found.topic, found.name) == ("orders.*", "shop.events.bill")
    assert found.options == {"group": "billing", "concurrency": 4}
    assert callable(found.handler)


@scenario
def a_wrong_option_of_a_subscriber_is_an_error_where_it_stands() -> None:
    with raises(TypeError, "concurency"):
        subscriber("orders", concurency=4)(lambda message: None)
    with raises(TypeError, "takes a topic first: @subscriber("):
        subscriber(print)  # type: ignore[arg-type]
    assert len(subscribers()) == 1


# -- checks --------------------------------------------------------------------------------------


def checked(**options: bool) -> list[tuple[str, str]]:
    """The ids and texts of what the checks find."""
    return [(str(one.id), f"{one.msg} {one.hint} {one.obj}") for one in run_checks(tags=["eventbus"], **options)]


@scenario
def wrong_settings_are_named() -> None:
    assert checked() == []
    os.environ.pop("EVENTBUS_URL")
    for value, text in (
        (None, "EVENTBUS_URL"),
        ({"url": "memory://", "grup": "shop"}, "did you mean 'group'?"),
        ({"url": "memory://", "reconnect": {"max_atempts": 3}}, "reconnect.max_atempts"),
        ("redis://127.0.0.1", "redis"),
        ("memory://?publish_timeout=soon", "publish_timeout"),
        (7, "int"),
    ):
        with override_settings(EVENTBUS=value):
            ((id, told),) = checked()
        assert id == "eventbus.E001", told
        assert text in told, told


@scenario
def a_client_library_that_is_not_installed_is_named() -> None:
    sys.modules["confluent_kafka"] = None  # type: ignore[assignment]
    with override_settings(EVENTBUS="kafka://127.0.0.1"):
        ((id, told),) = checked()
    assert id == "eventbus.E001"
    assert "pip install 'jxt-eventbus[kafka]'" in told


@scenario
def wrong_subscribers_are_named() -> None:
    async def never(message: object) -> None:
        """Would be acknowledged and not run."""

    subscriber("orders..new", group="a")(print)
    subscriber("orders", group="a", concurrency=0)(print)
    subscriber("orders", group="a")(never)
    subscriber("payments", group="a")(print)
    subscriber("payments", group="a")(print)
    found = checked()
    assert [id for id, _ in found] == ["eventbus.E002"] * 4, found
    for (_, told), text in zip(found, ("orders..new", "concurrency", "coroutine", "payments"), strict=True):
        assert text in told, told
    assert "never" in found[2][1], "where it stands"


@scenario
def a_subscriber_without_a_group_is_a_warning() -> None:
    subscriber("news")(print)
    assert checked() == []
    subscriber("meant", group=eventbus.BROADCAST)(print)
    with override_settings(EVENTBUS="memory://shop"):
        ((id, told),) = checked()
    assert id == "eventbus.W001"
    assert "'news'" in told


@scenario
def a_broker_inside_of_the_process_is_a_warning_for_a_deployment() -> None:
    assert [id for id, _ in checked(include_deployment_checks=True)] == ["eventbus.W002"]
    with override_settings(EVENTBUS="nats://127.0.0.1:4222"):
        assert checked(include_deployment_checks=True) == []


@scenario
def loggers_that_nobody_hears_are_a_warning_for_a_deployment() -> None:
    os.environ["EVENTBUS_URL"] = "nats://127.0.0.1:4222"
    handlers, logging.root.handlers[:] = logging.root.handlers[:], []
    with override_settings(EVENTBUS=None):
        ((id, told),) = checked(include_deployment_checks=True)
    logging.root.handlers[:] = handlers
    assert id == "eventbus.W003"
    assert "LOGGING" in told


# -- health views --------------------------------------------------------------------------------


@scenario
def the_health_views_follow_an_outage() -> None:
    broker, client = MemoryOutages("shop"), Client()

    def asked(path: str) -> tuple[int, str]:
        answer = client.get(path)
        assert "no-store" in answer["Cache-Control"]
        return answer.status_code, json.loads(answer.content)["status"]

    assert asked("/healthz/ready")[0] == 200, "also for the first question"
    wait_until(lambda: asked("/healthz/ready") == (200, "ready"))
    broker.refuse()
    wait_until(lambda: asked("/healthz/ready") == (503, "reconnecting"))
    assert asked("/healthz/live") == (200, "live")
    broker.restore()
    wait_until(lambda: asked("/healthz/ready") == (200, "ready"))
    assert client.post("/healthz/live").status_code == 405


@scenario
def a_worker_that_boots_without_its_broker_is_not_ready() -> None:
    broker, client = MemoryOutages("shop"), Client()
    broker.refuse()
    assert client.get("/healthz/ready").status_code == 503
    broker.restore()
    wait_until(lambda: client.get("/healthz/ready").status_code == 200)


@scenario
def a_log_handler_that_publishes_holds_up_nobody() -> None:
    told: list[str] = []

    class Publishing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                get_bus().publish_nowait("logs", record.getMessage())
            except eventbus.NotInitializedError as error:
                told.append(str(error))

    ours, handler = logging.getLogger("eventbus"), Publishing()
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    with override_settings(EVENTBUS={"url": "memory://logs", "connect_timeout": 30.0}):
        begun = time.monotonic()
        assert get_bus().publish("orders", 1).confirmed
        assert time.monotonic() - begun < 15.0
        assert set(told) == {"the bus is not open yet, and a log handler cannot wait for it"}
    ours.removeHandler(handler)


@scenario
def without_those_who_want_to_be_told_there_is_no_bus() -> None:
    def failing(bus: eventbus.EventBus, **kwargs: object) -> None:
        raise Undone(bus.config.name)

    bus_made.connect(failing)
    for _ in range(2):
        with raises(Undone):
            get_bus()
    bus_made.disconnect(failing)
    assert get_bus().publish("orders", 1).confirmed


# -- commands ------------------------------------------------------------------------------------


@scenario
def a_consumer_of_nothing_says_why() -> None:
    subscriber("payments", group="audit")(print)
    for words, text in (
        (["--topics", "order.*"], "did you mean 'orders.*'?"),
        (["--topics", "orders.created"], "no subscriber has the topic"),
        (["--group", "biling"], "did you mean 'billing'?"),
        (["--group", "nobody"], "known: audit, billing"),
        (["--topics", "payments", "--group", "billing"], "no subscriber is both"),
    ):
        with raises(CommandError, text):
            call_command("eventbus_consume", *words)


@scenario
def a_subscriber_that_the_broker_refuses_holds_back_no_other() -> None:
    seen: list[object] = []

    @subscriber("receipts", group="billing")
    def receive(message: eventbus.Message) -> None:
        seen.append(message.json())
        get_bus().close()

    subscriber("payments", group="billing")(print)
    MemoryOutages("shop").refuse_topic("payments", "not for you")
    with eventbus.EventBus("memory://shop") as bus:
        bus.publish("receipts", 1)
        call_command("eventbus_consume", "--topics", "payments", "receipts")
    assert seen == [1]


def main(name: str) -> None:
    """Run one."""
    with ExitStack() as stack:
        if name in NEEDS_DATABASE:
            call_command("migrate", verbosity=0)
            call_command("flush", verbosity=0, interactive=False)
            stack.callback(connection.close)
        SCENARIOS[name]()


if __name__ == "__main__":
    main(sys.argv[1])
