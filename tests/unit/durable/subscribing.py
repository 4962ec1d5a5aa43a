"""What the tests of subscriptions share: two replicas with them, and a webhook."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.unit.durable.kit import ME, message, replicas
from tests.virtual import now
from tests.waiting import HANG
from unspool.durable import DurableStreams
from unspool.durable.subscriptions import Subscriptions


class Receiver:
    """A webhook on this machine: `answer` gets each body, and gives a status and what is answered."""

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, Any]]) -> None:
        self.url = ""
        self.got: list[tuple[dict[str, Any], bytes, str]] = []
        self._answer = answer

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head.split("\r\n")[1:-2])}
        body = await reader.readexactly(int(headers["content-length"]))
        told = json.loads(body)
        status, answer = self._answer(told)
        self.got.append((told, body, headers["webhook-signature"]))
        data = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(data), data))
        await writer.drain()
        writer.close()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(HANG):
            while len(self.got) < count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def pair(clock: Callable[[], float] = now) -> AsyncGenerator[list[tuple[DurableStreams, Subscriptions]]]:
    """Two replicas with subscriptions, and one signing key."""
    async with replicas(2, clock=clock) as both:
        made = [
            (
                streams,
                Subscriptions(streams._manager, streams, signing_key=b"k" * 32, local_webhooks=True, clock=clock),
            )
            for streams in both
        ]
        try:
            yield made
        finally:
            for _, subscriptions in made:
                await subscriptions.close()


async def add(streams: DurableStreams, subscriptions: Subscriptions, path: str, body: bytes = b"1") -> int:
    """Append, as the routes do."""
    done = await streams.append(path, ME, message(body))
    await subscriptions.appended(ME, path, done.info.next)
    return done.info.next
