"""The database under the ledger: one way to run a transaction, on SQLite and on PostgreSQL.

A transaction runs in a task of the ledger's own, so that no cancellation tears a connection; it is repeated, with the
same keys, after a deadlock, a serialisation failure, a busy file or a lost connection. Whatever it does must therefore
be idempotent: the connection may have been lost after the commit. Every transaction has its time, however the database
fails: away, frozen, locked or slow.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sqlalchemy import ColumnElement, Connection, Executable, Insert, Interval, Table, false, func, literal, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from unspool.errors import ConfigurationError, StoreUnavailable
from unspool.ledger.engines import TRY, Postgres, Sqlite, contended, passing, refusing
from unspool.ledger.owned import OwnedTasks
from unspool.ledger.tables import Instant, account

_log = logging.getLogger("unspool.ledger")
T = TypeVar("T")

_LONG: Final = 600.0  # seconds for a try of what looks at whole tables
_ANSWER: Final = 3.0  # seconds for what only reads: a caller waits for it
_LEAST: Final = 1.0  # seconds for a try, however little patience is left
_WRITE_NOTHING: Final = update(account).values(floor=account.c.floor).where(false())
_PAUSES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # seconds between two tries; the last is repeated


class Transaction:
    """One transaction under way. `now` and `later` are the database's own clock on PostgreSQL, or the injected one."""

    def __init__(self, connection: Connection, clock: Callable[[], float] | None) -> None:
        self.connection = connection
        self._clock = clock
        self._postgres = connection.dialect.name == "postgresql"

    def run(self, statement: Executable, values: Mapping[str, Any] | None = None) -> None:
        self.connection.execute(statement, values)

    def change(self, statement: Executable, values: Mapping[str, Any]) -> int:
        """Run a statement; the number of rows that it has changed."""
        return self.connection.execute(statement, values).rowcount

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
    """The database of a ledger: `sqlite://` (in memory), `sqlite:///file.db` or `postgresql://…`.

    `clock`: in the place of the database's own, for tests. `patience`: seconds for which a transaction is repeated
    before StoreUnavailable is raised; one that only reads has three at most.

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
        self.sqlite = self.kind == "sqlite"
        self.health = Health()
        self._tasks = tasks
        self._clock = clock
        self._patience = {True: min(patience, _ANSWER), False: patience}  # of what reads, of what writes
        self._least, self._most = _LEAST, TRY  # seconds for one try
        self._rng = rng or random.Random()
        self._engine: Sqlite | Postgres = Sqlite(self.url) if self.sqlite else Postgres(self.url)

    def __repr__(self) -> str:
        return f"<Database {self.url.render_as_string(hide_password=True)}>"

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.url.get_backend_name()

    @property
    def file(self) -> Path | None:
        """The file that it is kept in, None for another kind of database."""
        name = self.url.database
        return Path(name) if self.sqlite and name and name != ":memory:" else None

    async def close(self) -> None:
        """Give back every connection. An in-memory ledger is gone with it. Idempotent."""
        if self._engine.closed:
            return
        self._engine.closed = True
        await self._engine.close()

    def within(self, seconds: float) -> Self:
        """A copy for a caller with a bound of its own: each transaction has so many seconds, all its tries included,
        and one try may take them all."""
        bounded = copy(self)
        bounded._patience = {True: seconds, False: seconds}
        bounded._least, bounded._most = 0.0, seconds
        return bounded

    def unhurried(self) -> Self:
        """A copy for work on whole tables, an audit or a migration: one try has ten minutes."""
        unhurried = copy(self)
        unhurried._least = unhurried._most = _LONG
        return unhurried

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction of its own, to its commit. Raises what it raises, and StoreUnavailable: then it
        was rolled back, unless the connection was lost while it was being committed."""
        return await self._tasks.run(self._repeat(work, False))

    async def read(self, work: Work[T]) -> T:
        """Run `work` that only reads, on the state of one moment. Raises what it raises, and StoreUnavailable."""
        return await self._tasks.run(self._repeat(work, True))

    async def ping(self) -> None:
        """Make sure that the database takes writes. Raises StoreUnavailable, and what is not foreseen."""
        try:
            await self.write(lambda tx: tx.run(_WRITE_NOTHING))
        except Exception as error:
            self.health.failed(False, error)
            raise

    async def _repeat(self, work: Work[T], reads: bool) -> T:
        if self._engine.closed:
            raise StoreUnavailable("the ledger is closed")
        until = time.monotonic() + self._patience[reads]
        last = until - self._patience[reads] / 8  # a try that began later could not wait for a lock
        tries = 0
        while True:
            seconds = max(self._least, min(self._most, until - time.monotonic()))
            pause = _PAUSES[min(tries, len(_PAUSES) - 1)] * (0.5 + self._rng.random())
            try:
                async with asyncio.timeout(seconds):
                    found = await self._engine.run(
                        lambda connection: work(Transaction(connection, self._clock)), reads, seconds
                    )
            except Exception as error:
                if passing(error):
                    if time.monotonic() + pause >= last:
                        raise self._unavailable("cannot be reached", error, reads) from error
                elif refusing(error):
                    raise self._unavailable(f"refuses: {getattr(error, 'orig', error)}", error, reads) from error
                else:
                    raise
            else:
                self.health.answered(reads)
                return found
            await asyncio.sleep(pause)
            tries += 1

    def _unavailable(self, how: str, error: Exception, reads: bool) -> StoreUnavailable:
        if not contended(error):
            self.health.failed(reads, error)
        return StoreUnavailable(f"the ledger's database {how}")


class Health:
    """The availability of a database, as its transactions find it. Only changes are logged."""

    def __init__(self) -> None:
        self._failing: set[bool] = set()  # True: what reads, False: what writes; a locked file can still be read
        self._back = float("-inf")

    @property
    def away(self) -> bool:
        """The last transaction of a kind failed."""
        return bool(self._failing)

    @property
    def steady(self) -> float:
        """Seconds for which it has answered since it was last away."""
        return 0.0 if self._failing else time.monotonic() - self._back

    def failed(self, reads: bool, error: Exception) -> None:
        if not self._failing:
            _log.warning("the ledger's database is away; what is owed is settled when it is back: %r", error)
        self._failing.add(reads)

    def answered(self, reads: bool) -> None:
        if not self._failing:
            return
        self._failing -= {True} if reads else {True, False}
        if not self._failing:
            self._back = time.monotonic()
            _log.warning("the ledger's database is back")


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
