"""What the routes of OpenAI's APIs answer where they refuse: OpenAI's shape, and the status that fits."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx2
import pytest
from openai.types import Model

from tests.conftest import Serving
from unspool import Generation, GenerationManager, Options, RunFailed
from unspool.http import StartRequest, create_app
from unspool.http.auth import Identity
from unspool.ledger import Ledger, LedgerOptions

Json = dict[str, Any]

CHAT: Json = {"messages": [{"role": "user", "content": "hi"}]}
OPTIONS: Json = {"sweep": 0.02, "poll": 0.02, "abort_grace": 10.0}


async def hello(gen: Generation, request: StartRequest) -> None:
    await gen.text("hello")


async def endless(gen: Generation, request: StartRequest) -> None:
    await gen.text("begun")
    if request.messages[0]["role"] == "system":
        return
    await asyncio.Event().wait()


def who(request: object) -> Identity | None:
    user = getattr(request, "headers", {}).get("authorization", "").removeprefix("Bearer ")
    name, _, tenant = user.partition("@")
    return Identity(name, tenant or None, "team") if user else None


def error_of(answer: httpx2.Response) -> Json:
    error: Json = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_who_may_not_enter(serving: Serving, path: str) -> None:
    """401, whatever is asked for; what is another's is not found."""
    app = create_app(GenerationManager(options=Options(**OPTIONS)), run=hello, authenticate=who)
    async with serving(app) as client:
        for refused in (await client.post(path, json={}), await client.get("/v1/models")):
            assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
        ann = {"authorization": "Bearer ann"}
        key = {"idempotency-key": "k"}
        begun = (await client.post("/v1/responses", json={"input": "hi"}, headers={**ann, **key})).json()
        for other in ("bob", "ann@acme"):
            bob = {"authorization": f"Bearer {other}"}
            again = (await client.post("/v1/responses", json={"input": "hi"}, headers={**bob, **key})).json()
            assert begun["id"] != again["id"], "a key is its owner's"
            for verb, more in (
                ("GET", ""), ("GET", "?stream=true"), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items"),
            ):  # fmt: skip
                refused = await client.request(verb, f"/v1/responses/{begun['id']}{more}", headers=bob)
                assert (refused.status_code, error_of(refused)["param"]) == (404, "response_id")
            asked = {"input": "hi", "previous_response_id": begun["id"]}
            refused = await client.post("/v1/responses", json=asked, headers=bob)
            assert (refused.status_code, error_of(refused)["code"]) == (400, "previous_response_not_found")
        assert (await client.get(f"/v1/responses/{begun['id']}", headers=ann)).json() == begun


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": 5}, "input"),
        ("/v1/responses", {"input": "hi", "stream": "yes"}, "stream"),
        ("/v1/responses", {"input": "hi", "metadata": {"a": 1}}, "metadata"),
        ("/v1/responses", {"input": "hi", "background": True, "store": False}, "store"),
        ("/v1/responses", {"input": "hi", "conversation": {"id": 1}}, "conversation"),
        ("/v1/responses", {"input": "hi", "conversation": "c", "previous_response_id": "r"}, "conversation"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard"}]}, "messages"),
        ("/v1/chat/completions", {**CHAT, "n": 2}, "n"),
        ("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
async def test_a_request_that_is_wrong(serving: Serving, path: str, body: Json, param: str) -> None:
    """400, and the field is named."""
    async with serving(create_app(GenerationManager(options=Options(**OPTIONS)), run=hello)) as client:
        refused = await client.post(path, json=body)
        assert (refused.status_code, error_of(refused)["type"]) == (400, "invalid_request_error")
        assert error_of(refused)["param"] == param
        refused = await client.post(path, content=b"{", headers={"content-type": "application/json"})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "bad_request")
        refused = await client.post(path, content=b"{}", headers={"content-type": "text/plain"})
        assert refused.status_code == 415
        refused = await client.get("/v1/responses/x?stream=true&starting_after=-1")
        assert refused.status_code == 404


async def test_bounds(serving: Serving) -> None:
    """402 without money, 429 for too many, with when to try again."""
    ledger = Ledger.from_url("sqlite://", options=LedgerOptions(hold=1000))
    manager = GenerationManager(options=Options(**OPTIONS, max_active_per_user=1), ledger=ledger)
    async with serving(create_app(manager, run=endless, authenticate=who)) as client:
        ann = {"authorization": "Bearer ann"}
        asked = {"input": "hi", "background": True}
        refused = await client.post("/v1/responses", json=asked, headers=ann)
        assert (refused.status_code, error_of(refused)["type"]) == (402, "insufficient_quota")
        await ledger.grant("team", 10_000, id="one")
        assert (await client.post("/v1/responses", json=asked, headers=ann)).status_code == 200
        refused = await client.post("/v1/responses", json=asked, headers=ann)
        assert (refused.status_code, error_of(refused)["type"]) == (429, "rate_limit_error")
        assert refused.headers["retry-after"] == "1"


async def test_a_response_that_runs_is_stopped_and_forgotten(serving: Serving) -> None:
    """Deleted it is not found any more; what comes after one that still runs has to wait."""
    async with serving(create_app(GenerationManager(options=Options(**OPTIONS)), run=endless)) as client:
        begun = (await client.post("/v1/responses", json={"input": "hi", "background": True})).json()
        refused = await client.post("/v1/responses", json={"input": "hi", "previous_response_id": begun["id"]})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "previous_response_in_progress")
        refused = await client.get(f"/v1/responses/{begun['id']}?stream=true&starting_after=x")
        assert (refused.status_code, error_of(refused)["param"]) == (400, "starting_after")
        assert (await client.delete(f"/v1/responses/{begun['id']}")).json()["deleted"] is True
        assert (await client.get(f"/v1/responses/{begun['id']}")).status_code == 404
        key = {"idempotency-key": "k"}
        keyed = (await client.post("/v1/responses", json={"input": "hi", "background": True}, headers=key)).json()
        for _ in range(2):
            stopped = (await client.post(f"/v1/responses/{keyed['id']}/cancel")).json()
            assert stopped["status"] == "cancelled"
        await client.delete(f"/v1/responses/{keyed['id']}")
        refused = await client.post("/v1/responses", json={"input": "hi", "background": True}, headers=key)
        assert (refused.status_code, error_of(refused)["code"]) == (409, "idempotency_key_reused")
        done = (await client.post("/v1/responses", json={"input": "hi", "instructions": "end"})).json()
        refused = await client.post(f"/v1/responses/{done['id']}/cancel")
        assert (refused.status_code, error_of(refused)["code"]) == (400, "response_completed")


