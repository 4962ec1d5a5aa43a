"""Following while something is in the way: a middleware, a store that is away."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from tests.conftest import Serving
from tests.waiting import HANG
from unspool import GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.http import StartRequest, StreamOptions, create_app, router
from unspool.producer import Generation
from unspool.sse import Decoder, Message
from unspool.testing.faults import FaultyStore

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0, window=8, lease=30.0)


async def words(gen: Generation, request: StartRequest) -> None:
    for number in range(50):
        await gen.emit("custom", {"name": "n", "value": number})


async def messages(client: httpx2.AsyncClient, path: str, **headers: str) -> list[Message]:
    decoder, found = Decoder(), list[Message]()
    async with asyncio.timeout(HANG), client.stream("GET", path, headers=headers) as response:
        async for piece in response.aiter_raw():
            found += decoder.feed(piece)
    return found


def bare(found: list[Message]) -> list[tuple[str, str, str | None]]:
    return [(message.event, message.data, message.id) for message in found]


async def test_a_middleware_that_holds_the_head_back_is_not_overtaken(serving: Serving) -> None:
    """Nothing is written past it: the response begins with its status line, and is whole."""

    async def later(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = "yes"
        return response

    manager = GenerationManager(options=OPTIONS)
    app = Starlette(
        routes=[Mount("/", router(manager, run=words))], middleware=[Middleware(BaseHTTPMiddleware, dispatch=later)]
    )
    app.state.manager = manager
    async with manager, serving(app) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        found = await messages(client, "/v1/streams/s/events")
        head = await client.get("/v1/streams/s")
    assert head.headers["x-seen"] == "yes"
    assert [message.event for message in found] == ["custom"] * 50 + ["completed"]


async def test_a_resume_while_the_store_is_away_is_cut_off_instead_of_refused(serving: Serving) -> None:
    """An EventSource takes any status but 200 as final; who comes without a position is told the truth."""
    faulty = FaultyStore(MemoryStore())
    manager = GenerationManager(faulty.as_store(), MemoryTransport(), options=OPTIONS)
    async with serving(create_app(manager, run=words)) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        whole = await messages(client, "/v1/streams/s/events")
        faulty.down = True
        assert (await client.get("/v1/streams/s/events")).status_code == 503
        with pytest.raises(httpx2.RemoteProtocolError):
            await messages(client, "/v1/streams/s/events", **{"Last-Event-ID": "1-7"})
        faulty.down = False
        resumed = await messages(client, "/v1/streams/s/events", **{"Last-Event-ID": "1-7"})
        assert bare(resumed) == bare(whole[7:])


async def test_a_viewer_outlasts_a_store_that_is_away(serving: Serving) -> None:
    """It keeps its connection, alive with heart-beats, and gets everything once the store is back."""
    faulty = FaultyStore(MemoryStore(), verbs=frozenset())
    manager = GenerationManager(faulty.as_store(), MemoryTransport(), options=OPTIONS)
    app = create_app(manager, run=words, stream_options=StreamOptions(heartbeat=0.05))
    async with serving(app) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        whole = await messages(client, "/v1/streams/s/events")
        faulty.verbs = frozenset({"read"})  # what this viewer wants is older than what is held in memory
        faulty.before = 1.0
        decoder, found, beats = Decoder(), list[Message](), 0
        async with asyncio.timeout(HANG), client.stream("GET", "/v1/streams/s/events") as response:
            async for piece in response.aiter_raw():
                beats += piece.count(b": ka\n")
                if beats > 5:
                    faulty.before = 0.0
                found += decoder.feed(piece)
    assert found == whole
    assert beats > 5
