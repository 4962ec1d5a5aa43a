"""Thousands of requests over real sockets, cut in every way that there is: the server holds nothing of them."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.conftest import Serving
from tests.leaks.census import at_rest, cycles, manager_of, objects, risen
from unspool import Options
from unspool.http import StartRequest, create_app
from unspool.producer import Generation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CYCLES = cycles(1_500)
STREAMS = 20
OPTIONS = Options(retention=60.0, sweep=0.2, poll=0.5, abort_grace=10.0, drain=0.0, window=8)
LARGE = 200_000  # bytes of one event: more than the buffers of a socket take together


async def run(gen: Generation, request: StartRequest) -> None:
    """What the message asks for."""
    match request.messages[-1]["content"]:
        case "endless":
            await gen.text("begun")
            await asyncio.Event().wait()
        case "large":
            for _ in range(3):
                await gen.emit("custom", {"name": "n", "value": "x" * LARGE})
            await asyncio.Event().wait()
        case "fail":
            raise ValueError("no")
        case _:
            await gen.text("short")


class Client:
    """A client that is nothing but sockets."""

    def __init__(self, base: httpx2.URL) -> None:
        self._at = urlsplit(str(base))

    async def open(
        self, method: str, path: str, body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)  # the kernel must not read on for us
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (self._at.hostname, self._at.port))
        reader, writer = await asyncio.open_connection(sock=plain, limit=2**14)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._at.netloc}\r\nConnection: close\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        return reader, writer

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The whole answer."""
        reader, writer = await self.open(method, path, body)
        try:
            return await reader.read()
        finally:
            await close(writer)

    async def start(self, stream: str, what: str) -> None:
        said = await self.ask(
            "POST",
            f"/v1/streams/{stream}/generations",
            b'{"messages":[{"role":"user","content":"%b"}]}' % what.encode(),
        )
        assert said.startswith(b"HTTP/1.1 201"), said

    async def stop(self, stream: str) -> None:
        assert (await self.ask("POST", f"/v1/streams/{stream}/abort"))[9:12] == b"200"


async def close(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    """Hang up; `reset`: without a farewell, as a process that dies or a network that goes away."""
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def to_the_end(client: Client, stream: str) -> None:
    await client.start(stream, "short")
    said = await client.ask("GET", f"/v1/streams/{stream}/events")
    assert b"event: completed" in said


async def dropped(client: Client, stream: str) -> None:
    """It hangs up after the first event."""
    await client.start(stream, "endless")
    reader, writer = await client.open("GET", f"/v1/streams/{stream}/events")
    await reader.readuntil(b"id: ")
    await close(writer)
    await client.stop(stream)


async def vanished(client: Client, stream: str) -> None:
    """It goes away while the server is in the middle of a write that it never read."""
    await client.start(stream, "large")
    reader, writer = await client.open("GET", f"/v1/streams/{stream}/events")
    await reader.readuntil(b"event: custom")
    await close(writer, reset=True)
    await client.stop(stream)


async def gone_at_once(client: Client, stream: str) -> None:
    """The request is sent, and nobody waits for the answer."""
    await client.start(stream, "endless")
    for path in ("/events", "/events?snapshot=1", ""):
        _, writer = await client.open("GET", f"/v1/streams/{stream}{path}")
        await close(writer, reset=True)
    _, writer = await client.open("POST", f"/v1/streams/{stream}/abort")
    await close(writer, reset=True)
    await client.stop(stream)


async def half_a_request(client: Client, stream: str) -> None:
    """The body of a start is announced, begun, and never ended."""
    _, writer = await client.open("GET", "/healthz")
    await close(writer)
    reader, writer = await client.open("POST", f"/v1/streams/{stream}/generations")
    await reader.read()  # 415: no body was announced
    await close(writer)
    _, writer = await client.open("GET", "/healthz")
    writer.write(
        b"POST /v1/streams/s/generations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b'Content-Length: 500\r\n\r\n{"messages":'
    )
    await close(writer, reset=True)


async def refused(client: Client, stream: str) -> None:
    """Starts and positions that are refused, runs that fail."""
    await client.start(stream, "fail")
    await client.ask("GET", f"/v1/streams/{stream}/events")
    for method, path, body, status in (
        ("POST", f"/v1/streams/{stream}/generations", b'{"messages":[]}', b"422"),
        ("POST", f"/v1/streams/{stream}/generations", b"{", b"400"),
        ("GET", "/v1/streams/unknown/events", b"", b"404"),
        ("GET", f"/v1/streams/{stream}/events?after=x", b"", b"400"),
        ("HEAD", "/v1/streams?limit=1", b"", b"200"),
    ):
        assert (await client.ask(method, path, body))[9:12] == status


WAYS: list[Callable[[Client, str], Coroutine[Any, Any, None]]] = [
    to_the_end, dropped, vanished, gone_at_once, half_a_request, refused,
]  # fmt: skip


async def work(client: Client, count: int) -> None:
    async def one(place: int) -> None:
        for number in range(place, count, STREAMS):
            await WAYS[(number + number // STREAMS) % len(WAYS)](client, f"s{place}")

    await asyncio.gather(*(one(place) for place in range(STREAMS)))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("unspool", "uvicorn.error")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("lent", [True, False], ids=["our server", "any server"])
async def test_requests_leave_nothing_behind(serving: Serving, lent: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """As many tasks, timers, descriptors, viewers and objects as before, however the clients went away."""
    manager = manager_of(OPTIONS)
    app = create_app(manager, run=run)
    if not lent:
        app.add_middleware(_Plain)
    count = CYCLES * 2 // 3 if lent else CYCLES // 3
    async with serving(app) as http:
        client = Client(http.base_url)
        await work(client, 6 * STREAMS)
        before, things = await at_rest(manager), objects()
        await work(client, count)
        assert risen(await at_rest(manager, before), before) == {}
        more = objects() - things
    with capsys.disabled():
        print(f"\n{count} cycles over HTTP; objects more than before: {more.total()} {dict(more.most_common(3))}")
    assert not {name: number for name, number in more.items() if name.startswith(("unspool", "starlette", "uvicorn"))}
    assert more.total() < max(count // 2, 500)


class _Plain:
    """Takes away what only our own server lends."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.pop("extensions", None)
        await self._app(scope, receive, send)
