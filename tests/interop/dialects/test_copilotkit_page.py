"""The example with CopilotKit's client, in Chromium: cut off, reloaded, opened twice, stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serving
from tests.interop.dialects.world import QUESTION, World, world

EXAMPLE = Path(__file__).parents[3] / "examples/copilotkit"
SAID = "[...document.querySelectorAll('.assistant')].at(-1)?.textContent ?? ''"
HANG = 120_000
"""Milliseconds after which a wait counts as a hang."""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]


@asynccontextmanager
async def example(folder: Path, modules: Path, made: World) -> AsyncGenerator[str]:
    """The page's address, served as its README says."""
    shutil.copytree(EXAMPLE, folder / "page")
    (folder / "page/node_modules").symlink_to(modules / "node_modules")
    process = await asyncio.create_subprocess_exec(
        "node", str(folder / "page/serve.mjs"), env={**os.environ, "UNSPOOL_URL": made.url, "PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.communicate()


async def ended(page: Any, made: World) -> None:
    """Until the page shows all that was said, and that it is over."""
    await page.wait_for_function("document.getElementById('stop').disabled && document.querySelector('.assistant')")
    assert await page.evaluate(SAID) == made.text


async def test_the_page_goes_on(serving: Serving, modules: Path, browser: Any, tmp_path: Path) -> None:
    """Over every cut; reloaded in the middle; in a second tab; and after the end."""
    async with (
        world(serving, cuts=12, carried=(1500, 20_000), dialects=["ag-ui"]) as made,
        example(tmp_path, modules, made) as address,
    ):
        context = await browser.new_context()
        context.set_default_timeout(HANG)
        page = await context.new_page()
        await page.goto(address)
        await page.wait_for_function("document.getElementById('stop').disabled && location.hash")
        made.held.clear()
        await page.fill("#text", QUESTION)
        await page.press("#text", "Enter")
        await page.wait_for_function(f"({SAID}).length > 20")
        await page.reload()
        await page.wait_for_function(f"({SAID}).length > 20")
        assert await page.locator(".user").all_text_contents() == [QUESTION]
        second = await context.new_page()
        await second.goto(page.url)
        made.held.set()
        await ended(page, made)
        await ended(second, made)
        assert made.proxy.cuts == 12
        await second.reload()
        await second.wait_for_selector(".assistant")
        await ended(second, made)
        assert len(made.requests) == 1
        await context.close()


async def test_the_page_stops(serving: Serving, modules: Path, browser: Any, tmp_path: Path) -> None:
    """Stop ends the run on the server."""
    async with (
        world(serving, cuts=0, least=10_000, delay=0.03, plain=True, dialects=["ag-ui"]) as made,
        example(tmp_path, modules, made) as address,
    ):
        page = await browser.new_page()
        page.set_default_timeout(HANG)
        await page.goto(address)
        await page.wait_for_function("document.getElementById('stop').disabled && location.hash")
        await page.fill("#text", QUESTION)
        await page.press("#text", "Enter")
        await page.wait_for_function(f"({SAID}).length > 20")
        await page.click("#stop")
        await page.wait_for_function("document.getElementById('stop').disabled")
        job = await made.managers[0].job(page.url.rpartition("#")[2])
        assert job.status == "aborted"
        assert await page.evaluate(SAID) == (await made.managers[0].snapshot(job.stream_id)).text
        await page.close()
