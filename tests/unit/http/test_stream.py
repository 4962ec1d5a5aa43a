"""The streaming response on real sockets: disconnects, silence, readers that do not read, a server that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from typing import Annotated, cast
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from tests.conftest import Serving
from tests.waiting import HANG
from unspool import GenerationManager, Options
from unspool.http import EventStream, StartRequest, StreamOptions, create_app, router
from unspool.producer import Generation
from unspool.sse import KEEP_ALIVE, Decoder, Message

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0)


class Wire:
    """A client that is nothing but a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def follow(cls, base: httpx2.URL, path: str, limit: int = 2**16) -> AsyncGenerator[Wire, None]:
        at = urlsplit(str(base))
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limit)  # the kernel must not read on for us
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (at.hostname, at.port))
        reader, writer = await asyncio.open_connection(sock=plain, limit=limit)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def until(self, part: bytes) -> bytes:
        async with asyncio.timeout(HANG):
            return await self.reader.readuntil(part)

    async def rest(self) -> bytes:
        async with asyncio.timeout(HANG):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""


async def viewers(manager: GenerationManager, count: int) -> None:
    async with asyncio.timeout(HANG):
        while manager.statistics()["viewers"] != count:
            await asyncio.sleep(0.005)


async def quiet(gen: Generation, request: StartRequest) -> None:
    await gen.text("begun")
    await asyncio.Event().wait()


async def test_a_head_request_gets_the_headers_and_nothing_else(serving: Serving) -> None:
    """It ends at once, and leaves no viewer behind."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=quiet)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        answer = await client.head("/v1/streams/s/events")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        await viewers(manager, 0)


@pytest.mark.parametrize("lent", [True, False], ids=["our server", "any server"])
async def test_both_ways_to_the_socket_write_the_same(serving: Serving, lent: bool) -> None:
    """Through the connection that our server lends, and through plain ASGI: the same frames, also for a late viewer."""

    async def long(gen: Generation, request: StartRequest) -> None:
        for number in range(3000):
            await gen.emit("custom", {"name": "n", "value": number, "padding": "x" * 200})
            if number % 100 == 0:
                await asyncio.sleep(0)

    manager = GenerationManager(options=Options(window=100))
    app = create_app(manager, run=long)

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        scope.pop("extensions", None)
        await app(scope, receive, send)

    plain.state = app.state  # pyright: ignore[reportFunctionMemberAccess]
    async with serving(app if lent else cast(Starlette, plain)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        for _ in range(2):
            decoder = Decoder()
            async with client.stream("GET", "/v1/streams/s/events") as response:
                read = [m async for chunk in response.aiter_raw() for m in decoder.feed(chunk)]
            assert [m.id for m in read] == [f"1-{n}" for n in range(1, 3002)]


async def test_headers_and_the_first_bytes(serving: Serving) -> None:
    """No proxy may hold it back or change it; the headers and a comment come at once, before any event."""

    async def silent(gen: Generation, request: StartRequest) -> None:
        await asyncio.Event().wait()

    async with serving(create_app(GenerationManager(options=OPTIONS), run=silent)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with client.stream("GET", "/v1/streams/s/events") as response:
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert response.headers["cache-control"] == "no-cache, no-transform"
            assert response.headers["x-accel-buffering"] == "no"
            assert response.headers["content-encoding"] == "identity"
            first = b""
            async for chunk in response.aiter_raw():
                first += chunk
                if len(first) >= len(KEEP_ALIVE):
                    break
            assert first == KEEP_ALIVE


async def test_a_disconnect_is_seen_at_once(serving: Serving) -> None:
    """A viewer that closes its connection is gone, though nothing is being sent; the run goes on."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=quiet)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        url = "/v1/streams/s/events"
        async with Wire.follow(client.base_url, url) as a, Wire.follow(client.base_url, url) as b:
            await a.until(b"id: 1-1\n\n")
            await b.until(b"id: 1-1\n\n")
            await viewers(manager, 2)
            a.writer.close()
            await viewers(manager, 1)
            b.writer.transport.abort()
            await viewers(manager, 0)
        assert not (await manager.job("s")).settled


