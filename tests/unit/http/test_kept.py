"""Streams that go on when the application has returned, as on our own server: without a task, and to their very end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import cast

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from tests.conftest import Serving
from tests.unit.http.test_stream import HELLO, OPTIONS, Wire, quiet, viewers
from tests.waiting import HANG
from unspool import GenerationManager
from unspool.http import StartRequest, StreamOptions, create_app
from unspool.producer import Generation
from unspool.sse import KEEP_ALIVE


class Told:
    """A run that says what it is told to."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()

    async def __call__(self, gen: Generation, request: StartRequest) -> None:
        while (word := await self.words.get()) is not None:
            await gen.text(word, part_id=word)


def streaming() -> int:
    """Tasks of a request that is being answered."""
    return sum("run_asgi" in repr(task.get_coro()) or "_Pump" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def idle() -> None:
    async with asyncio.timeout(HANG):
        while streaming():
            await asyncio.sleep(0.001)


async def test_viewers_who_wait_have_no_task(serving: Serving) -> None:
    """Neither before the first event nor between two; and what comes is written all the same."""
    run, manager = Told(), GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=run)) as client, contextlib.AsyncExitStack() as stack:
        await client.post("/v1/streams/s/generations", json=HELLO)
        wires = [
            await stack.enter_async_context(Wire.follow(client.base_url, "/v1/streams/s/events")) for _ in range(3)
        ]
        for wire in wires:
            await wire.until(KEEP_ALIVE)
        await viewers(manager, 3)
        await idle()
        for number, word in enumerate(("one", "two", "three"), 1):
            run.words.put_nowait(word)
            for wire in wires:
                assert (b"retry: 1000" in await wire.until(b"id: 1-%d\n" % number)) == (number == 1)
            await idle()
        run.words.put_nowait(None)
        for wire in wires:
            assert (await wire.until(b"0\r\n\r\n")).count(b"event: completed") == 1
        await viewers(manager, 0)


async def test_a_connection_is_used_again(serving: Serving) -> None:
    """The response is complete, and the next request on it is answered: one that came meanwhile, too."""
    run, manager = Told(), GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=run)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with Wire.follow(client.base_url, "/v1/streams/s/events") as wire:
            await wire.until(KEEP_ALIVE)
            await idle()
            ask = f"GET /v1/streams/s HTTP/1.1\r\nHost: {client.base_url.host}\r\n\r\n".encode()
            wire.writer.write(ask)  # before the answer to the first is over
            run.words.put_nowait("said")
            await wire.until(b"id: 1-1\n")
            run.words.put_nowait(None)
            await wire.until(b"0\r\n\r\n")
            assert b'"status":"complete"' in await wire.until(b"}")
            wire.writer.write(ask)
            assert (await wire.until(b"\r\n\r\n")).split(b"HTTP/1.1 ")[1].startswith(b"200")


async def test_who_leaves_is_forgotten(serving: Serving) -> None:
    """While nothing comes; and the run goes on."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=quiet)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with Wire.follow(client.base_url, "/v1/streams/s/events") as wire:
            await wire.until(b"id: 1-1\n")
            await idle()
        await viewers(manager, 0)
        assert (await manager.job("s")).status == "running"


async def test_heartbeats_need_no_task(serving: Serving) -> None:
    manager = GenerationManager(options=OPTIONS)
    app = create_app(manager, run=quiet, stream_options=StreamOptions(heartbeat=0.02))
    async with serving(app) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with Wire.follow(client.base_url, "/v1/streams/s/events") as wire:
            await wire.until(b"id: 1-1\n")
            await idle()
            for _ in range(3):
                await wire.until(KEEP_ALIVE)
                assert not streaming()


@pytest.mark.parametrize("suspends", [False, True], ids=["returns at once", "has something to close"])
async def test_middleware_may_end_first(serving: Serving, suspends: bool) -> None:
    """What an application closes around a response, as dependencies do, does not end it, however long that takes."""
    run, manager = Told(), GenerationManager(options=OPTIONS)
    app, closed = create_app(manager, run=run), asyncio.Event()

    @contextlib.asynccontextmanager
    async def something() -> AsyncGenerator[None]:
        yield
        for _ in range(5 * suspends):
            await asyncio.sleep(0)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        async with something():
            await app(scope, receive, send)
        if scope["type"] == "http" and scope["path"].endswith("/events"):
            closed.set()

    around.state = app.state  # pyright: ignore[reportFunctionMemberAccess]
    async with serving(cast(Starlette, around)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async with Wire.follow(client.base_url, "/v1/streams/s/events") as wire:
            await wire.until(KEEP_ALIVE)
            async with asyncio.timeout(HANG):
                await closed.wait()
            run.words.put_nowait("said")
            await wire.until(b"id: 1-1\n")
            run.words.put_nowait(None)
            await wire.until(b"0\r\n\r\n")
            await viewers(manager, 0)
