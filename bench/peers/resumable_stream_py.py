"""PyPI `resumable-stream`, as its README has it: a StreamingResponse over the context's stream, on uvicorn.

Its publisher and subscriber are in this process, through the interfaces that it documents for them: nothing goes to
Redis. The first viewer of a stream gets the producer's own queue, which is its fastest path; the others go through
publish and subscribe.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any

from resumable_stream import (  # pyright: ignore[reportMissingTypeStubs]
    Publisher,
    Subscriber,
    create_resumable_stream_context,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bench.peers.worker import TURN, Source, event_of, keep, main, serve_asgi


class _Memory(Publisher, Subscriber):
    """Redis's part in it, at no cost."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._callbacks: dict[str, Callable[[str], Awaitable[None]]] = {}

    async def connect(self) -> None: ...

    async def publish(self, channel: str, message: str) -> int:
        callback = self._callbacks.get(channel)
        if callback is None:
            return 0
        await callback(message)
        return 1

    async def subscribe(self, channel: str, callback: Callable[[str], Awaitable[None]]) -> None:
        self._callbacks[channel] = callback

    async def unsubscribe(self, channel: str) -> None:
        self._callbacks.pop(channel, None)

    async def set(self, key: str, value: str, options: dict[str, Any] | None = None, **more: Any) -> str:
        self._values[key] = value
        return "OK"

    async def get(self, key: str) -> str | None:
        return self._values.get(key)

    async def incr(self, key: str) -> int:
        self._values[key] = str(int(self._values.get(key, "0")) + 1)
        return int(self._values[key])


class ResumableStream:
    version = version("resumable-stream")

    async def serve(self) -> int:
        memory = _Memory()
        self._context: Any = create_resumable_stream_context(publisher=memory, subscriber=memory)
        self._source: Source | None = None
        self._never = asyncio.Event()  # of our own: the library keeps no reference to the task that waits for it
        return await serve_asgi(Starlette(routes=[Route("/s-{stream:int}", self._stream)]))

    async def _stream(self, request: Request) -> Response:
        stream = request.path_params["stream"]
        resume_at = request.query_params.get("resume_at")
        chunks = await self._context.resumable_stream(
            f"s-{stream}", lambda: self._frames(stream), int(resume_at) if resume_at else None
        )
        if chunks is None:
            return Response("Stream is already done", 422)
        return StreamingResponse(chunks, media_type="text/event-stream")

    async def _frames(self, stream: int) -> AsyncIterator[str]:
        assert self._source is not None
        async for event in self._source.events(stream):
            yield frame(event)
        if not self._source.plan.seal:
            await self._never.wait()

    async def prepare(self, source: Source) -> None:
        self._source = source
        if source.plan.viewed:
            return  # the first viewer makes its stream
        for stream in range(1, source.plan.streams + 1):
            chunks = await self._context.resumable_stream(f"s-{stream}", lambda n=stream: self._frames(n))
            keep(_drain(chunks))

    async def local(self, events: int, merge: bool) -> None:
        async def frames() -> AsyncIterator[str]:
            for number in range(1, events + 1):
                yield frame(event_of(number))
                if number % TURN == 0:
                    await asyncio.sleep(0)

        assert await _drain(await self._context.resumable_stream("local", frames)) == events


def frame(event: str) -> str:
    return f"event: text.delta\ndata: {event}\n\n"


async def _drain(chunks: AsyncIterator[str]) -> int:
    count = 0
    async for _ in chunks:
        count += 1
    return count


if __name__ == "__main__":
    main(ResumableStream())
