"""Viewers: they read a generation from whichever replica answers, are cut off, leave, and come back elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from random import Random
from typing import Any

import httptools

from tests.chaos.report import Fault
from tests.chaos.world import World
from unspool.client import Received
from unspool.client.follow import Following

_PAUSE = 0.05
_NOTHING = (404, 409, 410)
"""What a viewer is answered whose generation the store has lost."""
_SILENCE = 8.0
"""Seconds without a byte after which a connection is given up: four heart-beats."""


class Viewer:
    """One viewer of one generation, whose start was asked for at `begun`. `seen`: when a type of record came first;
    `rewound`: it was told that the store has lost what it had read, and reads anew from there. `lost`: with which
    status it was told that there is nothing."""

    def __init__(self, world: World, stream: str, generation: int, draw: Random, begun: float) -> None:
        self.records: list[Received] = []
        self.connections = 0
        self.visits: deque[str] = deque(maxlen=12)
        self.seen: dict[str, float] = {}
        self.rewound = False
        self.lost: int | None = None
        self._begun = begun
        self._world = world
        self._draw = draw
        self._following = Following(stream, generation=generation)

    @property
    def position(self) -> int:
        return self._following.offset

    async def read(self) -> None:
        """Read to the end. Raises Fault."""
        while not self.done:
            nodes = self._world.alive()
            if nodes:
                await self._visit(self._draw.choice(nodes))
            if not self.done:
                await asyncio.sleep(self._draw.uniform(0, _PAUSE))

    async def _visit(self, node: Any) -> None:
        front = node.front
        hold = self._draw.expovariate(1 / self._world.settings.hold)
        self.connections += 1
        before, how = self.position, "left"
        connection = Connection(self)
        try:
            async with asyncio.timeout(hold):
                await connection.read(front.port)
            how = "ended"
        except TimeoutError:
            self._world.report.counts["cut by viewers"] += 1
        except (OSError, httptools.HttpParserError) as error:
            how = type(error).__name__
        finally:
            connection.close()
        self.visits.append(f"{node.process} {before}→{self.position} {how}")

    # what a connection tells

    def request(self) -> bytes:
        call = self._following.request()
        query = "&".join(f"{name}={value}" for name, value in call.params.items())
        headers = "".join(f"{name}: {value}\r\n" for name, value in call.headers.items())
        return f"GET {call.path}?{query} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-user: u\r\n{headers}\r\n".encode()

    def answered(self, status: int, headers: dict[str, str]) -> None:
        if status in (500, 502, 503):
            raise ConnectionError(f"{status}")
        if status in _NOTHING and self._world.emptied_since(self._begun):
            self.lost = status
            return
        if status not in (200, 204):
            raise Fault(f"a viewer at {self.position} was answered with {status}; {self.visits}")
        self._following.answered("the replica", status, headers)

    def take(self, data: bytes) -> None:
        if self.lost is not None:
            return  # the body of the error
        for record in self._following.feed(data):
            if record.type == "sync":
                if not self._world.store.lossy and not self._world.emptied_since(self._begun):
                    raise Fault(f"a viewer at {self.position} was sent a snapshot: {record.data.get('reason')}")
                self.rewound = True
                self.records.clear()
            self.records.append(record)
            self.seen.setdefault(record.type, time.monotonic())

    @property
    def done(self) -> bool:
        return self._following.ended or self.lost is not None


class Connection:
    """One request for the stream, over a bare socket."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._error: Fault | ConnectionError | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._complete = False

    async def read(self, port: int) -> None:
        """Until the generation has ended or the connection does."""
        reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(self._viewer.request())
        while not self._viewer.done and not self._complete:
            async with asyncio.timeout(_SILENCE):
                data = await reader.read(65_536)
            if not data:
                raise ConnectionResetError("it ended")
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserCallbackError:
                if self._error is None:
                    raise
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._try(self._viewer.answered, self._parser.get_status_code(), self._headers)

    def on_body(self, body: bytes) -> None:
        if self._error is None:
            self._try(self._viewer.take, body)

    def on_message_complete(self) -> None:
        self._complete = True

    def _try(self, what: Any, *args: Any) -> None:
        try:
            what(*args)
        except (Fault, ConnectionError) as error:
            self._error = error
