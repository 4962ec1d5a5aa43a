"""Pages of other origins: they change nothing on a server that trusts every caller, or that a cookie opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.conftest import Serving
from unspool import ConfigurationError, GenerationManager, Options
from unspool.errors import StoreUnavailable, TooManyGenerations, Unauthenticated, UnspoolError
from unspool.http import StartRequest, create_app, router
from unspool.http.dialects.durable_streams import SubscriptionOptions, durable_routes
from unspool.http.dialects.langgraph.projection import run_id
from unspool.ledger import Ledger
from unspool.producer import Generation

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=0.2, drain=0.0)
VALUES = {"agent_id": "default", "endpoint": "openAI", "checkpoint_id": "1", "path": "new"}
READING = {"GET", "HEAD", "OPTIONS"}

FOREIGN: dict[str, dict[str, str]] = {
    "origin": {"origin": "https://evil.example"},
    "no origin that it may tell": {"origin": "null"},
    "another port": {"origin": "http://127.0.0.1:1"},
    "cross-site": {"sec-fetch-site": "cross-site"},
    "same-site": {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
    "with cookies": {"origin": "https://evil.example", "cookie": "session=1"},
    "with what the browser adds": {"origin": "https://evil.example", "authorization": "Basic YTpi"},
}
BODIES: dict[str, dict[str, Any]] = {
    "none": {},
    "form": {"data": {"a": "b"}},
    "text": {"content": '{"messages":[{"role":"user","content":"hi"}]}', "headers": {"content-type": "text/plain"}},
    "json": {"json": HELLO},
}


async def endless(gen: Generation, request: StartRequest) -> None:
    async with gen.model_call(provider="test", model="m") as call:
        call.observe({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    await gen.text("begun")
    await asyncio.Event().wait()


def changing(routes: list[BaseRoute], run: str, but: Collection[str] = READING) -> Iterator[tuple[str, str]]:
    """Method and path of all requests, as the route table has them: those that do not only read, or others; `run`: the
    run's id."""
    for route in routes:
        if isinstance(route, Mount):
            yield from ((method, route.path + path) for method, path in changing(list(route.routes or ()), run, but))
        elif isinstance(route, Route):
            methods = route.methods or {"POST", "PUT", "PATCH", "DELETE"}
            names = {name: {**VALUES, "run_id": run}.get(name, "s") for name in route.param_convertors}
            path = route.path.replace(":path}", "}").format(**names)
            yield from ((method, path) for method in sorted(set(methods).difference(but)))


def told(body: dict[str, Any]) -> tuple[str, str, str]:
    """The code, the sentence and the field of an error, in whatever shape the route's protocol has for it."""
    if isinstance(body.get("error"), dict):  # OpenAI's
        return body["error"]["code"], body["error"]["message"], body["error"]["param"]
    return body["code"], body["error"] if "error" in body else body["detail"], body["field"]


@dataclass
class World:
    client: httpx2.AsyncClient
    app: Starlette
    manager: GenerationManager
    ledger: Ledger
    run: str

    async def state(self) -> object:
        """All that a request might have changed."""
        jobs = await self.manager.jobs(limit=1000)
        return (
            [(str(job.key), job.status, job.last_offset, job.metadata) for job in jobs],
            await self.manager.counts(),
            await self.ledger.balance("all"),
            len((await self.ledger.entries(limit=1000)).entries),
        )


@asynccontextmanager
async def world(serving: Serving, **options: Any) -> AsyncGenerator[World]:
    """The whole server with every dialect, money and subscriptions; a generation runs, another has ended."""
    ledger = Ledger.from_url("sqlite://")
    manager = GenerationManager(options=OPTIONS, ledger=ledger)
    app = create_app(manager, run=endless, account="all", **options)
    app.router.routes.append(
        Mount(
            "/more",
            routes=durable_routes(
                manager, subscriptions=SubscriptionOptions(), allowed_origins=options.get("allowed_origins", ())
            ),
        )
    )
    async with serving(app) as client:
        await client.post("/v1/streams/s/generations", json=HELLO)
        async for record in manager.follow("s"):
            if record.type == "text.delta":
                break
        yield World(client, app, manager, ledger, run_id(await manager.job("s")))


async def test_no_route_that_changes_something_takes_a_foreign_page(serving: Serving) -> None:
    """The whole route table, in every form that a page can send: 403, with the header and the remedy, and no effect."""
    async with world(serving) as here:
        table = list(changing(here.app.routes, here.run))
        assert len(table) > 40
        before = await here.state()
        for method, path in table:
            for said in FOREIGN.values():
                for body in BODIES.values():
                    headers = {**body.get("headers", {}), **said}
                    sent: dict[str, Any] = {**body, "headers": headers}
                    answer = await here.client.request(method, path, **sent)
                    assert answer.status_code == 403, (method, path, said, body)
                    code, sentence, field = told(answer.json())
                    assert code == "foreign_origin"
                    assert "--allow-origin" in sentence
                    assert field.lower() in said
        assert await here.state() == before


