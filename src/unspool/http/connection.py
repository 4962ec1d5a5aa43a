"""Connections of our own server: uvicorn's protocols, one request at a time, and the link that streams write to."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from collections.abc import Callable
from typing import Any, ClassVar, Final, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from unspool.http.pump import CUT, LARGE, LINK

_log = logging.getLogger("unspool.http")

SEND_BUFFER: Final = 64 * 1024
"""Bytes: a reader that does not read is noticed after this much, not after the kernel's 4 MB."""
AHEAD: Final = 64 * 1024
"""Bytes of further requests that a connection holds while it answers one; beyond them it does not read."""
HEAD: Final = 64 * 1024
"""Bytes that the head of a request may have, and a line that announces a chunk of its body."""
LATE: Final = 64 * 1024
"""Bytes of a chunked body that are parsed after its answer; each may be a chunk of its own."""

_EMPTY: Final = re.compile(rb"[\r\n]*")
_SIZE: Final = re.compile(rb"([0-9a-fA-F]++)[^\n]*+\n")

_TRANSPARENT: Final = frozenset(
    {
        ("starlette.middleware.errors", "ServerErrorMiddleware.__call__.<locals>._send"),
        ("starlette._exception_handler", "wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender"),
    }
)
"""Wrappers of `send` that every Starlette application has: they note that a response has begun, and change nothing."""


