"""Marks in a table of a database, through any DB-API 2.0 (PEP 249) module."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any, TypeVar

from .. import log
from ..callables import check_plain
from ..errors import ConfigError
from .stores import Claim

logger = log.get(__name__)

Connect = Callable[[], Any]
_Result = TypeVar("_Result")

TABLE = "eventbus_handled"
COLUMNS = (
    "mark CHAR(64) NOT NULL PRIMARY KEY, message VARCHAR(255) NOT NULL, owner CHAR(32) NOT NULL, "
    "done SMALLINT NOT NULL, marked_at DOUBLE PRECISION NOT NULL"
)
"""mark: SHA-256 of the key, for keys are of any length, and no two may be equal to a collation. message: the beginning
of the key, for people. done: 0 while it is claimed, then 1. marked_at: seconds since 1970."""

_PLACEHOLDERS: dict[str, Callable[[str, int], str]] = {
    "qmark": lambda name, number: "?",
    "numeric": lambda name, number: f":{number}",
    "named": lambda name, number: f":{name}",
    "format": lambda name, number: "%s",
    "pyformat": lambda name, number: f"%({name})s",
}
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*){0,2}\Z")
_VALUE = re.compile(r"\{(\w+)\}")


class _Table:
    """The statements, in a module's paramstyle."""

    def __init__(self, module: Any, table: str, paramstyle: str | None) -> None:
        style = paramstyle or getattr(module, "paramstyle", None)
        if style not in _PLACEHOLDERS:
            raise ConfigError(f"paramstyle must be one of {', '.join(_PLACEHOLDERS)}, not {style!r}")
        if not isinstance(table, str) or not _TABLE_NAME.match(table):
            raise ConfigError(f"bad table name {table!r}: letters, digits and _, with dots between parts")
        self._style = style
        self._table = table
        self._taken: type[Exception] = module.IntegrityError
        self.outages: tuple[type[Exception], ...] = (module.OperationalError, module.InterfaceError)
        self.refused: type[Exception] = module.Error

    @property
    def away(self) -> str:
        """What is said of it when it is away."""
        return f"no connection to the database of {self._table}"

    @property
    def create_statement(self) -> str:
        """The statement that makes the table."""
        return f"CREATE TABLE {self._table} ({COLUMNS})"

    def create(self, connection: Any) -> None:
        """Make the table where there is none."""
        self._run(connection, self.create_statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))

    def claim(self, connection: Any, key: str, owner: str, done: bool, expired: float) -> Claim:
        """Insert the mark, or take it over from an owner that has claimed it before `expired`.

        done: the mark says at once that the message is handled; it is true when the transaction is committed.
        """
        mark, now = _mark_of(key), time.time()
        look = f"SELECT owner, done, marked_at FROM {self._table} WHERE mark = {{mark}}"
        row = self._run(connection, look, fetch=True, mark=mark)
        if row is None:
            insert = (
                f"INSERT INTO {self._table} (mark, message, owner, done, marked_at) "
                "VALUES ({mark}, {message}, {owner}, {done}, {now})"
            )
            values: dict[str, Any] = {"mark": mark, "message": key[:255], "owner": owner, "done": int(done), "now": now}
            try:
                self._run(connection, insert, **values)
            except self._taken:  # by somebody who was faster
                return Claim.BUSY
            return Claim.CLAIMED
        before, is_done, marked_at = row
        if is_done:
            return Claim.DONE
        if marked_at > expired:
            return Claim.BUSY
        take = (
            f"UPDATE {self._table} SET owner = {{owner}}, marked_at = {{now}} "
            "WHERE mark = {mark} AND owner = {before} AND done = 0"
        )
        taken = self._run(connection, take, owner=owner, now=now, mark=mark, before=before)
        return Claim.CLAIMED if taken == 1 else Claim.BUSY

    def done(self, connection: Any, key: str, owner: str) -> int:
        """Mark an owner's claim as handled; 0: it is not his any more."""
        update = f"UPDATE {self._table} SET done = 1, marked_at = {{now}} WHERE mark = {{mark}} AND owner = {{owner}}"
        return int(self._run(connection, update, now=time.time(), mark=_mark_of(key), owner=owner))

    def forget(self, connection: Any, key: str, owner: str) -> int:
        """Delete an owner's mark; 0: there is none."""
        delete = f"DELETE FROM {self._table} WHERE mark = {{mark}} AND owner = {{owner}}"
        return int(self._run(connection, delete, mark=_mark_of(key), owner=owner))

    def is_answered(self, connection: Any) -> bool:
        """Whether the server answers, whatever it says."""
        try:
            self._run(connection, "SELECT 1", fetch=True)
        except self.outages:
            return False
        except self.refused:  # in a transaction that has failed, say
            return True
        return True

    def prune(self, connection: Any, before: float) -> int:
        """Delete the marks of what was handled before a time; how many."""
        delete = f"DELETE FROM {self._table} WHERE done = 1 AND marked_at < {{before}}"
        return int(self._run(connection, delete, before=before))

    def _run(self, connection: Any, template: str, fetch: bool = False, **values: object) -> Any:
        names: list[str] = []

        def place(found: re.Match[str]) -> str:
            names.append(found[1])
            return _PLACEHOLDERS[self._style](found[1], len(names))

        statement = _VALUE.sub(place, template)
        by_name = self._style in ("named", "pyformat")
        cursor = connection.cursor()
        try:
            if names:
                cursor.execute(statement, values if by_name else tuple(values[name] for name in names))
            else:
                cursor.execute(statement)
            return cursor.fetchone() if fetch else cursor.rowcount
        finally:
            cursor.close()