async def test_a_refusal_has_the_shape_of_the_route_s_protocol(serving: Serving) -> None:
    """As all its other errors; OpenAI's and LibreChat's clients find their sentence."""
    async with world(serving) as here:
        for path, names in (
            ("/v1/chat/completions", {"error"}),
            ("/v1/responses", {"error"}),
            ("/api/agents/chat", {"error", "message", "code", "field"}),
            ("/v1/streams/t/generations", {"type", "title", "status", "detail", "code", "field"}),
        ):
            answer = await here.client.post(path, json={}, headers=FOREIGN["origin"])
            assert answer.status_code == 403
            assert set(answer.json()) == names


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (Unauthenticated, "www-authenticate"), (TooManyGenerations, "retry-after"), (StoreUnavailable, "retry-after"),
    ],
)  # fmt: skip
async def test_a_refusal_has_its_headers_in_every_shape(
    serving: Serving, error: type[UnspoolError], header: str
) -> None:
    """On all of the table, for reading and for changing."""

    def nobody(request: HTTPConnection) -> str | None:
        raise error

    manager = GenerationManager(options=OPTIONS, ledger=Ledger.from_url("sqlite://"))
    app = create_app(manager, run=endless, authenticate=nobody)
    more = durable_routes(manager, authenticate=nobody, subscriptions=SubscriptionOptions())
    app.router.routes.append(Mount("/more", routes=more))
    table = [*changing(app.routes, "s", ("HEAD", "OPTIONS")), ("GET", "/more/v1/stream/__ds/subscriptions/s")]
    refused = set[str]()
    async with serving(app) as client:
        for method, path in table:
            answer = await client.request(method, path)
            if answer.status_code == error.status:
                assert header in answer.headers, (method, path)
                refused.add(path)
    assert len(refused) > 50


OWN: dict[str, dict[str, str]] = {
    "no page": {},
    "own origin": {"origin": "http://{host}"},
    "behind a proxy": {"origin": "https://chat.example", "x-forwarded-host": "chat.example"},
    "same-origin": {"sec-fetch-site": "same-origin", "origin": "https://chat.example"},
    "typed by the user": {"sec-fetch-site": "none"},
    "a token": {"origin": "https://evil.example", "authorization": "Bearer x"},
    "a key": {"origin": "https://evil.example", "x-api-key": "x"},
    "allowed": {"origin": "https://app.example", "sec-fetch-site": "cross-site"},
}


@pytest.mark.parametrize("who", OWN)
async def test_all_others_are_served(serving: Serving, who: str) -> None:
    """Own pages, pages that are allowed, and what is no page; and a Stop stops."""
    async with world(serving, allowed_origins=["https://app.example"]) as here:
        said = {name: value.format(host=here.client.base_url.netloc.decode()) for name, value in OWN[who].items()}
        for method, path in changing(here.app.routes, here.run):
            if not path.endswith(("/wait", "/stream", "/state")):
                async with here.client.stream(method, path, headers=said) as answer:
                    assert answer.status_code != 403, (method, path)
        started = await here.client.post("/v1/streams/t/generations", json=HELLO, headers=said)
        assert started.status_code == 201
        stopped = await here.client.post("/v1/streams/t/abort", headers=said)
        assert stopped.json()["outcome"] == "stopped"


async def test_a_get_that_stops_when_its_client_leaves_is_checked_as_well(serving: Serving) -> None:
    async with world(serving) as here:
        base = f"/threads/s/runs/{here.run}"
        for path in (f"{base}/stream?cancel_on_disconnect=1", f"{base}/join?cancel_on_disconnect=true"):
            assert (await here.client.get(path, headers=FOREIGN["origin"])).status_code == 403
        async with here.client.stream("GET", f"{base}/stream", headers=FOREIGN["origin"]) as answer:
            assert answer.status_code == 200  # it only reads, and the browser keeps it from the page


async def test_a_foreign_page_opens_no_socket(serving: Serving) -> None:
    """All of the table, with the problem for an answer."""
    async with world(serving) as here:
        paths = [route.path for route in here.app.routes if isinstance(route, WebSocketRoute)]
        assert paths
        url = str(here.client.base_url).replace("http", "ws")
        for path in paths:
            for said in FOREIGN.values():
                with pytest.raises(InvalidStatus) as raised:
                    async with connect(f"{url}{path}", additional_headers=said):
                        pass
                assert raised.value.response.status_code == 403
                assert b"foreign_origin" in (raised.value.response.body or b"")
            async with connect(f"{url}{path}", origin=str(here.client.base_url).rstrip("/")):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize("how", ["include", "mount", "starlette"])
