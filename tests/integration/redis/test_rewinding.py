"""A Redis that has lost the latest records: restarted from an older dump, or failed over to a replica that lagged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.integration.redis.conftest import Starting
from tests.integration.redis.processes import Follower, Replica, check_exact, numbers, until
from tests.servers import redis as servers
from tests.servers.redis import RedisServer, Sentinels
from unspool.jobs import Status

Tell = Callable[[str], None]

pytestmark = pytest.mark.skipif(servers.binary() is None, reason="there is no Redis 8 here")


@pytest.fixture
def dumped(tmp_path: Path) -> Generator[RedisServer]:
    """A server that knows, when it is started anew, what `SAVE` has written, and nothing later."""
    with servers.server(tmp_path / "redis") as running:
        yield running


async def rewind(redis: RedisServer) -> None:
    redis.kill()
    await asyncio.to_thread(redis.start)


async def lose_fifty(redis: RedisServer, viewer: Follower) -> int:
    """Dump the database and go on until 50 records more were read; how many were read before."""
    redis.ask("SAVE")
    kept = viewer.count
    await viewer.reach(kept + 50)
    return kept


async def test_what_the_store_lost_is_written_again_by_its_owner(
    replicas: Starting, dumped: RedisServer, stream: str
) -> None:
    """Viewers stay connected, and every record is in the log once, in its place, also those that had been lost."""
    one, two = await replicas("a", "b", url=dumped.url, lease=5.0)
    await one.say(stream, count=500, delay=0.005)
    viewers = [Follower(replica, stream) for replica in (one, two)]
    await viewers[1].reach(20)
    await lose_fifty(dumped, viewers[1])
    await rewind(dumped)
    for viewer in viewers:
        check_exact(await viewer.end(), 500)
        assert (viewer.types[-1], viewer.connections) == ("completed", 1)
    assert await Follower(two, stream).end() == viewers[0].records


async def test_what_a_silent_owner_had_said_is_written_again_before_its_end(
    replicas: Starting, dumped: RedisServer, stream: str
) -> None:
    """The run is in a tool while the records are lost, and says nothing more than its end."""
    one, two = await replicas("a", "b", url=dumped.url, lease=5.0)
    await one.say(stream, count=100, delay=0.002, tool=2.0)
    viewer = Follower(two, stream)
    await viewer.reach(10)
    dumped.ask("SAVE")
    await viewer.reach(100)
    await rewind(dumped)
    check_exact(await viewer.end(), 100)
    check_exact(await Follower(one, stream).end(), 100)


async def test_viewers_beyond_the_end_are_told_what_is_left(
    replicas: Starting, dumped: RedisServer, stream: str
) -> None:
    """The owner is dead as well: nobody can write it again. Who had read more gets the content as it now is, marked as
    rewound, and the terminal record; who had read less goes on as if nothing had been."""
    one, two = await replicas("a", "b", url=dumped.url, lease=1.0)
    await one.say(stream, count=10_000, delay=0.005)
    ahead = Follower(two, stream)
    await ahead.reach(20)
    kept = await lose_fifty(dumped, ahead)
    one.kill()
    await rewind(dumped)
    records = await ahead.end()
    assert [record.type for record in records[-2:]] == ["sync", "failed"]
    assert records[-2].data["reason"] == "rewound"
    assert records[-1].data["code"] == "owner_lost"
    left = await Follower(two, stream).end()
    check_exact(left)
    assert left[-1] == records[-1]
    assert (records[-1].offset, records[-2].offset) == (left[-1].offset, left[-1].offset - 1)
    async with two.client() as client:
        state = await client.status(stream)
    assert kept <= len(state.text.split()) < ahead.records[-3].offset
    assert ahead.text == state.text == numbers(len(state.text.split()))


async def test_a_survivor_writes_anew_what_was_lost_and_viewers_are_told(
    replicas: Starting, dumped: RedisServer, stream: str
) -> None:
    """The owner is dead as well, and its run is gone on with: other records stand where viewers had read some."""
    one, two = await replicas("a", "b", url=dumped.url, lease=1.0, resumable="script")
    await one.say(stream, count=400, delay=0.01)
    ahead = Follower(two, stream)
    await ahead.reach(20)
    kept = await lose_fifty(dumped, ahead)
    one.kill()
    await rewind(dumped)
    records = await ahead.end()
    syncs = [record for record in records if record.type == "sync"]
    assert [record.data["reason"] for record in syncs] == ["rewound"]
    assert kept <= syncs[0].offset < kept + 50
    after = records[records.index(syncs[0]) + 1 :]
    assert [record.offset for record in after] == list(range(syncs[0].offset + 1, after[-1].offset + 1))
    assert (after[-1].type, ahead.text) == ("completed", numbers(400))
    left = await Follower(two, stream).end()
    check_exact(left, 400)
    assert left[-len(after) :] == after


async def test_an_end_that_was_lost_is_no_ghost(replicas: Starting, dumped: RedisServer, stream: str) -> None:
    """Completed, and the store does not know any more: it ends again, as lost, and a new turn can start."""
    one, two = await replicas("a", "b", url=dumped.url, lease=1.0)
    await one.say(stream, count=20, delay=0.15)  # it must not be over when it is saved, however busy the machine is
    viewer = Follower(two, stream)
    await viewer.reach(5)
    dumped.ask("SAVE")
    check_exact(await viewer.end(), 20)
    await rewind(dumped)
    async with two.client() as client:
        await until(lambda: client.list(status=Status.ERROR), "it has ended again")
    await until(two.census, "the log as it was is forgotten", lambda found: not found["tails"])
    records = await Follower(two, stream).end()
    check_exact(records)
    assert records[-1].data["code"] == "owner_lost"
    assert (await two.say(stream, count=1)).generation == 2


@pytest.fixture
def watched(tmp_path: Path) -> Generator[Sentinels]:
    """A master with a replica under three sentinels, for breaking."""
    with servers.sentinels(tmp_path / "sentinels") as running:
        yield running


async def followed(one: Replica, two: Replica, stream: str, count: int) -> list[Follower]:
    await one.say(stream, count=count, delay=0.01)
    await one.say(f"{stream}-tool", count=5, tool=10.0)
    viewers = [Follower(replica, name) for name in (stream, f"{stream}-tool") for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(5)
    return viewers


async def test_a_failover_costs_time_alone(replicas: Starting, watched: Sentinels, stream: str, tell: Tell) -> None:
    """The master dies and its replica takes over: runs go on, and no viewer is cut off or misses anything."""
    one, two = await replicas("a", "b", url=watched.url, lease=15.0)
    viewers = await followed(one, two, stream, 600)
    begun = time.monotonic()
    await asyncio.to_thread(watched.fail_over)
    promoted = time.monotonic() - begun
    said = viewers[1].count
    await viewers[1].reach(said + 1)
    tell(f"failover: promoted after {promoted:.1f} s, records again after {time.monotonic() - begun:.1f} s")
    async with two.client() as client:
        assert (await client.stop(f"{stream}-tool")).text == numbers(5)
    for viewer in viewers:
        check_exact(await viewer.end())
        assert viewer.connections == 1
    assert viewers[0].text == viewers[1].text == numbers(600)


async def test_a_failover_to_a_replica_that_lagged_loses_nothing_while_the_owner_lives(
    replicas: Starting, watched: Sentinels, stream: str
) -> None:
    """The new master misses seconds of records; they are written again, in their places."""
    one, two = await replicas("a", "b", url=watched.url, lease=15.0)
    viewers = await followed(one, two, stream, 600)
    watched.replica.ask("REPLICAOF", "127.0.0.1", servers.free_port())  # nobody is there: from now on it lags
    said = viewers[1].count
    await viewers[1].reach(said + 100)
    await asyncio.to_thread(watched.fail_over)
    await until(lambda: watched.replica.ask("ROLE")[0], "the replica is the master", lambda role: role == b"master")
    for viewer in viewers[:2]:
        check_exact(await viewer.end(), 600)
        assert (viewer.types[-1], viewer.connections) == ("completed", 1)
    assert await Follower(two, stream).end() == viewers[0].records
    async with two.client() as client:
        outcome = await client.stop(f"{stream}-tool")
        assert (outcome.status, outcome.text) == (Status.ABORTED, numbers(5))
    for viewer in viewers[2:]:
        check_exact(await viewer.end(), 5)