class DbApiStore:
    """Marks in transactions of their own: for handlers whose work is elsewhere.

    module: the DB-API module (`sqlite3`, `psycopg`), for its `paramstyle` and `IntegrityError`. connect(): a new
    connection; each thread has one, kept until it fails. claim_timeout: seconds after which a claim whose owner has
    neither succeeded nor failed is free again: longer than the longest handler, and than clocks differ.
    table: made by `create_table()`, or by you with `create_statement`. paramstyle: where the module has none.
    outages: what the module raises while the database is away, and for other reasons, too.

    A claim is committed before the handler is called, and marked as done after it has returned. A process that dies in
    the handler leaves its claim: the message is handled again when `claim_timeout` is over. One that dies between the
    handler's return and the mark, or finds no database then, has done its work, which is done once more.
    """

    def __init__(
        self,
        module: Any,
        connect: Connect,
        *,
        claim_timeout: float,
        table: str = TABLE,
        paramstyle: str | None = None,
    ) -> None:
        check_plain(connect, "connect", takes=0)
        if isinstance(claim_timeout, bool) or not isinstance(claim_timeout, (int, float)) or not claim_timeout > 0:
            raise ConfigError(f"claim_timeout must be a number of seconds above 0, not {claim_timeout!r}")
        self._table = _Table(module, table, paramstyle)
        self._connect = connect
        self._claim_timeout = claim_timeout
        self._own = threading.local()
        self.outages = self._table.outages

    @property
    def create_statement(self) -> str:
        """The SQL that makes the table, for migrations."""
        return self._table.create_statement

    def create_table(self) -> None:
        """Make the table where there is none (`CREATE TABLE IF NOT EXISTS`)."""
        self._transact(self._table.create)

    def what_is_away(self) -> str:
        """Says that no connection to the database can be had, "" where one can."""
        try:
            self._connect().close()
        except self.outages:
            return self._table.away
        return ""

    def claim(self, key: str, owner: str) -> Claim:
        """Claim a message, and commit."""
        expired = time.time() - self._claim_timeout
        return self._transact(lambda connection: self._table.claim(connection, key, owner, False, expired))

    def done(self, key: str, owner: str) -> None:
        """Mark it as handled, and commit."""
        if not self._transact(lambda connection: self._table.done(connection, key, owner)):
            logger.warning("%s: its claim expired while it was being handled; raise claim_timeout", key)

    def forget(self, key: str, owner: str) -> None:
        """Take the claim back, and commit."""
        self._transact(lambda connection: self._table.forget(connection, key, owner))

    def prune(self, older_than: float) -> int:
        """Delete the marks of what was handled more than so many seconds ago; how many. What comes later is new."""
        return self._transact(lambda connection: self._table.prune(connection, time.time() - older_than))

    def _transact(self, work: Callable[[Any], _Result]) -> _Result:
        # A connection of the process that has forked this one is let go of, and not closed: it is the other's.
        if getattr(self._own, "process", None) != os.getpid():
            self._own.connection, self._own.process = self._connect(), os.getpid()
        connection = self._own.connection
        try:
            result = work(connection)
            connection.commit()
        except BaseException:
            self._own.process = None
            with suppress(self._table.refused):  # what has broken it is raised: by that one an outage is known
                connection.close()
            raise
        return result


