"""Runs of LangGraph's platform: `langgraph-sdk` for Python and JavaScript, and its `useStream`.

A thread is a stream, and a run a generation of it. The run's id says which (see `projection.run_id`), so every replica
knows it without a table. A position is the number of a frame: the same for all stream modes.

A thread without a run must be known on every replica, with its owner: making one is a generation that ends at once, and
so is a change of its metadata or messages. The store needs nothing new for that, and retention is the same for all: a
thread is forgotten when its last generation is. Each generation's log begins with the thread's messages up to there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool.errors import NotFound
from unspool.http.dialects.langgraph.projection import AGENT, NAME, LangGraphRun
from unspool.http.dialects.langgraph.runs import Runs
from unspool.http.dialects.langgraph.thread_routes import ThreadRoutes
from unspool.http.dialects.langgraph.threads import Threads, moment
from unspool.http.door import Door, json_response
from unspool.http.problem import answering

Handler = Callable[[Request], Awaitable[Response]]

_ASSISTANT: Final[dict[str, Any]] = {
    "assistant_id": AGENT,
    "graph_id": AGENT,
    "name": AGENT,
    "description": None,
    "config": {},
    "context": {},
    "metadata": {},
    "version": 1,
    "created_at": moment(0),
    "updated_at": moment(0),
}
"""The application's run is the one assistant. Runs may name any: the application gets the name."""


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(LangGraphRun)
    threads = Threads(door)
    runs, of_threads = Runs(door, threads), ThreadRoutes(door, threads)
    one = "/threads/{thread_id:path}"
    run = f"{one}/runs/{{run_id}}"
    assistants = _Assistants(door)
    return [
        _route("POST", "/threads", of_threads.create),
        _route("POST", "/threads/search", of_threads.search),
        _route("POST", "/threads/count", of_threads.count),
        _route("POST", "/runs/stream", runs.stream),
        _route("POST", "/runs/wait", runs.wait),
        _route("POST", "/runs/cancel", runs.cancel_many),
        _route("POST", "/runs", runs.create),
        _route("POST", f"{one}/runs/stream", runs.stream),
        _route("POST", f"{one}/runs/wait", runs.wait),
        _route("POST", f"{one}/runs", runs.create),
        _route("GET", f"{one}/runs", runs.list),
        _route("GET", f"{run}/stream", runs.join_stream),
        _route("GET", f"{run}/join", runs.join),
        _route("POST", f"{run}/cancel", runs.cancel),
        _route("GET", run, runs.get),
        _route("DELETE", run, runs.delete),
        _route("GET", f"{one}/state", of_threads.state),
        _route("POST", f"{one}/state", of_threads.update_state),
        _route("POST", f"{one}/state/checkpoint", of_threads.state_at),
        _route("GET", f"{one}/state/{{checkpoint_id}}", of_threads.state),
        _route("GET", f"{one}/history", of_threads.history),
        _route("POST", f"{one}/history", of_threads.history),
        _route("GET", one, of_threads.get),
        _route("PATCH", one, of_threads.patch),
        _route("DELETE", one, of_threads.delete),
        _route("POST", "/assistants/search", assistants.search),
        _route("GET", "/assistants/{assistant_id}", assistants.get),
        _route("GET", "/ok", _ok),
        _route("GET", "/info", _info),
    ]


class _Assistants:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def search(self, request: Request) -> Response:
        await self._door.identify(request)
        return json_response([_ASSISTANT])

    async def get(self, request: Request) -> Response:
        await self._door.identify(request)
        if request.path_params["assistant_id"] != AGENT:
            raise NotFound(f"there is one assistant, and it is called {AGENT}")
        return json_response(_ASSISTANT)


async def _ok(_: Request) -> Response:
    return json_response({"ok": True})


async def _info(_: Request) -> Response:
    """What pages ask to see whether there is a server."""
    return json_response({"version": version("unspool"), "flags": {"assistants": True, "crons": False}})


def _route(method: str, path: str, handler: Handler) -> Route:
    return Route(path, answering(handler), methods=[method], name=f"unspool.{NAME}.{handler.__name__}")
