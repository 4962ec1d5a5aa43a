"""How long streams are kept: by whoever uses them, or up to a moment; and who removes them then."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.durable.kit import ME, TEXT, Clock, replicas, text
from tests.waiting import HANG
from unspool.durable import Append, Wish
from unspool.durable.cache import Cache
from unspool.durable.names import new_log, stream_id_of
from unspool.errors import NotFound
from unspool.jobs import ANYONE

pytestmark = pytest.mark.virtual_time


async def test_what_keeps_a_stream() -> None:
    clock = Clock()
    async with replicas(2, clock=clock) as (one, two):
        await one.create("sliding", ME, Wish(content_type="text/plain", ttl=10), b"x")
        await one.create("fixed", ME, Wish(content_type="text/plain", expires_at=clock.now + 15), b"x")
        clock.now += 8
        await two.read("sliding", ME, 0)
        await two.head("fixed", ME)
        clock.now += 8
        with pytest.raises(NotFound):
            await two.read("fixed", ME, 0)
        again = text("y", producer=("x", 0, 0))
        for use in (
            one.append("sliding", ME, again), two.touch("sliding", ME), one.append("sliding", ME, again),
            two.append("sliding", ME, Append(close=True)), two.read("sliding", ME),
        ):  # fmt: skip
            await use
            clock.now += 9
        await one.head("sliding", ME)  # is no use of it
        clock.now += 1
        with pytest.raises(NotFound):
            await two.append("sliding", ME, text("z"))
        assert (await two.create("sliding", ME, TEXT)).created


async def test_streams_that_nobody_uses_are_swept() -> None:
    clock = Clock()
    async with replicas(2, clock=clock) as (one, two):
        await one.create("old", ME, Wish(content_type="text/plain", ttl=10))
        await one._store.create(new_log(stream_id_of("unborn"), ME, 0))  # its replica died there
        clock.now += 61
        await two.create("new", ME, TEXT)  # a replica that has never seen the old one
        manager = two._manager
        async with asyncio.timeout(HANG):
            while len(await manager.jobs(user=ANYONE)) > 1:
                await asyncio.sleep(0.001)


async def test_a_sweep_survives_what_others_delete_meanwhile() -> None:
    clock = Clock()
    async with replicas(1, clock=clock) as (streams,):
        for number in range(3):
            await streams.create(f"old{number}", ME, Wish(content_type="text/plain", ttl=10))
        await asyncio.sleep(0)  # the sweep that the first of them has set off
        clock.now += 20
        overdue = await streams._expiry.overdue()
        assert {job.stream_id for job in overdue} == {"§ds:old0", "§ds:old1", "§ds:old2"}
        with pytest.raises(NotFound):
            await streams.read("old1", ME, 0)  # which deletes it
        streams._cache = Cache(streams._store, 10)  # as on a replica that has not seen them
        for job in overdue:
            await streams._end_if_over(job)
        assert await streams._manager.jobs(user=ANYONE) == []
