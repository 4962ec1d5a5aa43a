"""The native dialect from outside: what each route answers, to good requests and to bad ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from tests.conftest import Serving
from unspool import GenerationManager, Options
from unspool.http import Identity, StartRequest, create_app
from unspool.http.auth import bearer
from unspool.ledger import Ledger
from unspool.producer import Generation
from unspool.sse import Decoder, Message

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0)


async def hello(gen: Generation, request: StartRequest) -> None:
    await gen.emit("created", {"user_message": {"id": "m1", "text": str(request.messages[-1]["content"])}})
    for word in ("one ", "two ", "three"):
        await gen.text(word)
        await asyncio.sleep(0)
        await gen.snapshot()  # a commit of its own for each word


async def endless(gen: Generation, request: StartRequest) -> None:
    await gen.text("begun")
    await asyncio.Event().wait()


async def follow(client: httpx2.AsyncClient, url: str, **kwargs: Any) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    async with client.stream("GET", url, **kwargs) as response:
        assert response.status_code == 200, await response.aread()
        async for chunk in response.aiter_raw():
            messages += decoder.feed(chunk)
    return messages


async def start(client: httpx2.AsyncClient, stream: str = "s", **body: Any) -> dict[str, Any]:
    answer = await client.post(f"/v1/streams/{stream}/generations", json={**HELLO, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_generation_from_start_to_end(serving: Serving) -> None:
    """POST answers at once with where to follow; the stream has every record, in order, and ends after the terminal."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        started = await start(client)
        assert started["stream_id"] == "s"
        assert (started["generation"], started["status"]) == (1, "running")
        messages = await follow(client, started["events_url"])
        assert [m.event for m in messages] == ["created", "text.delta", "text.delta", "text.delta", "completed"]
        assert [m.id for m in messages] == [f"1-{n}" for n in range(1, 6)]
        assert messages[0].retry == 1000
        status = (await client.get("/v1/streams/s")).json()
        assert (status["status"], status["text"], status["active"]) == ("complete", "one two three", False)
        assert status["user_message"] == {"id": "m1", "text": "hi"}


