"""The AI SDK's UI message stream, with the SDK itself."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Serving
from tests.interop.dialects.world import CUTS, QUESTION, RESULT, THOUGHT, TOOL, World, world
from tests.interop.nginx import fronting
from tests.interop.programs import node
from tests.interop.test_nginx import BUFFERED, UNBUFFERED
from tests.unit.http.test_ai_sdk import _events, _terminals, frames_of
from tests.unit.http.ui_message_checker import parts_of as unit_parts_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Tell = Callable[[str], None]
Json = dict[str, Any]

EXAMPLE = Path(__file__).parents[3] / "examples/ai_sdk"
CHAT = "chat 7/é?".encode().hex()
WHOLE = (900, 5000)
"""Bytes before a cut, where a client does not come back when the head of an answer was cut."""


def parts_of(body: str) -> list[dict[str, object]]:
    blocks = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]
    assert blocks[-1] == "[DONE]"
    return [json.loads(block) for block in blocks[:-1]]


async def test_every_part_index_continues_exactly(serving: Serving, stores: Collection[str]) -> None:
    """A POST streams all; `startIndex` n gives what comes after n parts, from either replica."""
    async with (
        world(serving, stores, cuts=0, least=30, dialects=["ai-sdk"]) as made,
        httpx2.AsyncClient(base_url=made.url, timeout=60) as client,
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


async def test_any_log_is_taken(modules: Path, tell: Tell) -> None:
    """Random logs of every event there is: the SDK's schema takes each part, and its clients have the text and end."""
    logs: list[tuple[list[Any], Any]] = []

    @settings(max_examples=400, derandomize=True)
    @given(log=st.lists(_events, max_size=25), end=_terminals)
    def collect(log: Any, end: Any) -> None:
        logs.append((log, end))

    collect()
    streams = [unit_parts_of(b"".join(frames_of([*log, end]))) for log, end in logs]
    results = await node(modules / "ai_sdk_parts.mjs", read=streams)
    for (log, end), result in zip(logs, results, strict=True):
        assert result["invalid"] == []
        text = "".join(data["text"] for kind, data in log if kind == "text.delta")
        thought = "".join(data["text"] for kind, data in log if kind == "reasoning.delta")
        # Parallel agents speak into parts of their own, which stand in the order in which they began.
        several = len({data.get("agent") for kind, data in log if kind in ("text.delta", "reasoning.delta")}) > 1
        for way in ("answer", "replay", "workflow"):
            got = result[way]
            if several:
                assert (sorted(got["text"]), sorted(got["thought"])) == (sorted(text), sorted(thought)), (way, log)
            else:
                assert (got["text"], got["thought"]) == (text, thought), (way, log)
            if end[0] == "failed":
                assert (got["status"], got["error"]) == ("error", end[1]["message"] or "The answer failed.")
            else:
                assert (got["status"], got.get("error")) == ("ready", None), (way, log, got)
                assert got["ended"] == end[0]
    tell(f"the SDK's schema and processor: {sum(map(len, streams))} parts of {len(streams)} random logs taken")


def whole(made: World, got: Json, *, ended: str = "completed") -> None:
    """A client has the answer, all of it, once, and knows that it ended."""
    assert (got["metadata"]["ended"], got["status"], got["count"], got["role"]) == (ended, "ready", 2, "assistant")
    parts: list[Json] = got["parts"]
    assert "".join(part["text"] for part in parts if part["type"] == "text") == made.text
    assert "".join(part["text"] for part in parts if part["type"] == "reasoning").strip() == THOUGHT
    tools = [part for part in parts if part["type"].startswith("tool-")]
    assert [(one["type"], one["state"], one["input"], one["output"]) for one in tools] == [
        ("tool-level", "output-available", TOOL, RESULT)
    ]
    assert [part["url"] for part in parts if part["type"] == "source-url"] == ["https://example.org/river"]
    assert all(part.get("state") in {None, "done", "output-available"} for part in parts)
    if ended == "completed":
        assert got["reason"] == "stop"
        assert got["metadata"]["usage"]["inputTokens"] == 11
    assert len(made.requests) == 1, "a turn that was sent again is one"


def told(tell: Tell, made: World, client: str, more: str) -> None:
    assert made.proxy.cuts >= made.cuts
    tell(f"{client}: {made.proxy.cuts} cuts, {len(made.text)} characters exact, {more}")


