"""A generation that one process runs, as another process shows it: listed, followed, resumed, cut off."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import pytest

from tests.integration.redis.conftest import Gates
from tests.integration.redis.processes import Follower, Replica, check_exact, numbers, read_until_cut, start, until
from tests.servers.redis import RedisServer
from unspool.client import Received
from unspool.client.follow import Following
from unspool.errors import InvalidPosition, NotFound
from unspool.jobs import Status
from unspool.testing.proxy import Faults, Proxy

Pair = tuple[Replica, Replica]


async def test_a_run_of_one_replica_is_listed_told_and_followed_by_the_other(
    shared: Pair, gates: Gates, stream: str
) -> None:
    """From its first record to its end, each once, whatever was said before the viewer came."""
    one, two = shared
    finish = gates()
    started = await one.say(stream, user=stream, count=60, delay=0.01, gates={30: finish})
    early = Follower(one, stream, user=stream)
    await early.reach(10)
    viewer = Follower(two, stream, user=stream)
    async with two.client(stream) as client:
        assert [found.stream_id for found in await client.list(status=Status.RUNNING)] == [stream]
        state = await client.status(stream)
        assert (state.generation, state.status) == (started.generation, Status.RUNNING)
        assert numbers(60).startswith(state.text)
        finish.open()
        check_exact(await viewer.end(), 60)
        assert viewer.connections == 1
        assert await early.end() == viewer.records
        assert await client.list(status=Status.RUNNING) == []
        assert (await client.status(stream)).text == numbers(60)


async def test_what_was_said_before_anybody_came_is_there_for_all(shared: Pair, gates: Gates, stream: str) -> None:
    """Scenarios 7 and 11: viewers of both replicas, during the run and after its end, get all of it."""
    finish = gates()
    await shared[0].say(stream, count=3, tool=finish)
    early = [Follower(replica, stream) for replica in shared]
    for viewer in early:
        await viewer.until(lambda viewer: "tool.call" in viewer.types, "it is in the tool")
    finish.open()
    ends = [await viewer.end() for viewer in early]
    late = [await Follower(replica, stream).end() for replica in shared]
    for records in (*ends, *late):
        check_exact(records, 3)
        assert records == ends[0]


async def test_a_viewer_goes_on_at_its_position_on_any_replica(shared: Pair, gates: Gates, stream: str) -> None:
    """Scenario 17: a snapshot first, then only what came later; and a bare position does as well."""
    one, two = shared
    finish = gates()
    await one.say(stream, count=200, delay=0.005, gates={190: finish})
    first = Follower(one, stream)
    await first.reach(20)
    await first.leave()
    at = first.records[-1].offset
    bare = Follower(two, stream, generation=1, after=at)
    snapshot = Follower(two, stream, snapshot=True)
    await snapshot.until(lambda viewer: bool(viewer.records), "it has its snapshot")
    finish.open()
    check_exact([*first.records, *await bare.end()], 200)
    records = await snapshot.end()
    assert records[0].type == "sync"
    assert [record.offset for record in records[1:]] == list(range(records[0].offset + 1, records[-1].offset + 1))
    assert snapshot.text == numbers(200)


async def test_cut_at_random_bytes_a_viewer_between_replicas_misses_nothing(shared: Pair, stream: str) -> None:
    """Scenario 18: cut a hundred times at any byte, it comes back to the one replica or the other."""
    draw, faults = random.Random(7), Faults(seed=7, cut_after=(1, 2500), split=True)
    await shared[0].say(stream, count=1000, delay=0.002)
    following, records = Following(stream, generation=1), list[Received]()
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(replica.port, faults)) for replica in shared]
        while not following.ended:
            lately = sum(proxy.cuts for proxy in proxies) < 100
            url = draw.choice(proxies).url if lately else shared[1].url
            await read_until_cut(shared[0].http(), url, following, records)
    check_exact(records, 1000)


async def test_a_position_that_is_none_is_refused_by_every_replica(shared: Pair, stream: str) -> None:
    """Scenario 26: beyond the end, or of an older generation: the answer names the current one."""
    one, two = shared
    await one.say(stream, count=3)
    await Follower(two, stream).end()
    await one.say(stream, count=3)
    await Follower(two, stream, generation=2).end()
    with pytest.raises(InvalidPosition) as beyond:
        await Follower(two, stream, generation=2, after=99).end()
    assert beyond.value.details["generation"] == 2
    async with two.http() as client:
        answer = await client.get(f"/v1/streams/{stream}/events", headers={"last-event-id": "1-2"})
    assert (answer.status_code, answer.json()["generation"]) == (409, 2)


async def test_nobody_elses_streams_exist(shared: Pair, stream: str) -> None:
    """Scenario 59: read, status, list, stop and start by another user are answered as for a stream that never was."""
    one, two = shared
    await one.say(stream, user="owner", count=2, tool=1000)
    async with two.client("thief") as client:
        for refused in (client.status(stream), client.stop(stream), start(two.client("thief"), stream)):
            with pytest.raises(NotFound) as error:
                await refused
            with pytest.raises(NotFound) as never:
                await client.status("never-was")
            assert error.value.message == never.value.message
        assert await client.list() == []
    with pytest.raises(NotFound):
        await Follower(two, stream, user="thief").end()
    async with two.client("owner") as client:
        assert (await client.stop(stream)).text == numbers(2)


async def test_a_users_listing_is_right_whatever_the_index_holds(
    shared: Pair, database: RedisServer, stream: str
) -> None:
    """Scenario 60: running ones only where those are asked for; dead entries are gone once somebody has looked."""
    one, two = shared
    user = f"user-{stream}"
    index = f'shared:owner:["{user}",null]'
    database.ask("ZADD", index, 1, "never-was")
    for number in range(4):
        await one.say(f"{stream}-{number}", user=user, count=1, tool=1000 if number % 2 else 0)
    async with two.client(user) as client:
        running = await until(lambda: client.list(status=Status.RUNNING), "two run", lambda found: len(found) == 2)
        assert {found.stream_id for found in running} == {f"{stream}-1", f"{stream}-3"}
        assert len(await client.list()) == 4
        await client.stop(f"{stream}-1")
        assert [found.stream_id for found in await client.list(status=Status.RUNNING)] == [f"{stream}-3"]
        await client.stop(f"{stream}-3")
    assert database.ask("ZSCORE", index, "never-was") is None
    async with two.client("somebody") as client:
        assert await client.list() == []