async def test_a_position_is_honoured(serving: Serving) -> None:
    """`Last-Event-ID` wins over `?after=`; without either, all; at the end of an ended one 204, for ever."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        await follow(client, (await start(client))["events_url"])
        url = "/v1/streams/s/events"
        assert [m.id for m in await follow(client, f"{url}?after=3")] == ["1-4", "1-5"]
        assert [m.id for m in await follow(client, f"{url}?after=1-3")] == ["1-4", "1-5"]
        assert [m.id for m in await follow(client, f"{url}?after=1", headers={"Last-Event-ID": "1-4"})] == ["1-5"]
        assert (await client.get(url, headers={"Last-Event-ID": "1-5"})).status_code == 204
        synced = await follow(client, f"{url}?snapshot=1")
        assert [(m.event, m.id) for m in synced] == [("sync", "1-4"), ("completed", "1-5")]
        assert json.loads(synced[0].data)["text"] == "one two three"


@pytest.mark.parametrize(
    ("query", "header", "status", "code"),
    [
        ("?after=6", None, 409, "invalid_position"),
        ("", "1-6", 409, "invalid_position"),
        ("", "7-1", 409, "invalid_position"),
        ("?generation=1", "2-1", 409, "invalid_position"),
        ("?after=-1", None, 400, "bad_request"),
        ("?after=x", None, 400, "bad_request"),
        ("?after=99999999999999999999", None, 400, "bad_request"),
        ("", "1-", 400, "bad_request"),
        ("", "nonsense", 400, "bad_request"),
        ("?generation=0", None, 400, "bad_request"),
        ("?generation=2", None, 404, "not_found"),
        ("?snapshot=maybe", None, 400, "bad_request"),
    ],
)
async def test_a_wrong_position_is_answered_explicitly(
    serving: Serving, query: str, header: str | None, status: int, code: str
) -> None:
    """Beyond the end, of another generation, or not a position: never a silent gap, always a problem with its code."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        await follow(client, (await start(client))["events_url"])
        headers = {"Last-Event-ID": header} if header else {}
        answer = await client.get(f"/v1/streams/s/events{query}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        if code == "invalid_position":
            assert (answer.json()["generation"], answer.json()["first_offset"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "headers", "status", "mention"),
    [
        (b"{", {}, 400, "not JSON"),
        (b"\xff\xfe", {}, 400, "not JSON"),
        (b"[]", {}, 422, "object"),
        (b"{}", {}, 422, "messages"),
        (b'{"messages": []}', {}, 422, "messages"),
        (b'{"messages": [{"role": "king", "content": "x"}]}', {}, 422, "role"),
        (b'{"messages": [{"role": "user", "content": 5}]}', {}, 422, "content"),
        (b'{"messages": [{"role": "user", "content": "x"}], "colour": 1}', {}, 422, "colour"),
        (b'{"messages": [{"role": "user", "content": "x"}], "expect_generation": "1"}', {}, 422, "expect_generation"),
        (b'{"messages": [{"role": "user", "content": "x"}], "expect_generation": 4}', {}, 409, "generation 0"),
        (b'{"messages": [{"role": "user", "content": "x"}], "metadata": {"colour": 1}}', {}, 422, "colour"),
        (b'{"messages": [{"role": "user", "content": "x"}], "metadata": {"title": 1}}', {}, 422, "title"),
        (b'{"messages": [{"role": "user", "content": "x"}], "request_id": ""}', {}, 422, "request_id"),
        (b'{"messages": [{"role": "user", "content": "x"}], "expect_generation": -1}', {}, 422, "expect_generation"),
        (b'{"messages": [{"role": "user"}]}', {"idempotency-key": "x" * 257}, 422, "Idempotency-Key"),
        (b'{"messages": [{"role": "user"}], "request_id": "r"}', {"idempotency-key": ""}, 422, "Idempotency-Key"),
        (b"x" * 3000, {}, 413, "3000"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', {"content-type": "text/plain"}, 415, "application/json"),
        (b'{"messages":[{"role":"user"}],"metadata":{"extra":' + b'{"a":' * 500, {}, 400, "not JSON"),
    ],
)
async def test_a_bad_start_is_refused_and_loses_nothing(
    serving: Serving, body: bytes, headers: dict[str, str], status: int, mention: str
) -> None:
    """Each refusal is a problem that names the field, and no generation comes of it."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=hello, max_body=2600)) as client:
        answer = await client.post(
            "/v1/streams/s/generations", content=body, headers={"content-type": "application/json", **headers}
        )
        assert answer.status_code == status, answer.text
        assert mention in answer.json()["detail"]
        assert (await manager.counts()).total == 0


async def test_a_huge_body_without_a_length_is_cut_off(serving: Serving) -> None:
    """A chunked body is refused as soon as it passes the bound."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(100):
            yield b"x" * 1000

    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello, max_body=2000)) as client:
        answer = await client.post(
            "/v1/streams/s/generations", content=chunks(), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413


async def test_stop_is_answered_after_the_seal(serving: Serving) -> None:
    """The answer has the partial text and the final record; again it says what is settled; unknown is 404."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=endless)) as client:
        await start(client)
        watching = asyncio.create_task(follow(client, "/v1/streams/s/events"))
        answer = (await client.post("/v1/streams/s/abort", json={"generation": 1, "reason": "enough"})).json()
        assert (answer["outcome"], answer["status"], answer["text"]) == ("stopped", "aborted", "begun")
        assert answer["final"]["response_message"]["unfinished"] is True
        assert answer["final"]["reason"] == "enough"
        assert (await watching)[-1].event == "aborted"
        assert (await client.post("/v1/streams/s/abort")).json()["outcome"] == "already_settled"
        assert (await client.post("/v1/streams/t/abort")).status_code == 404
        assert (await client.post("/v1/streams/s/abort", json={"generation": 2})).status_code == 404
        assert (await client.post("/v1/streams/s/abort", json={"x": 2})).status_code == 422


async def test_a_start_is_idempotent(serving: Serving) -> None:
    """32 posts of one request, by body or header: one 201, the others 200, one generation."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=endless)) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/streams/s/generations", json={**HELLO, "request_id": "r1"}) for _ in range(31)),
            client.post("/v1/streams/s/generations", json=HELLO, headers={"Idempotency-Key": "r1"}),
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 31 + [201]
        assert {answer.json()["generation"] for answer in answers} == {1}
        assert (await manager.counts()).total == 1


async def test_every_verb_checks_the_owner(serving: Serving) -> None:
    """For another user, another tenant, and a job without an owner, each route answers as if there were nothing."""

    def authenticate(request: HTTPConnection) -> Identity | None:
        user = request.headers.get("x-user")
        return Identity(user, request.headers.get("x-tenant")) if user else None

    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=endless, authenticate=authenticate)) as client:
        mine = {"x-user": "a", "x-tenant": "t"}
        answer = await client.post("/v1/streams/s/generations", json=HELLO, headers=mine)
        assert answer.status_code == 201

        async def nobody(gen: Generation) -> None:
            await asyncio.Event().wait()

        await manager.start("n", nobody)
        unknown = await client.get("/v1/streams/unknown", headers=mine)
        for stream, headers in (("s", {"x-user": "b", "x-tenant": "t"}), ("s", {"x-user": "a"}), ("n", mine)):
            for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/abort"), ("POST", "/generations")):
                body: dict[str, Any] = {"json": HELLO} if path == "/generations" else {}
                if body and headers != {"x-user": "b", "x-tenant": "t"}:
                    continue  # the id is free in that tenant
                refused = await client.request(method, f"/v1/streams/{stream}{path}", headers=headers, **body)
                assert (refused.status_code, refused.content) == (404, unknown.content), (stream, method, path)
            listed = (await client.get("/v1/streams", headers=headers)).json()["streams"]
            assert stream not in [job["stream_id"] for job in listed]
        for path in ("", "/s", "/s/events"):
            assert (await client.get(f"/v1/streams{path}")).status_code == 401
        assert (await client.get("/v1/streams/s", headers=mine)).json()["active"]


