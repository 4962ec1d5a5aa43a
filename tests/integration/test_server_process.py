"""`unspool serve` as a process: it comes up, refuses what is unsafe, and ends within seconds when it is told to."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2

from unspool.sse import Decoder, Message

COMMAND = [sys.executable, "-c", "from unspool.cli import main; main()", "serve", "--model", "scripted", "--port", "0"]
PATIENCE = 60.0
"""Seconds after which a wait counts as a hang."""
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def served(*arguments: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, httpx2.AsyncClient], None]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            said = b""
            while (url := re.search(rb"http://[\d.]+:\d+", said)) is None:
                line = await process.stdout.readline()
                assert line, said
                said += line
        async with httpx2.AsyncClient(base_url=url[0].decode(), timeout=PATIENCE) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read(client: httpx2.AsyncClient, url: str, messages: list[Message]) -> list[Message]:
    decoder = Decoder()
    try:
        async with client.stream("GET", url) as response:
            async for chunk in response.aiter_raw():
                messages += decoder.feed(chunk)
    except httpx2.TransportError:
        pass
    return messages


async def test_sigterm_ends_it_with_streams_open() -> None:
    """Runs that do not finish in time are interrupted, each of 20 viewers is told, and the process leaves with 0."""
    # At this pace the answer takes many minutes: if the process ends, it has interrupted the run.
    async with served("--delay", "10", "--drain", "0.5") as (process, client):
        await client.post("/v1/streams/s/generations", json=HELLO)
        read_so_far: list[list[Message]] = [[] for _ in range(20)]
        viewers = [asyncio.create_task(read(client, "/v1/streams/s/events", messages)) for messages in read_so_far]
        async with asyncio.timeout(PATIENCE):
            while not all(read_so_far):
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        seen = await asyncio.gather(*viewers)
        async with asyncio.timeout(PATIENCE):
            code = await process.wait()
        assert code == 0
        for messages in seen:
            assert messages[-1].event == "failed"
            assert '"code":"interrupted"' in messages[-1].data


async def test_a_run_that_is_nearly_done_may_finish() -> None:
    """Within the drain time a run comes to its own end, and its viewers see that end."""
    async with served("--delay", "0.02", "--drain", str(PATIENCE)) as (process, client):
        await client.post("/v1/streams/s/generations", json=HELLO)
        messages: list[Message] = []
        viewer = asyncio.create_task(read(client, "/v1/streams/s/events", messages))
        async with asyncio.timeout(PATIENCE):
            while not messages:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        await viewer
        assert messages[-1].event == "completed"


async def test_it_refuses_to_face_the_network_without_a_token() -> None:
    """Binding beyond loopback without authentication is refused, with the reason and the remedy."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--host", "0.0.0.0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(PATIENCE):
        said, _ = await process.communicate()
    assert process.returncode not in (0, None)
    assert b"token" in said.lower()
    assert b"Traceback" not in said


async def test_a_token_is_asked_for() -> None:
    """With a token every verb wants it, and the page is told so."""
    async with served("--token", "secret") as (_, client):
        assert (await client.get("/v1/streams")).status_code == 401
        assert (await client.get("/v1/streams", headers={"authorization": "Bearer wrong"})).status_code == 401
        assert (await client.get("/v1/streams", headers={"authorization": "Bearer secret"})).status_code == 200
        assert (await client.get("/about")).json()["auth"] is True
