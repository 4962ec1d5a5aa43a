"""Durable Streams over HTTP, beside what the protocol's suite looks at: whose they are, generations, ends and cuts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope

from tests.conftest import Serving
from tests.waiting import HANG
from unspool import GenerationManager, Options
from unspool.durable import token
from unspool.http import Identity, StartRequest, StreamOptions, create_app
from unspool.http.dialects.durable_live import LiveOptions
from unspool.http.dialects.durable_streams import SubscriptionOptions, durable_routes
from unspool.http.pump import Cut
from unspool.producer import Generation
from unspool.sse import Decoder

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
ANN = {"x-user": "ann"}


def by_header(request: HTTPConnection) -> Identity | None:
    user = request.headers.get("x-user")
    return Identity(user, request.headers.get("x-tenant")) if user else None


class Served:
    """A server with the dialect, its manager, and a client for it."""

    def __init__(self, client: httpx2.AsyncClient, manager: GenerationManager) -> None:
        self.client = client
        self.manager = manager

    async def follow(self, path: str, **headers: str) -> tuple[list[tuple[str, Any]], bool]:
        """The events up to the end of a response, and whether it was an end, not a cut."""
        decoder = Decoder()
        events: list[tuple[str, Any]] = []
        try:
            async with asyncio.timeout(HANG), self.client.stream("GET", path, headers=headers) as response:
                assert response.status_code == 200
                async for part in response.aiter_bytes():
                    events += [(event.event, json.loads(event.data)) for event in decoder.feed(part)]
        except httpx2.TransportError:
            return events, False
        return events, True


@asynccontextmanager
async def served(serving: Serving, *, live: LiveOptions | None = None, **how: Any) -> AsyncGenerator[Served]:
    options = how.pop("manager", Options(poll=0.02, sweep=0.02))
    async with GenerationManager(options=options) as manager:
        app = Starlette(routes=durable_routes(manager, live=live or LiveOptions(long_poll=0.05), **how))
        app.state.manager = manager
        async with serving(app) as client:
            yield Served(client, manager)


async def test_options_of_a_router_are_those_of_its_durable_streams(serving: Serving) -> None:
    """A heart-beat comes in their event streams, and an append above `max_body` is refused; by default 16 MiB are."""
    options = StreamOptions(heartbeat=0.01)
    app = create_app(GenerationManager(), run=unused, stream_options=options, max_body=1000)
    async with serving(app) as client, asyncio.timeout(HANG):
        assert (await client.put("/v1/stream/a", headers=TEXT, content=b"x" * 1001)).status_code == 413
        assert (await client.put("/v1/stream/a", headers=TEXT, content=b"x" * 1000)).status_code == 201
        async with client.stream("GET", "/v1/stream/a?offset=now&live=sse") as response:
            beats = 0
            async for line in response.aiter_lines():
                beats += line.startswith(":")
                if beats == 3:
                    break
    async with serving(create_app(GenerationManager(), run=unused)) as client:
        assert (await client.put("/v1/stream/a", headers=TEXT, content=b"x" * 2_000_000)).status_code == 201


async def unused(gen: Generation, request: StartRequest) -> None: ...


async def test_somebody_else_s_is_not_there(serving: Serving) -> None:
    async with served(serving, authenticate=by_header) as here:
        put = await here.client.put("/v1/stream/a", headers={**TEXT, **ANN}, content=b"x")
        assert put.status_code == 201
        assert (await here.client.get("/v1/stream/a")).status_code == 401
        for other in ({"x-user": "bob"}, {"x-user": "ann", "x-tenant": "t"}):
            for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                if method == "PUT" and "x-tenant" in other:
                    continue  # the path is free there
                content = b"x" if method == "POST" else None
                answer = await here.client.request(method, "/v1/stream/a", headers={**TEXT, **other}, content=content)
                assert answer.status_code == 404, (method, other)
                assert answer.headers["x-content-type-options"] == "nosniff"
            fork = {**other, "stream-forked-from": "/v1/stream/a"}
            assert (await here.client.put("/v1/stream/b", headers=fork)).status_code == 404
        mine = await here.client.get("/v1/stream/a", headers=ANN)
        assert (mine.text, mine.headers["cache-control"]) == ("x", "private, no-cache")


async def test_pages_of_other_origins(serving: Serving) -> None:
    """They write only where they are allowed to, also with what a browser sends unasked."""
    evil = {**TEXT, "origin": "https://evil.example"}
    async with served(serving) as here:
        await here.client.put("/v1/stream/a", headers=TEXT)
        assert (await here.client.post("/v1/stream/a", headers=evil, content=b"x")).status_code == 403
        own = {**TEXT, "origin": str(here.client.base_url).rstrip("/")}
        assert (await here.client.post("/v1/stream/a", headers=own, content=b"x")).status_code == 204
        asked = await here.client.options("/v1/stream/a", headers=evil)
        assert "access-control-allow-origin" not in asked.headers
    async with served(serving, allowed_origins=["https://app.example"]) as here:
        good = {**TEXT, "origin": "https://app.example"}
        asked = await here.client.options("/v1/stream/a", headers=good)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "https://app.example")
        assert (await here.client.put("/v1/stream/a", headers=good)).status_code == 201
        assert (await here.client.put("/v1/stream/b", headers=evil)).status_code == 403


async def test_bodies_and_verbs_have_bounds(serving: Serving) -> None:
    async with served(serving, max_body=100) as here:
        assert (await here.client.put("/v1/stream/a", headers=TEXT, content=b"x" * 101)).status_code == 413
        assert (await here.client.put("/v1/stream/a", headers=TEXT, content=b"x" * 100)).status_code == 201
        refused = await here.client.post("/v1/stream/a", headers=TEXT, content=b"x" * 101)
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")

        async def unannounced() -> AsyncGenerator[bytes]:
            for _ in range(11):
                yield b"x" * 10

        refused = await here.client.post("/v1/stream/a", headers=TEXT, content=unannounced())
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        patch = await here.client.patch("/v1/stream/a")
        assert (patch.status_code, patch.headers["allow"]) == (405, "GET, HEAD, POST, PUT, DELETE")
        assert (await here.client.put("/v1/stream/__ds/x", headers=TEXT)).status_code == 404


async def test_what_a_client_has_is_known_by_its_tag(serving: Serving) -> None:
    """Until there is more, or the stream is closed, or another one stands at its path."""
    async with served(serving) as here:

        async def tag(known: str = "") -> str:
            answer = await here.client.get("/v1/stream/a?offset=-1", headers={"if-none-match": known})
            assert (answer.status_code == 304) == (answer.headers["etag"] == known)
            return answer.headers["etag"]

        tags = [""]
        for content, closed in ((b"x", "false"), (b"y", "false"), (b"", "true")):
            if len(tags) == 1:
                await here.client.put("/v1/stream/a", headers=TEXT, content=content)
            else:
                await here.client.post("/v1/stream/a", headers={**TEXT, "stream-closed": closed}, content=content)
            tags.append(await tag(tags[-1]))
            assert await tag(tags[-1]) == tags[-1]
        await here.client.delete("/v1/stream/a")
        await here.client.put("/v1/stream/a", headers=TEXT, content=b"x")
        await here.client.post("/v1/stream/a", headers={**TEXT, "stream-closed": "true"}, content=b"z")
        tags.append(await tag(tags[-1]))
        assert len(set(tags)) == 5


async def test_bytes_travel_as_base64_and_that_is_said(serving: Serving) -> None:
    async with served(serving) as here:
        for path, content_type, said in (
            ("a", "application/octet-stream", "base64"), ("b", "text/plain", None), ("c", "application/json", None),
        ):  # fmt: skip
            await here.client.put(f"/v1/stream/{path}", headers={"content-type": content_type, "stream-closed": "true"})
            answer = await here.client.get(f"/v1/stream/{path}?offset=-1&live=sse")
            assert answer.headers.get("stream-sse-data-encoding") == said


async def test_an_event_stream_ends_and_is_gone_on_with(serving: Serving) -> None:
    async with served(serving, live=LiveOptions(connection=0.05, heartbeat=0.01)) as here:
        await here.client.put("/v1/stream/a", headers=JSON, content=b"[1,2]")
        events, ended = await here.follow("/v1/stream/a?offset=-1&live=sse")
        assert ended
        (first, data), (second, control) = events
        assert (first, data, second) == ("data", [1, 2], "control")
        await here.client.post("/v1/stream/a", headers={**JSON, "stream-closed": "true"}, content=b"3")
        at, cursor = control["streamNextOffset"], control["streamCursor"]
        events, ended = await here.follow(f"/v1/stream/a?offset={at}&live=sse&cursor={cursor}")
        assert ended
        assert events == [
            ("data", [3]),
            ("control", {"streamNextOffset": token(2), "upToDate": True, "streamClosed": True}),
        ]


@pytest.mark.parametrize("how", ["deleted", "stopped"])
async def test_a_stream_that_goes_is_cut(serving: Serving, how: str) -> None:
    """Its readers must not take that for an end; and a long-poll is told at once."""
    async with served(serving, live=LiveOptions(long_poll=10.0)) as here:
        await here.client.put("/v1/stream/a", headers=JSON, content=b"[1]")
        following = asyncio.create_task(here.follow("/v1/stream/a?offset=-1&live=sse"))
        polling = asyncio.create_task(here.client.get(f"/v1/stream/a?offset={token(1)}&live=long-poll"))
        while len(here.manager.replica.viewers) < 2:
            await asyncio.sleep(0.001)
        if how == "deleted":
            await here.client.delete("/v1/stream/a")
        else:
            here.manager.replica.release_viewers()
        events, ended = await following
        assert [kind for kind, _ in events] == ["data", "control"]
        assert not ended
        assert (await polling).status_code == (404 if how == "deleted" else 503)


async def test_readers_who_leave_are_forgotten(serving: Serving) -> None:
    async with served(serving, live=LiveOptions(long_poll=30.0)) as here:
        await here.client.put("/v1/stream/a", headers=JSON)
        for path in (f"/v1/stream/a?offset={token(1)}&live=long-poll", "/v1/stream/a?offset=now&live=sse"):
            following = asyncio.create_task(here.follow(path))
            while not here.manager.replica.viewers:
                await asyncio.sleep(0.001)
            following.cancel()
            await asyncio.wait([following])
            async with asyncio.timeout(HANG):
                while here.manager.replica.viewers:
                    await asyncio.sleep(0.001)


async def test_a_reader_that_does_not_read_is_cut_off(serving: Serving) -> None:
    """Also by a server that lends no connection: what is left is to give the response up."""
    async with served(serving) as here:
        await here.client.put("/v1/stream/a", headers=TEXT, content=b"x")
        dialect = durable_routes(here.manager, live=LiveOptions(send_timeout=0.05))[0].endpoint
        stuck = asyncio.Event()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                await stuck.wait()

        async def receive() -> Message:
            await stuck.wait()
            raise AssertionError

        scope: Scope = {
            "type": "http", "method": "GET", "path": "/v1/stream/a", "query_string": b"offset=-1&live=sse",
            "headers": [], "path_params": {"path": "a"},
        }  # fmt: skip
        response = asyncio.create_task(dialect(scope, receive, send))
        await asyncio.wait([response], timeout=HANG)
        with pytest.raises(Cut):
            response.result()
        assert not here.manager.replica.viewers


# generations


async def test_a_generation_is_a_stream_to_read(serving: Serving) -> None:
    """All of it in one read, record by record as it comes, and from the middle; closed by its seal."""
    async with served(serving, authenticate=by_header) as here:
        go = asyncio.Event()

        async def run(gen: Generation) -> None:
            await gen.text("one")
            await gen.emit("secret", {"x": 1}, internal=True)
            await go.wait()
            await gen.emit("custom", {"name": "two"})

        job = await here.manager.start("my chat/7", run, user="ann")

        def at(number: int) -> str:
            return token(number, int(job.log, 16))

        path = "/v1/stream/generations/my%20chat/7/1"
        while (await here.client.head(path, headers=ANN)).headers["stream-next-offset"] != at(2):
            await asyncio.sleep(0.001)
        running = await here.client.get(path, headers=ANN)
        assert [one["type"] for one in running.json()] == ["text.delta"]
        assert "stream-closed" not in running.headers
        poll = await here.client.get(f"{path}?offset={at(2)}&live=long-poll", headers=ANN)
        assert (poll.status_code, poll.headers["stream-next-offset"]) == (204, at(2))
        following = asyncio.create_task(here.follow(f"{path}?offset=-1&live=sse", **ANN))
        await asyncio.sleep(0)
        go.set()
        events, ended = await following
        assert ended
        got = [one for kind, data in events if kind == "data" for one in data]
        assert [(one["offset"], one["type"]) for one in got] == [(1, "text.delta"), (3, "custom"), (4, "completed")]
        assert events[-1][1] == {"streamNextOffset": at(4), "upToDate": True, "streamClosed": True}

        whole = await here.client.get(path, headers=ANN)
        assert whole.json() == got
        assert (whole.headers["stream-closed"], whole.headers["stream-up-to-date"]) == ("true", "true")
        assert whole.headers["etag"] != running.headers["etag"]
        known = await here.client.get(path, headers={**ANN, "if-none-match": whole.headers["etag"]})
        assert known.status_code == 304
        rest = await here.client.get(f"{path}?offset={at(3)}", headers=ANN)
        assert [one["type"] for one in rest.json()] == ["completed"]
        head = await here.client.head(path, headers=ANN)
        assert (head.headers["stream-closed"], head.headers["content-type"]) == ("true", "application/json")
        assert (await here.client.get(f"{path}?offset={at(5)}", headers=ANN)).status_code == 400


async def test_an_offset_of_a_lost_generation_is_gone(serving: Serving) -> None:
    """A server with an empty store gives the number again: old offsets and entity tags are not those of its log."""

    async def run(gen: Generation) -> None:
        await gen.text("one")

    path = "/v1/stream/generations/s/1"
    old: list[httpx2.Response] = []
    for _ in range(2):
        async with served(serving) as here:
            job = await here.manager.start("s", run)
            async for _ in here.manager.follow("s"):
                pass
            for answer in old:
                offset = answer.headers["stream-next-offset"]
                for query in (f"?offset={offset}", f"?offset={offset}&live=sse", f"?offset={token(1)}"):
                    assert (await here.client.get(path + query)).status_code == 410
                known = {"if-none-match": answer.headers["etag"]}
                assert (await here.client.get(path, headers=known)).status_code == 200
            old.append(await here.client.get(path))
            assert old[-1].headers["stream-next-offset"] == token(2, int(job.log, 16))


async def test_a_generation_is_only_read_and_only_by_its_owner(serving: Serving) -> None:
    async with served(serving, authenticate=by_header) as here:

        async def run(gen: Generation) -> None:
            await gen.text("one")

        await here.manager.start("s", run, user="ann")
        for method in ("POST", "PUT", "DELETE"):
            answer = await here.client.request(method, "/v1/stream/generations/s/1", headers={**JSON, **ANN})
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert (await here.client.get("/v1/stream/generations/s/1", headers={"x-user": "bob"})).status_code == 404
        for path in ("s/2", "s/0", "s/x", "s", "t/1", "1", "/1"):
            answer = await here.client.get(f"/v1/stream/generations/{path}", headers=ANN)
            assert answer.status_code == 404, path


async def test_a_trimmed_generation_begins_with_its_content(serving: Serving) -> None:
    manager = Options(log_records=10, checkpoint_every=5, window=4)
    async with served(serving, manager=manager) as here:

        async def run(gen: Generation) -> None:
            for number in range(40):
                await gen.emit("text.delta", {"text": f"{number} ", "part_id": "p"})
                await gen.snapshot()

        await here.manager.start("s", run)
        async with asyncio.timeout(HANG):
            while not (await here.manager.job("s")).settled:
                await asyncio.sleep(0.001)
        assert (await here.manager.job("s")).first_offset > 1
        first, *rest = (await here.client.get("/v1/stream/generations/s/1")).json()
        assert (first["type"], first["data"]["reason"]) == ("sync", "trimmed")
        text = "".join(part["text"] for part in first["data"]["content"])
        text += "".join(one["data"].get("text", "") for one in rest)
        assert text == "".join(f"{number} " for number in range(40))


# subscriptions


async def test_workers_need_only_the_token_of_their_wake(serving: Serving) -> None:
    """What is asked of a subscription is asked by its owner; what is told of a wake, by whoever has it."""
    pytest.importorskip("cryptography")
    async with served(serving, authenticate=by_header, subscriptions=SubscriptionOptions()) as here:
        for path in ("wake", "events/a"):
            await here.client.put(f"/v1/stream/{path}", headers={**JSON, **ANN})
        base = "/v1/stream/__ds/subscriptions/s"
        terms = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake"}
        assert (await here.client.put(base, json=terms)).status_code == 401
        made = await here.client.put(base, json=terms, headers=ANN)
        assert (made.status_code, made.json()["status"], "webhook" in made.json()) == (201, "active", False)
        assert (await here.client.put(base, json=terms, headers=ANN)).status_code == 200
        other = await here.client.put(base, json={**terms, "lease_ttl_ms": 5000}, headers=ANN)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "SUBSCRIPTION_CONFLICT")
        assert (await here.client.get(base, headers={"x-user": "bob"})).status_code == 404
        added = await here.client.post(f"{base}/streams", json={"streams": ["logs/x"]}, headers=ANN)
        assert added.status_code == 204
        told = (await here.client.get(base, headers=ANN)).json()["streams"]
        assert [(one["path"], one["link_type"]) for one in told] == [("events/a", "glob"), ("logs/x", "explicit")]
        assert (await here.client.delete(f"{base}/streams/logs%2Fx", headers=ANN)).status_code == 204

        await here.client.post("/v1/stream/events/a", headers={**JSON, **ANN}, content=b"1")
        async with asyncio.timeout(HANG):
            while not (await here.client.get("/v1/stream/wake", headers=ANN)).json():
                await asyncio.sleep(0.001)
        claim = (await here.client.post(f"{base}/claim", json={"worker": "w"}, headers=ANN)).json()
        shown = {"authorization": f"Bearer {claim['token']}"}
        wake = {"wake_id": claim["wake_id"], "generation": claim["generation"]}
        acks = [{"stream": one["path"], "offset": one["tail_offset"]} for one in claim["streams"]]
        for headers, status in (({}, 401), ({"authorization": "Bearer x"}, 409), ({"authorization": "Basic x"}, 401)):
            assert (await here.client.post(f"{base}/ack", json=wake, headers=headers)).status_code == status
        wrong = await here.client.post(f"{base}/ack", json={**wake, "acks": [{"stream": "events/a", "offset": "-1"}]},
                                       headers=shown)  # fmt: skip
        assert wrong.status_code == 400
        beat = await here.client.post(f"{base}/ack", json=wake, headers=shown)
        assert beat.json() == {"ok": True, "next_wake": False}
        done = await here.client.post(f"{base}/ack", json={**wake, "acks": acks, "done": True}, headers=shown)
        assert done.json() == {"ok": True, "next_wake": False}
        late = await here.client.post(f"{base}/release", json=wake, headers=shown)
        assert (late.status_code, late.json()["error"]["code"]) == (409, "FENCED")
        assert (await here.client.delete(base, headers=ANN)).status_code == 204
        gone = await here.client.post(f"{base}/ack", json=wake, headers=shown)
        assert (gone.status_code, gone.json()["error"]["code"]) == (409, "FENCED")
        assert (await here.client.get("/v1/stream/__ds/jwks.json")).json()["keys"][0]["crv"] == "Ed25519"


@pytest.mark.parametrize(
    "terms",
    [
        {}, {"type": "x"}, {"type": "webhook", "pattern": "a"}, {"type": "pull-wake", "wake_stream": "w"},
        {"type": "pull-wake", "pattern": "a", "wake_stream": "w", "lease_ttl_ms": 1},
        {"type": "pull-wake", "pattern": "a", "wake_stream": "w", "webhook": {"url": "https://example.com"}},
        {"type": "webhook", "pattern": "a", "webhook": {"url": "http://127.0.0.1/x"}},
    ],
)  # fmt: skip
async def test_what_is_no_subscription(serving: Serving, terms: dict[str, Any]) -> None:
    pytest.importorskip("cryptography")
    async with served(serving, subscriptions=SubscriptionOptions()) as here:
        answer = await here.client.put("/v1/stream/__ds/subscriptions/s", json=terms)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
