"""The example shop on real servers: gunicorn, JetStream, SQLite and PostgreSQL, and what happens when they go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from django_support import GRACEFUL, SHOP, Shop, ended

from eventbus import EventBus
from eventbus.testing import NatsServer, PostgresServer, wait_until
from eventbus.testing.plugin import skip_or_fail

pytest.importorskip("django")
pytest.importorskip("gunicorn")
pytestmark = [pytest.mark.nats, pytest.mark.watchdog(180)]

CALM = 40.0
"""Seconds that what was published may take to be handled once all is well again, on a busy machine."""


@pytest.fixture
def shop(nats_server: NatsServer, tmp_path: Path) -> Iterator[Shop]:
    """On SQLite."""
    with Shop(nats_server.url, f"sqlite://{tmp_path}/shop.sqlite3") as made:
        yield made


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """One that may be killed, whatever else there is."""
    with skip_or_fail():
        server = PostgresServer().start()
    with server:
        yield server


def order(shop: Shop, total: int) -> tuple[int, int | None]:
    """Order something; the status of the answer, and the order's number."""
    status, told = shop.asked("/orders", {"customer": f"customer {total % 7}", "total": total})
    return status, (told or {}).get("order")


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each", "preload"])
def test_orders_are_billed_through_an_outage_of_the_broker(
    shop: Shop, nats_server: NatsServer, options: tuple[str, ...]
) -> None:
    web, consumer = shop.web(*options), shop.consumer()
    numbers = [order(shop, total) for total in range(1, 11)]
    assert order(shop, 1001) == (402, None), "rolled back"
    nats_server.kill()
    wait_until(lambda: shop.asked("/healthz/ready")[1]["status"] == "reconnecting")
    assert shop.asked("/healthz/ready")[0] == 503
    assert shop.asked("/healthz/live")[0] == 200
    numbers += [order(shop, total) for total in range(11, 21)]
    nats_server.start()
    wait_until(lambda: shop.asked("/healthz/ready")[0] == 200, CALM)
    numbers += [order(shop, total) for total in range(21, 31)]
    assert {status for status, _ in numbers} == {201}
    wanted = sorted(number for _, number in numbers if number is not None)
    wait_until(lambda: shop.bills() == wanted, CALM, message=lambda: f"{shop.bills()} of {wanted}")
    assert ended(web) == 0
    assert ended(consumer) == 0
    assert "without bus.close()" not in web.log()


def test_a_web_process_that_ends_in_an_outage_tells_what_it_could_not_publish(
    shop: Shop, nats_server: NatsServer
) -> None:
    web = shop.web("--workers", "1")
    wait_until(lambda: shop.asked("/healthz/ready")[0] == 200)
    nats_server.kill()
    assert order(shop, 1)[0] == 201
    assert ended(web, GRACEFUL) == 0
    assert "was not published after the commit" in web.log()


def test_the_first_order_of_a_process_is_published_where_outages_are_to_raise(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_ON_OUTAGE", "raise")
    code = "from eventbus.ext.django import publish_on_commit; publish_on_commit('orders.created', {'order': 1})"
    with Shop(nats_server.url, f"sqlite://{tmp_path}/shop.sqlite3") as shop:
        shop.manage("shell", "--verbosity", "0", "--command", code)
    assert nats_server.monitor("jsz?streams=true")["messages"] == 1


@pytest.mark.postgres
def test_handlers_survive_a_restart_of_their_database(nats_server: NatsServer, own_postgres: PostgresServer) -> None:
    with Shop(nats_server.url, own_postgres.url) as shop, EventBus(f"{nats_server.url}?group=test") as bus:
        consumer = shop.consumer()
        numbers = iter(range(1, 1000))

        def publish(count: int) -> None:
            for _ in range(count):
                number = next(numbers)
                bus.publish("orders.created", {"order": number, "total": number}, key=str(number % 10))

        publish(50)
        own_postgres.restart()
        publish(50)
        own_postgres.kill()
        publish(50)
        wait_until(lambda: "attempt=6" in consumer.log(), CALM, message=consumer.log)  # a failure has five
        own_postgres.start()
        publish(50)
        wanted = list(range(1, 201))
        wait_until(lambda: shop.bills() == wanted, 2 * CALM, message=lambda: f"{shop.bills()}\n{consumer.log()}")
        assert "no connection to database default" in consumer.log()
        assert bus.list_dead_letters() == [], "an outage of the database is no failure of a message"
        assert ended(consumer) == 0


def test_dead_letters_are_looked_after_from_the_command_line(shop: Shop, nats_server: NatsServer) -> None:
    consumer = shop.consumer("--topics", "orders.*", "--group", "billing")
    with EventBus(f"{nats_server.url}?group=test") as bus:
        ids = [bus.publish("orders.created", {"order": number, "total": 0}).id for number in range(3)]
        topic = "dlq.billing.orders.created"

        def listed() -> list[tuple[str, int]]:
            told, _ = shop.manage("eventbus_dlq", "list", "--json")
            return [(row["topic"], row["messages"]) for row in map(json.loads, told.splitlines())]

        wait_until(lambda: listed() == [(topic, 3)], CALM, message=consumer.log)
        assert ended(consumer) == 0
        told, _ = shop.manage("eventbus_dlq", "show", topic, "--json", "--reason", "nothing to bill")
        assert sorted(json.loads(line)["id"] for line in told.splitlines()) == ids
        told, _ = shop.manage("eventbus_dlq", "replay", topic, "--json", "--id", ids[0])
        assert json.loads(told)["replayed"] == 1
        _, errors = shop.manage("eventbus_dlq", "purge", topic, code=2)
        assert "--yes" in errors
        shop.manage("eventbus_dlq", "purge", topic, "--yes")
        assert not [one for one in bus.list_dead_letters() if one.messages]


def test_a_consumer_with_reload_runs_what_was_edited(nats_server: NatsServer, tmp_path: Path) -> None:
    project = Path(shutil.copytree(SHOP, tmp_path / "project"))
    events = project / "shop" / "events.py"
    with (
        Shop(nats_server.url, f"sqlite://{tmp_path}/shop.sqlite3", project) as shop,
        EventBus(f"{nats_server.url}?group=test") as bus,
    ):
        consumer = shop.consumer("--reload")
        bus.publish("orders.created", {"order": 1, "total": 1})
        wait_until(lambda: shop.bills() == [1], CALM, message=consumer.log)
        right = events.read_text()
        events.write_text(right.replace("concurrency=4", "concurrency=0"))
        wait_until(lambda: "eventbus.E002" in consumer.log(), CALM, message=consumer.log)
        events.write_text(right.replace('order=order["order"]', 'order=order["order"] + 1000'))
        wait_until(lambda: "-> CONNECTED" in consumer.log().rpartition("eventbus.E002")[2], CALM, message=consumer.log)
        bus.publish("orders.created", {"order": 2, "total": 1})
        wait_until(lambda: shop.bills() == [1, 1002], CALM, message=consumer.log)
        assert ended(consumer) == 0


def test_a_consumer_does_not_start_with_wrong_settings(nats_server: NatsServer, tmp_path: Path) -> None:
    with Shop(nats_server.url, f"sqlite://{tmp_path}/shop.sqlite3") as right:
        assert right.bills() == []
    wrong = Shop(f"{nats_server.url}?publish_timout=1", f"sqlite://{tmp_path}/shop.sqlite3")
    _, errors = wrong.manage("eventbus_consume", code=1)
    assert "eventbus.E001" in errors
    assert "did you mean 'publish_timeout'?" in errors
