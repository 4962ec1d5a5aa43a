"""The streaming response: raw ASGI from the viewer to the socket.

Frames are encoded once per dialect and generation, whatever the number of viewers; all that is pending leaves in one
write. A disconnect is seen at once, a reader that does not read is cut off and can resume, and a server that goes away
cuts the connection instead of ending the response: a client must never take that for the end of the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unspool.errors import BadRequest, InvalidPosition, UnspoolError, ViewerReleased
from unspool.http.problem import problem
from unspool.jobs import Job, User
from unspool.lanes import Encoder
from unspool.manager import GenerationManager
from unspool.projecting import Projected
from unspool.sse import HEADERS, KEEP_ALIVE, native_frame, with_retry
from unspool.viewer import Viewer

_log = logging.getLogger("unspool.http")

LINK: Final = "unspool.link"
"""The ASGI extension under which our own server lends the connection itself."""
CUT: Final = "unspool.cut"
"""The one under which it lends a function that cuts a WebSocket's connection at once."""


class Link(Protocol):
    """A connection that our own server lends to a stream: writes without the detour, and a way to cut it."""

    @property
    def started(self) -> bool:
        """The head of the response has left. Not so behind a middleware that keeps it back: then nothing may be written
        past it."""
        ...

    @property
    def paused(self) -> bool:
        """The socket does not drain; wait in `drain` before the next write."""
        ...

    async def drain(self) -> None: ...

    def write(self, body: bytes) -> None:
        """Write a piece of the response's body."""
        ...

    def close(self) -> None:
        """Cut the connection once what was written has left: the response stays visibly incomplete."""
        ...

    def abort(self) -> None:
        """Cut it at once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """`heartbeat`: seconds of silence before a keep-alive. `send_timeout`: seconds that a socket may refuse to drain.
    `retry`: milliseconds after which a client reconnects."""

    heartbeat: float = 15.0
    send_timeout: float = 30.0
    retry: int = 1000


DEFAULTS: Final = StreamOptions()
_LARGE: Final = 32 * 1024
_NONE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client wants to begin. `generation` None: the stream's last; `after` as an offset there."""

    generation: int | None = None
    after: int = 0
    snapshot: bool = False
    claimed: int | None = None
    """The generation that the client's event id names."""


def position_of(headers: Mapping[str, str], query: QueryParams) -> Position:
    """From `Last-Event-ID`, else `?after=`, else the first record. Raises BadRequest, naming the field."""
    generation = _number("generation", query["generation"], 1) if "generation" in query else None
    snapshot = _flag("snapshot", query.get("snapshot", "0"))
    token, field = headers.get("last-event-id", ""), "Last-Event-ID"
    if not token:
        token, field = query.get("after", "0"), "after"
    claimed, dash, offset = token.partition("-")
    if not dash:
        return Position(generation, _number(field, token, 0), snapshot)
    return Position(generation, _number(field, offset, 0), snapshot, _number(field, claimed, 0))


def _number(field: str, value: str, least: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 16) or int(value) < least:
        form = "an offset, or a generation, a dash and an offset" if least == 0 else f"a whole number from {least}"
        raise BadRequest(f"{field} must be {form}, not {value[:40]!r}", field=field)
    return int(value)


def _flag(field: str, value: str) -> bool:
    if value not in ("0", "1", "true", "false"):
        raise BadRequest(f"{field} must be 1 or 0, not {value[:40]!r}", field=field)
    return value in ("1", "true")


