"""How responses end, over dialects and ways of ending: with the protocol's own last word, or visibly cut off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import json
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Message

import unspool.http
from unspool import GenerationManager, Gone, Options, RunFailed
from unspool.http import EventStream, StartRequest, StreamOptions, router
from unspool.http.dialects.langgraph.projection import run_id
from unspool.producer import Generation
from unspool.projection import Projection

OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=0.2, lease=30.0, drain=0.0)
SAID = "The first words."
INPUT = {"threadId": "s", "runId": "r", "messages": [], "tools": [], "context": [], "state": {}, "forwardedProps": {}}

# name → method, path with the run's id, body, and what says in that protocol that the answer is over.
NATIVE = rb"event: (completed|failed|aborted|replaced)\n"
GRAPH = rb"event: (end|error)\n"
AG_UI = rb'"type":"RUN_(FINISHED|ERROR)"'
DIALECTS: dict[str, tuple[str, str, Any, bytes]] = {
    "native": ("GET", "/v1/streams/s/events", None, NATIVE),
    "a route of one's own": ("GET", "/own/s", None, NATIVE),
    "ai-sdk": ("GET", "/api/chat/s/stream", None, rb'"type":"finish".*\n\ndata: \[DONE\]'),
    "chat-completions": (
        "POST",
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hi"}], "stream": True},
        rb'("finish_reason":"|"error":).*\n\ndata: \[DONE\]',
    ),
    "responses": ("GET", "/v1/responses/s?stream=true", None, rb"event: response\.(completed|failed|incomplete)\n"),
    "langgraph": ("GET", "/threads/s/runs/{run}/stream", None, GRAPH),
    "langgraph, updates alone": ("GET", "/threads/s/runs/{run}/stream?stream_mode=updates", None, GRAPH),
    "langgraph, joined": ("GET", "/threads/s/runs/{run}/join", None, rb'\{"(messages|__error__)":'),
    "ag-ui": ("POST", "/ag-ui/connect", INPUT, AG_UI),
    "copilotkit": ("POST", "/copilotkit/agent/default/connect", INPUT, AG_UI),
    "librechat": ("GET", "/api/agents/chat/stream/s", None, rb'"final":true|event: error\n'),
    "durable-streams": ("GET", "/v1/stream/generations/s/1?offset=-1&live=sse", None, rb'"streamClosed":true'),
}
ELSEWHERE = {"langgraph, joined", "durable-streams"}
"""Responses whose time-out is not an option of the router; the latter's has a test beside its others."""