async def test_a_log_that_was_trimmed(serving: Serving) -> None:
    """Numbers before the last checkpoint are gone, with a code; those after it go on, and the response is whole."""

    async def long(gen: Generation, request: StartRequest) -> None:
        for number in range(200):
            await gen.text(f"{number} ", part_id=str(number))
            if number % 10 == 0:
                await gen.snapshot()

    options = Options(**OPTIONS, window=8, log_records=60, checkpoint_every=20)
    async with serving(create_app(GenerationManager(options=options), run=long)) as client:
        done = (await client.post("/v1/responses", json={"input": "hi"})).json()
        assert len(done["output"]) == 200
        url = f"/v1/responses/{done['id']}?stream=true&starting_after="
        refused = await client.get(f"{url}0")
        assert (refused.status_code, error_of(refused)["code"]) == (410, "gone")
        assert (await client.get(f"/v1/responses/{done['id']}")).json() == done
        least = int(error_of(refused)["message"].rpartition(" ")[2])
        assert (await client.get(f"{url}{least - 2}")).status_code == 410
        tail = await client.get(f"{url}{least - 1}")
        assert f'"sequence_number":{least},' in tail.text.partition("\n\n")[0]
        assert "event: response.completed" in tail.text
        items = (await client.get(f"/v1/responses/{done['id']}/input_items")).json()["data"]
        assert items[0]["content"][0]["text"] == "hi"


async def test_a_server_that_goes_while_somebody_waits(serving: Serving) -> None:
    """503 with the name to follow it by, and without a key no invitation to send it again as a second one."""
    manager = GenerationManager(options=Options(**OPTIONS))
    async with serving(create_app(manager, run=endless)) as client:
        waiting = asyncio.ensure_future(client.post("/v1/responses", json={"input": "hi"}))
        while not await manager.jobs():
            await asyncio.sleep(0.01)
        while not manager.replica.viewers:
            await asyncio.sleep(0.01)
        manager.replica.release_viewers()
        refused = await waiting
        assert (refused.status_code, refused.headers["x-should-retry"]) == (503, "false")
        assert "resp_" in error_of(refused)["message"]
        refused = await client.post("/v1/responses", json={"input": "hi"})
        assert refused.status_code == 503
        assert "x-should-retry" not in refused.headers


@pytest.mark.parametrize("dialect", ["responses", "chat-completions"])
async def test_models(serving: Serving, dialect: str) -> None:
    """What the application says of its models is listed; of others there is none."""
    manager = GenerationManager(options=Options(**OPTIONS))
    app = create_app(manager, run=hello, dialects=[dialect], models=["m", "org/n"])
    async with serving(app) as client:
        listed = (await client.get("/v1/models")).json()
        assert (listed["object"], [one["id"] for one in listed["data"]]) == ("list", ["m", "org/n"])
        Model.model_validate(listed["data"][0])
        assert (await client.get("/v1/models/org/n")).json() == listed["data"][1]
        refused = await client.get("/v1/models/nobody")
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    async with serving(create_app(GenerationManager(options=Options(**OPTIONS)), run=hello)) as client:
        assert (await client.get("/v1/models")).json()["data"] == []


