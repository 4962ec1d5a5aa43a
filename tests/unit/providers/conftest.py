"""A provider on the loopback interface: speaks HTTP as the real ones do, and fails and cuts as a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest


class Exchange:
    """One request and the answer to it, written by the test. `gone` is set once the client has hung up."""

    def __init__(self, path: str, headers: dict[str, str], body: Any, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.gone = asyncio.Event()
        self._writer = writer

    async def stream(self) -> None:
        """Begin a server-sent event stream in chunked encoding."""
        self._writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        await self._writer.drain()

    async def send(self, data: Any, *, event: str | None = None) -> None:
        """One event, in a chunk of its own. A string is sent as it is."""
        text = data if isinstance(data, str) else json.dumps(data)
        await self.raw((f"event: {event}\n" if event else "") + f"data: {text}\n\n")

    async def raw(self, text: str) -> None:
        payload = text.encode()
        self._writer.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def cut(self) -> None:
        """Break the connection where it is."""
        self._writer.transport.abort()

    async def refuse(self, status: int, body: Any) -> None:
        """A whole answer in JSON."""
        payload = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n"
        self._writer.write(head.encode() + b"connection: close\r\n\r\n" + payload)
        await self._writer.drain()


Answer = Callable[[Exchange], Awaitable[None]]


class Upstream:
    """The server. `answer` it with a function for every request; `requests` has those that came."""

    def __init__(self) -> None:
        self.requests: list[Exchange] = []
        self.answer: Answer | None = None
        self._server: asyncio.Server | None = None
        self._exchanges: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._exchanges:
            task.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or "null")
        exchange = Exchange(head[0].split()[1], headers, body, writer)
        self.requests.append(exchange)
        assert self.answer is not None
        watching = asyncio.ensure_future(_until_gone(reader, exchange.gone))
        try:
            await self.answer(exchange)
        except ConnectionError:
            await watching  # the client hung up while the test was still writing
        finally:
            watching.cancel()
            writer.close()


async def _until_gone(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    try:
        while await reader.read(1024):
            pass
    except ConnectionError:
        pass
    gone.set()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    await server.start()
    yield server
    await server.stop()
