"""Tenants over HTTP, in every dialect: one name is a stream for each, and what is done to one is done to it alone.

The same user of each tenant uses the same names and the same keys of idempotency.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect

from tests.conftest import Serving
from tests.waiting import HANG
from unspool import ANYONE, GenerationManager, Options, Status
from unspool.http import Identity, StartRequest, create_app
from unspool.ledger import Ledger, Prices, Rates
from unspool.producer import Generation

Json = dict[str, Any]
OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0)
TENANTS = (None, "acme", "globex")
STOPPED = "acme"
HI = [{"role": "user", "content": "hi"}]
CHAT = {"id": "1", "messages": [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]}
LIBRECHAT = {"text": "hi", "messageId": "m", "conversationId": "1"}
LANGGRAPH = {"assistant_id": "agent", "if_not_exists": "create", "input": {"messages": HI}}
AG_UI: Json = {"threadId": "1", "runId": "r", "messages": [{"id": "u1", "role": "user", "content": "hi"}]}
NATIVE: Json = {"messages": HI, "request_id": "r"}


def who(request: HTTPConnection) -> Identity:
    asked = {**request.headers, **request.query_params}
    return Identity("ann", asked.get("x-tenant"), asked.get("x-account"))


def headers(tenant: str | None) -> dict[str, str]:
    return {"idempotency-key": "k"} | ({} if tenant is None else {"x-tenant": tenant})


class Client:
    """A client of one tenant."""

    def __init__(self, client: httpx2.AsyncClient, tenant: str | None) -> None:
        self.client = client
        self.tenant = tenant

    async def ask(self, request: str, body: Json | None = None) -> httpx2.Response:
        """A request as a method and a path."""
        method, path = request.split(" ", 1)
        async with asyncio.timeout(HANG):
            return await self.client.request(method, path, json=body, headers=headers(self.tenant))


@dataclass(frozen=True)
class Dialect:
    """How a dialect starts a generation on `1`, reads it and stops it: requests with their bodies. `{run}` stands for
    the id of the thread's last run, as LangGraph has it."""

    start: tuple[str, Json]
    read: tuple[str, Json | None]
    stop: tuple[str, Json | None]
    kind: str | None = None

    async def stopped_by(self, client: Client) -> httpx2.Response:
        request, body = self.stop
        if "{run}" in request:
            runs = (await client.ask("GET /threads/1/runs")).json()
            request = request.replace("{run}", runs[0]["run_id"])
        return await client.ask(request, body)


DIALECTS = {
    "native": Dialect(
        ("POST /v1/streams/1/generations", NATIVE),
        ("GET /v1/streams/1/events", None),
        ("POST /v1/streams/1/abort", None),
    ),
    "ai-sdk": Dialect(
        ("POST /api/chat", CHAT), ("GET /api/chat/1/stream?startIndex=0", None), ("POST /api/chat/1/stop", None)
    ),
    "librechat": Dialect(
        ("POST /api/agents/chat", LIBRECHAT),
        ("GET /api/agents/chat/stream/1", None),
        ("POST /api/agents/chat/abort", {"conversationId": "1"}),
    ),
    "langgraph": Dialect(
        ("POST /threads/1/runs/stream", LANGGRAPH),
        ("GET /threads/1/state", None),
        ("POST /threads/1/runs/{run}/cancel?wait=1", None),
    ),
    "ag-ui": Dialect(
        ("POST /ag-ui", AG_UI), ("POST /ag-ui/connect", AG_UI), ("POST /ag-ui/stop", {"threadId": "1", "runId": "r"})
    ),
    "copilotkit": Dialect(
        ("POST /copilotkit/agent/default/run", AG_UI),
        ("POST /copilotkit/agent/default/connect", AG_UI),
        ("POST /copilotkit/agent/default/stop/1", None),
    ),
}


class Talk:
    """A run that says whose it is; that of one tenant waits to be stopped, the others for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def run(self, gen: Generation, request: StartRequest) -> None:
        assert gen.job.tenant == request.tenant
        await gen.text(f"of {request.tenant}")
        await gen.snapshot()
        if request.tenant == STOPPED:
            await asyncio.Event().wait()
        await self.go.wait()


class Served:
    def __init__(self, client: httpx2.AsyncClient, manager: GenerationManager, talk: Talk) -> None:
        self.client = client
        self.manager = manager
        self.talk = talk
        self.clients = {tenant: Client(client, tenant) for tenant in TENANTS}
        self.stranger = Client(client, "nothing")

    async def all_say(self) -> None:
        """Wait until each tenant's generation has said whose it is."""
        async with asyncio.timeout(HANG):
            while len(await self.manager.jobs(user=ANYONE, status=Status.RUNNING)) < len(TENANTS):
                await asyncio.sleep(0.01)
            for job in await self.manager.jobs(user=ANYONE):
                while not (await self.manager.snapshot(job.stream_id, user=ANYONE, tenant=job.tenant)).text:
                    await asyncio.sleep(0.01)

    async def statuses(self) -> dict[str | None, str]:
        return {job.tenant: job.status for job in await self.manager.jobs(user=ANYONE)}


