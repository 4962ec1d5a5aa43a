"""The floor: a bare asyncio protocol that writes frames to sockets. Nothing is kept, nothing is shared."""

from __future__ import annotations

import asyncio
import platform
import re
from typing import cast

from bench.peers.worker import TURN, Source, event_of, keep, listener, main

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_STREAM = re.compile(rb"GET /s-(\d+)")


class _Viewer(asyncio.Protocol):
    def __init__(self, viewers: dict[int, list[asyncio.Transport]]) -> None:
        self._viewers = viewers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        found = _STREAM.match(data)
        assert found is not None
        self._transport.write(_HEAD)
        self._viewers[int(found[1])].append(self._transport)


class Bare:
    version = platform.python_version()

    async def serve(self) -> int:
        self._viewers: dict[int, list[asyncio.Transport]] = {}
        taken = listener()
        await asyncio.get_running_loop().create_server(lambda: _Viewer(self._viewers), sock=taken, backlog=2048)
        return taken.getsockname()[1]

    async def prepare(self, source: Source) -> None:
        for stream in range(1, source.plan.streams + 1):
            self._viewers[stream] = []
            keep(self._run(source, stream))

    async def _run(self, source: Source, stream: int) -> None:
        viewers = self._viewers[stream]
        number = 0
        async for event in source.events(stream):
            number += 1
            frame = b"event: text.delta\ndata: %b\nid: 1-%d\n\n" % (event.encode(), number)
            chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
            for transport in viewers:
                transport.write(chunk)

    async def local(self, events: int, merge: bool) -> None:
        """What no Python can do without: keep the event, call the subscriber."""
        log: list[str] = []
        seen = 0

        def subscriber(_: str) -> None:
            nonlocal seen
            seen += 1

        for number in range(1, events + 1):
            event = event_of(number)
            log.append(event)
            subscriber(event)
            if number % TURN == 0:
                await asyncio.sleep(0)
        assert seen == events


if __name__ == "__main__":
    main(Bare())
