"""A store that has lost its latest records: no replica goes on with what it remembers of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.durable.kit import ME, created, lose, read_all, replicas, text, within
from unspool.durable import Append
from unspool.durable.names import name_of

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("others", [0, 1, 2, 3])
async def test_what_was_lost_is_no_duplicate(others: int) -> None:
    """However far others have written on meanwhile: less than what was lost, as much, or more."""
    async with replicas(2) as (one, two):
        await created(one)
        await one.append("p", ME, text("kept", producer=("x", 0, 0)))
        await one.append("p", ME, text("lost", producer=("x", 0, 1)))
        await one.append("p", ME, Append(close=True))
        await lose(one, "p", 2)
        for number in range(others):
            await two.append("p", ME, text(f"{number}", producer=("y", 0, number)))
        assert not (await one.head("p", ME)).closed
        assert not (await one.append("p", ME, text("kept", producer=("x", 0, 0)))).fresh
        assert (await one.append("p", ME, text("lost", producer=("x", 0, 1)))).fresh
        wanted = [b"kept", *(b"%d" % number for number in range(others)), b"lost"]
        for streams in (one, two):
            assert (await read_all(streams, "p"))[0] == wanted


async def test_a_dump_of_what_was_lost_is_not_taken() -> None:
    async with replicas(3) as (one, two, three):
        await created(one)
        for number in range(600):
            await one.append("p", ME, text("x", producer=("x", 0, number)))
        await asyncio.sleep(0)
        store: Any = one._store
        job = await store.get(name_of("p", ME))
        dumped = (await store.checkpoint(job.key)).offset
        await lose(one, "p", dumped - 10)
        for number in range(20):
            await two.append("p", ME, text("y", producer=("y", 0, number)))
        known = await three._find("p", ME)
        assert known.state.producers == {"x": (0, dumped - 12), "y": (0, 19)}


async def test_who_lost_a_race_is_told_by_the_log() -> None:
    """A record that was written on a memory of what was lost is taken as it is, by all of them alike."""
    async with replicas(2) as (one, two):
        await created(one)
        await one.append("p", ME, text("lost"))
        known = await one._find("p", ME)
        await lose(one, "p", 1)
        await two.append("p", ME, text("other", seq="b"))
        entry = text("late").entry("n")
        assert await one._logs.put(known, "ds.appended", entry, b"late", lambda state: True)
        for streams in (one, two, one):
            await streams.append("p", ME, text("next"))
        assert (await read_all(one, "p"))[0] == [b"other", b"late", b"next", b"next", b"next"]
        assert (await two._find("p", ME)).state.seq == "b"


async def test_a_replica_that_writes_alone_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is as new as what the store says of the log, also with many appends under way."""
    async with replicas(1, seed=1, delay=0.001) as (streams,):
        await created(streams)
        reads = 0
        store: Any = streams._store
        read = store.read

        async def counted(*args: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read(*args)

        monkeypatch.setattr(store, "read", counted)
        await within(asyncio.gather(*(streams.append("p", ME, text(f"{number};")) for number in range(50))))
        assert (reads, (await streams.head("p", ME)).next) == (0, 51)
