"""How a stream is served: raw ASGI from the viewer to the socket.

Frames are encoded once per dialect and generation, whatever the number of viewers; all that is pending leaves in one
write. A disconnect is seen at once, a reader that does not read is cut off and can resume, and a server that goes away
cuts the connection instead of ending the response: a client must never take that for the end of the answer. A response
ends cleanly after the terminal record alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.types import Receive, Scope, Send

from unspool.errors import UnspoolError, ViewerReleased
from unspool.lanes import Encoder
from unspool.sse import KEEP_ALIVE, with_retry
from unspool.viewer import Viewer

_log = logging.getLogger("unspool.http")

LINK: Final = "unspool.link"
"""The ASGI extension under which our own server lends the connection itself."""
CUT: Final = "unspool.cut"
"""The one under which it lends a function that cuts a WebSocket's connection at once."""
LARGE: Final = 32 * 1024
"""Bytes that are not copied for the sake of a line, and that no live write takes: whoever waits for the socket does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """`heartbeat`: seconds of silence before a keep-alive. `send_timeout`: seconds that a socket may refuse to drain.
    `retry`: milliseconds after which a client reconnects."""

    heartbeat: float = 15.0
    send_timeout: float = 30.0
    retry: int = 1000


DEFAULTS: Final = StreamOptions()


class Link(Protocol):
    """A connection that our own server lends to a stream: writes without the detour, a way to cut it, and a response
    that goes on when the application has returned."""

    def lends(self, send: Send) -> bool:
        """Whether nothing stands between this `send` and the connection. A middleware that wraps it may change what is
        sent: then nothing may be written past it."""
        ...

    @property
    def paused(self) -> bool:
        """The socket does not drain; wait in `drain` before the next write."""
        ...

    async def drain(self) -> None: ...

    @property
    def written_at(self) -> float:
        """When something was written last, in the loop's time."""
        ...

    def write(self, body: bytes) -> None:
        """Write a piece of the response's body."""
        ...

    def offer(self, body: bytes) -> bool:
        """The same for what comes live; False, and nothing is written, where the socket does not drain or it is much at
        once."""
        ...

    def keep(self, lost: Callable[[], None]) -> None:
        """The response is not over when the application returns, but with `finish`. `lost` is called when the client
        is gone."""
        ...

    async def finish(self) -> None:
        """The response is complete. Nothing happens when the client is gone."""
        ...

    def close(self, within: float) -> None:
        """Cut the connection once what was written has left, or after so many seconds: the response stays visibly
        incomplete. Nothing that is sent afterwards arrives."""
        ...

    def abort(self) -> None:
        """Cut it at once."""
        ...


class Cut(Exception):
    """A response is cut off before its end. Raised to the server, which closes the connection then."""


class _Unsendable:
    """A body that no server can send.

    BaseHTTPMiddleware makes a clean end of a response whose application raises, and raises itself only afterwards. What
    it is given before that reaches the server, whose `send` raises, in the task that answers.
    """

    def __init__(self, why: Exception) -> None:
        self._why = why

    def __bool__(self) -> bool:
        return True

    def __bytes__(self) -> bytes:
        raise Cut(repr(self._why))

    def __len__(self) -> int:
        raise Cut(repr(self._why))


async def cut(link: Link | None, send: Send, why: Exception, within: float = DEFAULTS.send_timeout) -> None:
    """End a response so that its client sees that it is not whole, through any middleware.

    `within`: seconds in which the client has to read what was written before.

    Raises Cut on servers that are not ours, and on ours what is not an UnspoolError.
    """
    if link is None:
        given = asyncio.ensure_future(send({"type": "http.response.body", "body": _Unsendable(why), "more_body": True}))
        given.add_done_callback(_taken)
        await asyncio.wait((given,), timeout=1.0)  # it stays on its way where the client does not read
        raise Cut(repr(why)) from why
    link.close(within)
    if not isinstance(why, UnspoolError):
        raise why


def _taken(given: asyncio.Future[None]) -> None:
    if not given.cancelled():
        given.exception()  # it is meant


async def pump(
    viewer: Viewer,
    encode: Encoder,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: list[tuple[bytes, bytes]],
    options: StreamOptions,
    first: bytes = b"",
    over: Callable[[], None] | None = None,
) -> None:
    """Answer with a stream: `first`, then the viewer's frames to their end. The viewer is closed, however it ends, and
    `over` is called then.

    On our own server this returns while the response goes on.
    """
    if scope["method"] == "HEAD":
        viewer.close()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    link: Link | None = scope.get("extensions", {}).get(LINK)
    await _Pump(viewer, encode, send, options, link, over).run(receive, headers, first)


