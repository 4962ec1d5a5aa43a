"""Pipelined requests on our own server: answered in order, one at a time, whatever the segments."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import random
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.conftest import Serving
from tests.unit.http.test_stream import HELLO, OPTIONS, Wire, quiet, viewers
from tests.waiting import until
from unspool import GenerationManager
from unspool.http import StartRequest, StreamOptions, router
from unspool.http.pump import LINK
from unspool.producer import Generation
from unspool.sse import KEEP_ALIVE, Decoder

MANY = 10_000
ANSWER = "0123456789" * 3


class Held:
    """A run that ends when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, gen: Generation, request: StartRequest) -> None:
        for digit in ANSWER:
            await gen.text(digit)
        await self.go.wait()


async def echo(request: Request) -> Response:
    number, body = request.path_params["number"], await request.body()
    return Response(b"%d:%b" % (number, body))


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


def application(manager: GenerationManager, run: Any, **options: Any) -> Starlette:
    app = Starlette(
        routes=[
            Route("/echo/{number:int}", echo, methods=["GET", "POST"]),
            WebSocketRoute("/talk", talk),
            Mount("/", router(manager, run=run, **options)),
        ]
    )
    app.state.manager = manager
    return app


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes], bytes]:
    """The next response on a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head[:-4].split(b"\r\n")
    assert status.startswith(b"HTTP/1.1 "), head
    headers = dict(line.split(b": ", 1) for line in lines)
    if headers.get(b"transfer-encoding") != b"chunked":
        return int(status[9:12]), headers, await reader.readexactly(int(headers.get(b"content-length", b"0")))
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return int(status[9:12]), headers, bytes(body)


def plain(number: int, kind: int) -> tuple[bytes, bytes]:
    """A request in one of three forms, and the body of its answer."""
    body = (b"\r\n\r\n", b"GET /x HTTP/1.1\r\n\r\n", b"\n", b"")[number % 4] * (number % 3)
    path = b"/echo/%d HTTP/1.1\r\nHost: test\r\n" % number
    if kind == 0:
        return b"GET " + path + b"\r\n", b"%d:" % number
    if kind == 1:
        return b"POST %bContent-Length: %d\r\n\r\n%b" % (path, len(body), body), b"%d:%b" % (number, body)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return b"POST %bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (path, chunks), b"%d:%b" % (number, body)


FOLLOW = b"GET /v1/streams/%b/events HTTP/1.1\r\nHost: test\r\n\r\n"


def segments(data: bytes, dice: random.Random) -> list[bytes]:
    sizes = dice.choice([(1, 40), (1, 2_000), (500, 70_000), (200_000, 300_000)])
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = dice.randint(*sizes)
        found.append(data[at : at + size])
        at += size
    return found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def cycles() -> int:
    gc.collect()
    return sum(isinstance(one, RequestResponseCycle) for one in gc.get_objects())


@contextlib.asynccontextmanager
async def connected(base: httpx2.URL) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    reader, writer = await asyncio.open_connection(base.host, base.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_pipelined_requests_are_answered_in_order(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Each once and whole, behind a stream and before others, under random segmentation; nothing is left behind."""
    run, manager, dice = Held(), GenerationManager(options=OPTIONS), random.Random(7)
    async with manager, serving(application(manager, run)) as client:
        await client.post("/v1/streams/held/generations", json=HELLO)
        ended = Held()
        ended.go.set()
        await manager.start("ended", lambda gen: ended(gen, None))  # pyright: ignore[reportArgumentType]
        assert [record.type async for record in manager.follow("ended")][-1] == "completed"
        before = open_files(), cycles()

        async def one(count: int, first: int) -> None:
            streams = {0: b"held", **{dice.randrange(1, count): b"ended" for _ in range(count // 20)}}
            asked, expected = list[bytes](), list[bytes | None]()
            for number in range(first, first + count):
                if number - first in streams:
                    asked.append(FOLLOW % streams[number - first])
                    expected.append(None)
                else:
                    request, body = plain(number, dice.randrange(3))
                    asked.append(request)
                    expected.append(body)

            async with connected(client.base_url) as (reader, writer):

                async def write() -> None:
                    for segment in segments(b"".join(asked), dice):
                        writer.write(segment)
                        await writer.drain()
                        await asyncio.sleep(0)

                writing = asyncio.create_task(write())
                for body in expected:
                    async with asyncio.timeout(60):
                        status, headers, got = await answer(reader)
                    assert status == 200
                    if body is not None:
                        assert got == body
                        continue
                    messages = Decoder().feed(got)
                    assert "".join(json.loads(m.data)["text"] for m in messages if m.event == "text.delta") == ANSWER
                    assert messages[-1].event == "completed"
                    assert headers[b"content-type"].startswith(b"text/event-stream")
                await writing
                assert not reader._buffer  # type: ignore[attr-defined]

        lots = 10
        tasks = [asyncio.create_task(one(MANY // lots, number * MANY)) for number in range(lots)]
        await viewers(manager, lots)
        run.go.set()
        await asyncio.gather(*tasks)
        await viewers(manager, 0)
        async with asyncio.timeout(60):  # the server sees that the connections are closed
            while open_files() > before[0]:
                await asyncio.sleep(0.01)
        assert cycles() <= before[1] + 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("count", [1, 1_000, 30_000], ids=["one", "what is held", "more than is held"])
@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["lent", "behind a middleware"])
async def test_a_pipelining_client_that_leaves_is_noticed(
    serving: Serving, caplog: pytest.LogCaptureFixture, how: str, count: int, wrapped: bool
) -> None:
    """Though requests wait, and though so many that nothing more is read: its viewer is gone, and the run goes on."""
    manager = GenerationManager(options=OPTIONS)
    app = application(manager, quiet, stream_options=StreamOptions(heartbeat=0.05))

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Any) -> None:
            await send(message)

        await app(scope, receive, sent)

    around.state = app.state  # pyright: ignore[reportFunctionMemberAccess]
    async with manager, serving(around if wrapped else app) as client:  # pyright: ignore[reportArgumentType]
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with connected(client.base_url) as (reader, writer):
            writer.write(FOLLOW % b"s")
            writer.write(b"".join(plain(number, 0)[0] for number in range(count)))
            await reader.readuntil(b"id: 1-1\n")
            await viewers(manager, 1)
            if how == "reset":
                writer.transport.abort()
        await viewers(manager, 0)
        assert (await manager.job("s")).status == "running"
        assert (await client.get("/echo/1")).content == b"1:"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_request_right_after_the_application_returned_waits(serving: Serving) -> None:
    """In the very step in which it has returned, and the stream goes on without it."""
    manager, run = GenerationManager(options=OPTIONS), Held()
    app = application(manager, run)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope.get("path", "").endswith("/events"):
            transport = scope["extensions"][LINK]._transport
            asyncio.get_running_loop().call_soon(transport.get_protocol().data_received, plain(1, 0)[0])

    around.state = app.state  # pyright: ignore[reportFunctionMemberAccess]
    async with manager, serving(around) as client:  # pyright: ignore[reportArgumentType]
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with connected(client.base_url) as (reader, writer), asyncio.timeout(60):
            writer.write(FOLLOW % b"s")
            seen = await reader.readuntil(b"id: 1-1\n")
            run.go.set()
            seen += await reader.readuntil(b"\r\n0\r\n\r\n")
            assert b"HTTP/1.1" not in seen[1:].replace(b"TTP/1.1 200", b"", 1)
            assert b"event: completed" in seen
            assert (await answer(reader))[2] == b"1:"


async def test_half_a_request_behind_a_stream_is_answered_when_the_rest_comes(serving: Serving) -> None:
    manager, run = GenerationManager(options=OPTIONS), Held()
    async with manager, serving(application(manager, run)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        request, body = plain(5, 1)
        for cut in range(1, len(request)):
            async with connected(client.base_url) as (reader, writer), asyncio.timeout(60):
                writer.write(FOLLOW % b"s" + request[:cut])
                await reader.readuntil(KEEP_ALIVE)
                if cut == 1:
                    await reader.readuntil(b"id: 1-1\n")
                    run.go.set()
                await reader.readuntil(b"\r\n0\r\n\r\n")
                writer.write(request[cut:])
                assert (await answer(reader))[2] == body


@pytest.mark.parametrize(
    "behind", [b"\0\1\2 no request\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"], ids=["garbage", "head"]
)
async def test_what_is_no_request_is_not_answered_inside_a_stream(serving: Serving, behind: bytes) -> None:
    manager, run = GenerationManager(options=OPTIONS), Held()
    async with manager, serving(application(manager, run)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with connected(client.base_url) as (reader, writer), asyncio.timeout(60):
            writer.write(FOLLOW % b"s" + behind)
            await reader.readuntil(b"id: 1-1\n")
            run.go.set()
            assert b"event: completed" in await reader.readuntil(b"\r\n0\r\n\r\n")
            assert (await answer(reader))[0] == 400
            assert await reader.read() == b""


async def test_a_bad_chunk_of_a_body_is_not_answered_inside_the_response(serving: Serving) -> None:
    """A client may still be sending when the response has begun: then the connection is cut."""
    manager = GenerationManager(options=OPTIONS)
    async with manager, serving(application(manager, quiet)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with connected(client.base_url) as (reader, writer), asyncio.timeout(60):
            writer.write(b"GET /v1/streams/s/events HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            await reader.readuntil(b"id: 1-1\n")
            writer.write(b"no chunk\r\n\r\n")
            assert b"HTTP" not in await reader.read()
        await viewers(manager, 0)


@pytest.mark.parametrize("head", [b"HTTP/1.1\r\nConnection: close", b"HTTP/1.0\r\nX: y"], ids=["close", "HTTP/1.0"])
async def test_nothing_is_answered_on_a_connection_that_the_client_ends(serving: Serving, head: bytes) -> None:
    manager, run = GenerationManager(options=OPTIONS), Held()
    async with manager, serving(application(manager, run)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with connected(client.base_url) as (reader, writer), asyncio.timeout(60):
            writer.write(b"GET /v1/streams/s/events %b\r\n\r\n" % head + plain(1, 0)[0])
            await reader.readuntil(b"id: 1-1\n")
            writer.write(plain(2, 0)[0])
            run.go.set()
            rest = await reader.read()
            assert rest.endswith(b"\r\n0\r\n\r\n")
            assert b"HTTP" not in rest


async def test_an_upgrade_behind_a_stream_waits_for_its_end(serving: Serving) -> None:
    """A WebSocket opens on the connection when the stream is over; another protocol is ignored, and the request is
    answered as it is, with its body."""
    manager, run = GenerationManager(options=OPTIONS), Held()
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
    socket = b"GET /talk HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%b\r\n\r\n" % key
    other = b"POST /echo/1 HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 40\r\n\r\n"
    other += b"x" * 40
    async with manager, serving(application(manager, run)) as client, contextlib.AsyncExitStack() as stack:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with asyncio.timeout(60):
            wires = [await stack.enter_async_context(connected(client.base_url)) for _ in range(2)]
            for (reader, writer), behind in zip(wires, (socket, other + plain(9, 0)[0]), strict=True):
                writer.write(FOLLOW % b"s" + behind)
                await reader.readuntil(b"id: 1-1\n")
            run.go.set()
            for reader, _ in wires:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            assert (await wires[0][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            status, headers, body = await answer(wires[1][0])
            assert (status, b"connection" in headers, body) == (200, False, b"1:" + b"x" * 40)
            assert (await answer(wires[1][0]))[2] == b"9:"


async def test_a_request_has_the_context_of_its_connection(serving: Serving) -> None:
    """Not that of the request before it, whose end let it in."""
    import contextvars

    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")

    async def once(request: Request) -> Response:
        before = seen.get()
        seen.set(request.url.path)
        return Response(before)

    manager = GenerationManager(options=OPTIONS)
    app = Starlette(routes=[Route("/{path:path}", once)])
    app.state.manager = manager
    async with manager, serving(app) as client, connected(client.base_url) as (reader, writer):
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(3)))
        async with asyncio.timeout(60):
            assert [(await answer(reader))[2] for _ in range(3)] == [b""] * 3


async def test_a_reader_that_is_let_go_and_does_not_read_is_cut_off(serving: Serving) -> None:
    """What was written for it is not kept for ever."""
    manager = GenerationManager(options=OPTIONS)
    app = application(manager, quiet, stream_options=StreamOptions(send_timeout=0.05))
    transports = list[asyncio.Transport]()

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").endswith("/events"):
            transports.append(scope["extensions"][LINK]._transport)
        await app(scope, receive, send)

    around.state = app.state  # pyright: ignore[reportFunctionMemberAccess]
    async with manager, serving(around) as client:  # pyright: ignore[reportArgumentType]
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with Wire.follow(client.base_url, "/v1/streams/s/events", limit=1024) as wire:
            await wire.until(b"id: 1-1\n")
            (transport,) = transports
            connection: Any = transport.get_protocol()
            while not transport.get_write_buffer_size():
                transport.write(KEEP_ALIVE * 100)
            for viewer in list(manager.replica.viewers):
                viewer.release()
            await until(lambda: connection not in connection.connections)


async def test_a_slow_end_is_cut_off(serving: Serving) -> None:
    """A reader that does not even take the end of a response in time is not waited for."""

    async def flood(gen: Generation, request: StartRequest) -> None:
        for _ in range(300):
            await gen.emit("custom", {"name": "n", "value": "x" * 16_000})

    manager = GenerationManager(options=OPTIONS)
    app = application(manager, flood, stream_options=StreamOptions(heartbeat=0.05, send_timeout=0.3))
    async with manager, serving(app) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        assert [record.type async for record in manager.follow("s")][-1] == "completed"
        async with Wire.follow(client.base_url, "/v1/streams/s/events", limit=1024) as wire:
            await wire.until(KEEP_ALIVE)
            await viewers(manager, 0)
            assert not (await wire.rest()).endswith(b"0\r\n\r\n")
