"""Each message is handled once: marks in memory and in a database, crashes and races included."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import eventbus
from eventbus import BROADCAST, EventBus, EventBusConfig, MemoryConfig, Message, RetryConfig, RetryLater, deduplicate
from eventbus.deduplication import Claim, DbApiStore, MemoryStore, TransactionStore
from eventbus.deduplication import dbapi as dbapi_module
from eventbus.deduplication.renewed import Renewed
from eventbus.errors import ConfigError, UnsupportedError
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

RETRY = RetryConfig(max_attempts=5, initial_backoff=0.001)
NAME = "deduplication-unit"


class Database:
    """An SQLite file, and for each thread the connection that its handlers use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.local = threading.local()
        self.made: list[sqlite3.Connection] = []

    def new(self, **options: Any) -> sqlite3.Connection:
        self.made.append(sqlite3.connect(self.path, timeout=5.0, check_same_thread=False, **options))
        return self.made[-1]

    def current(self) -> sqlite3.Connection:
        if not hasattr(self.local, "connection"):
            self.local.connection = self.new()
        return self.local.connection

    def rows(self, statement: str) -> list[Any]:
        return self.new().execute(statement).fetchall()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "marks.db")
    connection = made.new()
    connection.execute("CREATE TABLE work (id TEXT)")
    connection.commit()
    yield made
    for connection in made.made:
        connection.close()


@pytest.fixture
def bus(database: Database) -> Iterator[EventBus]:
    made = EventBus(EventBusConfig(backend=MemoryConfig(name=NAME), group="g", retry=RETRY))
    yield made
    made.close(5.0)
    MemoryOutages(NAME).forget()


def own(database: Database, **options: Any) -> DbApiStore:
    store = DbApiStore(sqlite3, database.new, **{"claim_timeout": 60.0, **options})
    store.create_table()
    return store


def shared(database: Database, **options: Any) -> TransactionStore:
    store = TransactionStore(sqlite3, database.current, **options)
    store.create_table()
    return store


STORES: dict[str, Callable[[Database], Any]] = {
    "memory": lambda database: MemoryStore(),
    "own": own,
    "shared": shared,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, database: Database) -> Any:
    return STORES[request.param](database)


def message(id: str | None = "one", topic: str = "t", **options: Any) -> Message:
    return Message(topic, b"x", id=id, **options)


# -- every store ---------------------------------------------------------------------------------


def test_what_was_handled_is_skipped_and_what_failed_is_not(store: Any) -> None:
    middleware, calls = deduplicate(store), list[str]()

    def fail(one: Message) -> None:
        calls.append("failed")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        middleware(message(), fail)
    assert middleware(message(), lambda one: calls.append("handled") or "result") == "result"
    assert middleware(message(), lambda one: calls.append("again")) is None
    assert middleware(message("two"), lambda one: calls.append("two")) is None
    assert calls == ["failed", "handled", "two"]
    assert (middleware.skipped, middleware.busy) == (1, 0)


def test_a_thread_that_comes_while_another_handles_is_put_off_until_that_one_has_succeeded(store: Any) -> None:
    if isinstance(store, TransactionStore):
        pytest.skip("its database makes the second one wait: the next test")
    middleware = deduplicate(store, retry_after=0.25)
    inside, go_on, calls = threading.Event(), threading.Event(), list[str]()

    def handle(one: Message) -> None:
        inside.set()
        assert go_on.wait(5.0)
        calls.append("first")

    first = threading.Thread(target=middleware, args=(message(), handle))
    first.start()
    assert inside.wait(5.0)
    with pytest.raises(RetryLater, match="being handled elsewhere") as caught:
        middleware(message(), lambda one: calls.append("second"))
    assert caught.value.seconds == 0.25
    assert calls == []
    go_on.set()
    first.join(5.0)
    middleware(message(), lambda one: calls.append("second"))
    assert calls == ["first"]
    assert (middleware.skipped, middleware.busy) == (1, 1)