class _Pump:
    """One open stream: from the viewer into the socket, with one timer for heart-beats and readers that do not read.

    Where the connection is lent no task waits for what comes: whoever brings it writes it. There is one again for as
    long as something else is due: older records, a socket that does not drain, the end.
    """

    __slots__ = (
        "_beat",
        "_encode",
        "_last_write",
        "_lent",
        "_limit",
        "_link",
        "_loop",
        "_options",
        "_over",
        "_retry",
        "_send",
        "_sending",
        "_task",
        "_timer",
        "_viewer",
    )

    def __init__(
        self,
        viewer: Viewer,
        encode: Encoder,
        send: Send,
        options: StreamOptions,
        link: Link | None,
        over: Callable[[], None] | None,
    ) -> None:
        self._viewer = viewer
        self._encode = encode
        self._send = send
        self._options = options
        self._over = over
        self._link = link  # to cut the connection with
        self._lent: Link | None = None  # to write to it
        self._limit: asyncio.Timeout | None = None  # without a link, what cuts a reader off that does not read
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._sending = False
        self._retry = True  # the first event also says when to come back
        self._beat = False  # a heart-beat is due that the socket would not take
        self._timer = self._loop.call_later(options.heartbeat, self._tick)
        self._task: asyncio.Task[None] | None = None

    async def run(self, receive: Receive, headers: list[tuple[bytes, bytes]], first: bytes) -> None:
        self._task = asyncio.current_task()
        watcher: asyncio.Task[None] | None = None
        limit = asyncio.timeout(None)
        if self._link is None:
            self._limit = limit
        try:
            async with limit:
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                if self._link is not None and self._link.lends(self._send):
                    self._lent = self._link
                    self._lent.keep(self._viewer.close)
                else:
                    watcher = asyncio.create_task(self._watch(receive))
                await self._write(KEEP_ALIVE)  # some proxies pass the headers on only with the first bytes
                await self._go_on(first)
        except Exception as error:  # noqa: BLE001
            self._end()
            await cut(self._link, self._send, error, self._options.send_timeout)
        except asyncio.CancelledError:
            self._end()
            raise
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _go_on(self, first: bytes = b"") -> None:
        """To the end, or to where nothing is due but what will come."""
        why = await self._deliver(first)
        if why is not None:
            self._end()
            await cut(self._link, self._send, why, self._options.send_timeout)
        elif self._viewer.end is None:
            self._task = None
        else:
            self._sending = True  # also the end must be taken in time
            if self._lent is not None:
                await self._lent.finish()
            else:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self._end()

    async def _deliver(self, first: bytes) -> UnspoolError | None:
        """Write what there is, until the viewer is parked, or has ended: with the terminal record, or because the
        client is gone. Else why the response is to be cut off."""
        viewer, encode = self._viewer, self._encode
        try:
            if first:
                await self._write(first)
            while not self._parks():
                frames = await viewer.frames(encode)
                if frames is None:
                    break
                await self._write(frames or KEEP_ALIVE)
        except ViewerReleased as error:
            return error
        except UnspoolError as error:
            # The log went away under the viewer. Whatever that is, it is not the end of the answer.
            _log.warning("%r is cut off: %s", viewer, error)
            return error
        return None

    def _parks(self) -> bool:
        """Where the connection takes it, one write for each viewer and nothing else."""
        link = self._lent
        return link is not None and self._viewer.park(
            self._encode, self._offer_first if self._retry else link.offer, self._woken
        )

    def _offer_first(self, data: bytes) -> bool:
        assert self._lent is not None
        if self._retry and len(data) < LARGE:
            data = with_retry(data, self._options.retry)
        taken = self._lent.offer(data)
        self._retry = self._retry and not taken
        return taken

    def _woken(self, error: Exception | None) -> None:
        self._task = self._loop.create_task(self._wake(error))

    async def _wake(self, error: Exception | None) -> None:
        try:
            if error is not None:
                raise error
            if self._beat:
                self._beat = False
                await self._write(KEEP_ALIVE)
            await self._go_on()
        except Exception:  # noqa: BLE001
            # Nobody waits for this task: what went wrong is said here, and the client sees that it is cut.
            _log.exception("%r failed", self._viewer)
            self._cut()
        except asyncio.CancelledError:
            self._cut()
            raise

    def _cut(self) -> None:
        self._end()
        if self._link is not None:
            self._link.abort()

    async def _write(self, data: bytes) -> None:
        self._sending = True
        if self._retry and data is not KEEP_ALIVE:
            self._retry = False
            if len(data) < LARGE:
                data = with_retry(data, self._options.retry)
            else:  # the line belongs to the same event, which is too large to be copied for it
                await self._write_out(with_retry(b"", self._options.retry))
        await self._write_out(data)
        self._sending = False
        self._last_write = self._loop.time()

    async def _write_out(self, data: bytes) -> None:
        if self._lent is None:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        else:
            await self._lent.drain()
            self._lent.write(data)
            await asyncio.sleep(0)  # one viewer that catches up must not hold up the others

    @property
    def _written_at(self) -> float:
        return self._last_write if self._lent is None else self._lent.written_at

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._viewer.close()

    def _end(self) -> None:
        self._timer.cancel()
        self._viewer.close()
        over, self._over = self._over, None
        if over is not None:
            over()

    def _tick(self) -> None:
        now = self._loop.time()
        silence = now - self._written_at
        if self._sending and silence >= self._options.send_timeout:
            if self._link is not None:
                self._viewer.close()
                self._link.abort()
            elif self._limit is not None:
                self._limit.reschedule(now)
            return
        if not self._sending and silence >= self._options.heartbeat:
            self._heartbeat()
            silence = 0.0
        wait = self._options.heartbeat - silence
        if self._sending or wait <= 0:
            wait = min(self._options.heartbeat, max(self._options.send_timeout - silence, 0.01))
        self._timer = self._loop.call_later(wait, self._tick)

    def _heartbeat(self) -> None:
        if self._task is None and self._lent is not None and not self._lent.paused:
            self._lent.write(KEEP_ALIVE)
            return
        self._beat = self._task is None
        self._viewer.poke()