@pytest.mark.parametrize("tokens", ["secret", ["other", "secret"]])
async def test_a_token_is_taken_as_a_whole(serving: Serving, tokens: str | list[str]) -> None:
    """Also where it is given as a string, which is a sequence of letters."""
    async with serving(create_app(GenerationManager(), run=hello, authenticate=bearer(tokens))) as client:
        for given, status in (("secret", 200), ("s", 401), ("secre", 401)):
            answer = await client.get("/v1/streams", headers={"authorization": f"Bearer {given}"})
            assert answer.status_code == status, given


async def test_listing(serving: Serving) -> None:
    """The caller's own, by status; a status that does not exist is refused by name."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=endless)) as client:
        await start(client, "a")
        await start(client, "b")
        await client.post("/v1/streams/a/abort")
        running = (await client.get("/v1/streams?status=running")).json()["streams"]
        assert [job["stream_id"] for job in running] == ["b"]
        assert len((await client.get("/v1/streams")).json()["streams"]) == 2
        refused = await client.get("/v1/streams?status=asleep")
        assert (refused.status_code, refused.json()["field"]) == (422, "status")
        assert (await client.get("/v1/streams?limit=0")).status_code == 422


@pytest.mark.parametrize("stream", ["a%2Fb", "a%20b", "x" * 256, "..%2F", "%22quoted%22"])
async def test_stream_ids_survive_the_url(serving: Serving, stream: str) -> None:
    """Printable ASCII of any kind is a name; what `events_url` says can be followed as it is."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        started = await start(client, stream)
        assert (await follow(client, started["events_url"]))[-1].event == "completed"


@pytest.mark.parametrize("stream", ["a%2Fgenerations", "a%2Fabort", "events", "a%2Fevents%2Fb", "a%2Fusages"])
async def test_what_was_started_is_what_its_status_tells_of(serving: Serving, stream: str) -> None:
    async with serving(create_app(GenerationManager(options=OPTIONS), run=endless)) as client:
        started = await start(client, stream)
        status = await client.get(f"/v1/streams/{stream}")
        assert status.json()["stream_id"] == started["stream_id"]
        stopped = await client.post(f"/v1/streams/{stream}/abort")
        assert stopped.json()["stream_id"] == started["stream_id"]


@pytest.mark.parametrize("ledger", [False, True])
@pytest.mark.parametrize("stream", ["a%2Fevents", "a/events", "a%2Fusage"])
async def test_a_stream_whose_status_would_be_of_another_one_is_not_started(
    serving: Serving, stream: str, ledger: bool
) -> None:
    manager = GenerationManager(options=OPTIONS, ledger=Ledger.from_url("sqlite://") if ledger else None)
    async with serving(create_app(manager, run=endless)) as client:
        refused = await client.post(f"/v1/streams/{stream}/generations", json=HELLO)
        assert (refused.status_code, refused.json()["field"]) == (422, "stream_id")
        assert (await manager.counts()).total == 0


@pytest.mark.parametrize("stream", ["%00", "%C3%BC", "x" * 257])
async def test_names_that_cannot_travel_are_refused(serving: Serving, stream: str) -> None:
    """They get a clear refusal where they would begin to exist, and 404 elsewhere."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        answer = await client.post(f"/v1/streams/{stream}/generations", json=HELLO)
        assert (answer.status_code, "stream_id" in answer.json()["detail"]) == (422, True)
        assert (await client.get(f"/v1/streams/{stream}/events")).status_code == 404


async def test_unknown_paths_and_methods_are_problems(serving: Serving) -> None:
    """Also what the router itself refuses is problem JSON."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        for answer, status in (
            (await client.get("/nothing"), 404),
            (await client.delete("/v1/streams/s"), 405),
            (await client.get("/v1/streams/s/generations"), 404),
        ):
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"


async def test_health_and_documents(serving: Serving) -> None:
    """Liveness, readiness, what this server is, and its OpenAPI document."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello, about={"model": "m"})) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready", "store": "memory"}
        assert (await client.get("/about")).json()["model"] == "m"
        document = (await client.get("/openapi.json")).json()
        assert set(document["paths"]["/v1/streams/{stream_id}/events"]["get"]["responses"]) >= {"200", "204", "409"}
        assert "StartBody" in document["components"]["schemas"]


async def test_a_foreign_host_is_refused(serving: Serving) -> None:
    """A page under another name that resolves to this machine cannot talk to a server without authentication."""
    app = create_app(GenerationManager(options=OPTIONS), run=hello, allowed_hosts=["127.0.0.1", "localhost"])
    async with serving(app) as client:
        assert (await client.get("/healthz", headers={"host": "evil.example"})).status_code == 400
        assert (await client.get("/healthz")).status_code == 200