@pytest.mark.parametrize("fails", [False, True], ids=["commits", "rolls back"])
def test_a_transaction_makes_the_second_one_wait_for_its_end(database: Database, fails: bool) -> None:
    middleware, calls = deduplicate(shared(database)), list[str]()
    inside, go_on = threading.Event(), threading.Event()

    def handle(one: Message) -> None:
        inside.set()
        assert go_on.wait(5.0)
        calls.append("first")
        if fails:
            raise ZeroDivisionError

    def run() -> None:
        with pytest.raises(ZeroDivisionError) if fails else _nothing():
            middleware(message(), handle)

    def second() -> None:
        while True:
            try:
                middleware(message(), lambda one: calls.append("second"))
                return
            except (RetryLater, sqlite3.OperationalError):
                continue

    threads = [threading.Thread(target=run), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(5.0)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10.0)
    assert calls == (["first", "second"] if fails else ["first"])


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *raised: object) -> None: ...


def test_many_threads_that_race_on_one_id_call_the_handler_once(store: Any) -> None:
    middleware, calls, barrier = deduplicate(store), list[str](), threading.Barrier(8)
    running: list[int] = []

    def handle(one: Message) -> None:
        running.append(1)
        assert len(running) == 1, "two at once"
        calls.append(str(one.id))
        running.pop()

    def race() -> None:
        barrier.wait(5.0)
        for number in range(5):
            while True:
                try:
                    middleware(message(f"id-{number}"), handle)
                    break
                except (RetryLater, sqlite3.OperationalError):
                    continue

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert sorted(calls) == [f"id-{number}" for number in range(5)]
    assert middleware.skipped == 35


# -- what a message is known by ------------------------------------------------------------------


def test_without_an_id_a_message_is_known_by_its_place_and_time() -> None:
    middleware, calls = deduplicate(), list[object]()
    now, later = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc)
    for stamp in (now, now, later):  # the last one: of a topic that was made anew
        for offset in (7, 8):
            middleware(message(None, partition=0, offset=offset, timestamp=stamp), lambda one: calls.append(one.offset))
    assert calls == [7, 8, 7, 8]
    for _ in range(2):
        middleware(message(None), lambda one: calls.append("unknown"))
    assert calls[4:] == ["unknown", "unknown"]
    assert middleware.skipped == 2


def test_the_same_id_in_another_topic_is_another_message() -> None:
    middleware, calls = deduplicate(), list[str]()
    for topic in ("a", "b", "a"):
        middleware(message(topic=topic), lambda one: calls.append(one.topic))
    assert calls == ["a", "b"]


def test_a_key_of_ones_own() -> None:
    middleware, calls = deduplicate(key=lambda one: one.key), list[str | None]()
    for id, key in (("1", "order-1"), ("2", "order-1"), ("3", None), ("3", None)):
        middleware(message(id, key=key), lambda one: calls.append(one.id))
    assert calls == ["1", "3", "3"]


async def _coroutine(one: Message) -> None: ...


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="never run"):
        deduplicate(key=_coroutine)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        deduplicate(retry_after=-1.0)
    for store in (1, MemoryStore, object()):
        with pytest.raises(TypeError, match="store must be an object with claim, done and forget"):
            deduplicate(store)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="single messages"):
        deduplicate()([message()], len)  # type: ignore[arg-type, list-item]
    for size in (0, True, "many"):
        with pytest.raises(ValueError, match="size"):
            MemoryStore(size)  # type: ignore[arg-type]


# -- on a bus ------------------------------------------------------------------------------------


def test_it_is_refused_beside_batch_handlers_whichever_comes_first(bus: EventBus) -> None:
    once = deduplicate()
    sub = bus.subscribe("orders", len, batch=(10, 0.1))
    with pytest.raises(UnsupportedError, match=r"deduplicate\(MemoryStore\) takes no batches, and orders is"):
        bus.use(consume=once)
    bus.unsubscribe(sub)
    bus.use(consume=once)
    with pytest.raises(UnsupportedError, match=r"orders: deduplicate\(MemoryStore\) is in use"):
        bus.subscribe("orders", len, batch=(10, 0.1))
    assert bus.get_subscriptions() == ()
    bus.subscribe("orders", print)


