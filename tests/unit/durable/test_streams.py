"""Streams on several replicas at once: what was accepted stands in the log once, in one order that all agree on."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.durable.kit import (
    JSON,
    ME,
    TEXT,
    created,
    insist,
    message,
    read_all,
    reading,
    replicas,
    text,
    within,
)
from tests.virtual import run
from unspool import GenerationManager
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.durable import Append, DurableOptions, DurableStreams, Fork, Wish
from unspool.durable.errors import ProducerFenced, StreamConflict, StreamFull
from unspool.errors import BadRequest, NotFound, ViewerReleased
from unspool.jobs import ANYONE, Owner
from unspool.testing.faults import FaultyStore

pytestmark = pytest.mark.virtual_time


@given(st.integers(0, 10_000))
@settings(max_examples=6)
def test_appends_from_two_replicas(seed: int) -> None:
    """A hundred at once, over a store that fails before and after a step: each stands there once, in its producer's
    order, and the place that each was told of is its own."""

    async def go() -> None:
        async with replicas(2, seed=seed, before=0.05, after=0.05, delay=0.001) as both:
            await created(both[0])

            async def produce(name: int) -> None:
                for number in range(10):
                    await insist(
                        both[Random(seed + name).randrange(2)],
                        text(f"{name}-{number};", producer=(str(name), 0, number)),
                    )

            await within(asyncio.gather(*(produce(name) for name in range(10))))
            for streams in both:
                parts, _, chunk = await reading(streams)
                assert sorted(parts) == sorted(b"%d-%d;" % (name, number) for name in range(10) for number in range(10))
                for name in range(10):
                    mine = [part for part in parts if part.startswith(b"%d-" % name)]
                    assert mine == [b"%d-%d;" % (name, number) for number in range(10)]
                assert chunk.next == 101

    run(go())


async def test_an_append_whose_answer_was_lost_is_there_once() -> None:
    """It was accepted, nobody was told, and another replica has appended meanwhile: it is recognised, not repeated."""
    inner, transport = MemoryStore(), MemoryTransport()
    store = FaultyStore(inner, after=1.0)
    async with GenerationManager(store.as_store(), transport) as one, GenerationManager(inner, transport) as two:
        mine, other = DurableStreams(one), DurableStreams(two)
        await created(other)
        appending = asyncio.create_task(mine.append("p", ME, text("a")))
        while (await other.head("p", ME)).next < 2:
            await asyncio.sleep(0)
        await other.append("p", ME, text("b"))
        store.after = 0.0
        assert (await within(appending)).fresh
        assert (await read_all(mine, "p"))[0] == (await read_all(other, "p"))[0] == [b"a", b"b"]


async def test_equal_appends_are_not_taken_for_one() -> None:
    """Of those who write the same at the same place at once, each finds out whether it is its own that stands there."""
    async with replicas(2, seed=7, delay=0.001) as both:
        await created(both[0])
        await within(asyncio.gather(*(both[n % 2].append("p", ME, text("same;")) for n in range(40))))
        assert (await read_all(both[0], "p"))[0] == [b"same;"] * 40


async def test_offsets_are_unique() -> None:
    async with replicas(2) as both:
        await created(both[0])
        done = await asyncio.gather(*(both[n % 2].append("p", ME, text(f"{n};")) for n in range(100)))
        assert sorted(one.info.next for one in done) == list(range(2, 102))
        parts, _, _ = await read_all(both[1], "p")
        assert sorted(parts) == sorted(f"{n};".encode() for n in range(100))
        by_place = {one.info.next: f"{n};".encode() for n, one in enumerate(done)}
        assert parts == [by_place[place] for place in range(2, 102)]


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_close_wins(seed: int) -> None:
    """Whoever closes, whatever is under way: what was accepted stands before the close, the rest is refused."""

    async def go() -> None:
        async with replicas(2, seed=seed, before=0.05, after=0.05, delay=0.002) as both:
            await created(both[0])
            random = Random(seed)

            async def produce(name: int) -> list[bytes]:
                accepted: list[bytes] = []
                for number in range(10):
                    if not await insist(
                        random.choice(both), text(f"{name}-{number};", producer=(str(name), 0, number))
                    ):
                        break
                    accepted.append(b"%d-%d;" % (name, number))
                return accepted

            async def close() -> None:
                await asyncio.sleep(random.random() * 0.02)
                assert await insist(both[1], Append(close=True))

            *accepted, _ = await within(asyncio.gather(*(produce(name) for name in range(4)), close()))
            for streams in both:
                parts, _, chunk = await reading(streams)
                assert sorted(parts) == sorted(part for mine in accepted if mine for part in mine)
                assert chunk.closed
            assert not await insist(both[0], text("late"))

    run(go())


async def test_a_retry_is_a_duplicate_everywhere() -> None:
    async with replicas(2) as (one, two):
        await created(one)
        first = await one.append("p", ME, text("a", producer=("x", 0, 0)))
        again = await two.append("p", ME, text("other", producer=("x", 0, 0)))
        assert (first.fresh, again.fresh, again.seq) == (True, False, 0)
        await two.append("p", ME, text("b", producer=("x", 1, 0)))
        with pytest.raises(ProducerFenced):
            await one.append("p", ME, text("zombie", producer=("x", 0, 1)))
        assert (await read_all(one, "p"))[0] == [b"a", b"b"]


async def test_a_stream_is_made_once() -> None:
    """Many who create it at once get one stream, with the content of one of them."""
    async with replicas(2) as both:
        made = await asyncio.gather(*(both[n % 2].create("p", ME, TEXT, f"{n}".encode()) for n in range(20)))
        assert sum(one.created for one in made) == 1
        parts, _, _ = await read_all(both[0], "p")
        assert len(parts) == 1
        with pytest.raises(StreamConflict):
            await both[1].create("p", ME, JSON)


async def test_readers_see_a_large_write_whole_or_not_at_all() -> None:
    large = b"x" * 10 * 1024 * 1024
    async with replicas(2) as (one, two):
        await created(one)
        await one.append("p", ME, text("before"))
        writing = asyncio.create_task(two.append("p", ME, text(large)))
        seen: set[int] = set()
        while not writing.done() or len(seen) < 2:
            chunk = await one.read("p", ME, 0)
            seen.add(sum(map(len, chunk.parts)))
            await asyncio.sleep(0)
            if writing.done():
                seen.add(len(b"".join((await read_all(one, "p"))[0])))
        await writing
        assert seen <= {6, 6 + len(large)}
        assert b"".join((await read_all(two, "p"))[0]) == b"before" + large


async def test_reads_are_cut_into_chunks() -> None:
    async with replicas(1, options=DurableOptions(chunk_bytes=100)) as (streams,):
        await created(streams)
        for number in range(30):
            await streams.append("p", ME, text(f"{number:020d}"))
        parts, stops, chunk = await read_all(streams, "p")
        assert b"".join(parts) == b"".join(b"%020d" % number for number in range(30))
        assert stops == [6, 11, 16, 21, 26, 31]
        assert not (await streams.read("p", ME, 0)).up_to_date
        with pytest.raises(BadRequest):
            await streams.read("p", ME, chunk.next + 1)


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_followers_get_everything_once(seed: int) -> None:
    """Across replicas, with hints that are lost, late, doubled, and in any order."""

    async def go() -> None:
        async with replicas(2, seed=seed) as (one, two):
            await one.create("p", ME, JSON)

            async def follow(streams: DurableStreams) -> list[bytes]:
                chunk = await streams.read("p", ME, 0)
                got = list(chunk.parts)
                with await streams.follow("p", ME, chunk) as live:
                    while not chunk.closed:
                        found = await within(live.next())
                        assert found is not None
                        assert found.after == chunk.next
                        chunk = found
                        got += chunk.parts
                return got

            followers = [asyncio.create_task(follow(streams)) for streams in (one, two, one)]
            for number in range(40):
                await (one, two)[number % 2].append("p", ME, message(b"[%d,[%d]]" % (number, number)))
                await asyncio.sleep(0.0005 * (number % 3))
            await one.append("p", ME, Append(close=True))
            truth = [part for number in range(40) for part in (b"%d" % number, b"[%d]" % number)]
            for follower in followers:
                assert await within(follower) == truth

    run(go())


async def test_a_deleted_stream_ends_its_followers_and_is_never_mixed_up_with_the_next() -> None:
    async with replicas(2) as (one, two):
        await created(one)
        await one.append("p", ME, text("old"))
        chunk = await two.read("p", ME, 0)
        live = await two.follow("p", ME, chunk)
        waiting = asyncio.create_task(live.next())
        await asyncio.sleep(0)
        await one.delete("p", ME)
        with pytest.raises(NotFound):
            await within(waiting)
        for streams in (one, two):
            with pytest.raises(NotFound):
                await streams.read("p", ME, 0)
        made = await two.create("p", ME, TEXT, b"new")
        assert made.generation == 2
        assert (await read_all(one, "p"))[0] == [b"new"]
        with pytest.raises(NotFound):
            await two.follow("p", ME, chunk)


async def test_it_is_somebodys() -> None:
    """For everybody else there is nothing at that path; and it is not among anybody's generations."""
    async with replicas(1) as (streams,):
        await created(streams)
        for other in (Owner("u-2"), Owner("u-1", "t"), Owner()):
            with pytest.raises(NotFound):
                await streams.read("p", other, 0)
            with pytest.raises(NotFound):
                await streams.append("p", other, text("x"))
            if other.tenant is None:
                with pytest.raises(NotFound):
                    await streams.create("p", other, TEXT)
            with pytest.raises(NotFound):
                await streams.delete("p", other)
            with pytest.raises(NotFound):
                await streams.create("q", other, Wish(fork=Fork("p")))
        manager = streams._manager
        assert await manager.active(user="u-1") == []
        assert await manager.jobs(user="u-1") == []
        assert len(await manager.jobs(user=ANYONE)) == 1