class EventStream(Response):
    """A response that follows a stream: return it from a route of your own.

    The position comes from the request. `user` and `tenant` are checked as everywhere; errors become problem JSON.
    """

    def __init__(
        self,
        manager: GenerationManager,
        stream_id: str,
        request: HTTPConnection,
        *,
        user: User = None,
        tenant: str | None = None,
        options: StreamOptions = DEFAULTS,
    ) -> None:
        super().__init__()
        self.raw_headers = list(HEADERS)
        self._manager = manager
        self._stream_id = stream_id
        self._request = request
        self._user: User = user
        self._tenant = tenant
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            viewer = await self._attach()
        except UnspoolError as error:
            if error.status == 503 and "last-event-id" in self._request.headers:
                await self._hold_off(scope, send)
            else:
                await problem(error)(scope, receive, send)
            return
        if viewer is None:
            await Response(status_code=204)(scope, receive, send)
            return
        await pump(viewer, native_frame, scope, receive, send, self.raw_headers, self._options)

    async def _hold_off(self, scope: Scope, send: Send) -> None:
        """An EventSource gives up for good on any status but 200 (WHATWG HTML, 9.2): whoever resumes while the store is
        away, or this replica is going, is cut off instead, and comes again."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        link: Link | None = scope.get("extensions", {}).get(LINK)
        if link is not None:
            link.close()

    async def _attach(self) -> Viewer | None:
        """The viewer that the request asks for; None when there is nothing to come at its position."""
        position = position_of(self._request.headers, self._request.query_params)
        job = await self._manager.job(
            self._stream_id, user=self._user, tenant=self._tenant, generation=position.generation
        )
        if position.claimed is not None and position.claimed != job.generation:
            raise InvalidPosition(
                f"the position is of generation {position.claimed}; the stream is at generation {job.generation}",
                generation=job.generation, first_offset=job.first_offset, last_offset=job.last_offset,
            )  # fmt: skip
        if _finished(job, position):
            return None
        return await self._manager.view(
            self._stream_id, user=self._user, tenant=self._tenant, after=position.after,
            generation=job.generation, snapshot=position.snapshot,
        )  # fmt: skip


def _finished(job: Job, position: Position) -> bool:
    # A browser's EventSource reconnects after every end, and only this answer makes it stop.
    return job.settled and not position.snapshot and position.after == job.last_offset


class ProjectedStream(Response):
    """A response that follows a log through a projection, from where `projecting.attach` has begun."""

    def __init__(
        self, projected: Projected[Any], *, headers: Mapping[str, str] = _NONE, options: StreamOptions = DEFAULTS
    ) -> None:
        super().__init__()
        self.raw_headers = [*HEADERS, *((name.encode(), value.encode("latin-1")) for name, value in headers.items())]
        self._projected = projected
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer, encode, first = self._projected
        await pump(viewer, encode, scope, receive, send, self.raw_headers, self._options, first)


async def pump(
    viewer: Viewer,
    encode: Encoder,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: list[tuple[bytes, bytes]],
    options: StreamOptions,
    first: bytes = b"",
) -> None:
    """Answer with a stream: `first`, then the viewer's frames to their end. The viewer is closed, however it ends."""
    if scope["method"] == "HEAD":
        viewer.close()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    link: Link | None = scope.get("extensions", {}).get(LINK)
    await _Pump(viewer, encode, first, send, options, link).run(receive, headers)


class _Pump:
    """One open stream: from the viewer into the socket, with one timer for heart-beats and readers that do not read."""

    __slots__ = (
        "_encode",
        "_first",
        "_last_write",
        "_lent",
        "_link",
        "_loop",
        "_options",
        "_send",
        "_sending",
        "_task",
        "_timer",
        "_viewer",
    )

    def __init__(
        self, viewer: Viewer, encode: Encoder, first: bytes, send: Send, options: StreamOptions, link: Link | None
    ) -> None:
        self._viewer = viewer
        self._encode = encode
        self._first = first
        self._send = send
        self._options = options
        self._link = self._lent = link  # to cut the connection with; to write to it
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self, receive: Receive, headers: list[tuple[bytes, bytes]]) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._options.heartbeat, self._tick)
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            if self._link is not None and not self._link.started:
                self._lent = None
            await self._write(KEEP_ALIVE)  # some proxies pass the headers on only with the first bytes
            if await self._pump():
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            elif self._link is not None:
                self._link.close()
                await asyncio.wait([watcher], timeout=1.0)
        finally:
            self._timer.cancel()
            self._viewer.close()
            watcher.cancel()

    async def _pump(self) -> bool:
        """True after the terminal record, or when the client is gone; False when the server lets it go."""
        viewer, encode = self._viewer, self._encode
        try:
            frames = self._first or await viewer.frames(encode)
            while frames == b"":
                await self._write(KEEP_ALIVE)
                frames = await viewer.frames(encode)
            if frames is not None and len(frames) < _LARGE:
                frames = with_retry(frames, self._options.retry)
            elif frames is not None:  # the line belongs to the same event, which is too large to be copied for it
                await self._write(with_retry(b"", self._options.retry))
            while frames is not None:
                await self._write(frames or KEEP_ALIVE)
                poked = self._lent is not None and not await viewer.flow(encode, self._write_live)
                frames = b"" if poked else await viewer.frames(encode)
        except ViewerReleased:
            return False
        except UnspoolError as error:
            # The log went away under the viewer. Whatever that is, it is not the end of the answer.
            _log.warning("%r is cut off: %s", viewer, error)
            return False
        return True

    def _write_live(self, data: bytes) -> bool:
        # Where the connection is ours and takes it, one write for each viewer and nothing else.
        link = self._lent
        if link is None or link.paused or len(data) >= _LARGE:
            return False
        link.write(data)
        self._last_write = self._loop.time()
        return True

    async def _write(self, data: bytes) -> None:
        self._sending = True
        if self._lent is None:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        else:
            await self._lent.drain()
            self._lent.write(data)
            await asyncio.sleep(0)  # one viewer that catches up must not hold up the others
        self._sending = False
        self._last_write = self._loop.time()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._viewer.close()

    def _tick(self) -> None:
        now = self._loop.time()
        silence = now - self._last_write
        if self._sending and silence >= self._options.send_timeout:
            self._viewer.close()
            if self._link is not None:
                self._link.abort()
            elif self._task is not None:
                self._task.cancel()
            return
        if not self._sending and silence >= self._options.heartbeat:
            self._viewer.poke()
            silence = 0.0
        wait = self._options.heartbeat - silence
        if self._sending or wait <= 0:
            wait = min(self._options.heartbeat, max(self._options.send_timeout - silence, 0.01))
        self._timer = self._loop.call_later(wait, self._tick)
