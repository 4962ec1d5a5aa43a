"""One generation, many viewers over real sockets: the CPU that the server's process spends per delivery.

The server runs in a process of its own and reports its CPU time; the viewers are plain sockets in this one, which count
bytes and do nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

VIEWERS = 1_000
EVENTS = 200
PAUSE = 0.02
FRAME = b'event: custom\ndata: {"name":"token","value":"%s"}\nid: 1-%d\n\n'
VALUE = b"x" * 60


class _Counting(asyncio.Protocol):
    def __init__(self, done: asyncio.Event, total: list[int]) -> None:
        self._done = done
        self._total = total

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"GET /v1/streams/s/events HTTP/1.1\r\nHost: bench\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self._total[0] += data.count(b"}")  # one byte, and one in each frame: no read can cut it in two
        if self._total[0] >= VIEWERS * EVENTS:
            self._done.set()


@asynccontextmanager
async def _server(kind: str) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.fanout", kind, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def server_cpu(kind: str) -> float:
    """Seconds of the server's CPU per delivered event."""
    loop = asyncio.get_running_loop()
    async with _server(kind) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(await process.stdout.readline())
        done, total = asyncio.Event(), [0]
        links = [
            (await loop.create_connection(lambda: _Counting(done, total), "127.0.0.1", port))[0] for _ in range(VIEWERS)
        ]
        process.stdin.write(b"go\n")
        async with asyncio.timeout(120):
            await done.wait()
        process.stdin.write(b"report\n")
        cpu = float(await process.stdout.readline())
        for link in links:
            link.close()
        return cpu / (VIEWERS * EVENTS)


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


async def _unspool() -> None:
    from unspool import Generation, GenerationManager
    from unspool.http import StartRequest, create_app
    from unspool.http.server import bind, server_for

    commands = await _commands()
    manager = GenerationManager()
    go = asyncio.Event()

    async def run(gen: Generation) -> None:
        await go.wait()
        for _ in range(EVENTS):
            await gen.emit("custom", {"name": "token", "value": VALUE.decode()})
            await asyncio.sleep(PAUSE)
        await asyncio.Event().wait()

    async def unused(gen: Generation, request: StartRequest) -> None: ...

    listener = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    server = server_for(create_app(manager, run=unused, page=False), ready=ready.set)
    serving = asyncio.create_task(server._serve([listener]))
    await ready.wait()
    await manager.start("s", run)
    print(listener.getsockname()[1], flush=True)
    await commands.readline()
    before = _cpu()
    go.set()
    await commands.readline()
    print(_cpu() - before, flush=True)
    await serving


async def _bare() -> None:
    commands = await _commands()
    transports: list[asyncio.Transport] = []

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            stream = cast(asyncio.Transport, transport)
            transports.append(stream)
            stream.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await commands.readline()
    while len(transports) < VIEWERS:  # it has no log: whoever comes late would miss what was written before
        await asyncio.sleep(0.01)
    before = _cpu()
    for number in range(1, EVENTS + 1):
        frame = FRAME % (VALUE, number)
        chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        for transport in transports:
            transport.write(chunk)
        await asyncio.sleep(PAUSE)
    await commands.readline()
    print(_cpu() - before, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_unspool() if sys.argv[1] == "unspool" else _bare())
