"""The engines under a ledger, SQLite and PostgreSQL: a transaction is done within its seconds, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from unspool.errors import ConfigurationError
from unspool.ledger.tables import to_json

P = ParamSpec("P")
T = TypeVar("T")

TRY: Final = 5.0
"""Seconds that one try of a transaction may take, where its caller has not set a bound of its own."""

_BOUNDS: Final = text("SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :all, true)")
_POOL: Final = 10
_CLOSING: Final = 1.0  # seconds that SQLite's thread may take to close its file
_BUSY_MS: Final = 250  # that the one thread waits for a locked file; the transaction is tried again after that
_GONE: Final = ("25006", "28", "3D", "42501", "53", "57P")
"""SQLSTATEs of a server that does not serve: read-only, login, database or right refused, full, going down."""
_PASSING: Final = ("08", "25006", "25P03", "40", "53", "55P03", "57")
"""SQLSTATEs after which a transaction may succeed when it is repeated: the connection was lost, the server takes no
writes for now, the transaction was too slow, was rolled back, or met a lock."""
_CONTENDED: Final = ("40", "55P03")  # another transaction is in the way; the database itself is well
_BUSY: Final = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED


class Sqlite:
    """One thread with one connection: SQLite has one writer, and a transaction is one way there and back."""

    closed = False

    def __init__(self, url: URL) -> None:
        self._engine = create_engine(url, poolclass=StaticPool, pool_reset_on_return=None)
        self._reader = self._engine.execution_options(unspool_read=True)
        self._thread = _DaemonThread("unspool-ledger")
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "begin", self._begin)

    async def run(self, work: Callable[[Connection], T], reads: bool, seconds: float) -> T:
        """Run `work` in a transaction, which is rolled back when it takes longer. Raises what it raises."""
        until = time.monotonic() + seconds
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work, reads, until)

    def _transact(self, work: Callable[[Connection], T], reads: bool, until: float) -> T:
        with (self._reader if reads else self._engine).begin() as connection:
            found = work(connection)
            if time.monotonic() > until:
                raise TimeoutError  # the caller has given up: what it was told must stay true
            return found

    async def close(self) -> None:
        """Close the file. A thread that hangs is left behind."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()
        await asyncio.wait({closing}, timeout=_CLOSING)

    @staticmethod
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        for pragma in (f"busy_timeout = {_BUSY_MS}", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @staticmethod
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("unspool_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


class Postgres:
    """A pool of its own. READ COMMITTED suffices for what writes: every row that counts is locked first."""

    closed = False

    def __init__(self, url: URL) -> None:
        try:
            from unspool.ledger.abrupt import AbruptConnection, InternalClientError

            self._broken = InternalClientError
            self._engine = create_async_engine(
                url, pool_size=_POOL, max_overflow=0, pool_timeout=10, isolation_level="READ COMMITTED",
                json_serializer=to_json, connect_args={"connection_class": AbruptConnection},
            )  # fmt: skip
        except ImportError as error:
            raise ConfigurationError(
                f"ledger: PostgreSQL needs the extra: pip install 'unspool[postgres]' ({error})"
            ) from error
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._doubted = 0.0  # connections that are older may lead nowhere
        event.listen(self._engine.sync_engine, "connect", self._prepare)
        event.listen(self._engine.sync_engine, "checkout", self._refuse_doubted)
        event.listen(self._engine.sync_engine, "handle_error", self._part_from_gone)

    async def run(self, work: Callable[[Connection], T], reads: bool, seconds: float) -> T:
        """Run `work` in a transaction. Raises what it raises. When it is cancelled, its connection is cut off."""
        connection = None
        try:
            async with (self._reader if reads else self._engine).begin() as connection:
                if seconds > TRY or (seconds < TRY and not reads):
                    await connection.execute(_BOUNDS, {"lock": _ms(seconds / 2), "all": _ms(max(seconds, TRY))})
                return await connection.run_sync(work)
        except asyncio.CancelledError:
            if connection is not None:  # it was not only waiting for one
                self._doubted = time.monotonic()
            raise
        except self._broken as error:  # the server has ended the connection, and the driver is about to see it
            raise ConnectionResetError from error

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @staticmethod
    def _prepare(connection: Any, record: Any) -> None:
        # On the server, too: a client that was cut off, or is frozen, must not hold locks that others wait for.
        # A lock is waited for half as long as the client waits, which then hears of the lock.
        bounds = {"statement_timeout": TRY, "lock_timeout": TRY / 2, "idle_in_transaction_session_timeout": TRY}
        settings = "; ".join(f"SET {name} = {_ms(seconds)}" for name, seconds in bounds.items())

        async def prepare(driver: Any) -> None:
            try:
                await driver.execute(settings)
            except BaseException as error:
                await driver.close()  # the pool does not know it yet
                if isinstance(error, Exception):
                    raise ConnectionResetError(str(error)) from error
                raise

        connection.run_async(prepare)
        record.info["born"] = time.monotonic()

    def _refuse_doubted(self, _: object, record: Any, __: object) -> None:
        if record.info["born"] < self._doubted:
            raise DisconnectionError

    @staticmethod
    def _part_from_gone(context: ExceptionContext) -> None:
        # The next try connects again: to the server that has taken over, say.
        if _state(context.original_exception).startswith(_GONE):
            context.is_disconnect = True


class _DaemonThread(Executor):
    """One thread that works in order. A daemon, so that a process can end while its thread hangs in a system call; that
    of a ThreadPoolExecutor would be waited for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._begun = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        if not self._begun:
            self._begun = True
            Thread(target=self._run, name=self._name, daemon=True).start()
        self._work.put(partial(_fulfil, future, partial(fn, *args, **kwargs)))
        return future

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._work.put(None)


def _fulfil(future: Future[T], call: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised again where the result is waited for)
            future.set_exception(error)


def passing(error: Exception) -> bool:
    """Tell whether a transaction that failed may succeed when it is repeated."""
    if state := _state(error):
        return state.startswith(_PASSING)
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlite_errorcode", None) in _BUSY
    return isinstance(error, (OSError, PoolTimeout))


def refusing(error: Exception) -> bool:
    """Tell whether the database refuses to serve, so that a repetition would be refused as well."""
    return _state(error).startswith(_GONE) or isinstance(error, OperationalError)


def contended(error: Exception) -> bool:
    """Tell whether only another transaction is in the way."""
    return _state(error).startswith(_CONTENDED)


def _state(error: BaseException) -> str:
    """Return the SQLSTATE of an error of SQLAlchemy or the driver; empty where it has none."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))  # 0 would be for ever
