"""Forks: they share what they begin with, and what they need is kept as long as they do."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.durable.kit import ME, TEXT, Clock, read_all, replicas, text, within
from tests.virtual import run
from unspool.durable import Fork, Wish
from unspool.durable.entries import Ref
from unspool.durable.errors import StreamConflict, StreamDeleted
from unspool.durable.names import name_of, new_log, stream_id_of
from unspool.errors import NotFound
from unspool.jobs import ANYONE

pytestmark = pytest.mark.virtual_time


async def test_a_fork_does_not_copy_and_does_not_follow() -> None:
    async with replicas(2) as (one, two):
        await one.create("a", ME, TEXT, b"1")
        await one.append("a", ME, text("2", producer=("x", 0, 0)))
        await two.create("b", ME, Wish(fork=Fork("a")), b"3")
        await one.append("a", ME, text("not this"))
        await one.create("c", ME, Wish(fork=Fork("b", at=2)))
        await two.append("c", ME, text("4", producer=("x", 0, 0)))
        assert (await read_all(one, "b"))[0] == [b"1", b"2", b"3"]
        assert (await read_all(two, "c"))[0] == [b"1", b"2", b"4"]
        assert (await two.read("c", ME, 2)).parts == [b"4"]
        assert (await two.read("b", ME, 1)).parts == [b"2", b"3"]


async def test_what_forks_need_is_kept() -> None:
    async with replicas(2) as (one, two):
        await one.create("a", ME, TEXT, b"1")
        await one.create("b", ME, Wish(fork=Fork("a")), b"2")
        await two.create("c", ME, Wish(fork=Fork("b")), b"3")
        await two.delete("a", ME)
        await one.delete("b", ME)
        for path in ("a", "b"):
            with pytest.raises(StreamDeleted):
                await one.read(path, ME, 0)
            with pytest.raises(StreamConflict):
                await one.create(path, ME, TEXT)
            with pytest.raises(StreamConflict):
                await one.create("d", ME, Wish(fork=Fork(path)))
        assert (await read_all(one, "c"))[0] == [b"1", b"2", b"3"]
        await one.delete("c", ME)
        for path in "abc":
            with pytest.raises(NotFound):
                await two.read(path, ME, 0)
        assert await one._manager.jobs(user=ANYONE) == []


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_forking_and_deleting_at_once(seed: int) -> None:
    """A fork that was made can be read, whatever happens to its source meanwhile; in the end nothing is left over."""

    async def go() -> None:
        async with replicas(2, seed=seed, delay=0.001) as both:
            random = Random(seed)
            await both[0].create("a", ME, TEXT, b"1")

            async def fork(number: int) -> str | None:
                await asyncio.sleep(random.random() * 0.01)
                try:
                    await random.choice(both).create(f"f{number}", ME, Wish(fork=Fork("a")), b"2")
                except (NotFound, StreamConflict):
                    return None
                return f"f{number}"

            async def delete() -> None:
                await asyncio.sleep(random.random() * 0.01)
                await both[1].delete("a", ME)

            *made, _ = await within(asyncio.gather(*(fork(number) for number in range(6)), delete()))
            for path in made:
                if path is not None:
                    assert (await read_all(random.choice(both), path))[0] == [b"1", b"2"]
                    await random.choice(both).delete(path, ME)
            with pytest.raises(NotFound):
                await both[0].read("a", ME, 0)

    run(go())


@pytest.mark.parametrize("named", [False, True])
async def test_a_note_of_a_fork_that_never_came_to_be_holds_nothing(named: bool) -> None:
    """A replica died while it made the fork: before it had a name, or before it had a first record."""
    clock = Clock()
    async with replicas(1, clock=clock) as (streams,):
        await streams.create("p", ME, TEXT)
        if named:
            await streams._store.create(new_log(stream_id_of("q"), ME, 0))
        known = await streams._find("p", ME)
        await streams._forks.link(known, Ref(name_of("q", ME), 1))
        clock.now += 61
        await streams.delete("p", ME)
        with pytest.raises(NotFound):
            await streams.read("p", ME, 0)
        assert await streams._manager.jobs(user=ANYONE) == []
        assert (await streams.create("q", ME, TEXT)).created


async def test_a_fork_that_is_being_made_holds_its_source() -> None:
    clock = Clock()
    async with replicas(1, clock=clock) as (streams,):
        await streams.create("p", ME, TEXT)
        await streams._store.create(new_log(stream_id_of("q"), ME, 0))
        known = await streams._find("p", ME)
        await streams._forks.link(known, Ref(name_of("q", ME), 1))
        clock.now += 30
        await streams.delete("p", ME)
        with pytest.raises(StreamDeleted):
            await streams.read("p", ME, 0)


async def test_a_long_line_of_forks_goes_at_once() -> None:
    async with replicas(1) as (streams,):
        await streams.create("0", ME, TEXT, b"x")
        for number in range(1, 500):
            await streams.create(f"{number}", ME, Wish(fork=Fork(f"{number - 1}")))
            await streams.delete(f"{number - 1}", ME)
        assert (await read_all(streams, "499"))[0] == [b"x"]
        await streams.delete("499", ME)
        assert await streams._manager.jobs(user=ANYONE) == []