@pytest.mark.parametrize("transport", ["default", "websocket"])
async def test_chat_through_cuts(
    serving: Serving, stores: Collection[str], modules: Path, transport: str, tell: Tell
) -> None:
    """`Chat`, which gets everything anew at each resume."""
    async with world(serving, stores) as made:
        (got,) = await node(modules / "ai_sdk_chat.mjs", "cuts", transport, made.url, CHAT, QUESTION)
        whole(made, got)
        assert got["resumes"] >= CUTS - 1
        told(tell, made, f"Chat, {transport} transport", f"{got['resumes']} resumes")


@pytest.mark.parametrize("transport", ["default", "websocket"])
async def test_two_tabs(serving: Serving, stores: Collection[str], modules: Path, transport: str, tell: Tell) -> None:
    """Both have the whole answer; one has only ever followed."""
    async with world(serving, stores, seed=8) as made:
        tabs = await node(modules / "ai_sdk_chat.mjs", "tabs", transport, made.url, CHAT, QUESTION)
        for got in tabs:
            whole(made, got)
        told(tell, made, f"two tabs, {transport} transport", f"{[got['resumes'] for got in tabs]} resumes")


@pytest.mark.parametrize("transport", ["default", "websocket"])
async def test_stop(serving: Serving, stores: Collection[str], modules: Path, transport: str) -> None:
    """The route stops it, and over a WebSocket `stop()` does: what was said until then is what the client has."""
    async with world(serving, stores, cuts=0) as made:
        made.held.clear()
        (got,) = await node(modules / "ai_sdk_chat.mjs", "stop", transport, made.url, CHAT, QUESTION)
        whole(made, got, ended="aborted")
        assert made.text != ""
        job = await made.managers[-1].job(CHAT)
        assert job.status == "aborted"


async def test_workflow_transport_through_cuts(
    serving: Serving, stores: Collection[str], modules: Path, tell: Tell
) -> None:
    """One `sendMessage`: the transport comes back by itself, and has every chunk once."""
    async with (
        world(serving, stores, carried=WHOLE) as made,
        httpx2.AsyncClient(base_url=made.direct, timeout=60) as client,
    ):
        got = await node(modules / "ai_sdk_workflow.mjs", made.url, CHAT, QUESTION)
        truth = parts_of((await client.get(f"/api/chat/{CHAT}/stream?startIndex=0")).text)
        assert got["chunks"] == truth
        assert got["replay"] == truth
        assert got["tail"] == truth[-1:]
        assert (got["text"], got["status"]) == (made.text, "ready")
        assert got["reconnects"] >= CUTS
        told(tell, made, "WorkflowChatTransport", f"{len(truth)} chunks, {got['reconnects']} reconnects")


async def test_use_chat_in_jsdom(serving: Serving, stores: Collection[str], modules: Path, tell: Tell) -> None:
    """The component goes and comes back with `resume: true`, in the middle and wherever it was cut off."""
    async with world(serving, stores, seed=9) as made:
        got = await node(modules / "ai_sdk_react.mjs", made.url, CHAT, QUESTION)
        whole(made, got)
        assert made.text in got["shown"]
        assert got["mounts"] >= CUTS
        told(tell, made, "useChat in jsdom", f"{got['mounts']} mounts")


