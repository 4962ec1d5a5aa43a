"""The event stream of Durable Streams as an ASGI response: what it asks of what it follows."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from starlette.types import Message

from tests.virtual import now
from tests.waiting import HANG
from unspool import GenerationManager
from unspool.durable import Append, Chunk, DurableStreams, Live, Wish
from unspool.errors import StoreUnavailable
from unspool.http.dialects.durable_live import EventStream, LiveOptions
from unspool.http.pump import Cut
from unspool.jobs import Owner

pytestmark = pytest.mark.virtual_time

ME = Owner()


class Followed:
    """A stream that counts the signs of its use; the first one does not come through."""

    def __init__(self, streams: DurableStreams) -> None:
        self.uses = 0
        self.enough = asyncio.Event()
        self._streams = streams

    async def read(self, after: int | None) -> Chunk:
        return await self._streams.read("p", ME, after)

    async def follow(self, chunk: Chunk) -> Live:
        return await self._streams.follow("p", ME, chunk)

    async def touch(self) -> None:
        self.uses += 1
        if self.uses == 1:
            raise StoreUnavailable
        if self.uses == 3:
            self.enough.set()


async def test_a_stream_that_is_followed_is_used() -> None:
    """Again and again, where that keeps it and though nothing is appended; whatever the heart-beats are."""
    async with GenerationManager() as manager:
        streams = DurableStreams(manager, clock=now)
        uses: dict[int | None, int] = {}
        for ttl in (1, None):
            await streams.create("p", ME, Wish())
            source = Followed(streams)
            options = LiveOptions(heartbeat=0.01 if ttl is None else 15.0)
            response = EventStream(source, replace(await source.read(0), ttl=ttl), None, {}, options)
            beats = 0

            async def send(message: Message, expected: int = 10) -> None:
                nonlocal beats
                beats += message.get("body", b"").startswith(b":")
                if beats == expected:
                    await streams.append("p", ME, Append(close=True))

            async def receive() -> Message:
                await asyncio.Event().wait()
                raise AssertionError

            serving = asyncio.create_task(response({"type": "http"}, receive, send))
            if ttl is not None:
                await source.enough.wait()
                await streams.delete("p", ME)
            await asyncio.wait([serving], timeout=HANG)
            assert serving.done()
            assert isinstance(serving.exception(), Cut if ttl is not None else type(None))
            uses[ttl] = source.uses
        assert uses == {1: 3, None: 0}
