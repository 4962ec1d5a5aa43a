"""The live answers of the Durable Streams dialect, as raw ASGI: long-poll, and the event stream.

An event stream is ended about once a minute, so that caches and load balancers get their turn; a client comes back
with the offset of its last control event. When this replica goes, or the log is lost under a reader, the connection is
cut instead: an end would be right, too, but a cut is what a client is sure to come back from.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Receive, Scope, Send

from unspool.durable import Chunk
from unspool.errors import UnspoolError
from unspool.http.dialects.durable_wire import events_of, next_cursor
from unspool.http.stream import LINK, Link
from unspool.sse import KEEP_ALIVE

_log = logging.getLogger("unspool.http")


class Following(Protocol):
    """What comes after a chunk: see `unspool.durable.Live`."""

    async def next(self, seconds: float) -> Chunk | None:
        """The next chunk, or None when nothing came. Raises NotFound, ViewerReleased."""
        ...

    def close(self) -> None:
        """Whoever waits gets None."""
        ...


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

    async def follow(self, chunk: Chunk) -> Following: ...

    async def touch(self) -> float:
        """It is being read; answers for how many seconds that keeps it."""
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
        return await live.next(seconds) or chunk
    finally:
        watcher.cancel()
        live.close()


class EventStream:
    """One open event stream."""

    def __init__(
        self, source: Source, chunk: Chunk, cursor: int | None, headers: Mapping[str, str], options: LiveOptions
    ) -> None:
        self._source = source
        self._chunk = chunk
        self._cursor = next_cursor(cursor)
        self._headers = headers
        self._options = options
        self._live: Following | None = None
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        link: Link | None = scope.get("extensions", {}).get(LINK)
        raw = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        watcher = asyncio.create_task(watch_over(receive, self._leave))
        try:
            if await self._pump(self._writing(send)):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif link is not None:
                link.close()
                await asyncio.wait([watcher], timeout=1.0)
        except TimeoutError:
            _log.info("a reader of a durable stream does not read; it is cut off")
            if link is not None:
                link.abort()
        finally:
            watcher.cancel()
            if self._live is not None:
                self._live.close()

    def _writing(self, send: Send) -> Callable[[bytes], Awaitable[None]]:
        async def write(data: bytes) -> None:
            async with asyncio.timeout(self._options.send_timeout):
                await send({"type": "http.response.body", "body": data, "more_body": True})

        return write

    def _leave(self) -> None:
        self._gone = True
        if self._live is not None:
            self._live.close()

    async def _pump(self, write: Callable[[bytes], Awaitable[None]]) -> bool:
        """True at the end of the stream or of the connection's time; False when the server must let it go."""
        until = asyncio.get_running_loop().time() + self._options.connection
        try:
            chunk = self._chunk
            await write(self._events(chunk))
            while not chunk.up_to_date and not self._gone:
                chunk = await self._source.read(chunk.next)
                await write(self._events(chunk))
            if chunk.closed or self._gone:
                return True
            self._live = await self._source.follow(chunk)
            return await self._pump_live(self._live, until, write)
        except UnspoolError as error:
            _log.info("a reader of a durable stream is let go: %s", error)
            return False

    async def _pump_live(self, live: Following, until: float, write: Callable[[bytes], Awaitable[None]]) -> bool:
        now = asyncio.get_running_loop().time
        keeps = await self._source.touch()
        while not self._gone and (left := until - now()) > 0:
            chunk = await live.next(min(left, self._options.heartbeat, keeps / 2))
            if chunk is not None:
                await write(self._events(chunk))
                if chunk.up_to_date and chunk.closed:
                    return True
            elif not self._gone:
                keeps = await self._source.touch() if keeps < math.inf else keeps
                await write(KEEP_ALIVE)
        return True

    def _events(self, chunk: Chunk) -> bytes:
        self._cursor = max(self._cursor, next_cursor(None))
        return events_of(chunk, self._cursor)
