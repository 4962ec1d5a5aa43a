"""Money over HTTP: refusals with their figures, the balance, the entries page by page, what a generation cost."""

from __future__ import annotations

import asyncio
import base64
from decimal import Decimal

import httpx2
import pytest

from tests.conftest import Serving
from tests.waiting import HANG
from unspool import GenerationManager, InvalidArgument, Options
from unspool.errors import UnreadableRecord
from unspool.http import Identity, StartRequest, create_app
from unspool.jobs import Job, Owner
from unspool.ledger import Ledger, LedgerOptions, Prices, Rates
from unspool.ledger.database import Transaction
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


async def test_of_a_shared_account_each_is_told_what_is_their_own(serving: Serving) -> None:
    """Amounts of others make up the balance; no page, cursor or refusal says what they were for."""
    ledger = books()
    manager = GenerationManager(ledger=ledger)
    users = {name: {"x-user": name, "x-account": "team"} for name in ("ann", "bob")}
    async with serving(create_app(manager, run=answer, authenticate=who)) as client:
        await ledger.grant("team", 10_000_000, id="one")
        for name, headers in users.items():
            for number in range(3):
                stream = f"of-{name}-{number}"
                assert (await client.post(f"/v1/streams/{stream}/generations", json=HELLO, headers=headers)).is_success
                assert (await ended(client, stream, headers))[-1] == "completed"
        for name, other in (("ann", "bob"), ("bob", "ann")):
            found: list[dict[str, object]] = []
            path: str | None = "/v1/account/entries?limit=1"
            while path is not None:
                got = await client.get(path, headers=users[name])
                assert f"of-{other}" not in got.text
                found += got.json()["entries"]
                after = got.json()["next"]
                path = None if after is None else f"/v1/account/entries?limit=1&after={after}"
                assert other not in base64.urlsafe_b64decode((after or "") + "==").decode()
            assert [entry["amount"] for entry in found] == [-COST] * 6 + [10_000_000]
            assert sum(int(str(entry["amount"])) for entry in found) == found[0]["balance_after"]
            own = [entry["generation"] for entry in found if entry["generation"] is not None]
            assert own == [f"of-{name}-{number}/1" for number in reversed(range(3))]
            assert sum(entry["key"] is None for entry in found) == 3
            for stream in (f"of-{other}-0", f"of-{other}-1"):
                assert (await client.get(f"/v1/streams/{stream}/usage", headers=users[name])).status_code == 404


async def test_a_generation_that_cannot_be_read_costs_no_other_entry(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was for is not told, as of one that is another's."""
    ledger, ann = books(), {"x-user": "ann", "x-account": "team"}
    manager = GenerationManager(ledger=ledger)
    async with serving(create_app(manager, run=answer, authenticate=who)) as client:
        await ledger.grant("team", 10_000_000, id="one")
        for stream in ("a", "b"):
            assert (await client.post(f"/v1/streams/{stream}/generations", json=HELLO, headers=ann)).is_success
            assert (await ended(client, stream, ann))[-1] == "completed"
        get = manager.store.get

        async def newer(name: str, generation: int | None = None, *, owner: Owner | None = None) -> Job:
            if name == "a":
                raise UnreadableRecord
            return await get(name, generation, owner=owner)

        monkeypatch.setattr(manager.store, "get", newer)
        answered = await client.get("/v1/account/entries", headers=ann)
        assert answered.status_code == 200
        assert [entry["generation"] for entry in answered.json()["entries"]] == ["b/1", None, None]


async def test_pages_split_a_moment_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of one instant are each on one page; a cursor that is made up is refused."""
    monkeypatch.setattr(Transaction, "now", lambda _: 1_700_000_000.25)
    async with books() as ledger:
        for number in range(5):
            await ledger.grant("team", 1, id=str(number))
        for limit in (1, 2, 3, 5):
            seen, after = list[str](), None
            while True:
                page = await ledger.entries("team", after=after, limit=limit)
                seen += [entry.key for entry in page.entries]
                if (after := page.next) is None:
                    break
            assert seen == [f"grant:{number}" for number in reversed(range(5))]
        for text in ("9" * 18 + " 0", "1 " + "9" * 10, "1", "x 1", "1 -1", ""):
            with pytest.raises(InvalidArgument):
                await ledger.entries(after=base64.urlsafe_b64encode(text.encode()).decode())