async def test_silence_is_kept_alive_by_comments(serving: Serving) -> None:
    """An idle stream sends comment lines only, and its client sees no message in them."""
    app = create_app(
        GenerationManager(options=OPTIONS), run=quiet, stream_options=StreamOptions(heartbeat=0.02)
    )  # fmt: skip
    async with serving(app) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        decoder = Decoder()
        got = b""
        messages: list[Message] = []
        async with client.stream("GET", "/v1/streams/s/events") as response:
            async for chunk in response.aiter_raw():
                messages += decoder.feed(chunk)
                got += chunk
                if got.partition(b"id: 1-1\n")[2].count(KEEP_ALIVE) >= 5:
                    break
        assert [message.data for message in messages] == ['{"part_id":"p1","text":"begun"}']


async def test_a_reader_that_does_not_read_is_cut_off_and_can_resume(serving: Serving) -> None:
    """The server holds a bounded amount for it, lets it go after the send timeout, and others are not held up.

    Only its own routes have a short timeout: it changes nothing for the others where the machine stalls.
    """
    size, count = 16_000, 400

    async def flood(gen: Generation, request: StartRequest) -> None:
        for number in range(count):
            await gen.emit("custom", {"name": "n", "value": f"{number}:" + "x" * size})

    manager = GenerationManager(options=OPTIONS)
    impatient = router(manager, run=flood, stream_options=StreamOptions(heartbeat=0.05, send_timeout=0.3))
    app = Starlette(routes=[Mount("/impatient", impatient), Mount("/", router(manager, run=flood))])
    app.state.manager = manager
    async with manager, serving(app) as client, contextlib.AsyncExitStack() as stack:
        await client.post("/v1/streams/s/generations", json=HELLO)
        follow = Wire.follow(client.base_url, "/impatient/v1/streams/s/events", limit=1024)
        stuck = await stack.enter_async_context(follow)
        await stuck.until(b"\r\n\r\n")  # it follows; and it reads no more than its buffer holds
        decoder = Decoder()
        async with client.stream("GET", "/v1/streams/s/events") as response:
            read = [m async for chunk in response.aiter_raw() for m in decoder.feed(chunk)]
        assert [m.id for m in read] == [f"1-{n}" for n in range(1, count + 2)]
        await viewers(manager, 0)
        received = await stuck.rest()
        assert not received.endswith(b"0\r\n\r\n"), "a stream that was cut must not look complete"
        decoder = Decoder()
        url = "/v1/streams/s/events?after=200"
        async with client.stream("GET", url) as response:
            rest = [m async for chunk in response.aiter_raw() for m in decoder.feed(chunk)]
        assert [m.id for m in rest] == [f"1-{n}" for n in range(201, count + 2)]


async def test_shutdown_releases_viewers_without_a_false_end(serving: Serving) -> None:
    """Viewers of another replica's run lose their connection, and nothing that they got looks like the end."""
    from unspool.backends.memory import MemoryStore, MemoryTransport

    store, transport = MemoryStore(), MemoryTransport()
    other = GenerationManager(store, transport, options=OPTIONS)
    manager = GenerationManager(store, transport, options=OPTIONS)
    async with other, serving(create_app(manager, run=quiet)) as client, contextlib.AsyncExitStack() as stack:
        gate = asyncio.Event()

        async def elsewhere(gen: Generation) -> None:
            await gen.text("a")
            await gate.wait()

        await other.start("s", elsewhere)
        wire = await stack.enter_async_context(Wire.follow(client.base_url, "/v1/streams/s/events"))
        await wire.until(b"id: 1-1\n\n")
        await manager.stop(0)
        rest = await wire.rest()
        assert not rest.endswith(b"0\r\n\r\n"), "the response was ended as if it were complete"
        assert b"event:" not in rest
        assert not (await other.job("s")).settled
        gate.set()
        assert [r.type async for r in other.follow("s", after=1)] == ["completed"]