async def test_what_came_before(serving: Serving) -> None:
    """A chain and a conversation give all messages, oldest first; of a conversation it is the caller's own last one."""
    asked: list[list[Json]] = []

    async def answer(gen: Generation, request: StartRequest) -> None:
        asked.append(request.messages)
        await gen.text(f"answer {len(asked)}")

    app = create_app(GenerationManager(options=Options(**OPTIONS)), run=answer, authenticate=who)
    async with serving(app) as client:

        async def ask(text: str, user: str = "ann", **more: Any) -> str:
            body = {"input": text, "conversation": "c", **more}
            answered = await client.post("/v1/responses", json=body, headers={"authorization": f"Bearer {user}"})
            return answered.json()["id"]

        first = await ask("1")
        await ask("other", user="bob")
        await ask("another", user="ann@acme")
        await ask("2")
        await ask("3")
        assert [message["content"] for message in asked[1]] == ["other"]
        assert [message["content"] for message in asked[2]] == ["another"]
        assert [message["content"] for message in asked[4]] == ["1", "answer 1", "2", "answer 4", "3"]
        await ask("4", conversation=None, previous_response_id=first, instructions="Be brief.")
        assert [message["content"] for message in asked[5]] == ["Be brief.", "1", "answer 1", "4"]


async def test_a_chain_has_an_end(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than so many responses before one are refused, with what to do."""
    monkeypatch.setattr(sys.modules["unspool.http.dialects.responses.routes"], "CHAIN", 2)
    async with serving(create_app(GenerationManager(options=Options(**OPTIONS)), run=hello)) as client:
        previous: str | None = None
        for _ in range(3):
            answered = await client.post("/v1/responses", json={"input": "hi", "previous_response_id": previous})
            previous = answered.json()["id"]
        refused = await client.post("/v1/responses", json={"input": "hi", "previous_response_id": previous})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "chain_too_long")


@pytest.mark.parametrize(("path", "body"), [("/v1/responses", {"input": "hi"}), ("/v1/chat/completions", CHAT)])
async def test_a_key(serving: Serving, path: str, body: Json) -> None:
    """The same body attaches, streamed or not; another one is refused; an empty key is none; ids cannot be guessed."""
    manager = GenerationManager(options=Options(**OPTIONS))
    async with serving(create_app(manager, run=hello)) as client:
        key = {"idempotency-key": "k"}
        first = await client.post(path, json=body, headers=key)
        again = await client.post(path, json={**body, "stream": True}, headers=key)
        assert first.headers["x-unspool-stream"] == again.headers["x-unspool-stream"]
        refused = await client.post(path, json={**body, "temperature": 0.1}, headers=key)
        assert (refused.status_code, error_of(refused)["code"]) == (409, "idempotency_key_reused")
        assert refused.headers["x-should-retry"] == "false"
        none = [await client.post(path, json=body, headers={"idempotency-key": ""}) for _ in range(2)]
        ids = {answer.headers["x-unspool-stream"] for answer in none}
        assert len(ids) == 2
        assert min(map(len, ids)) > 40
        assert len(await manager.jobs()) == 3


async def test_a_response_that_failed(serving: Serving) -> None:
    """It is one with a status, for who waited and for who cancels; as a chat completion it is an error."""

    async def fail(gen: Generation, request: StartRequest) -> None:
        raise RunFailed("Too long.", code="context_length")

    async with serving(create_app(GenerationManager(options=Options(**OPTIONS)), run=fail)) as client:
        failed = (await client.post("/v1/responses", json={"input": "hi"})).json()
        assert (failed["status"], failed["error"]["code"]) == ("failed", "context_length")
        assert (await client.post(f"/v1/responses/{failed['id']}/cancel")).json() == failed
        refused = await client.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (400, "false")
        assert error_of(refused) == {
            "message": "Too long.", "type": "invalid_request_error", "param": None, "code": "context_length",
        }  # fmt: skip


@pytest.mark.parametrize(("path", "body"), [("/v1/responses", {"input": "hi"}), ("/v1/chat/completions", CHAT)])
async def test_who_waits_and_leaves(serving: Serving, path: str, body: Json) -> None:
    """Nothing here waits on for nobody, and the answer goes on."""
    manager = GenerationManager(options=Options(**OPTIONS))
    async with serving(create_app(manager, run=endless)) as client:
        waiting = asyncio.ensure_future(client.post(path, json=body))
        while not manager.replica.viewers:
            await asyncio.sleep(0.01)
        waiting.cancel()
        while manager.replica.viewers:
            await asyncio.sleep(0.01)
        [job] = await manager.jobs()
        assert not job.settled