@asynccontextmanager
async def served(serving: Serving) -> AsyncGenerator[Served]:
    talk, manager = Talk(), GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=talk.run, authenticate=who)) as client:
        yield Served(client, manager, talk)


def check(answer: httpx2.Response, tenant: str | None) -> None:
    """What a tenant was told is its own, and nothing in it says how its stream is named inside."""
    assert answer.is_success, answer.text
    told = answer.text + str(answer.headers)
    assert f"of {tenant}" in told
    for other in TENANTS:
        assert other == tenant or f"of {other}" not in told
    assert f"@{tenant}" not in told
    assert "%40" not in told


@pytest.mark.parametrize("name", DIALECTS)
async def test_one_name_is_a_stream_for_each_tenant(serving: Serving, name: str) -> None:
    """Start, follow, Stop and read by the same names: each reaches its own tenant's stream alone."""
    dialect = DIALECTS[name]
    async with served(serving) as here:
        starts = {tenant: asyncio.create_task(client.ask(*dialect.start)) for tenant, client in here.clients.items()}
        await here.all_say()
        jobs = await here.manager.jobs(user=ANYONE)
        assert {(job.stream_id, job.generation, job.tenant) for job in jobs} == {("1", 1, one) for one in TENANTS}
        assert len({job.key for job in jobs}) == len(TENANTS)
        absent = await here.stranger.ask(*dialect.read)
        assert absent.status_code in (200, 204, 404)
        assert "of " not in absent.text.replace("retention of ", "")
        await here.stranger.ask(*dialect.stop) if "{run}" not in dialect.stop[0] else None
        assert set((await here.statuses()).values()) == {Status.RUNNING}
        assert (await dialect.stopped_by(here.clients[STOPPED])).is_success
        assert await here.statuses() == {
            tenant: Status.ABORTED if tenant == STOPPED else Status.RUNNING for tenant in TENANTS
        }
        here.talk.go.set()
        for tenant, task in starts.items():
            answer = await task
            assert answer.is_success, answer.text
            if answer.headers["content-type"].startswith("text/event-stream"):
                check(answer, tenant)
        for tenant, client in here.clients.items():
            check(await client.ask(*dialect.read), tenant)
            listed = (await client.ask("GET /v1/streams")).json()["streams"]
            assert [job["stream_id"] for job in listed] == ["1"]
            again = await client.ask(*dialect.start)
            assert again.is_success, again.text
        assert all(job.generation == 1 for job in await here.manager.jobs(user=ANYONE))


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_the_ids_of_openai_s_apis(serving: Serving, path: str) -> None:
    """One key of idempotency is an answer for each tenant; its id is free for the streams of the others."""
    body: Json = {"model": "m", "input": "hi", "messages": HI, "stream": True}
    async with served(serving) as here:
        here.talk.go.set()
        for tenant in (None, "globex"):
            answer = await here.clients[tenant].ask(f"POST {path}", body)
            check(answer, tenant)
            name = answer.headers["x-unspool-stream"]
            for client in (here.stranger, here.clients[STOPPED]):
                assert (await client.ask(f"GET /v1/streams/{name}")).status_code == 404
                if path == "/v1/responses":
                    assert (await client.ask(f"GET {path}/{name}")).status_code == 404
            made = await here.stranger.ask(f"POST /v1/streams/{name}/generations", NATIVE)
            assert (made.status_code, made.json()["generation"]) == (201, 1)
            if path == "/v1/responses":
                check(await here.clients[tenant].ask(f"GET {path}/{name}"), tenant)
            check(await here.clients[tenant].ask(f"GET /v1/streams/{name}/events"), tenant)


async def test_chats_over_a_socket(serving: Serving) -> None:
    """A send of each tenant on one chat id is a generation of its own; a resume finds that."""
    async with served(serving) as here:
        here.talk.go.set()
        url = str(here.client.base_url).rstrip("/").replace("http", "ws") + "/api/chat/ws"
        for kind in ("send", "resume"):
            for tenant in (None, "globex"):
                query = "" if tenant is None else f"?x-tenant={tenant}"
                async with connect(url + query, compression=None) as opened, asyncio.timeout(HANG):
                    sent = {"type": kind, "requestId": "r", "headers": {}, "body": {}, "metadata": None, **CHAT}
                    await opened.send(json.dumps(sent | {"trigger": "submit-message"}))
                    frames: list[str] = []
                    while not frames or json.loads(frames[-1])["type"] not in {"end", "no-active", "error"}:
                        frames.append(str(await opened.recv()))
                assert f"of {tenant}" in "".join(frames)
                assert "@" not in "".join(frames)
        assert {(job.tenant, job.label) for job in await here.manager.jobs(user=ANYONE)} == {
            (None, "1/1"), ("globex", "1/1"),
        }  # fmt: skip


