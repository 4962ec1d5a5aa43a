"""Servers that samples talk to: a page's own application, ours, processes that a page starts, a stand-in provider."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from unspool import GenerationManager
from unspool.http.server import bind, server_for, url_of

SAID: Final = "Hello from the provider."
PATIENCE: Final = 60.0
"""Seconds after which a wait counts as a hang."""
_URL: Final = re.compile(r"http://127\.0\.0\.1:\d+")


@asynccontextmanager
async def serving(app: Starlette, manager: GenerationManager) -> AsyncGenerator[str, None]:
    """An application in this very process, on a free port; gives its URL."""
    listener = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    app.state.manager = manager
    server = server_for(app, drain=0.0, ready=ready.set)
    task = asyncio.create_task(server._serve([listener]))
    await asyncio.wait_for(ready.wait(), PATIENCE)
    try:
        yield url_of(listener)
    finally:
        await manager.stop(0)
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def provider() -> AsyncGenerator[str, None]:
    """A provider that speaks OpenAI's wire format, and always says the same; gives its URL."""
    routes = [Route("/v1/chat/completions", _answer, methods=["POST"])]
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        await task
        listener.close()


async def _answer(request: Request) -> StreamingResponse:
    asked = await request.json()

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"], "choices": [choice],
        }  # fmt: skip

    items = [chunk({"role": "assistant", "content": SAID}), chunk({}, "stop")]
    frames = [f"data: {json.dumps(item)}\n\n" for item in items]
    return StreamingResponse(iter([*frames, "data: [DONE]\n\n"]), media_type="text/event-stream")


class Process:
    """A server that a page starts, as a process of its own, on a free port."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, said: str) -> None:
        self.url = url
        self.said = said
        self._process = process

    @classmethod
    async def start(cls, *command: str, folder: Path, env: Mapping[str, str]) -> Process:
        """Run it until it has said where it is."""
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(PATIENCE):
            while (found := _URL.search(said)) is None:
                line = await process.stdout.readline()
                assert line, f"{' '.join(command)} did not start: {said}"
                said += line.decode()
        async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            await client.get(f"{found[0]}/healthz")  # it answers once it has said all that follows the URL
        try:
            async with asyncio.timeout(0.2):
                while line := await process.stdout.readline():
                    said += line.decode()
        except TimeoutError:
            pass
        return cls(process, found[0], said)

    async def stop(self) -> None:
        """End it as a deployment would; it must go by itself, and say that all is well."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE):
                rest, _ = await self._process.communicate()
        except TimeoutError:
            self._process.kill()
            await self._process.communicate()
            raise AssertionError("a server did not end when it was told to") from None
        # uvicorn raises the signal again once it has shut down.
        assert self._process.returncode in (0, -signal.SIGTERM), (self._process.returncode, rest.decode())

    async def kill(self) -> None:
        """End it however it is."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


async def answered(url: str, stream: str = "probe") -> dict[str, Any]:
    """Start a generation on a server, wait for its end, and give its state."""
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        body = {"messages": [{"role": "user", "content": "Hello?"}]}
        started = await client.post(f"/v1/streams/{stream}/generations", json=body)
        assert started.status_code == 201, started.text
        await client.get(started.json()["events_url"])
        return (await client.get(f"/v1/streams/{stream}")).json()


async def ran(*command: str, folder: Path, env: Mapping[str, str], codes: Collection[int] = (0,)) -> str:
    """What a command prints; it must end with one of these codes."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=env,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode in codes, f"{' '.join(command)} ended with {process.returncode}: {(out + err).decode()}"
    return out.decode()


def beside(name: str) -> str:
    """A command that is installed beside this very Python."""
    return str(Path(sys.executable).with_name(name))
