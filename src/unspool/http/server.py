"""The server: uvicorn, taught to let streams go when it is told to stop, and to lend them their connection."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import cast

import uvicorn
from starlette.applications import Starlette

from unspool.errors import ConfigurationError
from unspool.http.connection import SEND_BUFFER, Lending, Protocol, WebSocketProtocol
from unspool.manager import GenerationManager

_BACKLOG = 2048


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

    def statistics(self) -> dict[str, int]:
        """Streams so far: `lent` wrote to their connection, `plain` went through a middleware that wraps `send`."""
        lending = cast(Lending, self.config.app)
        return {"lent": lending.lent, "plain": lending.plain}

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
        Lending(app),
        http=Protocol,
        ws=WebSocketProtocol,
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
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    listener.setblocking(False)
    return listener
