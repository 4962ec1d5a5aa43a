"""Middleware around streams on our own server: what wraps `send` is never bypassed."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.unit.http.test_stream import HELLO, OPTIONS
from unspool import GenerationManager
from unspool.http import StartRequest, router
from unspool.http.server import Server, bind, server_for, url_of
from unspool.producer import Generation
from unspool.sse import Decoder

SECRET = "swordfish"
PAGE = {"origin": "https://page.example"}


async def tells(gen: Generation, request: StartRequest) -> None:
    for number in range(20):
        await gen.emit("custom", {"name": "n", "value": f"{number} {SECRET}"})
        await asyncio.sleep(0)


class Wrapping:
    """A pure ASGI middleware: `changed` gets each message on its way out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        packer = zlib.compressobj(wbits=31)

        async def changed(message: Message) -> None:
            self.change(message, packer)
            await send(message)

        await self.app(scope, receive, changed)

    def change(self, message: Message, packer: Any) -> None: ...


class Redacting(Wrapping):
    def change(self, message: Message, packer: Any) -> None:
        if "body" in message:
            message["body"] = message["body"].replace(SECRET.encode(), b"[redacted]")


class Packing(Wrapping):
    """It compresses everything, event streams too, and lets each piece go at once."""

    def change(self, message: Message, packer: Any) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if not pair[0].startswith(b"content-")]
            message["headers"] = [*kept, (b"content-encoding", b"gzip")]
        elif message.get("more_body"):
            message["body"] = packer.compress(message["body"]) + packer.flush(zlib.Z_SYNC_FLUSH)
        else:
            message["body"] = packer.compress(message["body"]) + packer.flush()


class Session(Wrapping):
    def change(self, message: Message, packer: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"set-cookie", b"session=1")]


class Watching:
    """A middleware that wraps nothing that is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def seen(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-seen"] = "yes"
    return response


PLAIN: dict[str, tuple[Middleware, dict[str, str]]] = {
    "redacting": (Middleware(Redacting), {}),
    "packing": (Middleware(Packing), {}),
    "GZipMiddleware": (Middleware(GZipMiddleware, minimum_size=1), {}),
    "BaseHTTPMiddleware": (Middleware(BaseHTTPMiddleware, dispatch=seen), {"x-seen": "yes"}),
    "session": (Middleware(Session), {"set-cookie": "session=1"}),
    "CORSMiddleware": (
        Middleware(CORSMiddleware, allow_origins=[PAGE["origin"]]),
        {"access-control-allow-origin": PAGE["origin"]},
    ),
}
LENT: dict[str, list[Middleware]] = {
    "none": [],
    "one that only watches": [Middleware(Watching)],
}


@asynccontextmanager
async def served(app: Any, manager: GenerationManager) -> AsyncGenerator[tuple[httpx2.AsyncClient, Server], None]:
    listener, ready = bind("127.0.0.1", 0), asyncio.Event()
    server = server_for(app, manager=manager, drain=0.0, ready=ready.set)
    task = asyncio.create_task(server._serve([listener]))
    await ready.wait()
    try:
        async with httpx2.AsyncClient(base_url=url_of(listener), timeout=60) as client:
            yield client, server
    finally:
        await manager.stop(0)
        server.should_exit = True
        await task
        listener.close()


def application(kind: type[Starlette], manager: GenerationManager, middleware: list[Middleware]) -> Starlette:
    return kind(routes=[Mount("/", router(manager, run=tells))], middleware=middleware)


async def whole(
    client: httpx2.AsyncClient, headers: dict[str, str], stream: str = "s"
) -> tuple[httpx2.Headers, list[str]]:
    """The stream's headers, and what it says; each event once and in order."""
    await client.post(f"/v1/streams/{stream}/generations", json=HELLO)
    async with asyncio.timeout(60):
        answer = await client.get(f"/v1/streams/{stream}/events", headers={"accept-encoding": "gzip", **headers})
    messages = Decoder().feed(answer.content)
    assert [message.id for message in messages] == [f"1-{number}" for number in range(1, 22)]
    assert messages[-1].event == "completed"
    return answer.headers, [message.data for message in messages]


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize("name", PLAIN)
async def test_what_wraps_send_sees_all_that_is_sent(
    name: str, kind: type[Starlette], caplog: pytest.LogCaptureFixture
) -> None:
    """Streams go through it, which is counted, and said once, with the name of the wrapper."""
    middleware, expected = PLAIN[name]
    manager = GenerationManager(options=OPTIONS)
    caplog.set_level(logging.INFO, "unspool.http")
    async with served(application(kind, manager, [middleware]), manager) as (client, server):
        for times in (1, 2):
            headers, said = await whole(client, PAGE if name == "CORSMiddleware" else {}, f"s{times}")
            assert server.statistics() == {"lent": 0, "plain": times}
    assert {key: headers[key] for key in expected} == expected
    assert (SECRET in "".join(said)) == (name != "redacting")
    assert ("[redacted]" in "".join(said)) == (name == "redacting")
    told = [record.getMessage() for record in caplog.records if "wraps `send`" in record.getMessage()]
    assert len(told) == 1
    assert "." in told[0].partition(" wraps ")[0]


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize("name", LENT)
async def test_without_a_wrapper_streams_write_to_the_connection(name: str, kind: type[Starlette]) -> None:
    """The wrappers that Starlette and FastAPI put around every application are known; a new version must be, too."""
    manager = GenerationManager(options=OPTIONS)
    async with served(application(kind, manager, LENT[name]), manager) as (client, server):
        await whole(client, {})
        assert server.statistics() == {"lent": 1, "plain": 0}


@pytest.mark.parametrize("how", ["include", "mount"])
async def test_a_filter_around_one_route_is_a_filter(how: str) -> None:
    """Also where it does not stand around the application, but inside it."""
    manager = GenerationManager(options=OPTIONS)
    inner = Starlette(routes=[Mount("/", Redacting(router(manager, run=tells)))])
    app: ASGIApp = inner
    if how == "include":
        app = FastAPI()
        app.mount("/", inner)
    async with served(app, manager) as (client, server):
        _, said = await whole(client, {})
        assert SECRET not in "".join(said)
        assert server.statistics() == {"lent": 0, "plain": 1}


async def test_a_client_that_is_gone_before_the_head_leaves_no_viewer() -> None:
    """It went away while the stream was being attached: what notices it comes too late, and has to be asked."""
    manager = GenerationManager(options=OPTIONS)
    app = application(Starlette, manager, [])

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").endswith("/events"):
            while (await receive())["type"] != "http.disconnect":
                pass
        await app(scope, receive, send)
        if scope.get("path", "").endswith("/events"):
            answered.set()

    answered = asyncio.Event()
    async with served(around, manager) as (client, _):
        await client.post("/v1/streams/s/generations", json=HELLO)
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /v1/streams/s/events HTTP/1.1\r\nHost: test\r\n\r\n")
        await writer.drain()
        writer.close()
        async with asyncio.timeout(60):
            await answered.wait()
            while manager.replica.viewers:
                await asyncio.sleep(0.005)