async def test_shutdown_interrupts_own_runs_and_says_so(serving: Serving) -> None:
    """The viewers of a run that the server had to interrupt get a terminal error that may be retried."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=quiet)) as client, contextlib.AsyncExitStack() as stack:
        await client.post("/v1/streams/s/generations", json=HELLO)
        wire = await stack.enter_async_context(Wire.follow(client.base_url, "/v1/streams/s/events"))
        await wire.until(b"id: 1-1\n\n")
        await manager.stop(0)
        rest = await wire.until(b"0\r\n\r\n")  # the proper end of the response; uvicorn keeps the connection
        assert b"event: failed" in rest
        assert b'"code":"interrupted"' in rest


def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    if x_user is None:
        raise HTTPException(401)
    return x_user


async def count_to_five(gen: Generation, request: StartRequest) -> None:
    for number in range(5):
        await gen.text(f"{number} ")
        await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["include", "mount", "starlette"])
async def test_the_router_in_an_application_of_ones_own(serving: Serving, how: str) -> None:
    """Included or mounted, under a prefix of the user's choice, in FastAPI or Starlette."""
    manager = GenerationManager(options=OPTIONS)

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncGenerator[None, None]:
        async with manager:
            yield

    native = router(manager, run=count_to_five)
    app: Starlette
    if how == "starlette":
        app = Starlette(routes=[Mount("/chat", native)], lifespan=lifespan)
    else:
        app = FastAPI(lifespan=lifespan)
        if how == "include":
            app.include_router(native, prefix="/chat")  # pyright: ignore[reportArgumentType]
        else:
            app.mount("/chat", native)
    app.state.manager = manager
    async with serving(app) as client:
        started = (await client.post("/chat/v1/streams/s/generations", json=HELLO)).json()
        assert started["events_url"].startswith("/chat/v1/streams/s/events")
        text = await (await client.get(started["events_url"])).aread()
        assert Decoder().feed(text)[-1].event == "completed"
        missing = await client.get("/chat/v1/streams/none")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_position_is_of_one_log_also_where_numbers_begin_anew(serving: Serving) -> None:
    """A process in memory is started anew, and the same is asked again: an address of before finds no other answer."""

    async def begin(client: httpx2.AsyncClient) -> tuple[str, str]:
        started = (await client.post("/v1/streams/s/generations", json=HELLO)).json()
        assert started["generation"] == 1
        async with client.stream("GET", "/v1/streams/s/events") as followed:
            return started["events_url"], followed.headers["x-unspool-log"]

    async with serving(create_app(GenerationManager(options=OPTIONS), run=count_to_five)) as client:
        before, log = await begin(client)
        assert f"log={log}" in before
    async with serving(create_app(GenerationManager(options=OPTIONS), run=count_to_five)) as client:
        now, _ = await begin(client)
        for headers in ({}, {"last-event-id": "1-2"}):
            assert (await client.get(now, headers=headers)).status_code == 200
            refused = await client.get(before, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (409, "invalid_position")
            assert "is lost" in refused.json()["title"] + refused.json().get("detail", "")


User = Annotated[str, Depends(current_user)]


async def ask(request: Request, user: User) -> dict[str, object]:
    async def run(gen: Generation) -> None:
        await gen.text(f"hello {user}")

    job = await request.app.state.manager.start("conv", run, user=user)
    return {"generation": job.generation}


async def answers(request: Request, user: User) -> EventStream:
    return EventStream(request.app.state.manager, "conv", request, user=user)


async def test_a_route_of_ones_own_in_fastapi(serving: Serving) -> None:
    """`EventStream` returned from a FastAPI route, with its own dependencies, streams, resumes and refuses."""
    manager = GenerationManager(options=OPTIONS)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with manager:
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.manager = manager
    app.post("/ask")(ask)
    app.get("/answers", response_model=None)(answers)
    async with serving(app) as client:
        mine = {"x-user": "ann"}
        await client.post("/ask", headers=mine)
        answer = await client.get("/answers", headers=mine)
        assert answer.status_code == 200, answer.text
        got = Decoder().feed(answer.content)
        assert json.loads(got[0].data)["text"] == "hello ann"
        assert got[-1].event == "completed"
        resumed = await client.get("/answers", headers={**mine, "Last-Event-ID": "1-1"})
        assert [m.event for m in Decoder().feed(resumed.content)] == ["completed"]
        assert (await client.get("/answers", headers={"x-user": "bob"})).status_code == 404
        assert (await client.get("/answers")).status_code == 401
