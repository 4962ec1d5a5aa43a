"""A Redis that has lost the latest records: restarted from an older dump, or failed over to a replica that lagged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.integration.redis.conftest import Gates, Starting
from tests.integration.redis.processes import Follower, Gate, Replica, check_exact, numbers, until
from tests.servers import redis as servers
from tests.servers.ports import free_port
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


async def lose_fifty(redis: RedisServer, viewer: Follower, gate: Gate) -> int:
    """Dump the database while the run waits at 20, then let it say 50 numbers more; the offset that was dumped."""
    await viewer.reach(20)
    redis.ask("SAVE")
    kept = viewer.records[-1].offset
    gate.open()
    await viewer.until(lambda viewer: viewer.count >= 70 and viewer.records[-1].offset >= kept + 10, "fifty are lost")
    return kept


async def test_what_the_store_lost_is_written_again_by_its_owner(
    replicas: Starting, dumped: RedisServer, gates: Gates, stream: str
) -> None:
    """Viewers stay connected, and every record is in the log once, in its place, also those that had been lost."""
    one, two = await replicas("a", "b", url=dumped.url, lease=30.0)
    dump, finish = gates(), gates()
    await one.say(stream, count=500, delay=0.005, gates={20: dump, 450: finish})
    viewers = [Follower(replica, stream) for replica in (one, two)]
    await lose_fifty(dumped, viewers[1], dump)
    await rewind(dumped)
    finish.open()
    for viewer in viewers:
        check_exact(await viewer.end(), 500)
        assert (viewer.types[-1], viewer.connections) == ("completed", 1)
    assert await Follower(two, stream).end() == viewers[0].records


async def test_what_a_silent_owner_had_said_is_written_again_before_its_end(
    replicas: Starting, dumped: RedisServer, gates: Gates, stream: str
) -> None:
    """The run is in a tool while the records are lost, and says nothing more than its end."""
    one, two = await replicas("a", "b", url=dumped.url, lease=30.0)
    dump, finish = gates(), gates()
    await one.say(stream, count=100, delay=0.002, gates={10: dump}, tool=finish)
    viewer = Follower(two, stream)
    await viewer.reach(10)
    dumped.ask("SAVE")
    dump.open()
    await viewer.until(lambda viewer: "tool.call" in viewer.types, "it is in the tool")
    await rewind(dumped)
    finish.open()
    check_exact(await viewer.end(), 100)
    check_exact(await Follower(one, stream).end(), 100)


async def test_viewers_beyond_the_end_are_told_what_is_left(
    replicas: Starting, dumped: RedisServer, gates: Gates, stream: str
) -> None:
    """The owner is dead as well, and no replica can write it again. A viewer that had read more gets the content as it
    now is, marked as rewound, and the terminal record; a viewer that had read less continues as if nothing had been."""
    one, two = await replicas("a", "b", url=dumped.url, lease=2.0)
    dump = gates()
    await one.say(stream, count=10_000, delay=0.005, gates={20: dump})
    ahead = Follower(two, stream)
    kept = await lose_fifty(dumped, ahead, dump)
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
    assert kept == records[-2].offset < ahead.records[-3].offset
    assert ahead.text == state.text == numbers(20)


async def test_a_survivor_writes_anew_what_was_lost_and_viewers_are_told(
    replicas: Starting, dumped: RedisServer, gates: Gates, stream: str
) -> None:
    """The owner is dead as well, and its run is resumed: other records are written where viewers had read some."""
    one, two = await replicas("a", "b", url=dumped.url, lease=2.0, resumable="script")
    dump, resume, finish = gates(), gates(), gates()
    resume.open()
    await one.say(stream, count=400, delay=0.004, gates={20: dump, 25: resume, 390: finish})
    ahead = Follower(two, stream)
    kept = await lose_fifty(dumped, ahead, dump)
    read = ahead.records[-1].offset
    resume.close()  # the new owner's run waits here until the viewer is told
    one.kill()
    await rewind(dumped)
    await ahead.until(lambda viewer: "sync" in viewer.types, "it is told")
    resume.open()
    finish.open()
    records = await ahead.end()
    syncs = [record for record in records if record.type == "sync"]
    assert [record.data["reason"] for record in syncs] == ["rewound"]
    assert kept <= syncs[0].offset < read
    after = records[records.index(syncs[0]) + 1 :]
    assert [record.offset for record in after] == list(range(syncs[0].offset + 1, after[-1].offset + 1))
    assert (after[-1].type, ahead.text) == ("completed", numbers(400))
    left = await Follower(two, stream).end()
    check_exact(left, 400)
    assert left[-len(after) :] == after


async def test_an_end_that_was_lost_is_no_ghost(
    replicas: Starting, dumped: RedisServer, gates: Gates, stream: str
) -> None:
    """Completed, and the store does not know any more: it ends again, as lost, and a new turn can start."""
    one, two = await replicas("a", "b", url=dumped.url, lease=2.0)
    dump = gates()
    await one.say(stream, count=20, gates={5: dump})
    viewer = Follower(two, stream)
    await viewer.reach(5)
    dumped.ask("SAVE")
    dump.open()
    check_exact(await viewer.end(), 20)
    await until(one.census, "its owner has done all of it", lambda found: not found["runs"])  # else it seals it again
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


async def followed(one: Replica, two: Replica, stream: str, gates: dict[int, Gate]) -> list[Follower]:
    """Viewers of a run that says 600 numbers, held up by these gates, and of one that is in a tool."""
    await one.say(stream, count=600, delay=0.005, gates=gates)
    await one.say(f"{stream}-tool", count=5, tool=1000)
    viewers = [Follower(replica, name) for name in (stream, f"{stream}-tool") for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(5)
    return viewers


async def test_a_failover_costs_time_alone(
    replicas: Starting, watched: Sentinels, gates: Gates, stream: str, tell: Tell
) -> None:
    """The master dies and its replica takes over: runs continue, and no viewer is cut off or misses anything."""
    one, two = await replicas("a", "b", url=watched.url, lease=60.0)
    finish = gates()
    viewers = await followed(one, two, stream, {550: finish})
    begun = time.monotonic()
    await asyncio.to_thread(watched.fail_over)
    promoted = time.monotonic() - begun
    said = viewers[1].count
    finish.open()
    await viewers[1].reach(said + 1)
    tell(f"failover: promoted after {promoted:.1f} s, records again after {time.monotonic() - begun:.1f} s")
    async with two.client() as client:
        assert (await client.stop(f"{stream}-tool")).text == numbers(5)
    for viewer in viewers:
        check_exact(await viewer.end())
        assert viewer.connections == 1
    assert viewers[0].text == viewers[1].text == numbers(600)


async def test_a_failover_to_a_replica_that_lagged_loses_nothing_while_the_owner_lives(
    replicas: Starting, watched: Sentinels, gates: Gates, stream: str
) -> None:
    """The new master misses a hundred records; they are written again, in their places."""
    one, two = await replicas("a", "b", url=watched.url, lease=60.0)
    lag, finish = gates(), gates()
    viewers = await followed(one, two, stream, {100: lag, 550: finish})
    watched.replica.ask("REPLICAOF", "127.0.0.1", free_port())  # no server is there: from now on it lags
    lag.open()
    await viewers[1].reach(200)
    await asyncio.to_thread(watched.fail_over)
    await until(lambda: watched.replica.ask("ROLE")[0], "the replica is the master", lambda role: role == b"master")
    finish.open()
    for viewer in viewers[:2]:
        check_exact(await viewer.end(), 600)
        assert (viewer.types[-1], viewer.connections) == ("completed", 1)
    assert await Follower(two, stream).end() == viewers[0].records
    async with two.client() as client:
        outcome = await client.stop(f"{stream}-tool")
        assert (outcome.status, outcome.text) == (Status.ABORTED, numbers(5))
    for viewer in viewers[2:]:
        check_exact(await viewer.end(), 5)
