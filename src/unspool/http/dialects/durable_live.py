"""The live answers of the Durable Streams dialect, as raw ASGI: long-poll, and the event stream.

An event stream is ended about once a minute, so that caches and load balancers get their turn; a client comes back
with the offset of its last control event. When this replica goes, or the log is lost under a reader, the connection is
cut instead: an end would be right, too, but a cut is what a client is sure to come back from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from starlette.types import Receive, Scope, Send

from unspool.durable import Chunk, Live
from unspool.errors import StoreUnavailable, UnspoolError
from unspool.http.dialects.durable_wire import events_of, next_cursor
from unspool.http.pump import LINK, Link, cut
from unspool.sse import KEEP_ALIVE

_log = logging.getLogger("unspool.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """Seconds: `long_poll`, how long one waits; `connection`, how long an event stream lasts; `heartbeat`, of silence
    before a comment; `send_timeout`, that a socket may refuse to drain."""

    long_poll: float = 20.0
    connection: float = 60.0
    heartbeat: float = 15.0
    send_timeout: float = 30.0


class Source(Protocol):
    """A stream as a reader sees it, whatever it is made of."""

    async def read(self, after: int | None) -> Chunk: ...

    async def follow(self, chunk: Chunk) -> Live: ...

    async def touch(self) -> None:
        """It is still being read."""
        ...


async def watch_over(receive: Receive, gone: Callable[[], None]) -> None:
    """Call `gone` when the client is."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone()


async def long_poll(source: Source, after: int | None, receive: Receive, seconds: float) -> Chunk:
    """What is there, or what comes within that time; else a chunk without content."""
    chunk = await source.read(after)
    if chunk.parts or chunk.closed:
        return chunk
    live = await source.follow(chunk)
    watcher = asyncio.create_task(watch_over(receive, live.close))
    try:
        async with asyncio.timeout(seconds):
            return await live.next() or chunk
    except TimeoutError:
        return chunk
    finally:
        watcher.cancel()
        live.close()


class EventStream:
    """One open event stream."""

    _last: ClassVar[tuple[Chunk | None, int, bytes]] = (None, 0, b"")
    """What was encoded last: those who follow the same stream are given the same chunk, one after the other."""

    def __init__(
        self, source: Source, chunk: Chunk, cursor: int | None, headers: Mapping[str, str], options: LiveOptions
    ) -> None:
        self._source = source
        self._chunk = chunk
        self._cursor = next_cursor(cursor)
        self._headers = headers
        self._options = options
        self._live: Live | None = None
        self._gone = False
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + options.connection
        self._last_write = self._loop.time()
        self._sending = False
        self._use = math.inf if chunk.ttl is None else chunk.ttl / 3  # seconds from one sign of use to the next
        self._used = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._limit = asyncio.timeout(None)  # without a link, what cuts a reader off that does not read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._link = scope.get("extensions", {}).get(LINK)
        raw = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        watcher: asyncio.Task[None] | None = None
        try:
            async with self._limit:
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                watcher = asyncio.create_task(watch_over(receive, self._leave))
                self._tick()
                await self._pump(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:  # noqa: BLE001
            self._leave()
            if isinstance(error, UnspoolError):
                _log.info("a reader of a durable stream is let go: %s", error)
            await cut(self._link, send, error, self._options.send_timeout)
        finally:
            if watcher is not None:
                watcher.cancel()
            if self._timer is not None:
                self._timer.cancel()
            if self._live is not None:
                self._live.close()

    def _leave(self) -> None:
        self._gone = True
        if self._live is not None:
            self._live.close()

    def _tick(self) -> None:
        """One timer for all that is due: a comment, a sign of use, the end of the time, a reader that does not read."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        if self._sending and now - self._last_write >= self._options.send_timeout:
            _log.info("a reader of a durable stream does not read; it is cut off")
            if self._link is not None:
                self._leave()
                self._link.abort()
            else:
                self._limit.reschedule(now)
            return
        if self._live is not None:
            self._live.poke()
        wait = min(self._options.heartbeat, self._options.send_timeout, self._use, self._until - now)
        self._timer = self._loop.call_later(max(wait, 0.01), self._tick)

    async def _pump(self, send: Send) -> None:
        """Write to the end of the stream or of the connection's time, or until the client is gone. Raises UnspoolError
        when the server must let it go."""
        chunk = self._chunk
        await self._write(send, self._events(chunk))
        while not chunk.up_to_date and not self._gone:
            chunk = await self._source.read(chunk.next)
            await self._write(send, self._events(chunk))
        if chunk.closed or self._gone:
            return
        live = self._live = await self._source.follow(chunk)
        while not self._gone and self._loop.time() < self._until:
            found = await live.next()
            if found is not None:
                await self._write(send, self._events(found))
                if found.up_to_date and found.closed:
                    return
            elif not self._gone:
                await self._be_alive(send)

    async def _be_alive(self, send: Send) -> None:
        if self._loop.time() - self._used >= self._use:
            with contextlib.suppress(StoreUnavailable):  # it is tried again
                await self._source.touch()
                self._used = self._loop.time()
        if self._loop.time() - self._last_write >= self._options.heartbeat / 2:
            await self._write(send, KEEP_ALIVE)

    async def _write(self, send: Send, data: bytes) -> None:
        self._sending, self._last_write = True, self._loop.time()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending = False

    def _events(self, chunk: Chunk) -> bytes:
        self._cursor = max(self._cursor, next_cursor(None))
        known, cursor, data = EventStream._last
        if known is not chunk or cursor != self._cursor:
            data = events_of(chunk, self._cursor)
            EventStream._last = (chunk, self._cursor, data)
        return data