async def test_durable_streams(serving: Serving) -> None:
    """One path is a stream for each tenant; and so is one generation, which is read as a stream."""
    async with served(serving) as here:
        here.talk.go.set()
        for tenant, client in here.clients.items():
            text = {**headers(tenant), "content-type": "text/plain"}
            put = await here.client.put("/v1/stream/1", headers=text, content=f"of {tenant}")
            assert put.status_code == 201
            assert (await here.client.put("/v1/stream/1", headers=text)).status_code == 200
            check(await client.ask("GET /v1/stream/1"), tenant)
        assert (await here.stranger.ask("GET /v1/stream/1")).status_code == 404
        assert (await here.clients[STOPPED].ask("DELETE /v1/stream/1")).is_success
        assert (await here.clients[STOPPED].ask("GET /v1/stream/1")).status_code == 404
        for tenant in (None, "globex"):
            check(await here.clients[tenant].ask("GET /v1/stream/1"), tenant)
            await here.clients[tenant].ask("POST /v1/streams/1/generations", NATIVE)
            check(await here.clients[tenant].ask("GET /v1/streams/1/events"), tenant)
            check(await here.clients[tenant].ask("GET /v1/stream/generations/1/1"), tenant)
        assert (await here.stranger.ask("GET /v1/stream/generations/1/1")).status_code == 404


async def test_ids_of_langgraph_are_a_tenant_s_own(serving: Serving) -> None:
    """Runs and checkpoints of two threads of one id have different ids, and each leads back to its own."""
    async with served(serving) as here:
        here.talk.go.set()
        seen: dict[str | None, tuple[str, str]] = {}
        for tenant in (None, "globex"):
            client = here.clients[tenant]
            await client.ask("POST /threads/1/runs/wait", LANGGRAPH)
            run = (await client.ask("GET /threads/1/runs")).json()[0]["run_id"]
            state = (await client.ask("GET /threads/1/state")).json()
            assert state["checkpoint"]["thread_id"] == "1"
            seen[tenant] = run, state["checkpoint"]["checkpoint_id"]
        assert not set(seen[None]) & set(seen["globex"])
        for tenant, (run, checkpoint) in seen.items():
            for asking in (None, "globex"):
                found = 200 if asking == tenant else 404
                client = here.clients[asking]
                assert (await client.ask(f"GET /threads/1/runs/{run}")).status_code == found
                assert (await client.ask(f"GET /threads/1/state/{checkpoint}")).status_code == found


async def test_money_is_a_tenant_s_own(serving: Serving) -> None:
    """Two tenants on one account: each sees what its own generations cost, by their own ids, and only the amounts of
    the other's."""

    async def paid(gen: Generation, request: StartRequest) -> None:
        async with gen.model_call(provider="test", model="m") as call:
            call.observe({"usage": {"prompt_tokens": 100, "completion_tokens": 10}})

    ledger = Ledger.from_url("sqlite://", pricer=Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2))}))
    app = create_app(GenerationManager(ledger=ledger), run=paid, authenticate=who)
    async with serving(app) as client:
        await ledger.grant("team", 10_000_000, id="one")
        asked = {tenant: {**headers(tenant), "x-account": "team"} for tenant in TENANTS}
        for mine in asked.values():
            await client.post("/v1/streams/1/generations", json=NATIVE, headers=mine)
            assert "completed" in (await client.get("/v1/streams/1/events", headers=mine)).text
        for mine in asked.values():
            usage = (await client.get("/v1/streams/1/usage", headers=mine)).json()
            assert (usage["generation"], [call["generation"] for call in usage["calls"]]) == ("1/1", ["1/1"])
            entries = (await client.get("/v1/account/entries", headers=mine)).json()["entries"]
            shown = [(entry["kind"], entry["generation"]) for entry in entries]
            assert sorted(shown, key=str) == [
                ("charge", "1/1"), ("charge", None), ("charge", None), ("grant", None)
            ]  # fmt: skip


async def test_a_refusal_names_the_caller_s_own_by_their_ids(serving: Serving) -> None:
    """An account that tenants share, and on which one more may not run: each is told of its own alone."""
    talk, ledger = Talk(), Ledger.from_url("sqlite://")
    manager = GenerationManager(options=Options(max_active_per_account=2), ledger=ledger)
    async with serving(create_app(manager, run=talk.run, authenticate=who)) as client:
        asked = {tenant: {**headers(tenant), "x-account": "team"} for tenant in TENANTS}
        for tenant in (None, "globex"):
            begun = await client.post("/v1/streams/1/generations", json=NATIVE, headers=asked[tenant])
            assert begun.status_code == 201
        for tenant, running in ((None, [{"stream_id": "1", "generation": 1}]), ("acme", [])):
            refused = await client.post("/v1/streams/2/generations", json=NATIVE, headers=asked[tenant])
            assert (refused.status_code, refused.json()["running"]) == (429, running)
            assert "globex" not in refused.text


async def test_a_tenant_that_is_no_name_is_refused(serving: Serving) -> None:
    """An `authenticate` that answers an empty tenant is told; it does not act for those without one."""
    async with served(serving) as here:
        for request in ("GET /v1/streams", "GET /v1/stream/1", "GET /threads/1"):
            method, path = request.split()
            refused = await here.client.request(method, path, headers={"x-tenant": ""})
            assert (refused.status_code, "tenant" in refused.text) == (422, True), request
