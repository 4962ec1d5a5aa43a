"""What the indexes of a Redis hold, while somebody looks at the very moment in which something changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.servers.redis import RedisServer
from unspool.backends.redis import RedisStore, from_url, indexes
from unspool.backends.redis.keys import shard_of
from unspool.jobs import Owner
from unspool.protocols import NewJob

OWNER = Owner("u")


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[RedisStore]:
    store, _ = from_url(url, retention=60.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_who_lists_while_something_is_created_does_not_make_it_vanish(
    store: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the index before it exists; a list in between finds nothing there, and must leave the entry alone."""
    async with opened(store) as one, opened(store) as two:
        enter = one._indexes.enter

        async def looked_at(stream_id: str, owner: bytes, lease: float) -> None:
            await enter(stream_id, owner, lease)
            assert await two.active(OWNER) == []
            assert await two.jobs(None, None, 10) == []
            assert (await two.expired(10)).jobs == []

        monkeypatch.setattr(one._indexes, "enter", looked_at)
        created = await one.create(NewJob(stream_id=stream, owner=OWNER, replica="a", lease=-1.0))
        assert [job.key for job in await two.active(OWNER)] == [created.job.key]
        assert (await two.counts()).total == 1
        assert [job.key for job in (await two.expired(10)).jobs] == [created.job.key]


async def test_leases_that_end_at_one_time_are_all_found(
    store: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewed in one call, they have one score in the index, and are more than are looked at in one go."""
    monkeypatch.setattr(indexes, "_AT_ONCE", 10)
    names = [name for number in range(400) if shard_of(name := f"{stream}-{number}") == 0]
    async with opened(store) as one:
        jobs = [(await one.create(NewJob(stream_id=name, owner=OWNER, replica="a", lease=60.0))).job for name in names]
        await one.renew("a", [(job.key, 1) for job in jobs], -1.0)
        assert {job.key for job in (await one.expired(1000)).jobs} == {job.key for job in jobs}
        assert len((await one.expired(15)).jobs) == 15


async def test_entries_of_what_never_came_to_be_are_forgotten(store: str, database: RedisServer, stream: str) -> None:
    """Once they are older than any creation under way."""
    prefix = store.partition("=")[2]
    index = f'{prefix}:owner:["u",null]'
    async with opened(store) as one:
        database.ask("ZADD", index, 1, stream)
        await one.active(OWNER)
        assert database.ask("ZSCORE", index, stream) is None
