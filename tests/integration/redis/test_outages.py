"""A Redis that is away, slow, full, forgetful: runs are paced, viewers stay, and everything has a definite outcome."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.redis.conftest import Gates, Starting
from tests.integration.redis.processes import SLACK, Follower, Gate, Replica, check_exact, numbers, start, until
from tests.servers import redis as servers
from tests.servers.redis import RedisServer
from unspool.errors import NotFound, UnspoolError
from unspool.jobs import Status
from unspool.testing.proxy import Faults, Proxy

Tell = Callable[[str], None]

BACKLOG = 64
COUNT = 700
QUIET = 200
"""A run waits after this number until the outage begins: then it would say far more than its backlog, if it could."""


async def steady(one: Replica, stream: str, gate: Gate) -> None:
    """Start a run of 700 numbers that waits after 200."""
    await one.say(stream, count=COUNT, delay=0.004, gates={QUIET: gate})


@pytest.fixture
def fragile(tmp_path: Path) -> Generator[RedisServer]:
    """A server of the test's own, for breaking. What it has accepted it finds again when it is started anew."""
    # Without fsync an accepted write is with the kernel at once, and outlives the process.
    with servers.server(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "no") as running:
        yield running


class Watch:
    """A connection that is read byte by byte: heart-beats are seen here, and whether it was ever cut."""

    def __init__(self, replica: Replica, stream: str) -> None:
        self.beats: list[float] = []
        self.cut = False
        self._task = asyncio.create_task(self._read(replica, stream))

    async def _read(self, replica: Replica, stream: str) -> None:
        async with replica.http() as client:
            try:
                async with client.stream("GET", f"/v1/streams/{stream}/events") as response:
                    async for data in response.aiter_raw():
                        self.beats += [time.monotonic()] * data.count(b": ka\n")
            except httpx2.TransportError:
                self.cut = True

    async def end(self) -> None:
        await self._task