async def test_tenants_have_paths_of_their_own() -> None:
    """One path is a stream for each tenant, on every replica, and each is written, read, forked and deleted alone."""
    owners = [Owner("u-1"), Owner("u-1", "a"), Owner("u-1", "b")]
    async with replicas(2) as (one, two):
        for place, owner in enumerate(owners):
            for _ in range(place + 1):  # different lengths: what one replica knows of one is not the other's
                await (one if place else two).create("p", owner, TEXT)
                await two.append("p", owner, text(f"{owner.tenant} "))
        for streams in (one, two):
            for place, owner in enumerate(owners):
                expected = f"{owner.tenant} ".encode() * (place + 1)
                assert b"".join((await streams.read("p", owner, 0)).parts) == expected
        assert (await one.create("f", owners[1], Wish(fork=Fork("p")))).created
        assert b"".join((await two.read("f", owners[1], 0)).parts) == b"a a "
        await two.delete("p", owners[2])
        with pytest.raises(NotFound):
            await one.head("p", owners[2])
        assert (await one.head("p", owners[1])).next == (await two.head("p", owners[1])).next
        with pytest.raises(NotFound):
            await one.head("f", owners[0])


async def test_bounds() -> None:
    async with replicas(1, options=DurableOptions(stream_bytes=1000, states=2)) as (streams,):
        await created(streams)
        with pytest.raises(StreamFull):
            await streams.append("p", ME, text("x" * 1000))
        await streams.append("p", ME, text("x" * 100))
        for number in range(5):
            await streams.create(f"p{number}", ME, TEXT)
        assert len(streams._cache) == 2
        assert (await read_all(streams, "p"))[0] == [b"x" * 100]