async def passing(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


ONCE = Middleware(BaseHTTPMiddleware, dispatch=passing)
MIDDLEWARE: dict[str, list[Middleware]] = {
    "bare": [],
    "BaseHTTPMiddleware": [ONCE],
    "twice": [ONCE, ONCE],
    "compressed": [Middleware(GZipMiddleware, minimum_size=1), ONCE],
}


@dataclass
class Answer:
    """A response as a server has written it, and how it ended there: `clean`, or by an error of the application."""

    body: bytearray = field(default_factory=bytearray)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    clean: bool = False
    error: BaseException | None = None


class Server:
    """The least of an ASGI server: whatever is not a complete response it cuts off."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self.writable = asyncio.Event()
        self.writable.set()

    async def ask(self, method: str, path: str, body: Any, answer: Answer) -> None:
        target, _, query = path.partition("?")
        content = b"" if body is None else json.encode(body)
        asked: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        headers = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]

        async def receive() -> Message:
            if asked:
                return asked.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            await self.writable.wait()
            assert message["type"] in ("http.response.start", "http.response.body")
            data = message.get("body", b"")
            if len(data):
                answer.body += data
            if SAID.encode() in answer.body or answer.body.endswith(b"\n"):
                answer.begun.set()
            answer.clean = message["type"] == "http.response.body" and not message.get("more_body", False)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": target,
            "raw_path": target.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # noqa: BLE001
            answer.error = error
        assert answer.error is not None or answer.clean, "an application that returns has answered"


class Run:
    """A run that says something, and then does what it is told."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Callable[[Generation], Awaitable[object]]] = asyncio.Future()

    async def __call__(self, gen: Generation, request: StartRequest | None = None) -> None:
        await gen.text(SAID)
        await (await self.end)(gen)


@asynccontextmanager
async def followed(
    dialect: str, middleware: str, monkeypatch: pytest.MonkeyPatch, send_timeout: float = 60.0
) -> AsyncGenerator[tuple[GenerationManager, Run, Answer, Server], None]:
    """A dialect's response under way, with the first words of the answer in it; at its end, what was asserted of it."""
    manager, run = GenerationManager(options=OPTIONS), Run()

    async def own(request: Request) -> Response:
        return EventStream(manager, request.path_params["stream"], request, options=options)

    options = StreamOptions(heartbeat=0.02, send_timeout=send_timeout)
    app = Starlette(
        routes=[Route("/own/{stream}", own), Mount("/", router(manager, run=run, stream_options=options))],
        middleware=MIDDLEWARE[middleware],
    )
    method, path, body, over = DIALECTS[dialect]
    async with manager:
        replica = manager.replica
        if dialect != "chat-completions":
            path = path.replace("{run}", run_id(await manager.start("s", lambda gen: run(gen))))
        server, answer = Server(app), Answer()
        asking = asyncio.create_task(server.ask(method, path, body, answer))
        async with asyncio.timeout(60):
            await answer.begun.wait()
            yield manager, run, answer, server
            await asking
        monkeypatch.undo()  # the rest of the manager ends as it should
        assert answer.clean == bool(re.search(over, answer.body, re.DOTALL)), bytes(answer.body)
        assert not replica.viewers


def stream_of(manager: GenerationManager) -> str:
    return next(iter(manager.replica.runs)).stream_id


async def nothing(gen: Generation) -> None: ...


async def fails(gen: Generation) -> None:
    raise RunFailed("It could not be.", code="no")


async def breaks(gen: Generation) -> None:
    raise ValueError("broken")


async def test_the_table_is_complete() -> None:
    """All dialects are in it."""
    assert all(any(name.startswith(one) for name in DIALECTS) for one in unspool.http.DIALECTS)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("middleware", ["bare", "BaseHTTPMiddleware"])
@pytest.mark.parametrize("end", [nothing, fails, breaks, "aborted", "replaced", "interrupted"])
async def test_what_has_ended_says_so(dialect: str, middleware: str, end: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last word of its protocol, whatever the end was."""
    async with followed(dialect, middleware, monkeypatch) as (manager, run, answer, _):
        if end == "aborted":
            await manager.abort(stream_of(manager))
        elif end == "replaced":
            await manager.start(stream_of(manager), nothing)
        elif end == "interrupted":
            await manager.stop(0)
        else:
            run.end.set_result(end)
    assert answer.clean
    assert answer.error is None


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("middleware", MIDDLEWARE)
@pytest.mark.parametrize("how", ["released", "log gone", "store broken", "encode error"])
async def test_what_is_not_over_is_cut_off(
    dialect: str, middleware: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands between: the server sees an error, and never a clean end."""
    async with followed(dialect, middleware, monkeypatch) as (manager, _, answer, _):
        tail = next(iter(manager.replica.tails.values()))
        match how:
            case "released":
                manager.replica.release_viewers()
            case "log gone":
                tail.gone = Gone("the log is gone")
                for viewer in list(manager.replica.viewers):
                    viewer.changed()
            case _:

                def broken(*_: Any, **__: Any) -> Any:
                    raise ValueError("broken") if how == "encode error" else Gone("broken")

                for name in ("joined", "slice"):
                    monkeypatch.setattr(type(tail), name, broken)
                monkeypatch.setattr(Projection, "feed", broken)
                for viewer in list(manager.replica.viewers):
                    viewer.changed()
    assert not answer.clean
    assert answer.error is not None


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name not in ELSEWHERE])
@pytest.mark.parametrize("middleware", MIDDLEWARE)
async def test_a_reader_that_does_not_read_is_never_told_that_it_is_over(
    dialect: str, middleware: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is let go in time, and when it reads again it finds that the rest is missing."""
    async with followed(dialect, middleware, monkeypatch, 0.05) as (manager, _, answer, server):
        server.writable.clear()  # heart-beats fill what stands between
        async with asyncio.timeout(60):
            while manager.statistics()["viewers"]:
                await asyncio.sleep(0.005)
        server.writable.set()
    assert not answer.clean
