"""Pipelined commands on one connection to one server, with group commit.

Commands that are asked for while a batch is on its way leave together in the next one. A caller may be cancelled; the
answer to what was sent is still read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, cast

from hiredis import pack_command  # pyright: ignore[reportUnknownVariableType]
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

from unspool.errors import StoreUnavailable, TooLarge

BATCH: Final = 512
"""Commands in one batch at most: the replies of a batch are held together."""
BATCH_BYTES: Final = 1024 * 1024
"""Bytes of the commands in one batch at most, or one command: a batch has a time limit."""
LARGE: Final = 64 * 1024
"""Bytes of a command from which on it goes over the connection for large ones."""
_CLOSED: Final = "the connection was closed"
_PATIENCE: Final = 5
"""Factor on the time-out for a batch of large commands."""

Argument = bytes | str | int | float
Command = tuple[Argument, ...]
_Asked = tuple[bytes, asyncio.Future[Any]]  # a command as it is sent, and its answer
_pack = cast("Callable[[Command], bytes]", pack_command)  # in C: redis-py's own takes ten times as long
_UNREACHABLE = (Disconnected, TimedOut, TimeoutError, OSError)
_FOR_THE_CALLER = (NoScriptError, MovedError, AskError, TryAgainError)
# redis-py has a class for some error codes, and then takes the code out of the text; inside what a script of Redis 6
# reports, it is still there.
_FULL: Final = (OutOfMemoryError, "OOM", "MISCONF")
_NOT_NOW: Final = (
    ClusterDownError, MasterDownError,
    "LOADING", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "BUSY", "UNBLOCKED",
)  # fmt: skip
_TOO_LARGE: Final = ("invalid bulk length", "maximum allowed size")
_DENIED: Final = (NoPermissionError, "NOPERM")
_DEMOTED: Final = (ReadOnlyError, "READONLY")


class AccessDenied(StoreUnavailable):
    """Redis refuses the credentials, or a command to this user.

    At the start that is a mistake in the configuration. Later it is an outage like any other, as when a password is
    changed: runs wait until they are let in again.
    """


class Pipe:
    """Commands to one server, pipelined. `timeout`: seconds for a batch, connecting included.

    Large commands, and those that ask for much, have a connection of their own, made when it is first needed, so that a
    slow line carries everything else past them; a batch of theirs has more time.

    A call raises StoreUnavailable when the server may or may not have carried it out, or cannot at present: it may be
    repeated. Commands must be idempotent: a batch whose connection turns out to be dead is sent once more.
    """

    def __init__(self, connect: Callable[[], AbstractConnection], *, timeout: float, for_large: bool = False) -> None:
        self._connect = connect
        self._timeout = timeout
        self._large = self if for_large else Pipe(connect, timeout=_PATIENCE * timeout, for_large=True)
        self._connection: AbstractConnection | None = None
        self._queue: deque[_Asked] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.closed = False
        self.batches = self.commands = 0

    def __repr__(self) -> str:
        return f"<Pipe queued={len(self._queue)} batches={self.batches} commands={self.commands}>"

    def ask(self, *commands: Command, much: bool = False) -> list[asyncio.Future[Any]]:
        """Queue commands, which stay neighbours; a future for each. `much`: their answers may be large."""
        loop = asyncio.get_running_loop()
        packed = [(_pack(command), loop.create_future()) for command in commands]
        if self.closed:  # a connection that it made now, no one would close
            _fail(packed, Disconnected(_CLOSED))
            return [future for _, future in packed]
        pipe = self._large if much or max(len(command) for command, _ in packed) > LARGE else self
        pipe._queue += packed
        if pipe._worker is None:
            pipe._worker = loop.create_task(pipe._work(), name="redis pipe")
        return [future for _, future in packed]

    async def call(self, *command: Argument, much: bool = False) -> Any:
        """One command. Raises StoreUnavailable, or the server's own error."""
        return await self.ask(command, much=much)[0]

    async def _work(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft()]
                size = len(batch[0][0])
                while self._queue and len(batch) < BATCH and size + len(self._queue[0][0]) <= BATCH_BYTES:
                    batch.append(self._queue.popleft())
                    size += len(batch[-1][0])
                await self._carry_out(batch)
        finally:
            self._worker = None

    async def _carry_out(self, batch: list[_Asked]) -> None:
        fresh = self._connection is None
        while batch:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._exchange(batch)
            except _UNREACHABLE as error:
                await self._disconnect()
                batch = [(command, future) for command, future in batch if not future.done()]
                if fresh:
                    _fail(batch, error)
                    return
                fresh = True
            except Exception as error:  # noqa: BLE001
                await self._disconnect()
                _fail(batch, error)
                return
            except BaseException:  # this pipe is closed
                await self._disconnect()
                _fail(batch, Disconnected(_CLOSED))
                raise
            else:
                return

    async def _exchange(self, batch: list[_Asked]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
            await connection.connect()
        self.batches += 1
        self.commands += len(batch)
        await _send(connection, b"".join([command for command, _ in batch]))
        demoted = False
        for _, future in batch:
            try:
                answer = await reply_on(connection)
            except ResponseError as error:
                demoted = demoted or _is_one_of(_DEMOTED, error)
                if not future.done():
                    future.set_exception(_translated(error))
            else:
                if not future.done():
                    future.set_result(answer)
        if demoted:  # a new connection finds the new master
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Disconnect. Commands that are queued, under way or asked for later end in StoreUnavailable."""
        self.closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None  # one that is cancelled before it begins does not say so itself
        _fail(self._queue, Disconnected(_CLOSED))
        self._queue.clear()
        await self._disconnect()
        if self._large is not self:
            await self._large.close()


def _fail(batch: Iterable[_Asked], error: Exception) -> None:
    """Raise an error in each caller that still waits. None is cancelled: a caller takes that for a wish to end it."""
    for _, future in batch:
        if not future.done():
            future.set_exception(_lost(error) if isinstance(error, _UNREACHABLE) else error)


def _lost(error: Exception) -> StoreUnavailable:
    """Translate a lost connection for a caller."""
    text = str(error)
    if isinstance(error, AuthenticationError):
        return AccessDenied(f"Redis refuses the credentials: {text}", reason=text)
    return StoreUnavailable(f"Redis cannot be reached: {text or 'no answer in time'}", reason=text)


async def send_on(connection: AbstractConnection, commands: Sequence[Command]) -> None:
    """Send commands in one piece."""
    await _send(connection, b"".join([_pack(command) for command in commands]))


async def _send(connection: AbstractConnection, packed: bytes) -> None:
    try:
        await connection.send_packed_command(packed, check_health=False)
    except RuntimeError as error:  # what uvloop says of a transport that has been closed
        raise Disconnected(str(error)) from error


async def reply_on(connection: AbstractConnection, *, keep: bool = False) -> Any:
    """The next reply, as bytes, numbers and lists. `keep`: a read that is cut short does not end the connection."""
    read = cast("Callable[..., Awaitable[Any]]", connection.read_response)  # pyright: ignore[reportUnknownMemberType]
    return await read(disable_decoding=True, disconnect_on_error=not keep)


def _translated(error: ResponseError) -> Exception:
    """Translate a refusal for a caller, who can only try again or give up."""
    if isinstance(error, _FOR_THE_CALLER):
        return error
    if _is_one_of(_TOO_LARGE, error):
        return TooLarge(f"Redis takes no value of this size: {error} (its setting is proto-max-bulk-len)")
    if _is_one_of(_FULL, error):
        return StoreUnavailable(f"Redis takes no writes: {error}")
    if _is_one_of(_DENIED, error):
        return AccessDenied(f"Redis refuses a command to this user: {error}")
    if _is_one_of(_DEMOTED, error) or _is_one_of(_NOT_NOW, error):
        return StoreUnavailable(f"Redis cannot answer now: {error}")
    return error


def _is_one_of(kinds: Sequence[type[ResponseError] | str], error: ResponseError) -> bool:
    text = str(error)
    return any(kind in text if isinstance(kind, str) else isinstance(error, kind) for kind in kinds)
