"""The application on servers that are not ours: granian and hypercorn, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.served_app import WORDS
from tests.servers.ports import free_port
from unspool.sse import Decoder, Message

APP = "tests.integration.served_app:app"
ROOT = Path(__file__).parents[2]
SERVERS = {
    "hypercorn": ["-m", "hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "granian": ["-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", APP],
}
TRIES = 3
"""Ports that are tried, where another process takes the first one."""
PATIENCE = 60.0
"""Seconds after which a wait counts as a hang."""
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def serving(name: str) -> AsyncGenerator[httpx2.AsyncClient, None]:
    for _ in range(TRIES):
        port = free_port()
        command = [part.format(port=port) for part in SERVERS[name]]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                if await up(process, client):
                    yield client
                    return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers as well
            await process.wait()
    raise AssertionError(f"{name} did not start")


async def up(process: asyncio.subprocess.Process, client: httpx2.AsyncClient) -> bool:
    """Wait until the server answers; False where it has ended, as it does when its port is taken."""
    async with asyncio.timeout(PATIENCE):
        while not await answers(client):
            if process.returncode is not None:
                return False
            await asyncio.sleep(0.05)
    return True


async def answers(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx2.TransportError:
        return False


async def follow(client: httpx2.AsyncClient, position: str, count: int) -> list[Message]:
    """Up to `count` messages after a position; then the connection is cut."""
    decoder = Decoder(position)
    messages: list[Message] = []
    headers = {"Last-Event-ID": position} if position else {}
    async with client.stream("GET", "/v1/streams/s/events", headers=headers) as response:
        assert response.status_code == 200
        async for chunk in response.aiter_raw():
            messages += decoder.feed(chunk)
            if len(messages) >= count:
                break
    return messages


@pytest.mark.parametrize("name", SERVERS)
async def test_streams_resume_and_stop_on_another_server(name: str) -> None:
    """Cut every few events, a client gets each once; Stop is answered while a viewer watches, and ends its stream."""
    async with serving(name) as client:
        started = await client.post("/v1/streams/s/generations", json={**HELLO, "model": "endless"})
        assert started.status_code == 201
        position, seen = "", list[str]()
        while len(seen) < WORDS:
            for message in await follow(client, position, min(4, WORDS - len(seen))):
                assert message.id is not None
                position = message.id
                seen.append(message.id)
        assert seen == [f"1-{number}" for number in range(1, WORDS + 1)]
        watching = asyncio.create_task(follow(client, position, 1))
        answer = (await client.post("/v1/streams/s/abort")).json()
        assert answer["outcome"] == "stopped"
        assert [message.event for message in await watching] == ["aborted"]
        assert (await client.get("/v1/streams/nothing/events")).status_code == 404
