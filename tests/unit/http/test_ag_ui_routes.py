"""The routes of AG-UI and of CopilotKit's runtime: run, come back, stop; whose a thread is; what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from tests.conftest import Serving
from tests.unit.http.ag_ui_client import HISTORY, Client, Json, check, events_of
from unspool import Generation, GenerationManager, Options
from unspool.http import StartRequest, create_app


async def test_a_thread_whose_beginning_was_trimmed(serving: Serving) -> None:
    """The checkpoint has what is needed, for clients of either version."""

    async def run(gen: Generation, _: StartRequest) -> None:
        for number in range(200):
            await gen.text(f"{number} ", part_id=str(number // 50))
            await gen.snapshot()  # a record of its own

    manager = GenerationManager(options=Options(window=8, log_records=60, checkpoint_every=20))
    async with serving(create_app(manager, run=run, dialects=["ag-ui"])) as client:
        page = Client(HISTORY).feed(await post(client, "/ag-ui", body("r1")))
        assert (await manager.job("t 1/x")).first_offset > 60
        for more in ({}, {"protocolVersion": "1.0"}):
            events = await post(client, "/ag-ui/connect", body("c", **more))
            check(events)
            assert Client().feed(events).messages == page.messages
        assert page.text == "".join(f"{number} " for number in range(200))


def who(request: HTTPConnection) -> str | None:
    return request.headers.get("x-user", "ann")


def body(run_id: str, *messages: Json, thread: str = "t 1/x", **more: Any) -> Json:
    return {"threadId": thread, "runId": run_id, "messages": [*HISTORY, *messages], **more}


async def post(client: httpx2.AsyncClient, path: str, content: Json, user: str = "ann") -> list[Json]:
    answer = await client.post(path, json=content, headers={"x-user": user})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.content)


class Talk:
    """A run that says what it is told to, and waits in the middle for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.requests: list[StartRequest] = []

    async def run(self, gen: Generation, request: StartRequest) -> None:
        self.requests.append(request)
        await gen.text("one ")
        await gen.snapshot()
        self.begun.set()
        await self.go.wait()
        await gen.text("two")


@pytest.fixture
def talk() -> Talk:
    return Talk()


def app(talk: Talk) -> Any:
    manager = GenerationManager(options=Options(sweep=0.02, poll=0.02, abort_grace=10.0))
    return create_app(manager, run=talk.run, dialects=["ag-ui"], authenticate=who)


async def followed(served: Any, viewers: int) -> None:
    """Until so many follow."""
    while len(served.state.manager.replica.viewers) < viewers:
        await asyncio.sleep(0)


async def test_a_run_and_who_comes_back_to_it(serving: Serving, talk: Talk) -> None:
    """The same runId is the same run; parameters reach the application; another's thread does not exist."""
    served = app(talk)
    async with serving(served) as client:
        asked = body("r1", protocolVersion="1.0", tools=[{"name": "f"}], forwardedProps={"model": "m"}, state={"a": 1})
        first = asyncio.create_task(post(client, "/ag-ui", asked))
        await talk.begun.wait()
        again = asyncio.create_task(post(client, "/ag-ui", asked))
        connected = asyncio.create_task(post(client, "/ag-ui/connect", {"threadId": "t 1/x"}))
        for path, content in (("/ag-ui/connect", {"threadId": "t 1/x"}), ("/ag-ui/stop", {"threadId": "t 1/x"})):
            refused = await client.post(path, json=content, headers={"x-user": "eve"})
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        await followed(served, 3)
        talk.go.set()
        straight = await first
        for events in (straight, await again, await connected, await post(client, "/ag-ui", asked)):
            check(events)
            assert Client(HISTORY).feed(events).text == "one two"
        assert Client().feed(await connected).messages == Client(HISTORY).feed(straight).messages
        assert straight[-1]["outcome"] == {"type": "success"}
        assert "outcome" not in (await connected)[-1]
        (request,) = talk.requests
        assert (request.stream_id, request.model, request.dialect) == ("t 1/x", "m", "ag-ui")
        assert request.messages == [{"role": "user", "content": "Hello"}]
        assert request.parameters["tools"] == [{"name": "f"}]
        assert request.parameters["state"] == {"a": 1}


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({"messages": []}, 422, "threadId"),
        ({"threadId": "t", "runId": "r", "messages": [{"role": "wizard"}]}, 422, "messages[0]"),
        ({"threadId": "t", "messages": [{"role": "user", "content": [{"type": "image"}]}]}, 422, "messages[0]"),
        ({"threadId": "t", "messages": [{"role": "user", "content": 7}]}, 422, "messages[0]"),
        ({"threadId": "", "messages": []}, 422, "stream_id"),
        ({"threadId": "t", "runId": "ü", "messages": []}, 422, "request_id"),
    ],
)
async def test_what_cannot_be_run_is_refused(
    serving: Serving, talk: Talk, content: Json, status: int, said: str
) -> None:
    """By the name of the field; nothing is started."""
    async with serving(app(talk)) as client:
        for path in ("/ag-ui", "/copilotkit/agent/default/run"):
            answer = await client.post(path, json=content)
            assert (answer.status_code, said in answer.text) == (status, True), answer.text
        answer = await client.post("/copilotkit", json={"method": "agent/run", "body": content})
        assert answer.status_code == status
    assert talk.requests == []


