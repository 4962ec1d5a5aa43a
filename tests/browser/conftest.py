"""The page in a real browser: a server in its own process, a proxy that cuts connections, the system's Chromium."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.servers.ports import free_port
from unspool.testing.proxy import Proxy

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = (
    f"no Chromium found (looked for {', '.join(NAMES)}): install it with `apt-get install chromium`, "
    "or whatever your system's package manager calls it, and run the tests again"
)
FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # It would try every address with TLS first, which our server answers with a warning and nothing else.
    "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
]  # fmt: skip
SERVER = Path(__file__).with_name("scripted_server.py")
PATIENCE = 60_000
"""Milliseconds after which a wait counts as a hang."""
TRIES = 3
"""Ports that are tried, where another process takes the first one."""


class Server:
    """The scripted server, on a port that it keeps when it is killed and started again."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, on the port that it had before if it had one."""
        for _ in range(TRIES):
            port = self.port or free_port()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, str(SERVER), "--port", str(port), *self._arguments, stdout=asyncio.subprocess.PIPE
            )
            assert self._process.stdout is not None
            if await asyncio.wait_for(self._process.stdout.readline(), PATIENCE / 1000):
                self.port = port
                return
            await self.kill()
        raise AssertionError("the scripted server did not start")

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            # Reads what is left, so that the pipe is closed too.
            await self._process.communicate()
            self._process = None


class Tab:
    """A tab with our page in it, and everything that must not have happened there."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", self._dialog)
        page.on("console", self._console)

    async def _dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _console(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.problems.append(f"console: {message.text}")

    async def ask(self, text: str) -> None:
        await self.page.fill("#input", text)
        await self.page.press("#input", "Enter")

    @property
    def stream_id(self) -> str:
        return self.page.url.rpartition("#")[2]

    async def let_continue(self) -> None:
        """Let a run of this conversation say its last ten lines, which is `held` after thirty."""
        origin = self.page.url.split("/#")[0]
        response = await self.page.context.request.post(f"{origin}/continue/{self.stream_id}")
        assert response.ok, response.status

    async def state(self) -> dict[str, Any]:
        """What the server knows of this conversation's last generation."""
        origin = self.page.url.split("/#")[0]
        response = await self.page.context.request.get(f"{origin}/v1/streams/{self.stream_id}")
        assert response.ok, response.status
        return await response.json()

    async def kept(self) -> list[dict[str, Any]]:
        """The turns that this browser keeps."""
        return await self.page.evaluate("JSON.parse(localStorage.getItem('unspool.chat.' + location.hash.slice(1)))")

    async def kept_text(self) -> str:
        parts = (await self.kept())[-1]["answer"]["parts"]
        return "".join(part["text"] for part in parts if part["type"] == "text")

    def paragraphs(self) -> Awaitable[list[str]]:
        return self.page.locator(".turn:last-child .prose > p").all_text_contents()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is; without one the test is skipped, and the summary says how to get it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(MISSING)
    return path


# One event loop, one Chromium and one server for all of these tests: starting them takes longer than most tests. Every
# test has a browser profile and conversations of its own.


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncGenerator[Any, None]:
    playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: pip install playwright")
    playwright.expect.set_options(timeout=PATIENCE)
    # Chromium refuses to put root into its sandbox.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium, args=flags)
        try:
            yield browser
        finally:
            await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def start_server() -> AsyncGenerator[Callable[..., Awaitable[Server]], None]:
    """Starts scripted servers with the given arguments; all are gone at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Server:
            server = Server(*arguments)
            stack.push_async_callback(server.kill)
            await server.start()
            return server

        yield start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncGenerator[Server, None]:
    server = Server()
    await server.start()
    yield server
    await server.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(server: Server) -> AsyncGenerator[Proxy, None]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def open_tab(browser: Any) -> AsyncGenerator[Callable[..., Awaitable[Tab]], None]:
    """Opens the page in a new tab, of a new browser profile unless a tab to share it with is given."""
    tabs: list[Tab] = []

    async def open_(url: str, *, beside: Tab | None = None, **options: Any) -> Tab:
        context = beside.page.context if beside else await browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        tab = Tab(await context.new_page())
        tabs.append(tab)
        await tab.page.goto(url)
        return tab

    yield open_
    for context in {tab.page.context for tab in tabs}:
        await context.close()
    problems = [problem for tab in tabs for problem in tab.problems]
    assert not problems