class TransactionStore:
    """Marks in the transaction of the handler: its work and its mark are there together, or not at all.

    module, paramstyle, table: as `DbApiStore` has them; one table for each kind of store.
    connection(): the one that the handler uses for the message of this moment, on this thread, without autocommit; one
    that an outage has broken is yours to replace. The handler leaves the transaction open: it is committed when it has
    returned, and rolled back when it has failed. outages: as `DbApiStore` has them.
    commit: False where somebody outside does that, as Django's `atomic` around `call_next` in a middleware used before.

    A process that dies before the commit leaves nothing, one that dies behind it leaves work and mark: either way the
    message comes again, and what is in the database was done once. Whoever gets it meanwhile waits in the database
    for the end of the transaction, as long as that waits for locks.
    """

    def __init__(
        self,
        module: Any,
        connection: Connect,
        *,
        commit: bool = True,
        table: str = TABLE,
        paramstyle: str | None = None,
    ) -> None:
        check_plain(connection, "connection", takes=0)
        self._table = _Table(module, table, paramstyle)
        self._connection = connection
        self._commit = commit
        self._own = threading.local()
        self.outages = self._table.outages

    @property
    def create_statement(self) -> str:
        """The SQL that makes the table, for migrations."""
        return self._table.create_statement

    def create_table(self) -> None:
        """Make the table where there is none (`CREATE TABLE IF NOT EXISTS`), and commit."""
        connection = self._connection()
        self._table.create(connection)
        self._end(connection.commit)

    def what_is_away(self) -> str:
        """Says that the connection of this moment gets no answer, or cannot be had, "" where it does."""
        try:
            connection = self._connection()
            if self._table.is_answered(connection):
                self._end(connection.rollback)
                return ""
        except self.outages:
            pass
        return self._table.away

    def claim(self, key: str, owner: str) -> Claim:
        """Write the mark, and leave the transaction open for the handler. Without a claim it is rolled back."""
        connection = self._own.connection = self._connection()
        self._own.committing = False
        if self._commit and getattr(connection, "autocommit", False) is True:
            raise ConfigError("TransactionStore needs a connection without autocommit")
        try:
            claim = self._table.claim(connection, key, owner, True, 0.0)
        except BaseException:
            self._end(connection.rollback)
            raise
        if claim is not Claim.CLAIMED:
            self._end(connection.rollback)
        elif self._commit and getattr(connection, "in_transaction", True) is False:  # as sqlite3 says it
            self._table.forget(connection, key, owner)
            raise ConfigError("TransactionStore needs a connection that begins transactions")
        return claim

    def done(self, key: str, owner: str) -> None:
        """Commit the handler's work with the mark."""
        self._own.committing = True
        self._end(self._own.connection.commit)

    def forget(self, key: str, owner: str) -> None:
        """Roll the handler's work and the mark back."""
        connection = self._own.connection
        self._end(connection.rollback)
        # A commit that failed may have come to its end in the server: then the work is done, and the mark is right.
        if self._commit and not self._own.committing and self._table.forget(connection, key, owner):
            logger.warning("%s: its handler has committed, and failed after that: what it has done stays", key)
        self._end(connection.commit)

    def prune(self, older_than: float) -> int:
        """Delete the marks of what was handled more than so many seconds ago, and commit; how many."""
        connection = self._connection()
        pruned = self._table.prune(connection, time.time() - older_than)
        self._end(connection.commit)
        return pruned

    def _end(self, end: Callable[[], object]) -> None:
        if self._commit:
            end()


def _mark_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()
