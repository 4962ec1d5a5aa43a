"""Durable streams over a real Redis: replicas side by side and one after the other, and how long they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.servers.redis import RedisServer
from tests.unit.durable.kit import ME, TEXT, read_all, text, within
from unspool import GenerationManager
from unspool.durable import Append, DurableStreams, Wish

_YEAR = 365 * 24 * 3600


@asynccontextmanager
async def replica(url: str) -> AsyncGenerator[DurableStreams]:
    async with GenerationManager.from_url(url) as manager:
        yield DurableStreams(manager)


async def test_replicas_write_at_once(store: str) -> None:
    """Each append stands there once, at a place of its own, in the order of its producer; followers get all of it."""
    async with replica(store) as one, replica(store) as two:
        both = (one, two)
        await one.create("p", ME, TEXT)

        async def produce(name: int) -> None:
            for number in range(25):
                producer = (str(name), 0, number)
                await both[(name + number) % 2].append("p", ME, text(f"{name}-{number};", producer=producer))

        async def follow(streams: DurableStreams) -> list[bytes]:
            chunk = await streams.read("p", ME, 0)
            got = list(chunk.parts)
            with await streams.follow("p", ME, chunk) as live:
                while not chunk.closed:
                    found = await within(live.next())
                    assert found is not None
                    chunk = found
                    got += chunk.parts
            return got

        followers = [asyncio.create_task(follow(streams)) for streams in both]
        await within(asyncio.gather(*(produce(name) for name in range(8))))
        await two.append("p", ME, Append(close=True))
        parts, _, chunk = await read_all(one, "p")
        assert sorted(parts) == sorted(b"%d-%d;" % (name, number) for name in range(8) for number in range(25))
        for name in range(8):
            mine = [part for part in parts if part.startswith(b"%d-" % name)]
            assert mine == [b"%d-%d;" % (name, number) for number in range(25)]
        assert (chunk.next, chunk.closed) == (201, True)
        for follower in followers:
            assert await within(follower) == parts


async def test_a_stream_outlives_its_replicas(store: str) -> None:
    async with replica(store) as streams:
        await streams.create("p", ME, TEXT, b"a")
        await streams.append("p", ME, text("b", producer=("x", 0, 0)))
    async with replica(store) as streams:
        assert not (await streams.append("p", ME, text("b", producer=("x", 0, 0)))).fresh
        await streams.append("p", ME, text("c", producer=("x", 0, 1)))
        assert (await read_all(streams, "p"))[0] == [b"a", b"b", b"c"]


async def test_redis_forgets_no_stream_that_is_not_deleted(store: str, database: RedisServer) -> None:
    """Not an hour after its last append, and not when the numbers of other streams are forgotten."""
    prefix = store.partition("prefix=")[2]
    async with replica(store) as streams:
        await streams.create("p", ME, Wish(content_type="text/plain", ttl=3600))
        for _ in range(3):
            await streams.append("p", ME, text("x"))
            await streams.read("p", ME, 0)
        keys = database.ask("KEYS", f"{prefix}:{{*")
        mine = [key for key in keys if b"ds:p" in key]
        assert len(mine) == 4  # the stream, the job, its fence, its log
        assert min(database.ask("TTL", key) for key in mine) > 10 * _YEAR
        await streams.delete("p", ME)
        left = [key for key in database.ask("KEYS", f"{prefix}:{{*") if b"ds:p" in key]
        assert len(left) == 1  # its numbers, which are not used again
