"""A page's samples, one after the other, in a folder of their own, against servers of their own.

Python that calls `asyncio.run`, or talks to the server's address, is a program in a process of its own; all other
Python of a page is one program, run here piece by piece, `await` included. Wherever a sample says 127.0.0.1:8000, that
is the page's server: the application that the page has made, else ours with the scripted model, or what `unspool serve`
started last; with another `--port`, that is one more server beside it. 127.0.0.1:6379 is a Redis of the page's own.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack, chdir
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.docs import exchange
from tests.docs.blocks import Block
from tests.docs.commands import run_commands
from tests.docs.nginx import missing, try_nginx
from tests.docs.servers import PATIENCE, Process, answered, provider, ran, serving
from tests.docs.shape import output_matches
from tests.servers.redis import RedisServer
from tests.servers.redis import server as redis_server
from unspool.cli.models import answer_with, choose_model
from unspool.cli.settings import Settings, load
from unspool.http import StartRequest, create_app
from unspool.manager import GenerationManager
from unspool.producer import Generation
from unspool.testing.model import ScriptedModel

_BROWSER: Final = Path(__file__).with_name("browser.mjs")
_STREAM: Final = re.compile(r"\bconv-\d+\b")
_SETTINGS: Final = ("UNSPOOL_", "OPENAI_", "ANTHROPIC_")
_DELAY: Final = "0.004"
"""Seconds between two chunks of the scripted model: an answer takes about a second."""


async def _answer(gen: Generation, request: StartRequest) -> None:
    await gen.text("Hello.")


def _followed(text: str) -> list[str]:
    """The streams that a sample names, but for those that it starts."""
    started = re.findall(r"""start\(['"](conv-\d+)['"]""", text)
    return sorted(set(_STREAM.findall(text)) - set(started))


def hurry(namespace: dict[str, Any]) -> None:
    """Let the scripted model of a page be quick: its pauses are for people who watch."""
    model = namespace.get("model")
    if isinstance(model, ScriptedModel):
        model._delay = min(model._delay, float(_DELAY) / 4)


class Session:
    """One page. `output`: what the last sample printed; `skipped`: what could not be run here, and why."""

    ADDRESS: Final = "http://127.0.0.1:8000"
    REDIS: Final = "127.0.0.1:6379"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url: str | None = None
        self.provider = ""
        self.output: str | None = None
        self.skipped: list[str] = []
        self.unused: set[str] = set()  # files that the page names and nothing has run yet
        self.namespace: dict[str, Any] = {"__name__": "example"}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        self.env |= {"COLUMNS": "100", "NO_COLOR": "1", "UNSPOOL_DELAY": _DELAY, "UNSPOOL_DRAIN": "0"}
        self._stack = AsyncExitStack()
        self._processes: dict[str, Process] = {}  # by the port that the page names
        self._redis: RedisServer | None = None
        self._response: httpx2.Response | None = None

    async def __aenter__(self) -> Session:
        self._stack.enter_context(chdir(self.folder))  # samples that write a file write it there
        self.provider = await self._stack.enter_async_context(provider())
        self.env["OPENAI_BASE_URL"] = f"{self.provider}/v1"
        return self

    async def __aexit__(self, *raised: object) -> None:
        try:
            for port in list(self._processes):
                await self._end_process(port, kindly=raised[0] is None)
        finally:
            await self._stack.aclose()

    async def take(self, block: Block) -> None:
        """Run a block by its language. Raises AssertionError for one that nothing here can run."""
        self._check_response(block)
        if self.REDIS in block.text:
            block = dataclasses.replace(block, text=block.text.replace(self.REDIS, f"127.0.0.1:{self.redis().port}"))
        if block.title:
            (self.folder / block.title).write_text(block.text)
        match block.language:
            case "python":
                await self._python(block)
            case "console" | "sh":
                await run_commands(self, block)
            case "http":
                await self._http(block)
            case "js":
                await self._node(block)
            case "nginx":
                await self._nginx(block)
            case "toml":
                self._settings(block)
            case "json":
                json.loads(block.text)
            case "text":
                assert self.output is not None, "nothing before this text has printed anything"
                assert output_matches(block.text.split("\n"), self.output), f"what was printed:\n{self.output}"
            case language:
                raise AssertionError(f"nothing here can run {language or 'a block without a language'!r}")

    def finish(self) -> None:
        """The page is over: every request was answered, every file that it names was run."""
        assert self._response is None, "the answer to the last request is not shown"
        assert not self.unused, f"no command runs {', '.join(self.unused)}"

    # servers

    async def server(self) -> str:
        """The URL of the page's server, started when it is first needed."""
        if self.url is None:
            app, manager = self.namespace.get("app"), self.namespace.get("manager")
            if app is None or manager is None:
                values: dict[str, Any] = {"model": "scripted", "delay": float(_DELAY)}
                settings = Settings(**values)
                chosen = choose_model(settings)
                manager = GenerationManager()
                app = create_app(manager, run=answer_with(chosen.model, settings, manager), models=[chosen.model.name])
            self.url = await self._stack.enter_async_context(serving(app, manager))
        return self.url

    def redis(self) -> RedisServer:
        """The page's Redis, started when it is first needed."""
        if self._redis is None:
            self._redis = self._stack.enter_context(redis_server(self.folder / "redis"))
        return self._redis

    async def start(self, *command: str, port: str = "8000") -> str:
        """Start a server as a process, in the place of the one before at the port that is named; gives what it said."""
        await self._end_process(port, kindly=True)
        process = self._processes[port] = await Process.start(*command, folder=self.folder, env=self.env)
        if self.ADDRESS.endswith(port):
            self.url = process.url
        return process.said

    async def _end_process(self, port: str, *, kindly: bool) -> None:
        process = self._processes.pop(port, None)
        if process is not None:
            await (process.stop() if kindly else process.kill())

    async def located(self, text: str) -> str:
        """The text with the addresses of the page's servers where it names them."""
        if self.ADDRESS in text:
            text = text.replace(self.ADDRESS, await self.server())
        for port, process in self._processes.items():
            text = text.replace(f"http://127.0.0.1:{port}", process.url)
        return text

    async def run(self, *command: str, codes: Collection[int] = (0,)) -> str:
        """Run a command to its end; it finds the page's server."""
        env = {**self.env, "UNSPOOL_URL": await self.server()}
        return await ran(*command, folder=self.folder, env=env, codes=codes)

    async def provide(self, streams: Iterable[str]) -> None:
        """See to it that streams are there that a sample follows or stops, without having started them itself."""
        async with httpx2.AsyncClient(base_url=await self.server(), timeout=PATIENCE, trust_env=False) as client:
            for stream in streams:
                if (await client.get(f"/v1/streams/{stream}")).status_code == HTTPStatus.NOT_FOUND:
                    body = {"messages": [{"role": "user", "content": "Tell me about rivers"}]}
                    await client.post(f"/v1/streams/{stream}/generations", json=body)

    # languages

    async def _python(self, block: Block) -> None:
        if "asyncio.run(" in block.text or self.ADDRESS in block.text:
            await self._program(block)
        elif block.title and not re.search(r"^app = ", block.text, re.MULTILINE):
            self.unused.add(block.title)
        else:
            await self._piece(block)

    async def _program(self, block: Block) -> None:
        text = block.text
        if self.ADDRESS in text:
            await self.provide(_followed(text))
            text = await self.located(text)
        path = self.folder / (block.title or "program.py")
        path.write_text(text)
        self.output = await ran(sys.executable, path.name, folder=self.folder, env=self.env)

    async def _piece(self, block: Block) -> None:
        # Empty lines before it, so that a traceback names the line of the page.
        source = "\n" * block.line + block.text
        code = compile(source, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE and "app" in self.namespace:
            await self.server()  # which starts the page's manager
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            result = eval(code, self.namespace)  # the point of it
            if inspect.isawaitable(result):
                await result
        self.output = printed.getvalue()
        hurry(self.namespace)

    async def _http(self, block: Block) -> None:
        if block.text.startswith("HTTP/"):
            assert self._response is not None, "an answer without a request before it"
            exchange.compare(block.text, self._response)
            self._response = None
        else:
            self._response = await exchange.send(await self.server(), block.text)

    def _check_response(self, block: Block) -> None:
        if self._response is not None and not block.text.startswith("HTTP/"):
            raise AssertionError("the answer to the request before this is not shown")

    async def _node(self, block: Block) -> None:
        node = shutil.which("node")
        if node is None:
            self.skipped.append("node is not installed")
            return
        await self.provide(_followed(block.text))
        path = self.folder / "sample.mjs"
        path.write_text(await self.located(block.text))
        flags = ("--experimental-eventsource", "--no-warnings", "--import", _BROWSER.as_uri())
        self.output = await self.run(node, *flags, path.name)
        assert self.output, "a sample that prints nothing shows nothing"

    async def _nginx(self, block: Block) -> None:
        if (reason := missing()) is not None:
            self.skipped.append(reason)
            return
        # As the page says: a server behind a proxy has a token, else it refuses the name that the proxy was asked by.
        open_to_all = create_app(manager := GenerationManager(), run=_answer, page=False)
        async with serving(open_to_all, manager) as url:
            started = await answered(url)
            path = f"/v1/streams/{started['stream_id']}/events"
            await try_nginx(block.text, url, path, self.folder, self.env)

    def link_package(self, folder: Path) -> None:
        """What `npm install` of a folder does: programs of this page find the package by its name."""
        name = json.loads((folder / "package.json").read_text())["name"]
        (self.folder / "node_modules").mkdir(exist_ok=True)
        (self.folder / "node_modules" / name).symlink_to(folder)

    def _settings(self, block: Block) -> None:
        path = self.folder / "unspool.toml"
        path.write_text(block.text)
        kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("UNSPOOL_")}
        try:
            load({}, config=path)
        finally:
            os.environ.update(kept)
            path.unlink()