async def test_a_cookie_of_the_application_is_not_borrowed(serving: Serving, how: str) -> None:
    """In an application of one's own, where a session tells who it is."""
    manager = GenerationManager(options=OPTIONS)

    def session(request: HTTPConnection) -> str | None:
        return request.cookies.get("session")

    routes = router(manager, run=endless, authenticate=session, allowed_origins=["https://app.example"])
    app: Starlette = Starlette(routes=[Mount("/chat", routes)]) if how == "starlette" else FastAPI()
    if isinstance(app, FastAPI):
        if how == "include":
            app.include_router(routes, prefix="/chat")  # pyright: ignore[reportArgumentType]
        else:
            app.mount("/chat", routes)
    app.state.manager = manager
    async with manager, serving(app) as client:
        cookie = {"cookie": "session=ann"}
        start, stop = "/chat/v1/streams/s/generations", "/chat/v1/streams/s/abort"
        assert (await client.post(start, json=HELLO, headers=cookie)).status_code == 201
        for said in FOREIGN.values():
            assert (await client.post(stop, headers=said | cookie)).status_code == 403
        assert (await manager.job("s", user="ann")).status == "running"
        allowed = await client.post(stop, headers={"origin": "https://app.example", **cookie})
        assert allowed.json()["outcome"] == "stopped"


async def test_pages_that_are_allowed_may_read_the_answers(serving: Serving) -> None:
    """With the user's cookies where they are named, without them where any page is allowed."""
    ask = {"origin": "https://app.example", "access-control-request-method": "POST"}
    for allowed, credentials in ((["https://app.example"], "true"), (["*"], None)):
        async with world(serving, allowed_origins=allowed) as here:
            preflight = await here.client.options("/v1/streams/s/abort", headers=ask)
            assert preflight.status_code == 200
            assert preflight.headers.get("access-control-allow-credentials") == credentials
            answer = await here.client.post("/v1/streams/s/abort", headers={"origin": "https://app.example"})
            assert answer.json()["outcome"] == "stopped"
            assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")
    async with world(serving) as here:
        assert "access-control-allow-origin" not in (await here.client.get("/v1/streams/s", headers=ask)).headers


SAFE = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
"""What any page may read (Fetch, CORS-safelisted response-header name)."""
NOT_FOR_PAGES = {
    "access-control-allow-credentials", "access-control-allow-origin", "access-control-expose-headers", "connection",
    "content-encoding",
    "cross-origin-resource-policy", "date", "transfer-encoding", "vary", "x-accel-buffering", "x-content-type-options",
}  # fmt: skip


async def test_pages_that_are_allowed_may_read_the_headers_of_the_answers(serving: Serving) -> None:
    """By name: with the user's cookies "*" stands for a header of that name alone."""
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/streams/s/events", {}),
        ("GET", "/threads/s/runs/{run}/stream", {}),
        ("GET", "/v1/streams/none", {}),
        ("POST", "/v1/chat/completions", {"json": {**HELLO, "stream": True}}),
        ("POST", "/v1/responses", {"json": {"input": "hi", "stream": True}}),
        ("POST", "/threads/t/runs", {"json": {"assistant_id": "agent", "if_not_exists": "create"}}),
        ("POST", "/api/chat", {"json": {"id": "c", "messages": [{"role": "user", "parts": []}]}}),
        ("PUT", "/v1/stream/x", {"content": b"a", "headers": {"content-type": "text/plain"}}),
        ("GET", "/v1/stream/x?offset=-1", {}),
        ("GET", "/v1/stream/generations/s/1?offset=-1&live=long-poll", {}),
    ]
    seen, page = set[str](), {"origin": "https://app.example"}
    async with world(serving, allowed_origins=["https://app.example"]) as here:
        for method, path, sent in asked:
            headers = {**sent.pop("headers", {}), **page}
            async with here.client.stream(method, path.format(run=here.run), headers=headers, **sent) as answer:
                exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
                hidden = set(answer.headers) - exposed - SAFE - NOT_FOR_PAGES
                assert not hidden, (method, path, answer.status_code)
                seen |= set(answer.headers)
    assert seen >= {"location", "stream-next-offset", "x-unspool-log", "x-unspool-stream", "x-workflow-run-id"}


@pytest.mark.parametrize(
    "given", ["https://app.example", ["https://App.Example"], ["HTTPS://app.example:443"], {"https://app.example"}]
)
async def test_an_origin_may_be_written_in_every_way(serving: Serving, given: Collection[str]) -> None:
    """A browser's is in lower case and without the usual port; CORS and the check know it by the same name."""
    said = {"origin": "https://app.example"}
    async with world(serving, allowed_origins=given) as here:
        answer = await here.client.post("/v1/streams/s/abort", headers=said)
        assert answer.json()["outcome"] == "stopped"
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        for other in ("https://app.example:80", "http://app.example", "https://h"):
            refused = await here.client.post("/v1/streams/s/generations", json=HELLO, headers={"origin": other})
            assert refused.status_code == 403


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://app.example/x", "ftp://x", ""])
def test_what_is_no_origin_is_refused_by_name(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed_origins") as raised:
        router(GenerationManager(), run=endless, allowed_origins=[origin])
    assert "https://app.example" in str(raised.value)
