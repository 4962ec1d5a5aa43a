"""LibreChat's wire, as its client uses it: start, follow, come back with `resume=true`, status, active, abort."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any

import httpx2

from tests.conftest import Serving
from tests.interop.dialects.world import CUTS, QUESTION, RESULT, THOUGHT, TOOL, world
from unspool.sse import Decoder

BASE = "/api/agents/chat"
Json = dict[str, Any]


class Reader:
    """What LibreChat's client makes of the frames: content by run step, replaced as a whole by a sync."""

    def __init__(self) -> None:
        self.content: list[Json] = []
        self.steps: dict[str, int] = {}
        self.asked: Json | None = None
        self.final: Json | None = None
        self.error: Json | None = None
        self.syncs = 0

    def take(self, kind: str, frame: Json) -> None:
        if kind == "error":
            self.error = frame
        elif frame.get("final"):
            self.final = frame
        elif frame.get("created"):
            self.asked = frame["message"]
        elif frame.get("sync"):
            self.syncs += 1
            state = frame["resumeState"]
            self.asked = state["userMessage"]
            self.content = state["aggregatedContent"]
            self.steps = {step["id"]: step["index"] for step in state["runSteps"]}
        else:
            self._step(frame["event"], frame["data"])

    def _step(self, event: str, data: Json) -> None:
        match event:
            case "on_run_step":
                self.steps[data["id"]] = data["index"]
                assert data["index"] <= len(self.content)
                calls = data["stepDetails"].get("tool_calls")
                part = {"type": "tool_call", "tool_call": dict(calls[0])} if calls else {}
                self.content[data["index"] :] = [part, *self.content[data["index"] + 1 :]]
            case "on_message_delta" | "on_reasoning_delta":
                part = self.content[self.steps[data["id"]]]
                delta = data["delta"]["content"][0]
                part["type"] = delta["type"]
                part[delta["type"]] = part.get(delta["type"], "") + delta[delta["type"]]
            case "on_run_step_delta":
                self.content[self.steps[data["id"]]]["tool_call"]["args"] += data["delta"]["tool_calls"][0]["args"]
            case "on_run_step_completed":
                result = data["result"]
                self.content[result["index"]]["tool_call"] = result["tool_call"]
            case _:
                pass

    async def follow(self, client: httpx2.AsyncClient, stream_id: str, *, resume: bool) -> bool:
        """One connection; True when it brought the end."""
        query = {"resume": "true"} if resume else {}
        decoder = Decoder()
        try:
            async with client.stream("GET", f"{BASE}/stream/{stream_id}", params=query) as answer:
                assert answer.status_code == 200, await answer.aread()
                async for chunk in answer.aiter_raw():
                    for message in decoder.feed(chunk):
                        self.take(message.event, json.loads(message.data))
        except httpx2.TransportError:
            pass
        return self.final is not None or self.error is not None


async def start(client: httpx2.AsyncClient, message_id: str = "m1", **more: Any) -> Json:
    body = {"text": QUESTION, "messageId": message_id, "parentMessageId": "p0", "conversationId": None, **more}
    for _ in range(5):
        try:
            answer = await client.post(f"{BASE}/agents", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()
        except httpx2.TransportError:
            continue
    raise AssertionError("not started")


async def test_every_reload_shows_what_there_is_and_goes_on(serving: Serving, stores: Collection[str]) -> None:
    """Through cuts, each time with a sync of the content so far: at the end the content is exact."""
    async with (
        world(serving, stores, dialects=["librechat"]) as made,
        httpx2.AsyncClient(base_url=made.url, timeout=60) as client,
    ):
        begun = await start(client, conversationId="conv-7")
        assert begun == {"streamId": "conv-7", "conversationId": "conv-7", "status": "started"}
        assert (await start(client, conversationId="conv-7"))["status"] == "resumed"
        reader = Reader()
        ended = await reader.follow(client, "conv-7", resume=False)
        while not ended:
            ended = await reader.follow(client, "conv-7", resume=True)
        assert made.proxy.cuts >= CUTS
        thought, tool, text = reader.content
        assert thought["think"].strip() == THOUGHT
        assert (tool["tool_call"]["name"], json.loads(tool["tool_call"]["args"])) == ("level", TOOL)
        assert json.loads(tool["tool_call"]["output"]) == RESULT
        assert text["text"] == made.text
        assert reader.final is not None
        assert reader.final["responseMessage"]["content"] == reader.content
        assert reader.final["responseMessage"]["text"] == made.text
        assert reader.final["requestMessage"] == reader.asked
        assert reader.asked is not None
        assert (reader.asked["messageId"], reader.asked["text"]) == ("m1", QUESTION)
        assert made.requests[0].parameters["parentMessageId"] == "p0"


async def test_status_active_and_abort(serving: Serving, stores: Collection[str]) -> None:
    """Found while it runs, stopped by its abort key from any replica; the final frame has the partial answer."""
    async with (
        world(serving, stores, cuts=0, dialects=["librechat"]) as made,
        httpx2.AsyncClient(base_url=made.url, timeout=60) as client,
    ):
        made.held.clear()
        stream_id = (await start(client))["streamId"]
        reader = Reader()
        following = asyncio.ensure_future(reader.follow(client, stream_id, resume=False))
        while len(reader.content) < 3 or len(reader.content[2].get("text", "")) < 40:
            await asyncio.sleep(0.01)
        state = (await client.get(f"{BASE}/status/{stream_id}")).json()
        assert (state["active"], state["status"], state["streamId"]) == (True, "running", stream_id)
        assert state["aggregatedContent"][:2] == reader.content[:2]
        assert (await client.get(f"{BASE}/active")).json() == {"activeJobIds": [stream_id]}
        answer = await client.post(f"{BASE}/abort", json={"abortKey": f"{stream_id}:m1_"})
        assert answer.json() == {"success": True, "aborted": stream_id}
        await following
        assert reader.final is not None
        assert (reader.final["aborted"], reader.final["earlyAbort"]) == (True, False)
        assert reader.final["responseMessage"]["unfinished"] is True
        assert reader.final["responseMessage"]["content"] == reader.content
        assert reader.content[2]["text"] == made.text
        assert (await client.get(f"{BASE}/active")).json() == {"activeJobIds": []}
        late = Reader()
        assert await late.follow(client, stream_id, resume=True)
        assert (late.syncs, late.content, late.final) == (1, reader.content, reader.final)
        assert (await client.get(f"{BASE}/status/{stream_id}")).json()["active"] is False


async def test_what_is_not_there_is_said(serving: Serving) -> None:
    """404 as JSON for streams and aborts, `active: false` for a status, a sentence for a body without a stream."""
    async with (
        world(serving, cuts=0, dialects=["librechat"]) as made,
        httpx2.AsyncClient(base_url=made.url, timeout=60) as client,
    ):
        missing = await client.get(f"{BASE}/stream/nowhere")
        assert (missing.status_code, missing.json()["error"]) == (404, "Stream not found")
        aborted = await client.post(f"{BASE}/abort", json={"conversationId": "nowhere"})
        assert (aborted.status_code, aborted.json()) == (404, {"error": "Job not found", "streamId": "nowhere"})
        assert (await client.get(f"{BASE}/status/nowhere")).json() == {"active": False}
        unnamed = await client.post(f"{BASE}/abort", json={})
        assert (unnamed.status_code, "streamId" in unnamed.json()["error"]) == (400, True)
