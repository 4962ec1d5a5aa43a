"""What the routes of all dialects share, tried with one of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Serving
from unspool import Generation, GenerationManager, Options
from unspool.errors import ConfigurationError
from unspool.http import StartRequest, create_app

BASE = "/api/agents/chat"


async def long_answer(gen: Generation, _: StartRequest) -> None:
    for number in range(200):
        await gen.text(f"{number} ", part_id=str(number))
        if number % 10 == 0:
            await gen.snapshot()  # waits for the store, so that checkpoints come in between


async def test_positions_outlast_trimming_in_the_dialect_that_a_run_was_started_in(serving: Serving) -> None:
    """Nobody follows while it runs. Later positions go on, the beginning is refused; in another dialect all is."""
    manager = GenerationManager(options=Options(window=8, log_records=60, checkpoint_every=20))
    async with serving(create_app(manager, run=long_answer)) as client:
        await client.post(BASE, json={"text": "?", "messageId": "m", "conversationId": "c"})
        while not (job := await manager.job("c")).settled:
            await asyncio.sleep(0.01)
        assert job.first_offset > 60
        state = (await client.get(f"{BASE}/status/c")).json()
        assert "".join(part["text"] for part in state["aggregatedContent"]) == "".join(f"{n} " for n in range(200))
        last = await client.get(f"{BASE}/stream/c", headers={"last-event-id": f"{job.stamp}-380"})
        assert last.status_code == 200
        assert last.text.split("id: ")[1].startswith(f"{job.stamp}-381\n")
        assert '"final":true' in last.text
        first = await client.get(f"{BASE}/stream/c")
        assert (first.status_code, first.json()["code"]) == (410, "gone")
        assert (await client.get("/api/chat/c/stream")).status_code == 410


async def test_a_head_is_answered_at_once(serving: Serving) -> None:
    """Also where the stream itself would go on for long."""
    ending = asyncio.Event()

    async def run(gen: Generation, _: StartRequest) -> None:
        await gen.text("a")
        await ending.wait()

    manager = GenerationManager()
    async with serving(create_app(manager, run=run)) as client:
        await client.post(BASE, json={"text": "?", "messageId": "m", "conversationId": "c"})
        head = await client.head(f"{BASE}/stream/c")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert manager.statistics()["viewers"] == 0
        ending.set()


def test_dialects_are_picked_by_name() -> None:
    """None but the native one, or those that are named; a wrong name is answered with the right ones."""
    manager: Any = GenerationManager()
    paths = {getattr(route, "path", "") for route in create_app(manager, run=long_answer, dialects=[]).routes}
    assert "/v1/streams" in paths
    assert "/api/chat" not in paths
    picked = {getattr(route, "path", "") for route in create_app(manager, run=long_answer, dialects=["ai-sdk"]).routes}
    assert "/api/chat" in picked
    assert BASE not in picked
    with pytest.raises(ConfigurationError, match=r"no dialect is called 'ai'; known are .*ai-sdk"):
        create_app(manager, run=long_answer, dialects=["ai"])
