"""The database under the ledger: one way to run a transaction, on SQLite and on PostgreSQL.

A transaction runs in a task of the ledger's own, so that no cancellation tears a connection; it is repeated, with the
same keys, after a deadlock, a serialisation failure, a busy file or a lost connection. Whatever it does must therefore
be idempotent: the connection may have been lost after the commit.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Insert,
    Interval,
    Table,
    create_engine,
    event,
    func,
    literal,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from unspool.errors import ConfigurationError, StoreUnavailable
from unspool.ledger.owned import OwnedTasks
from unspool.ledger.tables import Instant, to_json

T = TypeVar("T")

_POOL: Final = 10
_PAUSES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # seconds between two tries; the last is repeated
_RETRIED: Final = ("08", "40", "53", "57P")  # connection lost, rolled back, no resources, server going away
_BUSY: Final = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED


class Transaction:
    """One transaction under way. `now` and `later` are the database's own clock on PostgreSQL, or the injected one."""

    def __init__(self, connection: Connection, clock: Callable[[], float] | None) -> None:
        self.connection = connection
        self._clock = clock
        self._postgres = connection.dialect.name == "postgresql"

    def run(self, statement: Executable, values: Mapping[str, Any] | None = None) -> None:
        self.connection.execute(statement, values)

    def first(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Any | None:
        return self.connection.execute(statement, values).first()

    def all(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        return self.connection.execute(statement, values).all()

    def insert_new(self, table: Table, values: Mapping[str, Any]) -> bool:
        """Insert a row unless its key is there already; whether it was inserted."""
        statement = _new(table, self._postgres)
        if any(isinstance(value, ColumnElement) for value in values.values()):
            return self.connection.execute(statement.values(dict(values))).rowcount == 1
        return self.connection.execute(statement, values).rowcount == 1

    def now(self) -> ColumnElement[float]:
        return self.later(0.0)

    def later(self, seconds: float) -> ColumnElement[float]:
        """The time in so many seconds, for leases."""
        if self._postgres and self._clock is None:
            return func.clock_timestamp(type_=Instant) + literal(timedelta(seconds=seconds), Interval)
        return literal((self._clock or time.time)() + seconds, Instant)


Work = Callable[[Transaction], T]


@cache
def _new(table: Table, postgres: bool) -> Insert:
    # Made once: SQLAlchemy finds what it has compiled by the statement, and looks at that only the first time.
    insert = postgresql.insert if postgres else sqlite.insert
    return insert(table).on_conflict_do_nothing()


class Database:
    """Where a ledger lives: `sqlite://` (in memory), `sqlite:///file.db` or `postgresql://…`.

    `clock`: in the place of the database's own, for tests. `patience`: seconds for which a transaction is repeated
    before StoreUnavailable is raised.

    Raises ConfigurationError for another URL, and where a driver is not installed.
    """

    def __init__(
        self,
        url: str,
        tasks: OwnedTasks,
        *,
        clock: Callable[[], float] | None = None,
        patience: float = 20.0,
        rng: random.Random | None = None,
    ) -> None:
        self.url = _driver_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._closed = False
        self._tasks = tasks
        self._clock = clock
        self._patience = patience
        self._rng = rng or random.Random()
        self._engine: _Sqlite | _Postgres = _Sqlite(self.url) if self.sqlite else _Postgres(self.url)

    def __repr__(self) -> str:
        return f"<Database {self.url.render_as_string(hide_password=True)}>"

    @property
    def file(self) -> Path | None:
        """Where it is kept, if that is a file."""
        name = self.url.database
        return Path(name) if self.sqlite and name and name != ":memory:" else None

    async def close(self) -> None:
        """Give back every connection. An in-memory ledger is gone with it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._engine.close()

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction of its own, to its commit. Raises what it raises, and StoreUnavailable."""
        return await self._tasks.run(self._repeat(work, False))

    async def read(self, work: Work[T]) -> T:
        """The same for `work` that only reads, and sees the state of one moment."""
        return await self._tasks.run(self._repeat(work, True))

    async def _repeat(self, work: Work[T], reads: bool) -> T:
        if self._closed:
            raise StoreUnavailable("the ledger is closed")
        until = time.monotonic() + self._patience
        tries = 0
        while True:
            try:
                return await self._engine.run(lambda connection: work(Transaction(connection, self._clock)), reads)
            except (DBAPIError, OSError, PoolTimeout) as error:
                if not _passing(error):
                    if isinstance(error, OperationalError):
                        raise StoreUnavailable(f"the ledger's database refused: {error.orig}") from error
                    raise
                if time.monotonic() >= until:
                    raise StoreUnavailable("the ledger's database cannot be reached") from error
            pause = _PAUSES[min(tries, len(_PAUSES) - 1)]
            await asyncio.sleep(pause * (0.5 + self._rng.random()))
            tries += 1


class _Sqlite:
    """One thread with one connection: SQLite has one writer, and a transaction is one way there and back."""

    def __init__(self, url: URL) -> None:
        self._engine = create_engine(url, poolclass=StaticPool, pool_reset_on_return=None)
        self._reader = self._engine.execution_options(unspool_read=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unspool-ledger")
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "begin", self._begin)

    async def run(self, work: Callable[[Connection], T], reads: bool) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work, reads)

    def _transact(self, work: Callable[[Connection], T], reads: bool) -> T:
        with (self._reader if reads else self._engine).begin() as connection:
            return work(connection)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()

    @staticmethod
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        for pragma in ("busy_timeout = 5000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @staticmethod
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("unspool_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


class _Postgres:
    """A pool of its own. READ COMMITTED suffices for what writes: every row that counts is locked first."""

    def __init__(self, url: URL) -> None:
        try:
            self._engine = create_async_engine(
                url, pool_size=_POOL, max_overflow=0, pool_timeout=10, isolation_level="READ COMMITTED",
                json_serializer=to_json,
            )  # fmt: skip
        except ImportError as error:
            raise ConfigurationError(
                f"ledger: PostgreSQL needs the extra: pip install 'unspool[postgres]' ({error})"
            ) from error
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")

    async def run(self, work: Callable[[Connection], T], reads: bool) -> T:
        async with (self._reader if reads else self._engine).begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


def _passing(error: Exception) -> bool:
    """Whether the same transaction may well succeed when it is tried again."""
    if not isinstance(error, DBAPIError):
        return True
    code = getattr(error.orig, "sqlstate", None)
    if code:
        return str(code).startswith(_RETRIED)
    return error.connection_invalidated or getattr(error.orig, "sqlite_errorcode", None) in _BUSY


def _driver_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    driver = drivers.get(url.drivername.partition("+")[0]) if url is not None else None
    if url is None or driver is None or url.drivername not in (driver, driver.partition("+")[0], "postgres"):
        raise ConfigurationError(
            "ledger: the URL must be sqlite:///file.db, sqlite:// or postgresql://user@host/database"
        )
    return url.set(drivername=driver)
