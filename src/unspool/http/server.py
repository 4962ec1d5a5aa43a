"""The server: uvicorn, taught to let streams go when it is told to stop, and to lend them their connection."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import ClassVar, cast

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from unspool.errors import ConfigurationError
from unspool.http.pump import CUT, LARGE, LINK
from unspool.manager import GenerationManager

_BACKLOG = 2048
_SEND_BUFFER = 64 * 1024  # a reader that does not read is noticed after this much, not after the kernel's 4 MB


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which lends its connection to the streams."""

    _link: _Link | None = None

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._should_upgrade():
            return  # there is no response to lend it to
        extensions = cast("dict[str, object]", self.scope.setdefault("extensions", {}))
        extensions[LINK] = self._link = _Link(self.cycle, self._link)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._link is not None:
            self._link.lost()


class _Kept:
    """An application some of whose responses go on when it has returned. uvicorn would cut them off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        link = cast("_Link | None", scope.get("extensions", {}).get(LINK))
        if link is not None:
            link.returned()


class _Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which can be cut: closing it would wait for a reader that does not read."""

    async def run_asgi(self) -> None:
        extensions = cast("dict[str, object]", self.scope.setdefault("extensions", {}))
        extensions[CUT] = self.transport.abort
        await super().run_asgi()


class _Link:
    """A response under way, as the stream writes it: straight to the transport, under uvicorn's flow control."""

    __slots__ = (
        "_chunked",
        "_cycle",
        "_flow",
        "_lost",
        "_on_response",
        "_previous",
        "_time",
        "_transport",
        "written_at",
    )
    last: ClassVar = (b"", b"")
    """What was written last, and the same as a chunk: viewers who stand at one place write the very same piece."""

    def __init__(self, cycle: RequestResponseCycle, previous: _Link | None) -> None:
        self.written_at = 0.0
        self._cycle = cycle
        self._chunked = True
        self._transport = cycle.transport
        self._flow = cycle.flow
        self._time = asyncio.get_running_loop().time
        self._lost: Callable[[], None] | None = None
        self._on_response: Callable[..., None] | None = None  # while uvicorn takes the response for complete
        # A client may ask for more on a connection before it has its answer.
        self._previous = None if previous is None or previous._cycle.response_complete else previous

    @property
    def started(self) -> bool:
        return self._cycle.response_started

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
        elif len(body) < _SEND_BUFFER:
            last, chunk = _Link.last
            if body is not last:
                chunk = b"%x\r\n%b\r\n" % (len(body), body)
                _Link.last = body, chunk
            self._transport.write(chunk)
        else:  # a snapshot, which many who join at once share: it is not copied for each
            self._transport.writelines((b"%x\r\n" % len(body), body, b"\r\n"))

    def keep(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._chunked = self._cycle.chunked_encoding is True

    def returned(self) -> None:
        """The application has returned: in this very step uvicorn looks whether the response is complete."""
        if self._lost is not None and not self._cycle.response_complete:
            self._on_response = self._cycle.on_response
            self._cycle.response_complete = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._on_response is not None:
            self._cycle.on_response, self._on_response = self._on_response, None
            self._cycle.response_complete = False
            self._cycle.disconnected = self._transport.is_closing()

    async def finish(self) -> None:
        self._go_on()
        await self._cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    def lost(self) -> None:
        """The client is gone."""
        if self._previous is not None:
            self._previous.lost()
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server, which tells the manager to drain *before* it waits for open connections to end."""

    def __init__(
        self, config: uvicorn.Config, manager: GenerationManager, drain: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._manager = manager
        self._drain = drain
        self._ready = ready
        self._draining: asyncio.Task[None] | None = None

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._manager.start_up()  # before the application: what is wrong with the store is said as it is
        await super()._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # No server tells an open stream that it is going away; without this it would wait for every viewer.
        if self._draining is None:
            loop = asyncio.get_running_loop()
            self._draining = loop.create_task(self._manager.stop(0 if sig == signal.SIGINT else self._drain))
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:  # a connection that is refused is tried elsewhere; some take a 503 for the end
            server.close()
        if self._draining is not None:
            await self._draining
        await super().shutdown(sockets)
        self._captured_signals.clear()  # obeyed; uvicorn would raise them once more, and the exit look like a crash


def is_loopback(host: str) -> bool:
    """Whether a server on this address can only be reached from its own machine."""
    return host in {"localhost", "::1"} or host.startswith("127.")


def serve(
    app: Starlette,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    manager: GenerationManager | None = None,
    drain: float = 5.0,
    authenticated: bool = False,
    access_log: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run an ASGI application until SIGTERM or SIGINT; it ends within `drain` seconds and a few, open streams or not.

    `manager`: the one to drain, where the application is not of `create_app`. `ready` gets the URL once the server
    answers; port 0 takes a free one.

    Raises ConfigurationError for an address that cannot be bound, and for one that others can reach when the
    application has no `authenticate` hook.
    """
    if not authenticated and not is_loopback(host):
        raise ConfigurationError(
            f"host {host} can be reached from outside, and no authentication is set: every caller could read and stop "
            "every generation. Set a token, give an authenticate hook, or bind to 127.0.0.1"
        )
    listener = bind(host, port)
    server = server_for(
        app,
        manager=manager,
        drain=drain,
        access_log=access_log,
        ready=lambda: ready(url_of(listener)) if ready else None,
    )
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


def server_for(
    app: Starlette,
    *,
    manager: GenerationManager | None = None,
    drain: float = 5.0,
    access_log: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> Server:
    """The server for an application, not yet running. `manager`: by default that of an application of `create_app`."""
    config = uvicorn.Config(
        _Kept(app),
        http=_Protocol,
        ws=_Socket,
        ws_per_message_deflate=False,  # it would cost each connection memory, and each viewer its own copy of a frame
        loop="uvloop",
        lifespan="on",
        access_log=access_log,
        log_level="info" if access_log else "warning",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain) + 3),
    )
    return Server(config, manager or app.state.manager, drain, ready)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY for that alone
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    listener.setblocking(False)
    return listener
