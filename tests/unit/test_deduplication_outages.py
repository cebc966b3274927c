"""While the database of the marks is away messages wait: no handler has failed, and none becomes a dead letter."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, EventBusConfig, MemoryConfig, Message, Reject, RetryConfig, RetryLater, deduplicate
from eventbus.deduplication import Claim, DbApiStore, TransactionStore
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

NAME = "deduplication-outages"
RETRY = RetryConfig(max_attempts=3, initial_backoff=0.001)


class Server:
    """An SQLite file behind connections that break, and are not to be had, while the server is away."""

    def __init__(self, path: Path) -> None:
        self.away = False
        self._path = path
        self._made: list[sqlite3.Connection] = []
        self._current: Link | None = None

    def connect(self) -> Link:
        self.check()
        self._made.append(sqlite3.connect(self._path, timeout=5.0, check_same_thread=False))
        return Link(self, self._made[-1])

    def current(self) -> Link:
        """The connection of the one lane; another one where it is broken."""
        if self._current is None or self._current.is_broken:
            self._current = self.connect()
        return self._current

    def check(self) -> None:
        if self.away:
            raise sqlite3.OperationalError("the server is away")

    def close(self) -> None:
        for connection in self._made:
            connection.close()


class Link:
    """A connection that an outage breaks for good."""

    def __init__(self, server: Server, connection: sqlite3.Connection) -> None:
        self.server = server
        self.connection = connection
        self.is_broken = False

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if self.server.away and not self.is_broken:
            self.is_broken = True
            self.connection.rollback()  # as a server does whose client has gone
        if self.is_broken:
            raise sqlite3.OperationalError("the connection is broken")
        return call(*arguments)

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def cursor(self) -> Any:
        link, cursor = self, self.connection.cursor()

        class Cursor:
            fetchone, close = cursor.fetchone, cursor.close
            rowcount = property(lambda _: cursor.rowcount)

            def execute(self, *arguments: Any) -> Any:
                return link._do(cursor.execute, *arguments)

        return Cursor()

    def commit(self) -> None:
        self._do(self.connection.commit)

    def rollback(self) -> None:
        self._do(self.connection.rollback)

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "marks.db")
    connection = made.connect()
    connection.cursor().execute("CREATE TABLE work (id TEXT)")
    connection.commit()
    yield made
    made.close()


STORES: dict[str, Callable[[Server], Any]] = {
    "own": lambda server: DbApiStore(sqlite3, server.connect, claim_timeout=60.0),
    "shared": lambda server: TransactionStore(sqlite3, server.current),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, server: Server) -> Any:
    made = STORES[request.param](server)
    made.create_table()
    return made


@pytest.fixture
def bus() -> Iterator[EventBus]:
    made = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), group="g", retry=RETRY))
    yield made
    made.close(5.0)
    MemoryOutages(NAME).forget()


def message(id: str = "one") -> Message:
    return Message("t", b"x", id=id)


def test_messages_wait_for_as_long_as_it_is_away_and_are_handled_then(
    bus: EventBus, server: Server, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[str] = []
    bus.use(consume=deduplicate(store, retry_after=0.001))
    server.away = True
    with bus:
        bus.subscribe("t", lambda one: handled.append(one.text()))
        bus.publish_many([Message("t", str(number), key=str(number)) for number in range(3)])
        wait_until(lambda: caplog.text.count("the server is away") > 10 * RETRY.max_attempts)
        assert not handled
        server.away = False
        wait_until(lambda: sorted(handled) == ["0", "1", "2"])
        assert (bus.get_statistics().dead_lettered, bus.list_dead_letters()) == (0, [])


def test_a_handler_whose_work_is_in_that_database_waits_with_it(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    store = STORES["shared"](server)
    store.create_table()
    once = deduplicate(store, retry_after=0.25)

    def work(one: Message) -> None:
        server.away = True
        server.current().cursor().execute("INSERT INTO work VALUES (?)", (one.id,))

    with pytest.raises(RetryLater, match="no connection to the database of eventbus_handled") as caught:
        once(message(), work)
    assert caught.value.seconds == 0.25
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    server.away = False
    assert store.claim("another", "o" * 32) is Claim.CLAIMED


@pytest.mark.parametrize("error", [ValueError("a bug"), Reject("nobody wants this")])
def test_what_a_handler_raises_for_another_reason_counts_though_the_database_is_away(
    server: Server, store: Any, error: Exception
) -> None:
    def fail(one: Message) -> None:
        server.away = True
        raise error

    with pytest.raises(type(error)):
        deduplicate(store)(message(), fail)


def test_a_failure_of_a_database_that_is_there_is_a_failure(server: Server, store: Any) -> None:
    def deadlock(one: Message) -> None:
        raise sqlite3.OperationalError("deadlock detected")

    with pytest.raises(sqlite3.OperationalError, match="deadlock"):
        deduplicate(store)(message(), deadlock)
    assert deduplicate(store)(message(), lambda one: "handled") == "handled"


def test_what_fails_in_a_transaction_that_has_failed_says_nothing_of_the_server(server: Server) -> None:
    store = STORES["shared"](server)
    store.create_table()

    def aborted(*arguments: Any) -> Any:
        raise sqlite3.InternalError("the transaction is aborted")

    def deadlock(one: Message) -> None:
        server.current()._do = aborted  # type: ignore[method-assign]
        raise sqlite3.OperationalError("deadlock detected")

    outside = TransactionStore(sqlite3, server.current, commit=False)
    with pytest.raises(sqlite3.OperationalError, match="deadlock"):
        deduplicate(outside)(message(), deadlock)


def test_a_store_of_ones_own_says_it_by_itself() -> None:
    class Away:
        def claim(self, key: str, owner: str) -> Claim:
            raise RetryLater(3.0, "no quorum")

        def done(self, key: str, owner: str) -> None: ...

        def forget(self, key: str, owner: str) -> None: ...

    with pytest.raises(RetryLater, match="no quorum"):
        deduplicate(Away())(message(), lambda one: pytest.fail("called"))
