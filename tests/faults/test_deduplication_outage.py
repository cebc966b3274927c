"""A PostgreSQL server that keeps the marks of `deduplicate` is killed and comes back: nothing is lost or given up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus import EventBus, EventBusConfig, MemoryConfig, Message, RetryConfig, deduplicate
from eventbus.deduplication import DbApiStore, TransactionStore
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages
from eventbus.testing.plugin import skip_or_fail
from eventbus.testing.servers.postgres import PostgresServer

psycopg = pytest.importorskip("psycopg")
pytestmark = [pytest.mark.postgres, pytest.mark.watchdog(90.0)]

NAME = "deduplication-postgres"
COUNT = 60
LONG = 30.0


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with skip_or_fail():
        made = PostgresServer().start()
    with made:
        yield made


class Shop:
    """Handlers that write into the database, each lane through a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._own = threading.local()
        self._lock = threading.Lock()
        self._made: list[Any] = []

    def connect(self) -> Any:
        made = psycopg.connect(self._url, connect_timeout=2)
        with self._lock:
            self._made.append(made)
        return made

    def connection(self) -> Any:
        """The lane's, another one where an outage has broken it."""
        current = getattr(self._own, "connection", None)
        if current is None or current.closed:
            current = self._own.connection = self.connect()
        return current

    def bill(self, message: Message) -> None:
        self.connection().execute("INSERT INTO bills VALUES (%s)", (message.id,))

    def bill_apart(self, message: Message) -> None:
        self.bill(message)
        self.connection().commit()

    def bills(self) -> Counter[str]:
        with psycopg.connect(self._url) as connection:
            return Counter(id for (id,) in connection.execute("SELECT id FROM bills").fetchall())

    def close(self) -> None:
        for one in self._made:
            one.close()


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_while_it_is_away_messages_wait_and_are_handled_when_it_is_back(server: PostgresServer, kind: str) -> None:
    shop = Shop(server.url)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE bills (id TEXT)")
    store: Any = TransactionStore(psycopg, shop.connection)
    if kind == "own":
        store = DbApiStore(psycopg, shop.connect, claim_timeout=3.0)
    store.create_table()
    retry = RetryConfig(max_attempts=3, initial_backoff=0.01)
    bus = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), group="g", retry=retry))
    bus.use(consume=deduplicate(store, retry_after=0.05))
    with bus:
        bus.subscribe("orders", shop.bill if kind == "shared" else shop.bill_apart, concurrency=4)
        ids = []
        for number in range(COUNT):
            if number == COUNT // 3:
                wait_until(lambda: bus.get_statistics().handled > 0, LONG)
                server.kill()
            if number == 2 * COUNT // 3:
                failed = bus.get_statistics().failed
                wait_until(lambda: bus.get_statistics().failed > failed + 10 * retry.max_attempts, LONG)  # noqa: B023
                server.restart()
            ids.append(bus.publish("orders", str(number), key=str(number)).id)
        wait_until(lambda: set(shop.bills()) == set(ids), LONG)
        wait_until(lambda: all(sub.status().in_hand == 0 for sub in bus.get_subscriptions()), LONG)
        assert bus.get_statistics().dead_lettered == 0
        assert kind == "own" or set(shop.bills().values()) == {1}, "work and mark are one transaction"
    shop.close()
    MemoryOutages(NAME).forget()