async def paced(one: Replica, stream: str) -> int:
    """Wait until the run does not get any further; the last number that it has said."""
    said = -1
    while True:
        now = (await one.census())["said"][f"{stream}/1"]
        if now == said > QUIET:
            return said
        said = now
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("timeout", [5.0, 1.0], ids=["waited for", "given up and asked again"])
async def test_a_redis_that_is_frozen_for_seconds_costs_time_alone(
    replicas: Starting, fragile: RedisServer, gates: Gates, stream: str, timeout: float
) -> None:
    """Scenario 56: the run is paced, the viewers stay with heart-beats, and all is there once, in order, afterwards."""
    one, two = await replicas(
        "a", "b", url=f"{fragile.url}?timeout={timeout}", heartbeat=0.3, lease=30.0, backlog=BACKLOG
    )
    outage = gates()
    await steady(one, stream, outage)
    viewers = [Follower(replica, stream) for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(QUIET)
    watch = Watch(two, stream)
    await until(lambda: watch.beats, "it is connected")
    fragile.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        outage.open()
        ahead = await paced(one, stream) - QUIET
        # Heart-beats came meanwhile, and for longer than the shorter time-out.
        await until(lambda: [beat for beat in watch.beats if beat > begun], "heart-beats", lambda beats: len(beats) > 5)
    finally:
        fragile.signal(signal.SIGCONT)
    assert ahead <= BACKLOG + 1  # it waits, with the one that it cannot hand over
    for viewer in viewers:
        check_exact(await viewer.end(), COUNT)
        assert viewer.connections == 1
    await watch.end()
    assert not watch.cut


@asynccontextmanager
async def away(redis: RedisServer) -> AsyncGenerator[None]:
    """A server that is killed, and started again on leaving."""
    redis.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(redis.start)


async def test_a_redis_that_dies_and_returns_costs_time_alone(
    replicas: Starting, fragile: RedisServer, gates: Gates, stream: str
) -> None:
    """Killed and started again over the same data: the same, for a run that talks and for one in a tool."""
    one, two = await replicas("a", "b", url=fragile.url, heartbeat=0.3, lease=30.0, backlog=BACKLOG)
    outage, finish = gates(), gates()
    await steady(one, stream, outage)
    await one.say(f"{stream}-tool", count=2, tool=finish)
    viewers = [Follower(replica, name) for name in (stream, f"{stream}-tool") for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(2 if viewer in viewers[2:] else QUIET)
    async with away(fragile):
        outage.open()
        assert await paced(one, stream) - QUIET <= BACKLOG + 1
        with pytest.raises(UnspoolError) as refused:
            await one.say(f"{stream}-new", count=1)
        assert refused.value.code == "store_unavailable"
    finish.open()
    for viewer in viewers:
        check_exact(await viewer.end())
        assert (viewer.types[-1], viewer.connections) == ("completed", 1)
    assert viewers[0].text == viewers[1].text == numbers(COUNT)
    check_exact(await _say_and_read(one, two, f"{stream}-new"), 1)


async def _say_and_read(one: Replica, two: Replica, stream: str) -> list:
    await one.say(stream, count=1)
    return await Follower(two, stream).end()


async def test_away_for_longer_than_the_lease_there_are_no_ghosts(
    replicas: Starting, fragile: RedisServer, gates: Gates, stream: str, tell: Tell
) -> None:
    """Every generation continues to its end where its owner lives, and has failed with `owner_lost` where it died."""
    lease = 4.0
    one, two, three = await replicas("a", "b", "c", url=fragile.url, lease=lease)
    finish = gates()
    for replica in (one, two):
        for number in range(4):
            await replica.say(f"{stream}-{replica.name}{number}", count=400, delay=0.005, gates={300: finish})
    names = [f"{stream}-{who}{number}" for who in "ab" for number in range(4)]
    viewers = {name: Follower(three, name) for name in names}
    for viewer in viewers.values():
        await viewer.reach(10)
    async with away(fragile):
        one.kill()
        await asyncio.sleep(lease)  # no lease that was given before is still valid
    back = time.monotonic()
    finish.open()
    ends = {name: (await viewer.end())[-1] for name, viewer in viewers.items()}
    for name, viewer in viewers.items():
        check_exact(viewer.records, 400 if "-b" in name else None)
        assert (ends[name].type, ends[name].data.get("code")) == (
            ("completed", None) if "-b" in name else ("failed", "owner_lost")
        )
    lost = max(viewer.ended_at for name, viewer in viewers.items() if "-a" in name) - back
    tell(f"owner killed during an outage of {lease:.0f} s, lease {lease:.0f} s: told {lost:.2f} s after its end")
    assert lost < lease + 2.0 + SLACK
    async with three.client() as client:
        assert await client.list(status=Status.RUNNING) == []


async def test_restarted_empty_everything_is_stopped_and_said_to_be_gone(
    replicas: Starting, fragile: RedisServer, gates: Gates, stream: str
) -> None:
    """Runs are cancelled, viewers are cut off and then told 404, and a new turn begins at once."""
    one, two = await replicas("a", "b", url=fragile.url, lease=3.0)
    outage = gates()
    await steady(one, stream, outage)
    await one.say(f"{stream}-tool", count=2, tool=1000)
    viewers = [Follower(replica, name) for name in (stream, f"{stream}-tool") for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(2)
    outage.open()
    fragile.kill()
    shutil.rmtree(fragile.folder / "appendonlydir")
    await asyncio.to_thread(fragile.start)
    for viewer in viewers:
        with pytest.raises(NotFound):
            await viewer.end()
    found = await until(one.census, "no run is left", lambda found: not found["runs"])
    assert set(found["signalled"]) == {f"{stream}/1", f"{stream}-tool/1"}
    async with two.client() as client:
        assert await client.list() == []
        with pytest.raises(NotFound):
            await client.stop(stream)
    check_exact(await _say_and_read(one, two, stream), 1)


async def test_a_full_redis_paces_the_run_until_there_is_room(
    replicas: Starting, fragile: RedisServer, gates: Gates, stream: str
) -> None:
    """Out of memory for longer than the lease: nothing is lost, the owner is not taken for dead, then all continues."""
    lease = 2.0
    one, two = await replicas("a", "b", url=fragile.url, heartbeat=0.3, lease=lease, backlog=BACKLOG)
    full = gates()
    await steady(one, stream, full)
    viewers = [Follower(replica, stream) for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(QUIET)
    fragile.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    fragile.ask("CONFIG", "SET", "maxmemory", "1mb")
    full.open()
    await asyncio.sleep(lease)  # no lease that was given before is still valid
    ahead = await paced(one, stream) - QUIET
    with pytest.raises(UnspoolError) as refused:
        await two.say(f"{stream}-new", count=1)
    assert refused.value.code == "store_unavailable"
    assert "memory" in str(refused.value)
    fragile.ask("CONFIG", "SET", "maxmemory", "0")
    assert ahead <= BACKLOG + 1
    for viewer in viewers:
        check_exact(await viewer.end(), COUNT)
        assert (viewer.types[-1], viewer.connections) == ("completed", 1)


async def test_a_slow_redis_is_waited_for(replicas: Starting, database: RedisServer, store: str, stream: str) -> None:
    """Every answer to the owner is late, by up to a third of a second, and torn: larger groups, the same log."""
    async with Proxy(database.port, Faults(seed=5, stall=(0.7, 0.3), split=True)) as slow:
        (one,) = await replicas("a", url=f"redis://127.0.0.1:{slow.port}?{store.partition('?')[2]}", lease=30.0)
        (two,) = await replicas("b", lease=30.0)
        await one.say(stream, count=500, delay=0.002)
        viewers = [Follower(replica, stream) for replica in (one, two)]
        for viewer in viewers:
            check_exact(await viewer.end(), 500)
            assert viewer.types[-1] == "completed"


async def test_connections_cut_again_and_again_cost_time_alone(
    replicas: Starting, database: RedisServer, store: str, gates: Gates, stream: str
) -> None:
    """Between the owner and its Redis, in the middle of commands and of answers: nothing is lost, nothing twice."""
    async with Proxy(database.port, Faults(seed=9, cut_after=(500, 3000), split=True)) as bad:
        (one,) = await replicas(
            "a", url=f"redis://127.0.0.1:{bad.port}?{store.partition('?')[2]}", lease=30.0, sweep=0.02
        )
        (two,) = await replicas("b", lease=30.0)
        finish = gates()
        await start(one.client(attempts=20), stream, count=1000, delay=0.002, gates={900: finish})
        viewers = [Follower(replica, stream) for replica in (one, two)]
        await until(lambda: bad.cuts, "it is cut often enough", lambda cuts: cuts >= 8)
        finish.open()
        for viewer in viewers:
            check_exact(await viewer.end(), 1000)
            assert viewer.types[-1] == "completed"


async def test_an_owner_that_is_cut_off_for_good_is_taken_for_dead(
    replicas: Starting, database: RedisServer, store: str, stream: str
) -> None:
    """It alone cannot reach the Redis, and hears nothing, not even that it is cut off. The others say that it is lost;
    when it is back its run is refused, and its own viewers are told the same end."""
    async with Proxy(database.port) as cable:
        (one,) = await replicas("a", url=f"redis://127.0.0.1:{cable.port}?{store.partition('?')[2]}&timeout=1")
        (two,) = await replicas("b")
        await one.say(stream, count=100_000, delay=0.005)
        here, there = Follower(one, stream), Follower(two, stream)
        await there.reach(20)
        cable.silence()
        records = await there.end()
        assert records[-1].data["code"] == "owner_lost"
        cable.speak()
        assert await here.end() == records
        check_exact(records)
        await until(one.census, "the owner gives up", lambda found: not found["runs"])


async def test_forgotten_scripts_change_nothing(replicas: Starting, fragile: RedisServer, stream: str) -> None:
    """SCRIPT FLUSH again and again, in the middle of everything."""
    one, two = await replicas("a", "b", url=fragile.url)
    await one.say(stream, count=400, delay=0.003)
    viewers = [Follower(replica, stream) for replica in (one, two)]
    while not all(viewer.types and viewer.records[-1].terminal for viewer in viewers):
        fragile.ask("SCRIPT", "FLUSH")
        await asyncio.sleep(0.01)
    for viewer in viewers:
        check_exact(await viewer.end(), 400)
        assert viewer.connections == 1