@pytest.fixture(scope="session")
def bundle(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page, in one file."""
    target = tmp_path_factory.mktemp("ai-sdk") / "page.js"
    subprocess.run(
        ["node", modules / "node_modules/esbuild/bin/esbuild", modules / "ai_sdk_page.jsx", "--bundle",
         "--jsx=automatic", "--define:process.env.NODE_ENV='production'", f"--outfile={target}", "--log-level=error"],
        check=True, timeout=120,
    )  # fmt: skip
    return target.read_text()


class Page:
    """The page in a tab of its own profile, of the origin that it talks to."""

    def __init__(self, page: Any) -> None:
        self.page = page

    async def text(self) -> str:
        return await self.page.evaluate("document.querySelector('#text')?.textContent ?? ''")

    async def shows(self, made: World) -> None:
        """Wait until it shows what was said so far, which is something."""
        while not made.text or await self.text() != made.text:
            await asyncio.sleep(0.02)

    async def ends(self, ended: str) -> None:
        await self.page.locator(f"main[data-ended={ended}][data-status=ready][data-count='2']").wait_for()


@asynccontextmanager
async def page_of(browser: Any, url: str, bundle: str) -> AsyncGenerator[Page, None]:
    context = await browser.new_context()
    context.set_default_timeout(120_000)
    html = "<!doctype html><meta charset=utf-8><div id=root></div><script src=/page.js></script>"
    await context.route("**/page.html", lambda route: route.fulfill(body=html, content_type="text/html"))
    await context.route("**/page.js", lambda route: route.fulfill(body=bundle, content_type="text/javascript"))
    page = await context.new_page()
    await page.goto(f"{url}/page.html#{CHAT}")
    try:
        yield Page(page)
    finally:
        await context.close()


@asynccontextmanager
async def in_front(way: str, port: int, request: pytest.FixtureRequest, directory: Path) -> AsyncGenerator[str, None]:
    """The URL of this port, directly or over nginx."""
    if way == "direct":
        yield f"http://127.0.0.1:{port}"
        return
    settings = BUFFERED if way == "buffered" else UNBUFFERED
    async with fronting(request.getfixturevalue("nginx"), directory, port, settings) as fronted:
        yield f"http://127.0.0.1:{fronted}"


ways = pytest.mark.parametrize("way", ["direct", "buffered", "unbuffered"])


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@ways
async def test_use_chat_in_chromium(
    serving: Serving, stores: Collection[str], browser: Any, bundle: str, way: str, tmp_path: Path,
    request: pytest.FixtureRequest, tell: Tell,
) -> None:  # fmt: skip
    """Reloads in the middle of an answer, and 25 cuts: the page has all of it, once."""
    async with (
        world(serving, stores, carried=WHOLE, seed=10) as made,
        in_front(way, made.proxy.port, request, tmp_path) as url,
        page_of(browser, url, bundle) as page,
    ):
        made.held.clear()
        await page.page.click("#send")
        for _ in range(2):
            await page.shows(made)
            await page.page.reload()
        await page.shows(made)
        made.held.set()
        await page.ends("completed")
        assert await page.text() == made.text
        assert (await page.page.text_content("#thought")).strip() == THOUGHT
        assert len(made.requests) == 1
        told(tell, made, f"useChat in Chromium, {way}", "2 reloads in the middle")


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@ways
async def test_stop_in_chromium(
    serving: Serving, stores: Collection[str], browser: Any, bundle: str, way: str, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """The Stop button leaves exactly what was said; so does a reload after it."""
    async with (
        world(serving, stores, cuts=0, seed=11) as made,
        in_front(way, made.proxy.port, request, tmp_path) as url,
        page_of(browser, url, bundle) as page,
    ):
        made.held.clear()
        await page.page.click("#send")
        await page.shows(made)
        await page.page.click("#stop")
        for _ in range(2):
            await page.ends("aborted")
            assert await page.text() == made.text
            await page.page.reload()
        assert (await made.managers[0].job(CHAT)).status == "aborted"


async def test_websockets_behind_nginx(
    serving: Serving, stores: Collection[str], modules: Path, nginx: str, tmp_path: Path, tell: Tell
) -> None:
    """With the lines that let the upgrade pass."""
    settings = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
    async with (
        world(serving, stores, seed=12) as made,
        fronting(nginx, tmp_path, made.proxy.port, settings) as port,
    ):
        url = f"http://127.0.0.1:{port}"
        (got,) = await node(modules / "ai_sdk_chat.mjs", "cuts", "websocket", url, CHAT, QUESTION)
        whole(made, got)
        told(tell, made, "Chat, websocket transport behind nginx", f"{got['resumes']} resumes")


@asynccontextmanager
async def example(modules: Path, directory: Path, upstream: str) -> AsyncGenerator[str, None]:
    """The example, built and served by the command that its users run: its URL."""
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("node_modules", "build"))
    command = json.loads((directory / "package.json").read_text())["scripts"]["start"]
    packages = modules / "node_modules"
    path = f"{packages / '.bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NODE_PATH": str(packages), "UNSPOOL_URL": upstream, "PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, cwd=directory, env=environment, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().split()[0]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.communicate()


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
async def test_the_example_in_chromium(
    serving: Serving, stores: Collection[str], browser: Any, modules: Path, tmp_path: Path
) -> None:
    """It goes on after a reload, and Stop leaves what was said."""
    async with (
        world(serving, stores, cuts=0, seed=13) as made,
        example(modules, tmp_path / "ai_sdk", made.direct) as url,
    ):
        context = await browser.new_context()
        context.set_default_timeout(120_000)
        page = await context.new_page()
        await page.goto(url)
        await page.fill("input", QUESTION)
        made.held.clear()
        await page.press("input", "Enter")
        answer = page.locator("li.assistant")
        for _ in range(2):
            await answer.wait_for()
            while not made.text or made.text not in (await answer.text_content()):
                await asyncio.sleep(0.02)
            await page.reload()
        await page.click("button.stop")
        await page.locator("button:has-text('Send')").wait_for()
        assert made.text in await answer.text_content()
        assert (await made.managers[0].job(made.requests[0].stream_id)).status == "aborted"
        await context.close()
