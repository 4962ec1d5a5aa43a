"""AG-UI and CopilotKit's runtime routes, with `@ag-ui/client` 1.0 and `@copilotkit/core`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ag_ui_validate.pytest_plugin import assert_valid_agui, validate_agui_endpoint

from tests.conftest import Serving
from tests.interop.dialects.world import CUTS, QUESTION, RESULT, THOUGHT, TOOL, World, world
from tests.interop.programs import node
from tests.unit.http.ag_ui_client import Client, Json, events_of

Tell = Callable[[str], None]
LATER = ("connect", "again")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def text_of(messages: list[Json], role: str = "assistant") -> str:
    return "".join(message.get("content") or "" for message in messages if message["role"] == role)


def check_messages(messages: list[Json], made: World) -> None:
    """All that the run has done, once and in order."""
    assert [one["role"] for one in messages] == ["user", "reasoning", "assistant", "tool", "assistant"]
    assert messages[0]["content"] == QUESTION
    assert messages[1]["content"].strip() == THOUGHT
    (call,) = messages[2]["toolCalls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("level", TOOL)
    assert json.loads(messages[3]["content"]) == RESULT
    assert text_of(messages) == made.text


async def followed(made: World, viewers: int) -> None:
    """Until the run has said something, and so many follow it."""
    while not made.text or sum(len(manager.replica.viewers) for manager in made.managers) < viewers:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["keeps", "repeats", "reloads", "old"])
async def test_a_client_that_is_cut_off_again_and_again(
    serving: Serving, stores: Collection[str], modules: Path, how: str, tell: Tell
) -> None:
    """Exactly what was said, whether the page has kept what it was sent or not; the end is told by version."""
    async with world(serving, stores, dialects=["ag-ui"], carried=(300, 12_000)) as made:
        got = await node(modules / "ag_ui.mjs", made.url, "thread 1", how)
        assert made.proxy.cuts >= CUTS
        assert got["connections"] > CUTS
        check_messages(got["messages"], made)
        assert got["end"]["runId"] == "run-thread 1"
        assert len(made.requests) == 1
        counts = f"{made.proxy.cuts} cuts, {got['connections']} connections, {len(made.text)} characters"
        tell(f"@ag-ui/client that {how}: {counts}")
        usage = {"provider": "openai", "model": "m", "inputTokens": 11, "reasoningTokens": 2}
        if how == "old":
            assert not {"outcome", "usage"} & got["end"].keys()
        else:
            assert got["end"]["outcome"] == {"type": "success"}
            assert usage.items() <= got["end"]["usage"][0].items()


async def test_the_sample_of_the_page(serving: Serving, stores: Collection[str], modules: Path, tmp_path: Path) -> None:
    """The program in docs/dialects/ag-ui.md does what the page says, also where it is cut off."""
    page = (Path(__file__).parents[3] / "docs/dialects/ag-ui.md").read_text()
    (sample,) = re.findall(r"^~~~js\n(.*?)^~~~$", page, re.MULTILINE | re.DOTALL)
    async with world(serving, stores, cuts=3, least=50, dialects=["ag-ui"]) as made:
        text = sample.replace("http://127.0.0.1:8000", made.url).replace("500)", "5)")
        (tmp_path / "sample.mjs").write_text(text)
        (tmp_path / "node_modules").symlink_to(modules / "node_modules")
        assert await node(tmp_path / "sample.mjs") is True
        assert len(made.requests) == 1


async def test_whole_streams_are_valid(serving: Serving, stores: Collection[str]) -> None:
    """The run itself, who comes to it in the middle, and who comes after its end."""
    async with (
        world(serving, stores, cuts=0, dialects=["ag-ui"]) as made,
        httpx2.AsyncClient(base_url=made.url, timeout=60) as client,
    ):
        made.held.clear()
        message = {"id": "u1", "role": "user", "content": QUESTION}
        asked: Json = {"threadId": "t", "runId": "r", "messages": [message], "protocolVersion": "1.0"}
        run = asyncio.create_task(client.post("/ag-ui", json=asked))
        await followed(made, 1)
        middle = asyncio.create_task(client.post("/ag-ui/connect", json=asked))
        same = asyncio.create_task(client.post("/ag-ui", json=asked))
        await followed(made, 3)
        made.held.set()
        streams = [events_of((await one).content) for one in (run, middle, same)]
        streams.append(events_of((await client.post("/ag-ui/connect", json=asked)).content))
        assert len(made.requests) == 1
        for events in streams:
            assert_valid_agui(events, max_warnings=0)
            check_messages(Client([message]).feed(events).messages, made)
        for events in streams[1:]:
            check_messages(Client().feed(events).messages, made)


async def test_a_live_endpoint_is_valid(serving: Serving, stores: Collection[str]) -> None:
    """The validator asks itself, and looks at the framing, too."""
    async with world(serving, stores, cuts=0, least=50, dialects=["ag-ui"]) as made:
        report = await validate_agui_endpoint(f"{made.url}/ag-ui")
        assert (report.summary.errors, report.summary.warnings) == (0, 0), report.diagnostics
        assert len(made.requests) == 1


@pytest.mark.parametrize("transport", ["auto", "single"])
async def test_copilotkit(serving: Serving, stores: Collection[str], modules: Path, transport: str) -> None:
    """A run, a second page in the middle of it, pages after its end, and a thread that there is not yet."""
    async with world(serving, stores, cuts=0, dialects=["ag-ui"]) as made:
        made.held.clear()
        run = asyncio.create_task(node(modules / "copilotkit.mjs", made.url, "t 1/x", "run", transport))
        await followed(made, 1)
        second = asyncio.create_task(node(modules / "copilotkit.mjs", made.url, "t 1/x", "connect", transport))
        await followed(made, 2)
        made.held.set()
        first = await run
        later = [await node(modules / "copilotkit.mjs", made.url, "t 1/x", what, transport) for what in LATER]
        for page in (first, await second, *later):
            check_messages(page["messages"], made)
            assert page["messages"] == first["messages"]
        assert first["agents"] == ["default"]
        empty = await node(modules / "copilotkit.mjs", made.url, "never", "connect", transport)
        assert (empty["messages"], empty["events"]) == ([], [])


@pytest.mark.parametrize("transport", ["auto", "single"])
async def test_copilotkit_stops(serving: Serving, stores: Collection[str], modules: Path, transport: str) -> None:
    """abortRun stops the run on the server; page and log end with the same partial answer."""
    async with world(serving, stores, cuts=0, dialects=["ag-ui"], least=10_000) as made:
        page = await node(modules / "copilotkit.mjs", made.url, "t", "stop", transport)
        job = await made.managers[0].job("t")
        assert job.status == "aborted"
        assert page["events"][-1]["type"] == "RUN_FINISHED"
        assert "outcome" not in page["events"][-1]
        said = text_of(page["messages"])
        assert said
        assert made.text.startswith(said)
        assert said == (await made.managers[-1].snapshot("t")).text
        assert_valid_agui(page["events"])


async def test_copilotkit_replays_two_turns(serving: Serving, stores: Collection[str], modules: Path) -> None:
    """Every kept run of the thread, complete and in order."""
    async with world(serving, stores, cuts=0, least=20, plain=True, dialects=["ag-ui"]) as made:
        texts: list[str] = []
        messages: list[Json] = []
        async with httpx2.AsyncClient(base_url=made.url, timeout=60) as client:
            for number in (1, 2, 3):
                messages.append({"id": f"u{number}", "role": "user", "content": QUESTION})
                asked: dict[str, Any] = {"threadId": "t", "runId": f"r{number}", "messages": messages}
                answer = await client.post("/copilotkit/agent/default/run", json=asked)
                messages = Client(messages).feed(events_of(answer.content)).messages
                texts.append(made.text)
        page = await node(modules / "copilotkit.mjs", made.url, "t", "connect")
        assert page["messages"] == messages
        assert [one["content"] for one in page["messages"] if one["role"] == "assistant"] == texts
        assert [one["runId"] for one in page["events"] if one["type"] == "RUN_STARTED"] == ["r1", "r2", "r3"]
        assert_valid_agui(page["events"])
