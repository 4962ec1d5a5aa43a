"""The other floor: a raw ASGI application on uvicorn over a list of frames. What is pending leaves in one send."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from bench.peers.worker import Source, keep, main, serve_asgi

_HEADERS = [(b"content-type", b"text/event-stream")]


class _Log:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.whole: bytes | None = None

    def snapshot(self) -> bytes:
        """All texts in one frame, twice as in ours: as a part and as the text. Made once."""
        if self.whole is None:
            texts = [frame.split(b'"text":"', 1)[1].split(b'"', 1)[0] for frame in self.frames]
            text = b"".join(texts)
            self.whole = b'event: sync\ndata: {"content":[{"text":"%b"}],"text":"%b"}\nid: 1-%d\n\n' % (
                text, text, len(texts),
            )  # fmt: skip
        return self.whole

    def append(self, frame: bytes) -> None:
        self.frames.append(frame)
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_result(None)


class Asgi:
    version = f"uvicorn {version('uvicorn')}"

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}

    async def serve(self) -> int:
        return await serve_asgi(self._app)

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path, snapshot, _ = scope["path"].partition("/snapshot")
        log = self._logs[path]
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        loop = asyncio.get_running_loop()
        position = 0
        if snapshot:
            position = len(log.frames)
            await send({"type": "http.response.body", "body": log.snapshot(), "more_body": True})
        while True:
            pending = log.frames[position:]
            if pending:
                position += len(pending)
                body = pending[0] if len(pending) == 1 else b"".join(pending)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            else:
                future = loop.create_future()
                log.waiting.append(future)
                await future

    async def prepare(self, source: Source) -> None:
        for stream in range(1, source.plan.streams + 1):
            log = self._logs[f"/s-{stream}"] = _Log()
            keep(self._run(source, stream, log))

    async def _run(self, source: Source, stream: int, log: _Log) -> None:
        number = 0
        async for event in source.events(stream):
            number += 1
            log.append(b"event: text.delta\ndata: %b\nid: 1-%d\n\n" % (event.encode(), number))

    async def local(self, events: int, merge: bool) -> None:
        raise NotImplementedError("the floor of what happens in one process is the other one's")


if __name__ == "__main__":
    main(Asgi())