async def test_a_generation_that_was_started_in_another_way(serving: Serving) -> None:
    """It is a run like any other: named after its generation, with the user's message as the application told it."""

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.emit("created", {"user_message": {"id": "m1", "text": request.messages[-1]["content"]}})
        await gen.text("one")

    async with serving(create_app(GenerationManager(), run=run, dialects=["ag-ui"])) as client:
        answer = await client.post("/v1/streams/t/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        assert answer.status_code == 201
        live = await post(client, "/ag-ui/connect", {"threadId": "t"})
        after = await post(client, "/ag-ui/connect", {"threadId": "t"})
        for events in (live, after):
            check(events)
            assert events[0]["runId"] == "t/1"
            assert events[-1]["type"] == "RUN_FINISHED"
        messages = Client().feed(after).messages
        assert [(one["id"], one["role"], one["content"]) for one in messages] == [
            ("m1", "user", "hi"),
            ("t/1/1", "assistant", "one"),
        ]


async def test_one_who_comes_before_anything_was_said(serving: Serving) -> None:
    """Is told the messages as soon as there are any, in the words of its version."""
    go = asyncio.Event()

    async def run(gen: Generation, request: StartRequest) -> None:
        await go.wait()
        await gen.emit("created", {"user_message": {"id": "m1", "text": request.messages[-1]["content"]}})
        await gen.text("one")

    served = create_app(GenerationManager(), run=run, dialects=["ag-ui"])
    async with serving(served) as client:
        await client.post("/v1/streams/t/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        asked: list[Json] = [{"threadId": "t"}, {"threadId": "t", "protocolVersion": "1.0"}]
        pages = [asyncio.create_task(post(client, "/ag-ui/connect", one)) for one in asked]
        await followed(served, 2)
        go.set()
        for page, version in zip(pages, (None, "1.0"), strict=True):
            events = await page
            check(events)
            assert [one["type"] for one in events[:2]] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
            assert events[0].get("protocolVersion") == version


async def test_stop_is_answered_after_the_seal_and_means_one_run(serving: Serving, talk: Talk) -> None:
    """A Stop for another run stops nothing; a second Stop says the same as the first left behind."""
    async with serving(app(talk)) as client:
        first = asyncio.create_task(post(client, "/ag-ui", body("r1", protocolVersion="1.0")))
        await talk.begun.wait()
        answer = await client.post("/ag-ui/stop", json={"threadId": "t 1/x", "runId": "r0"})
        assert answer.json() == {"stopped": False, "threadId": "t 1/x", "runId": "r1", "status": "running"}
        answer = await client.post("/ag-ui/stop", json={"threadId": "t 1/x", "runId": "r1"})
        assert answer.json() == {"stopped": True, "threadId": "t 1/x", "runId": "r1", "status": "aborted"}
        answer = await client.post("/ag-ui/stop", json={"threadId": "t 1/x"})
        assert answer.json() == {"stopped": False, "threadId": "t 1/x", "runId": "r1", "status": "aborted"}
        events = await first
        check(events)
        assert events[-1]["outcome"] == {"type": "cancelled"}


async def test_copilotkit_replays_a_whole_thread(serving: Serving, talk: Talk) -> None:
    """Every kept run, in order, then the live one; the same through the single route; nothing of another's."""
    served = app(talk)
    async with serving(served) as client:
        info = (await client.get("/copilotkit/info")).json()
        assert info["mode"] == "sse"
        assert info["agents"]["default"]["capabilities"]["transport"]["resumable"] is True
        assert (await client.post("/copilotkit", json={"method": "info"})).json() == info
        empty = await client.post("/copilotkit/agent/default/connect", json=body("c"))
        assert (empty.status_code, events_of(empty.content)) == (200, [])
        assert empty.content
        talk.go.set()
        page = Client(HISTORY).feed(await post(client, "/copilotkit/agent/default/run", body("r1")))
        talk.go.clear()
        talk.begun.clear()
        page.messages.append({"id": "u2", "role": "user", "content": "And?"})
        asked = body("r2")
        asked["messages"] = page.messages
        envelope = {"method": "agent/run", "params": {"agentId": "other"}, "body": asked}
        second = asyncio.create_task(post(client, "/copilotkit", envelope))
        await talk.begun.wait()
        connected = asyncio.create_task(post(client, "/copilotkit/agent/default/connect", body("c")))
        single = asyncio.create_task(post(client, "/copilotkit", {"method": "agent/connect", "body": body("c")}))
        assert await post(client, "/copilotkit/agent/default/connect", body("c"), user="eve") == []
        path = "/copilotkit/agent/default/stop/t%201%2Fx"
        eve = await client.post(path, headers={"x-user": "eve"})
        assert eve.json() == {"stopped": False, "threadId": "t 1/x"}
        await followed(served, 3)
        talk.go.set()
        page.feed(await second)
        for events in (
            await connected,
            await single,
            await post(client, "/copilotkit/agent/default/connect", body("c")),
        ):
            check(events)
            assert [one["runId"] for one in events if one["type"] == "RUN_STARTED"] == ["r1", "r2"]
            assert Client().feed(events).messages == page.messages
            assert Client(page.messages).feed(events).messages == page.messages
        assert page.text == "one twoone two"
        assert talk.requests[1].parameters["agent"] == "other"
        assert (await client.post(path)).json()["stopped"] is False
        bad = await client.post("/copilotkit", json={"method": "agent/eat"})
        assert bad.status_code == 400
