"""Money over HTTP: refusals with their figures, the balance, the entries page by page, what a generation cost."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import httpx2

from tests.conftest import Serving
from tests.waiting import HANG
from unspool import GenerationManager, Options
from unspool.http import Identity, StartRequest, create_app
from unspool.ledger import Ledger, LedgerOptions, Prices, Rates
from unspool.producer import Generation
from unspool.sse import Decoder

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
COST = 100 * 1_000 + 10 * 2_000
PRICES = Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2))})


async def answer(gen: Generation, request: StartRequest) -> None:
    async with gen.model_call(provider="test", model="m") as call:
        await gen.text("hello")
        call.observe({"usage": {"prompt_tokens": 100, "completion_tokens": 10}})
    if request.stream_id.startswith("long"):
        await asyncio.Event().wait()


def who(request: object) -> Identity | None:
    headers = getattr(request, "headers", {})
    user = headers.get("x-user")
    return None if user is None else Identity(user, account=headers.get("x-account"))


def books(hold: int = 0) -> Ledger:
    return Ledger.from_url("sqlite://", pricer=PRICES, options=LedgerOptions(hold=hold))


async def ended(client: httpx2.AsyncClient, stream: str, headers: dict[str, str]) -> list[str]:
    async with asyncio.timeout(HANG):
        answered = await client.get(f"/v1/streams/{stream}/events", headers=headers)
    return [message.event for message in Decoder().feed(answered.content)]


async def test_an_account_is_charged_and_can_be_looked_at(serving: Serving) -> None:
    """Balance, entries by pages, and the calls of a generation, for their owner alone."""
    ledger, ann = books(), {"x-user": "ann", "x-account": "team"}
    manager = GenerationManager(ledger=ledger)
    async with serving(create_app(manager, run=answer, authenticate=who)) as client:
        await ledger.grant("team", 10_000_000, id="one")
        for stream in ("a", "b"):
            started = await client.post(f"/v1/streams/{stream}/generations", json=HELLO, headers=ann)
            assert started.status_code == 201
            assert (await ended(client, stream, ann))[-2:] == ["usage", "completed"]
        balance = (await client.get("/v1/account", headers=ann)).json()
        assert (balance["posted"], balance["held"], balance["debt"]) == (10_000_000 - 2 * COST, 0, 0)
        first = (await client.get("/v1/account/entries?limit=2", headers=ann)).json()
        rest = (await client.get(f"/v1/account/entries?after={first['next']}", headers=ann)).json()
        assert [entry["kind"] for entry in first["entries"] + rest["entries"]] == ["charge", "charge", "grant"]
        assert rest["next"] is None
        usage = (await client.get("/v1/streams/a/usage", headers=ann)).json()
        assert (usage["account"], usage["billed"]["cost"], usage["calls"][0]["model"]) == ("team", COST, "m")
        assert (await client.get("/v1/streams/a/usage", headers={"x-user": "bob"})).status_code == 404
        assert (await client.get("/v1/account", headers={"x-user": "bob"})).status_code == 404
        assert (await client.get("/v1/account")).status_code == 401


async def test_refusals_say_their_figures(serving: Serving) -> None:
    """402 with what is there and what is needed; 429 with what is running; nothing has happened."""
    ledger, ann = books(hold=1_000), {"x-user": "ann", "x-account": "team"}
    manager = GenerationManager(options=Options(max_active_per_user=1), ledger=ledger)
    async with serving(create_app(manager, run=answer, authenticate=who)) as client:
        refused = await client.post("/v1/streams/a/generations", json=HELLO, headers=ann)
        assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_balance")
        assert (refused.json()["balance"], refused.json()["needed"]) == (0, 1_000)
        assert (await client.get("/v1/streams/a", headers=ann)).status_code == 404
        await ledger.grant("team", 10_000_000, id="one")
        assert (await client.post("/v1/streams/long/generations", json=HELLO, headers=ann)).status_code == 201
        refused = await client.post("/v1/streams/b/generations", json=HELLO, headers=ann)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["running"] == [{"stream_id": "long", "generation": 1}]


async def test_bad_questions_are_refused_by_name(serving: Serving) -> None:
    """The field is named; nobody sees a traceback."""
    manager = GenerationManager(ledger=books())
    async with serving(create_app(manager, run=answer, account="all")) as client:
        for path, field in (
            ("/v1/account/entries?limit=0", "limit"),
            ("/v1/account/entries?limit=x", "limit"),
            ("/v1/account/entries?after=%00", "cursor"),
            ("/v1/streams/a/usage?generation=-1", "generation"),
        ):
            answered = await client.get(path)
            assert answered.status_code == 422, path
            assert field in answered.json()["detail"]
        document = (await client.get("/openapi.json")).json()
        assert {"/v1/account", "/v1/account/entries", "/v1/streams/{stream_id}/usage"} <= set(document["paths"])


async def test_without_a_ledger_there_are_no_such_routes(serving: Serving) -> None:
    """And nobody's account matters."""
    async with serving(create_app(GenerationManager(), run=answer, account="all")) as client:
        assert (await client.get("/v1/account")).status_code == 404
        assert (await client.post("/v1/streams/a/generations", json=HELLO)).status_code == 201
        assert (await ended(client, "a", {}))[-1] == "completed"
        assert "/v1/account" not in (await client.get("/openapi.json")).json()["paths"]