class Lending:
    """ASGI wrapper that keeps streaming responses open after the application returns. uvicorn would cut them off.

    `lent` and `plain` count streams: those that write to the connection, and those that a middleware stands before.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.lent = 0
        self.plain = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        link = cast("Link | None", scope.get("extensions", {}).get(LINK))
        if link is not None:
            link.returned()

    def count(self, wrapper: object) -> None:
        """Count a stream. `wrapper`: what stands between it and the connection, None where nothing does."""
        if wrapper is None:
            self.lent += 1
            return
        self.plain += 1
        if self.plain == 1:
            named = getattr(wrapper, "func", wrapper)  # of a partial
            name = getattr(named, "__qualname__", type(named).__qualname__)
            _log.info(
                "%s of %s wraps `send` and may change what is sent: streams behind it go through it, frame by frame, "
                "and take two tasks and at least half as much memory again for each viewer",
                name, getattr(named, "__module__", "?"),
            )  # fmt: skip


class ChunkedBody:
    """The framing of a chunked body: it finds the end, and leaves all else to the parser."""

    __slots__ = ("_last", "_left")

    def __init__(self) -> None:
        self._left = 0  # bytes before the next line: the rest of a chunk, and the line break behind it
        self._last = False  # the last chunk was there: only trailers are to come, and an empty line

    def end(self, data: bytearray) -> int:
        """Return how many of these bytes, which follow those of the last call, belong to the body.

        A line that is not complete is not counted; it has to be in the data of the next call.
        """
        at, there = self._left, len(data)
        while at < there and not self._last:
            line = _SIZE.match(data, at)
            if line is None:
                if data.find(b"\n", at) >= 0:
                    return there  # it is no chunk: the parser refuses it
                break
            size = int(line[1], 16)
            at = line.end() + (size + 2 if size else 0)
            self._last = not size
        while self._last and at < there and (after := data.find(b"\n", at) + 1):
            line, at = data[at:after], after
            if not line.strip(b"\r\n"):
                break
        self._left = max(0, at - there)
        return min(at, there)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, one request at a time: what a client sends ahead is parsed when its turn has come.

    Input is cut where a request ends, so the parser never sees more than the request that is being received. Its head
    ends with an empty line; its body is given to the parser as it comes, in one piece.
    """

    # Its dict is full: more would cost a viewer 2 kB.
    __slots__ = ("_ahead", "_chunks", "_context", "_head", "_late", "_left", "_link", "_received")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._ahead = bytearray()
        self._context = contextvars.copy_context()
        self._link: Link | None = None
        self._received = True  # the current request is here as a whole
        self._head = 0  # bytes of its head so far
        self._left = 0  # bytes of its body that are to come, where Content-Length says so
        self._chunks: ChunkedBody | None = None  # its body, where it is chunked
        self._late = 0  # bytes of a chunked body that came when it was answered

    def data_received(self, data: bytes) -> None:
        if self._chunks is not None and self._answering is None:
            self._late += len(data)
            if self._late > LATE:  # read on, or closing would take the answer away from a client that still sends
                return
        self._ahead += data
        self._parse()

    def _parse(self) -> None:
        while not self._busy and not self.transport.is_closing() and (end := self._end()):
            piece = bytes(self._ahead[:end])
            del self._ahead[:end]
            super().data_received(piece)
        if self._busy:
            if len(self._ahead) > AHEAD:
                self.flow.pause_reading()
        elif max(self._head, len(self._ahead)) > HEAD and not self.transport.is_closing():
            self.send_400_response("A line or the head of the request is too long.")

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The request whose response is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return None if cycle is None or cycle.response_complete else cycle

    @property
    def _busy(self) -> bool:
        """What comes next belongs to another request, which has to wait."""
        return self._received and self._answering is not None

    def _end(self) -> int:
        """How many of the bytes that are here may be parsed: none beyond the end of the request."""
        if self._chunks is not None:
            return self._chunks.end(self._ahead)
        if self._left:
            end = min(self._left, len(self._ahead))
            self._left -= end
            return end
        if self._received:  # empty lines before a request mean nothing
            del self._ahead[: _EMPTY.match(self._ahead).end()]  # type: ignore[union-attr]
        found = self._ahead.find(b"\n\r\n")
        # What may become an empty line waits for the rest of it.
        held = 2 if self._ahead.endswith(b"\n\r") else self._ahead.endswith(b"\n")
        end = found + 3 if found >= 0 else len(self._ahead) - held
        self._head += end
        return end

    def _unset_keepalive_if_required(self) -> None:
        if self._received:  # a body that still comes when it was answered does not keep the connection open
            super()._unset_keepalive_if_required()

    @property
    def _unsupported(self) -> bool:
        """The head asks for a protocol that is not spoken here."""
        parser = self.parser
        return parser is not None and parser.should_upgrade() and not self._should_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._received = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._chunks is None:  # trailers are no headers: a proxy in front may not have looked at them
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = 0
        if self._unsupported:
            return
        named = dict(self.headers)
        self._left = int(named.get(b"content-length", 0))
        self._chunks = ChunkedBody() if b"transfer-encoding" in named else None
        super().on_headers_complete()
        if self._should_upgrade():
            return  # there is no response to lend it to
        extensions = cast("dict[str, object]", self.scope.setdefault("extensions", {}))
        extensions[LINK] = self._link = Link(self.cycle, cast(Lending, self.config.app))

    def on_message_complete(self) -> None:
        if self._unsupported:
            return
        super().on_message_complete()
        self._received, self._left, self._chunks, self._late = True, 0, None, 0

    def _unsupported_upgrade_warning(self) -> None:
        # Such an upgrade is ignored (RFC 9110, 7.8). But the parser would pass over the body: it gets the head once
        # more, without the upgrade.
        assert self.parser is not None
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is not supported.")
            return
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        super().data_received(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._ahead:  # in the connection's context, not in that of the request that was answered
            self.loop.call_soon(self._parse, context=self._context)

    def send_400_response(self, msg: str) -> None:
        answering = self._answering
        if answering is not None and answering.response_started:
            self.transport.close()  # it would be a part of the response that is under way
        else:
            super().send_400_response(msg)

    def handle_websocket_upgrade(self) -> None:
        self._ahead.clear()  # a client may not send frames before it has the answer
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._ahead.clear()
        if self._link is not None:
            self._link.lost()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which can be cut: closing it would wait for a reader that does not read."""

    async def run_asgi(self) -> None:
        extensions = cast("dict[str, object]", self.scope.setdefault("extensions", {}))
        extensions[CUT] = self.transport.abort
        await super().run_asgi()


class Link:
    """A response under way, as the stream writes it: straight to the transport, under uvicorn's flow control."""

    __slots__ = (
        "_chunked",
        "_cycle",
        "_flow",
        "_lending",
        "_lost",
        "_on_response",
        "_time",
        "_transport",
        "written_at",
    )
    last: ClassVar = (b"", b"")
    """What was written last, and the same as a chunk: viewers who stand at one place write the very same piece."""

    def __init__(self, cycle: RequestResponseCycle, lending: Lending) -> None:
        self.written_at = 0.0
        self._cycle = cycle
        self._lending = lending
        self._chunked = True
        self._transport = cycle.transport
        self._flow = cycle.flow
        self._time = asyncio.get_running_loop().time
        self._lost: Callable[[], None] | None = None
        self._on_response: Callable[..., None] | None = None  # while uvicorn takes the client for gone

    def lends(self, send: Send) -> bool:
        """Whether nothing stands between this `send` and the connection. Else a stream goes through `send`."""
        outer = _unwrapped(send)
        bare = outer == self._cycle.send
        self._lending.count(None if bare else outer)
        return bare

    @property
    def paused(self) -> bool:
        return self._flow.write_paused

    async def drain(self) -> None:
        await self._flow.drain()

    def offer(self, body: bytes) -> bool:
        if self._flow.write_paused or len(body) >= LARGE:
            return False
        self.write(body)
        return True

    def write(self, body: bytes) -> None:
        if self._transport.is_closing():
            return
        self.written_at = self._time()
        if not self._chunked:
            self._transport.write(body)
        elif len(body) < SEND_BUFFER:
            last, chunk = Link.last
            if body is not last:
                chunk = b"%x\r\n%b\r\n" % (len(body), body)
                Link.last = body, chunk
            self._transport.write(chunk)
        else:  # a snapshot, which many who join at once share: it is not copied for each
            self._transport.writelines((b"%x\r\n" % len(body), body, b"\r\n"))

    def keep(self, lost: Callable[[], None]) -> None:
        self._chunked = self._cycle.chunked_encoding is True
        if self._cycle.disconnected:
            lost()
        else:
            self._lost = lost

    def returned(self) -> None:
        """The application has returned: in this very step uvicorn looks whether the response is complete, or the client
        gone. Until the next one it is told that it is gone; never that the response is complete, which would let the
        next request in."""
        if self._lost is not None and not self._cycle.response_complete and not self._cycle.disconnected:
            self._on_response = self._cycle.on_response
            self._cycle.disconnected = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._on_response is not None:
            self._cycle.on_response, self._on_response = self._on_response, None
            self._cycle.disconnected = self._transport.is_closing()

    async def finish(self) -> None:
        self._go_on()
        await self._cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    def lost(self) -> None:
        """The client is gone."""
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def close(self, within: float) -> None:
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(within, self._transport.abort)
        self._cycle.disconnected = True  # uvicorn expects nothing more of this response

    def abort(self) -> None:
        self._transport.abort()
        self._cycle.disconnected = True


def _unwrapped(send: Any) -> Any:
    """The `send` that stands behind the transparent wrappers."""
    while (getattr(send, "__module__", None), getattr(send, "__qualname__", None)) in _TRANSPARENT:
        send = send.__closure__[send.__code__.co_freevars.index("send")].cell_contents
    return send
