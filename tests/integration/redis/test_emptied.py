"""A Redis that has lost everything: numbers do not fall back, so no position, id or charge means two things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2 as httpx
import pytest

from tests.integration.redis.conftest import Starting
from tests.integration.redis.processes import Follower, check_exact
from tests.servers.redis import RedisServer
from unspool import ANYONE, Generation, GenerationManager, Options
from unspool.errors import Gone, NotFound, StoreUnavailable, UnspoolError
from unspool.testing.contract.kit import eventually
from unspool.viewer import Viewer

OPTIONS = Options(lease=1.0, sweep=0.05, poll=0.1, drain=0.0)


async def empty(redis: RedisServer, how: str) -> None:
    if how == "restarted":
        redis.kill()
        await asyncio.to_thread(redis.start)
    else:
        redis.ask(how)


@asynccontextmanager
async def managers(redis: RedisServer, *names: str) -> AsyncGenerator[list[GenerationManager]]:
    made = [GenerationManager.from_url(redis.url, options=OPTIONS) for _ in names]
    for manager in made:
        await manager.start_up()
    try:
        async with asyncio.timeout(60):
            yield made
    finally:
        for manager in made:
            await manager.stop()


async def say(gen: Generation) -> None:
    await gen.text("said")
    await asyncio.Event().wait()


async def begun(manager: GenerationManager, stream: str = "s") -> int:
    """Start a generation, also when the server has only just come back; its number."""

    async def start() -> int | None:
        try:
            return (await manager.start(stream, say)).generation
        except StoreUnavailable:
            return None

    return await eventually(start)


@pytest.mark.parametrize("how", ["FLUSHALL", "restarted"])
async def test_numbers_go_on_above_all_that_were_used(redis: RedisServer, how: str) -> None:
    """Whichever replica starts it, and for streams that it has never heard of."""
    async with managers(redis, "a", "b") as (one, two):
        assert [await begun(one), await begun(one), await begun(two, "t")] == [1, 2, 1]
        await empty(redis, how)
        numbers = [await begun(two), await begun(one, "t"), await begun(one), await begun(two, "new")]
        assert all(number > 1_000_000 for number in numbers)
        assert numbers[2] == numbers[0] + 1
        with pytest.raises(Gone):
            await two.job("s", user=ANYONE, generation=2)
        again = await begun(two)
        await empty(redis, how)
        assert await begun(one) > again


async def test_a_replica_that_is_new_does_not_begin_anew(redis: RedisServer) -> None:
    """One that starts while the database is empty knows of nothing; those that were there before tell it."""
    async with managers(redis, "a") as (one,):
        assert await begun(one) == 1
        await empty(redis, "FLUSHALL")
        async with managers(redis, "b") as (fresh,):

            async def raised() -> bool:
                return int((redis.ask("HGET", "unspool:numbers:{0}", "floor") or b"0").partition(b":")[0]) > 0

            await eventually(raised)
            assert await begun(fresh) > 1_000_000
            assert await begun(fresh, "t") > 1_000_000


async def test_a_database_that_is_new_counts_from_one(redis: RedisServer) -> None:
    for _ in range(2):
        async with managers(redis, "a", "b") as (one, two):
            assert await begun(one, "x") % 2 == await begun(two, "y") % 2
    async with managers(redis, "a") as (one,):
        assert await begun(one, "z") == 1


async def test_numbers_that_an_older_state_has_lost_are_not_used_again(redis: RedisServer) -> None:
    """Whoever has made the latest ones notices, and the others keep to it."""
    async with managers(redis, "a", "b") as (one, two):
        assert await begun(one) == 1
        redis.ask("SAVE")
        assert [await begun(one), await begun(one, "t")] == [2, 1]
        await empty(redis, "restarted")
        assert await begun(one, "u") > 1_000_000
        assert [await begun(two) > 1_000_000, await begun(two, "t") > 1_000_000] == [True, True]


async def test_notes_of_processes_that_ended_long_ago_are_forgotten(redis: RedisServer) -> None:
    """By the next one that starts: each process leaves one, and there is no end of processes."""
    numbers, lately = "unspool:numbers:{0}", int(redis.ask("TIME")[0])
    redis.ask("HSET", numbers, "floor", "0:ab", "note:old", f"5@{lately - 8 * 24 * 3600}", "note:new", f"5@{lately}")
    async with managers(redis, "a"):
        found = redis.ask("HKEYS", numbers)
    assert (b"note:old" in found, b"note:new" in found, len(found)) == (False, True, 3)


async def test_starts_at_once_leave_the_floor_alone(redis: RedisServer) -> None:
    async with managers(redis, "a", "b") as (one, two):
        numbers = await asyncio.gather(*(begun((one, two)[n % 2], f"s{n}") for n in range(100)))
        assert set(numbers) == {1}


@pytest.mark.parametrize("how", ["FLUSHALL", "restarted"])
async def test_a_position_of_before_is_told(redis: RedisServer, replicas: Starting, how: str) -> None:
    """The user asks again, and the client that was away comes back with what it had."""
    one, two = await replicas("a", "b", url=redis.url, lease=1.0, sweep=0.1)
    await one.say("s", count=5)
    old = await Follower(two, "s").end()
    await empty(redis, how)

    async def started() -> int | None:
        try:
            return (await two.say("s", count=300)).generation
        except (AssertionError, UnspoolError, httpx.HTTPError):
            return None

    generation = await eventually(started)
    assert generation > 1_000_000
    async with httpx.AsyncClient(base_url=one.url, timeout=60) as client:
        for offset in (1, len(old) - 1, len(old), 50):
            answer = await client.get("/v1/streams/s/events", headers={"last-event-id": f"1-{offset}"})
            assert answer.status_code == 409
            assert answer.json()["generation"] == generation
            answer = await client.get(f"/v1/streams/s/events?generation=1&after={offset}")
            assert answer.status_code == 410
    check_exact(await Follower(one, "s").end(), 300)


async def test_what_ran_is_over_and_its_viewers_are_told(redis: RedisServer) -> None:
    async with managers(redis, "a", "b") as (one, two):
        await begun(one)
        viewers = [await manager.view("s") for manager in (one, two)]
        for viewer in viewers:
            await viewer.records()
        await empty(redis, "FLUSHALL")
        for manager in (two, one):
            await begun(manager)
        for viewer in viewers:
            with pytest.raises((NotFound, Gone)):
                await read_on(viewer)


async def read_on(viewer: Viewer) -> None:
    """Read what is left, of which nothing may be said in the new generation."""
    async for record in viewer:
        assert record.type != "text.delta"
