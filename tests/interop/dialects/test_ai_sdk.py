"""The AI SDK's UI message stream, with the SDK itself."""

from __future__ import annotations

import json
from collections.abc import Collection

import httpx2

from tests.conftest import Serving
from tests.interop.dialects.world import QUESTION, RESULT, THOUGHT, TOOL, world


def parts_of(body: str) -> list[dict[str, object]]:
    blocks = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]
    assert blocks[-1] == "[DONE]"
    return [json.loads(block) for block in blocks[:-1]]


async def test_every_part_index_continues_exactly(serving: Serving, stores: Collection[str]) -> None:
    """A POST streams all; `startIndex` n gives what comes after n parts, from either replica."""
    async with (
        world(serving, stores, cuts=0, least=30, dialects=["ai-sdk"]) as made,
        httpx2.AsyncClient(base_url=made.url, timeout=20) as client,
    ):
        message = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": QUESTION}]}
        answer = await client.post(
            "/api/chat", json={"id": "c 1/x", "messages": [message], "trigger": "submit-message"}
        )
        assert answer.status_code == 200
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        parts = parts_of(answer.text)
        assert (parts[0]["type"], parts[-1]["type"]) == ("start", "finish")
        said = "".join(str(part["delta"]) for part in parts if part["type"] == "text-delta")
        thought = "".join(str(part["delta"]) for part in parts if part["type"] == "reasoning-delta")
        assert (said, thought.strip()) == (made.text, THOUGHT)
        tool = next(part for part in parts if part["type"] == "tool-input-available")
        assert (tool["toolName"], tool["input"]) == ("level", TOOL)
        assert next(part for part in parts if part["type"] == "tool-output-available")["output"] == RESULT
        assert made.requests[0].messages == [{"role": "user", "content": QUESTION}]
        run = answer.headers["x-workflow-run-id"]
        for index in range(len(parts) + 1):
            again = await client.get(f"/api/chat/{run.replace('/', '%2F')}/stream", params={"startIndex": str(index)})
            assert parts_of(again.text) == parts[index:] if index < len(parts) else again.status_code == 200
        tail = await client.get(f"/api/chat/{run.replace('/', '%2F')}/stream", params={"startIndex": "-3"})
        assert parts_of(tail.text) == parts[-3:]
        assert tail.headers["x-workflow-stream-tail-index"] == str(len(parts) - 1)