async def test_a_long_stream_is_not_read_from_its_beginning() -> None:
    """Another replica begins with a dump of the state, and knows its producers all the same."""
    async with replicas(2) as (one, two):
        await created(one)
        for number in range(1200):
            await one.append("p", ME, text("x", producer=("a", 0, number)))
        await asyncio.sleep(0)
        again = await two.append("p", ME, text("x", producer=("a", 0, 3)))
        assert (again.fresh, again.seq) == (False, 1199)
        known = next(iter(two._cache._known.values()))
        assert known.dumped >= 1000


async def test_a_stopping_replica_lets_followers_go() -> None:
    async with replicas(2) as (one, two):
        await created(one)
        live = await one.follow("p", ME, await one.read("p", ME, 0))
        waiting = asyncio.create_task(live.next())
        await asyncio.sleep(0)
        await one._manager.stop(0)
        with pytest.raises(ViewerReleased):
            await within(waiting)
        assert (await two.append("p", ME, text("x"))).fresh


async def test_long_and_strange_paths() -> None:
    async with replicas(1) as (streams,):
        paths = ["a/b c", "ü", "x" * 1000, "x" * 999, "\u0000", "{a}%", "#" + "0" * 64]
        for path in paths:
            await streams.create(path, ME, TEXT, path.encode())
        for path in paths:
            assert (await streams.read(path, ME, 0)).parts == [path.encode()]
        for path in ("", "x" * 5000):
            with pytest.raises(BadRequest):
                await streams.create(path, ME, TEXT)


async def test_nothing_is_left_of_a_hundred_streams() -> None:
    async with replicas(1) as (streams,):
        manager = streams._manager
        for number in range(100):
            path = f"p{number}"
            await streams.create(path, ME, TEXT, b"x")
            chunk = await streams.read(path, ME, 0)
            with await streams.follow(path, ME, chunk) as live:
                await streams.append(path, ME, text("y"))
                assert (await within(live.next())) is not None
            await streams.delete(path, ME)
        manager.replica.drop_idle_tails(list(manager.replica.tails))
        assert (await manager.counts()).total == 0
        assert (len(streams._cache), len(manager.replica.tails), len(manager.replica.viewers)) == (0, 0, 0)


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_a_large_stream_while_it_is_written(seed: int) -> None:
    """Whoever reads at any moment, in chunks of any size, gets a beginning of what is there in the end."""

    async def go() -> None:
        random = Random(seed)
        options = DurableOptions(chunk_bytes=random.choice([1, 100, 5000]))
        async with replicas(2, options=options) as both:
            await created(both[0])
            pieces = [random.randbytes(random.randint(1, 3000)) for _ in range(30)]

            async def write() -> None:
                for number, piece in enumerate(pieces):
                    await both[number % 2].append("p", ME, text(piece))
                    await asyncio.sleep(0)

            seen: list[bytes] = []
            writer = asyncio.create_task(write())
            while not writer.done():
                parts, _, _ = await read_all(random.choice(both), "p")
                seen.append(b"".join(parts))
                await asyncio.sleep(0)
            await writer
            whole = b"".join((await read_all(both[1], "p"))[0])
            assert whole == b"".join(pieces)
            assert all(whole.startswith(one) for one in seen)
            assert seen == sorted(seen, key=len)

    run(go())