def test_on_a_bus_each_group_handles_a_message_once_and_broadcast_copies_all(bus: EventBus) -> None:
    middleware, calls = deduplicate(), list[str]()
    bus.use(consume=middleware)
    for group in ("one", "two"):
        bus.subscribe("t", lambda message, group=group: calls.append(group), group=group)  # type: ignore[misc]
    for _ in range(2):
        bus.subscribe("t", lambda message: calls.append("copy"), group=BROADCAST)
    bus.subscribe("*", lambda message: calls.append("pattern"), group="one")
    bus.open()
    bus.publish("t", b"x", id="same")
    wait_until(lambda: bus.get_statistics().handled == 5)
    assert sorted(calls) == ["copy", "copy", "one", "pattern", "two"]
    assert middleware.skipped == 0


def test_a_failing_handler_is_tried_again_until_it_succeeds(bus: EventBus) -> None:
    middleware, calls = deduplicate(), list[int]()

    def handler(message: Message) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise ZeroDivisionError

    bus.use(consume=middleware)
    bus.subscribe("t", handler)
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert len(calls) == 3
    assert middleware.skipped == 0


def test_a_message_that_another_one_handles_is_put_off_and_counts_no_failure(bus: EventBus) -> None:
    store = MemoryStore()
    middleware, calls = deduplicate(store, key=lambda message: "key", retry_after=0.01), list[int]()
    store.claim("key", "somebody")
    bus.use(consume=middleware)
    bus.subscribe("t", lambda message: calls.append(1))
    bus.open()
    bus.publish("t", b"x")
    wait_until(lambda: middleware.busy >= 2 * (RETRY.max_attempts or 0), 10.0)
    store.forget("key", "somebody")
    wait_until(lambda: bus.get_statistics().handled == 1)
    assert calls == [1]
    assert bus.get_statistics().dead_lettered == 0


def test_another_process_of_the_group_skips_what_this_one_has_handled(bus: EventBus, database: Database) -> None:
    """The other process: a bus with a store of its own, over the same database, and a broker that delivers again."""
    calls: list[str] = []
    bus.use(consume=deduplicate(own(database)))
    bus.subscribe("t", lambda message: calls.append("here"))
    bus.open()
    bus.publish("t", b"x", id="same")
    wait_until(lambda: bus.get_statistics().handled == 1)
    MemoryOutages(f"{NAME}-2").forget()
    with EventBus(EventBusConfig(backend=MemoryConfig(name=f"{NAME}-2"), group="g")) as other:
        middleware = deduplicate(own(database))
        other.use(consume=middleware)
        other.subscribe("t", lambda message: calls.append("there"))
        other.publish("t", b"x", id="same")
        wait_until(lambda: other.get_statistics().handled == 1)
        assert middleware.skipped == 1
    MemoryOutages(f"{NAME}-2").forget()
    assert calls == ["here"]


def test_work_and_mark_are_one_transaction_on_a_bus(bus: EventBus, database: Database) -> None:
    failed: list[int] = []

    def handler(message: Message) -> None:
        database.current().execute("INSERT INTO work VALUES (?)", (message.id,))
        if not failed:
            failed.append(1)
            raise ZeroDivisionError

    bus.use(consume=deduplicate(shared(database)))
    bus.subscribe("t", handler, concurrency=2)
    bus.open()
    bus.publish_many([Message("t", b"x", id=f"id-{number}") for number in range(4)])
    wait_until(lambda: bus.get_statistics().handled == 4, 10.0)
    assert sorted(database.rows("SELECT id FROM work")) == [(f"id-{number}",) for number in range(4)]
    assert database.rows("SELECT count(*) FROM eventbus_handled WHERE done = 1") == [(4,)]


# -- memory --------------------------------------------------------------------------------------


def test_memory_forgets_what_was_not_asked_for_the_longest() -> None:
    store = MemoryStore(size=2)
    for key in ("a", "b"):
        store.claim(key, "x")
        store.done(key, "x")
    assert store.claim("a", "y") is Claim.DONE
    store.claim("c", "x")
    assert store.claim("c", "y") is Claim.BUSY, "what is being handled is not counted, and not forgotten"
    store.done("c", "x")
    assert len(store) == 2
    assert store.claim("b", "y") is Claim.CLAIMED
    assert store.claim("a", "y") is Claim.DONE


