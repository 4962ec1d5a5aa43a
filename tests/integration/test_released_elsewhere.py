"""Viewers that are let go on servers that are not ours: the connection is cut, also behind a middleware."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.integration import test_other_servers as others

# Not granian: it makes a clean end of a response whose application raises, and offers no way to cut one.
SERVERS = {
    "uvicorn": ["-m", "uvicorn", others.APP, "--port", "{port}"],
    "uvicorn, h11": ["-m", "uvicorn", others.APP, "--port", "{port}", "--http", "h11"],
    "hypercorn": others.SERVERS["hypercorn"],
}
COMPLETION = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize("name", SERVERS)
async def test_a_released_viewer_never_sees_a_clean_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut Chat Completion must not look whole, and neither may any other stream."""
    app = "tests.integration.released_app:app"
    command = [part if part != others.APP else app for part in SERVERS[name]]
    monkeypatch.setitem(others.SERVERS, name, command)
    async with others.serving(name) as client, asyncio.timeout(60):
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def read(method: str, path: str, body: object = None) -> bytes:
            got, cut = b"", False
            try:
                async with client.stream(method, path, json=body) as response:
                    assert response.status_code == 200
                    async for piece in response.aiter_raw():
                        got += piece
                        if b"begun" in piece:
                            begun.put_nowait(None)
            except httpx2.RemoteProtocolError:
                cut = True
            assert cut, got
            return got

        started = await client.post("/v1/streams/s/generations", json={"messages": COMPLETION["messages"]})
        assert started.status_code == 201
        reading = [
            asyncio.create_task(read(method, prefix + path, body))
            for prefix in ("", "/wrapped")
            for method, path, body in (
                ("POST", "/v1/chat/completions", COMPLETION),
                ("GET", "/v1/streams/s/events", None),
                ("GET", "/v1/stream/generations/s/1?offset=-1&live=sse", None),
            )
        ]
        for _ in reading:
            await begun.get()
        await client.post("/release")
        for got in await asyncio.gather(*reading):
            assert b"[DONE]" not in got
            assert b"completed" not in got
