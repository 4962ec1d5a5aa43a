"""The application on servers that are not ours: granian and hypercorn, as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.served_app import WORDS
from unspool.sse import Decoder, Message

APP = "tests.integration.served_app:app"
ROOT = Path(__file__).parents[2]
SERVERS = {
    "hypercorn": ["-m", "hypercorn", APP, "--bind", "127.0.0.1:{port}"],
    "granian": ["-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", APP],
}
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def serving(name: str) -> AsyncGenerator[httpx2.AsyncClient, None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            async with asyncio.timeout(30):
                while not await answers(client):
                    assert process.returncode is None, f"{name} did not start"
                    await asyncio.sleep(0.05)
            yield client
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers as well
        await process.wait()


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