def test_whoever_has_lost_a_claim_changes_nothing() -> None:
    store = MemoryStore()
    store.claim("a", "x")
    store.done("a", "other")
    store.forget("a", "other")
    assert store.claim("a", "y") is Claim.BUSY


# -- a database, in transactions of their own ----------------------------------------------------


def test_a_claim_whose_owner_has_died_is_free_again_when_it_has_expired(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, alive = own(database, claim_timeout=60.0), own(database, claim_timeout=60.0)
    assert dead.claim("key", "a" * 32) is Claim.CLAIMED
    assert alive.claim("key", "b" * 32) is Claim.BUSY
    now = time.time()
    monkeypatch.setattr(dbapi_module.time, "time", lambda: now + 61.0)
    assert alive.claim("key", "b" * 32) is Claim.CLAIMED
    dead.forget("key", "a" * 32)  # it was only slow: the claim is the other's now
    dead.done("key", "a" * 32)
    assert alive.claim("key", "c" * 32) is Claim.BUSY
    alive.done("key", "b" * 32)
    assert dead.claim("key", "a" * 32) is Claim.DONE


def test_a_process_that_dies_in_its_handler_leaves_a_claim_that_expires(database: Database) -> None:
    store = own(database, claim_timeout=0.5)
    child = os.fork()
    if not child:
        try:
            deduplicate(own(database))(message(), lambda one: os._exit(3))
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    middleware, calls = deduplicate(store), list[str]()

    def comes_again() -> bool:
        try:
            middleware(message(), lambda one: calls.append("handled"))
        except RetryLater:
            return False
        return True

    wait_until(comes_again, 5.0)
    assert calls == ["handled"]
    assert middleware.busy > 0


def test_a_database_that_fails_is_a_failure_and_a_new_connection_is_made(database: Database) -> None:
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        made.append(database.new())
        return made[-1]

    store = DbApiStore(sqlite3, connect, claim_timeout=60.0)
    store.create_table()
    middleware, calls = deduplicate(store), list[str]()
    made[-1].close()
    with pytest.raises(sqlite3.ProgrammingError):
        middleware(message(), lambda one: calls.append("handled"))
    middleware(message(), lambda one: calls.append("handled"))
    assert calls == ["handled"]
    assert len(made) == 2


class Broken(sqlite3.Connection):
    """A connection whose server has gone: nothing works on it, and its end does not either."""

    def cursor(self, *args: Any) -> Any:
        raise sqlite3.OperationalError("the server has gone")

    def close(self) -> None:
        super().close()
        raise sqlite3.InterfaceError("the connection is lost")


def test_what_broke_a_connection_is_told_and_not_what_closing_it_raised(database: Database) -> None:
    store = DbApiStore(sqlite3, lambda: sqlite3.connect(database.path, factory=Broken), claim_timeout=60.0)
    with pytest.raises(sqlite3.OperationalError, match="the server has gone"):
        store.prune(1.0)


def test_a_mark_that_cannot_be_written_behind_the_handler_is_its_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = own(database)
    middleware, calls = deduplicate(store), list[str]()

    def broken(*args: object) -> None:
        raise sqlite3.OperationalError("gone")

    monkeypatch.setattr(store, "done", broken)
    monkeypatch.setattr(store, "forget", broken)
    with pytest.raises(sqlite3.OperationalError):
        middleware(message(), lambda one: calls.append("once"))
    assert "taking back the claim" in caplog.text
    monkeypatch.undo()
    with pytest.raises(RetryLater):
        middleware(message(), lambda one: calls.append("twice"))


def test_marks_are_pruned_by_age_and_claims_are_not(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for store in (own(database), shared(database, table="others")):
        store.claim("done", "a" * 32)
        store.done("done", "a" * 32)
    store = own(database)
    store.claim("claimed", "a" * 32)
    assert store.prune(60.0) == 0
    now = time.time()
    monkeypatch.setattr(dbapi_module.time, "time", lambda: now + 61.0)
    assert store.prune(60.0) == 1
    assert shared(database, table="others").prune(60.0) == 1
    assert store.claim("done", "b" * 32) is Claim.CLAIMED
    assert database.rows("SELECT message FROM eventbus_handled ORDER BY message") == [("claimed",), ("done",)]


# -- a database, in the transaction of the handler -----------------------------------------------


def test_a_process_that_dies_before_the_commit_leaves_nothing_and_behind_it_work_and_mark(database: Database) -> None:
    def died_in(step: str) -> None:
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
            return
        try:
            mine = Database(database.path)
            store = TransactionStore(sqlite3, mine.current)
            if step == "acknowledge":
                done = store.done
                store.done = lambda key, owner: (done(key, owner), os._exit(3))  # type: ignore[method-assign, assignment]

            def handler(one: Message) -> None:
                mine.current().execute("INSERT INTO work VALUES (?)", (one.id,))
                if step == "handler":
                    os._exit(3)

            deduplicate(store)(message(), handler)
        finally:
            os._exit(4)

    store = shared(database)
    database.current().close()
    del database.local.connection
    died_in("handler")
    assert database.rows("SELECT * FROM work") == []
    assert database.rows("SELECT * FROM eventbus_handled") == []
    died_in("acknowledge")
    assert database.rows("SELECT * FROM work") == [("one",)]
    middleware = deduplicate(store)
    middleware(message(), lambda one: pytest.fail("called"))
    assert middleware.skipped == 1


def test_a_handler_that_commits_by_itself_and_fails_is_tried_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    middleware, calls = deduplicate(shared(database)), list[str]()

    def handler(one: Message) -> None:
        calls.append("called")
        database.current().commit()
        if len(calls) == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        middleware(message(), handler)
    assert "has committed, and failed after that" in caplog.text
    middleware(message(), handler)
    assert calls == ["called", "called"]


class LostAnswer:
    """A connection whose first commit succeeds, and nobody hears of it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def commit(self) -> None:
        self.connection.commit()
        if not self.lost:
            self.lost = True
            raise sqlite3.OperationalError("the server's answer was lost")


def test_a_commit_without_an_answer_is_not_repeated_if_it_was_done(database: Database) -> None:
    shared(database)
    connection = LostAnswer(database.current())
    middleware = deduplicate(TransactionStore(sqlite3, lambda: connection))
    with pytest.raises(sqlite3.OperationalError):
        middleware(message(), lambda one: database.current().execute("INSERT INTO work VALUES ('x')"))
    middleware(message(), lambda one: pytest.fail("called"))
    assert database.rows("SELECT * FROM work") == [("x",)]


def test_a_connection_without_transactions_is_refused_and_leaves_no_mark(database: Database) -> None:
    shared(database)
    plain = database.new(isolation_level=None)
    middleware = deduplicate(TransactionStore(sqlite3, lambda: plain))
    with pytest.raises(ConfigError, match="begins transactions"):
        middleware(message(), lambda one: pytest.fail("called"))
    told = SimpleNamespace(autocommit=True)
    with pytest.raises(ConfigError, match="autocommit"):
        deduplicate(TransactionStore(sqlite3, lambda: told))(message(), len)  # type: ignore[arg-type]
    assert database.rows("SELECT * FROM eventbus_handled") == []


def test_a_transaction_of_somebody_outside_is_left_to_him(database: Database) -> None:
    inner = deduplicate(shared(database, commit=False))
    database.current().commit()

    def atomic(one: Message, fails: bool) -> None:
        with database.current():
            inner(one, lambda given: database.current().execute("INSERT INTO work VALUES (?)", (given.id,)))
            if fails:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomic(message(), True)
    atomic(message(), False)
    atomic(message(), False)
    assert database.rows("SELECT * FROM work") == [("one",)]
    assert inner.skipped == 1


# -- paramstyles, tables, forks ------------------------------------------------------------------


class Translated:
    """A connection that takes another paramstyle, and has sqlite3 do it."""

    def __init__(self, connection: sqlite3.Connection, style: str) -> None:
        self.connection, self.style = connection, style

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def cursor(self) -> Any:
        made, style = self.connection.cursor(), self.style

        class Cursor:
            fetchone, close = made.fetchone, made.close

            @property
            def rowcount(self) -> int:
                return made.rowcount

            def execute(self, statement: str, values: Any = ()) -> None:
                assert ("?" in statement) is (style == "qmark" and bool(values))
                if style in ("format", "pyformat") and values:
                    names = {"format": "?"}.get(style) or {name: f":{name}" for name in values}
                    statement = statement.replace("%s", "?") if style == "format" else statement % names
                if style == "numeric":
                    for number in range(len(values), 0, -1):
                        statement = statement.replace(f":{number}", f":number{number}")
                    values = {f"number{number}": value for number, value in enumerate(values, 1)}
                made.execute(statement, values)

        return Cursor()


@pytest.mark.parametrize("style", ["qmark", "numeric", "named", "format", "pyformat"])
def test_every_paramstyle(database: Database, style: str) -> None:
    names = ("Error", "IntegrityError", "InterfaceError", "OperationalError")
    module = SimpleNamespace(paramstyle=style, **{name: getattr(sqlite3, name) for name in names})
    store = DbApiStore(module, lambda: Translated(database.new(), style), claim_timeout=60.0)
    store.create_table()
    middleware, calls = deduplicate(store), list[str]()
    with pytest.raises(ZeroDivisionError):
        middleware(message(), lambda one: 1 / 0)
    for _ in range(2):
        middleware(message(), lambda one: calls.append("handled"))
    assert calls == ["handled"]
    assert store.prune(0.0) == 1


def test_settings_are_checked_at_the_door(database: Database) -> None:
    with pytest.raises(ConfigError, match="paramstyle"):
        DbApiStore(SimpleNamespace(IntegrityError=ValueError), database.new, claim_timeout=1.0)
    for table in ("no table", "a;b", "", 'x"', "a.b.c.d"):
        with pytest.raises(ConfigError, match="table name"):
            TransactionStore(sqlite3, database.new, table=table)
    for timeout in (0, -1.0, True, None):
        with pytest.raises(ConfigError, match="claim_timeout"):
            DbApiStore(sqlite3, database.new, claim_timeout=timeout)  # type: ignore[arg-type]


def test_the_table_s_statement_is_told(database: Database) -> None:
    for store in (
        DbApiStore(sqlite3, database.new, claim_timeout=1.0, table="a"),
        TransactionStore(sqlite3, database.current, table="b"),
    ):
        database.current().execute(store.create_statement)
        store.create_table()  # there is one already
        assert store.claim("k", "a" * 32) is Claim.CLAIMED
        store.forget("k", "a" * 32)


def test_what_a_parent_handles_as_it_forks_is_nobodys_in_the_child() -> None:
    store = MemoryStore()
    assert store.claim("done", "o1") is Claim.CLAIMED
    store.done("done", "o1")
    assert store.claim("handled now", "o1") is Claim.CLAIMED
    once = deduplicate(store)
    with store._lock, once._lock:  # as other threads have them at that moment
        child = os.fork()
        if not child:
            with once._lock:
                found = [store.claim(key, "o2") for key in ("done", "handled now")]
            os._exit(0 if found == [Claim.DONE, Claim.CLAIMED] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert store.claim("handled now", "o2") is Claim.BUSY


def test_a_handler_that_comes_back_in_a_forked_child_leaves_the_claim_to_its_parent(database: Database) -> None:
    store = own(database)
    middleware = deduplicate(store)
    children: list[int] = []

    def handler(one: Message) -> None:
        children.append(os.fork())
        if not children[-1]:
            raise SystemExit

    try:
        middleware(message(), handler)
    except BaseException:
        os._exit(0 if children[-1:] == [0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert database.rows("SELECT done FROM eventbus_handled") == [(1,)]


def test_what_is_made_anew_in_a_child_has_to_say_how() -> None:
    class Stale(Renewed):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Stale()  # type: ignore[abstract]


def test_the_public_names() -> None:
    assert eventbus.deduplicate is deduplicate
