"""What replicas leave in a Redis, and what they ask of it: keys that end, few connections, commands that viewers do not
multiply."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Monitor

from tests.integration.redis.conftest import Gates, Starting
from tests.integration.redis.processes import Follower, Gate, Replica, check_exact, numbers, until
from tests.servers import redis as servers
from tests.servers.redis import RedisServer
from unspool.backends.redis import from_url
from unspool.jobs import Owner
from unspool.protocols import NewJob

Tell = Callable[[str], None]

pytestmark = pytest.mark.skipif(servers.binary() is None, reason="there is no Redis 8 here")

STAYS = (
    re.compile(rb"unspool:\{[^{}]+\}"),  # a stream's hash: it remembers the number of its last generation
    re.compile(rb"unspool:(leases|completed|unfinished|streams):\{\d\}"),
    re.compile(rb"unspool:owner:.*"),
    re.compile(rb"unspool:numbers:\{0\}"),
)


@pytest.fixture
def alone(tmp_path: Path) -> Generator[RedisServer]:
    """A server that nobody else uses, for counting."""
    with servers.server(tmp_path / "redis") as running:
        yield running


def left(redis: RedisServer) -> dict[bytes, int]:
    """Every key with the milliseconds after which it is forgotten; -1: never."""
    with redis.client as client:
        return {key: int(client.pttl(key)) for key in client.scan_iter(count=1000)}  # pyright: ignore[reportArgumentType]


def is_documented(key: bytes) -> bool:
    return any(pattern.fullmatch(key) for pattern in STAYS)


async def end_in_every_way(replicas: list[Replica], stream: str, finish: Gate) -> None:
    """Generations that complete, are stopped, replaced, given up by their owner, lost by one that is killed."""
    one, two, three = replicas
    await one.say(f"{stream}-done", count=50)
    await one.say(f"{stream}-stopped", count=5, tool=100, usage=["m"])
    async with two.client() as client:
        await client.stop(f"{stream}-stopped")
    await one.say(f"{stream}-replaced", count=5, tool=100)
    await two.say(f"{stream}-replaced", user="u", count=5)
    await two.say(f"{stream}-long", count=600, delay=0.001, gates={590: finish})
    await three.say(f"{stream}-lost", count=5, tool=100)
    snapshots = [
        Follower(replica, f"{stream}-{name}", snapshot=True) for replica in (one, two) for name in ("lost", "done")
    ]
    for viewer in snapshots:
        await viewer.until(lambda viewer: bool(viewer.records), "it is connected")
    three.kill()
    for viewer in snapshots:
        await viewer.end()
    long = Follower(one, f"{stream}-long")
    await long.reach(590)
    finish.open()
    await long.end()
    assert long.text == numbers(600)


@asynccontextmanager
async def watched(redis: RedisServer) -> AsyncGenerator[dict[bytes, int]]:
    """Every key that is there at any time while this is entered, with the milliseconds that it had left at last."""
    seen: dict[bytes, int] = {}
    over = asyncio.Event()

    async def look() -> None:
        while not over.is_set():
            seen.update(await asyncio.to_thread(left, redis))
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        over.set()
        await looking


async def test_nothing_in_redis_is_immortal(replicas: Starting, alone: RedisServer, gates: Gates, stream: str) -> None:
    """While runs are under way every key has an end; past retention only what the documentation names is left."""
    options = {"lease": 2.0, "retention": 5.0, "checkpoint_every": 50, "log_records": 200}
    running = await replicas("a", "b", "c", url=alone.url, **options)
    async with watched(alone) as seen:
        await end_in_every_way(running, stream, gates())
    assert len(seen) > 20
    assert [key for key, milliseconds in seen.items() if milliseconds == -1] == []
    await until(lambda: left(alone), "retention is over", lambda found: all(map(is_documented, found)))
    found = left(alone)
    assert [key for key, milliseconds in found.items() if milliseconds <= 0] == []
    for index in (b"unspool:leases", b"unspool:completed", b"unspool:unfinished"):
        for key in (key for key in found if key.startswith(index)):
            assert alone.ask("ZCARD", key.decode()) == 0
    for replica in running[:2]:
        held = await until(replica.census, "its tails are dropped", lambda held: not held["tails"])
        assert (held["runs"], held["tails"], held["viewers"], held["watched"]) == ([], [], 0, 0)


async def test_without_any_replica_redis_forgets_by_itself(
    replicas: Starting, alone: RedisServer, gates: Gates, stream: str
) -> None:
    """All are killed: every key that they have left behind has an end of its own."""
    running = await replicas("a", "b", "c", url=alone.url, lease=2.0)
    await end_in_every_way(running, stream, gates())
    await running[0].say(f"{stream}-alive", count=5, tool=100)
    for replica in running:
        replica.kill()
    found = left(alone)
    assert found
    assert [key for key, milliseconds in found.items() if milliseconds <= 0] == []


@pytest.mark.parametrize("how", ["retention", "list"])
async def test_request_ids_end_with_what_they_name(database: RedisServer, store: str, stream: str, how: str) -> None:
    """Also those of generations that Redis has forgotten by itself: the hash of a stream in use does not grow."""
    made, _ = from_url(store, retention=60.0)
    await made.open()
    name = f"{store.partition('=')[2]}:{{{stream}}}"
    for number in (1, 2, 3):
        new = NewJob(stream_id=stream, owner=Owner("u"), replica="a", lease=60.0, request_id=f"request {number}")
        job = (await made.create(new)).job
        await made.seal(job.key, 1, "completed", b"{}")
        with database.client as client:
            client.delete(*client.keys(f"{name}:{number}*"))  # pyright: ignore[reportGeneralTypeIssues]
    assert b"r:request 1" in database.ask("HKEYS", name)
    await (made.delete_expired(0.0, 0.0) if how == "retention" else made.jobs(Owner("u"), None, 10))
    assert set(database.ask("HKEYS", name)) == {b"owner", b"used", b"token"}
    await made.close()


async def test_a_replica_has_at_most_three_connections(
    replicas: Starting, alone: RedisServer, gates: Gates, stream: str, tell: Tell
) -> None:
    """One for commands, one for what is large and only where something is, one for hints, whatever it does."""
    running = await replicas("a", "b", url=alone.url, lease=30.0)
    finish = gates()
    for number in range(10):
        await running[number % 2].say(f"{stream}-{number}", count=100, delay=0.01, gates={90: finish})
    viewers = [Follower(running[n % 2], f"{stream}-{n % 10}") for n in range(40)]
    for viewer in viewers:
        await viewer.reach(10)
    lines = alone.ask("CLIENT", "LIST").splitlines()
    addresses = [line for line in lines if b"cmd=client" not in line]
    kinds = Counter("hints" if b" sub=0 " not in line else "commands" for line in addresses)
    tell(f"two replicas, 10 runs, 40 viewers: {dict(kinds)} connections")
    assert kinds["hints"] == 2
    assert 2 <= kinds["commands"] <= 4
    finish.open()
    for viewer in viewers:
        check_exact(await viewer.end(), 100)


class Cost(NamedTuple):
    """Commands that concern one log, by name, while so many records were appended in so many seconds."""

    calls: Counter[str]
    records: int
    seconds: float

    @property
    def beside(self) -> int:
        """Calls that are not of an append."""
        return self.calls.total() - 4 * self.records

    @property
    def tolerated(self) -> float:
        """Calls that come by time (a look at each log from each replica, a renewal), and a few that are sent again: an
        unknown script, an answer that was late. One look more for each of 50 viewers in a second would be too many."""
        return 20 + 20 * self.seconds


@asynccontextmanager
async def overheard(redis: RedisServer, stream: str) -> AsyncGenerator[Counter[str]]:
    """Counts the commands that name this stream, those of scripts too, while this is entered."""
    calls: Counter[str] = Counter()
    client = Redis.from_url(redis.url)

    async def listen(monitor: Monitor) -> None:
        async for heard in monitor.listen():
            words = heard["command"].split()
            if words[0].upper() == "ECHO":
                return
            if f"{{{stream}}}" in heard["command"]:
                calls[words[0].lower()] += 1

    async with client, client.monitor() as monitor, asyncio.TaskGroup() as group:
        group.create_task(listen(monitor))
        yield calls
        await client.echo("the end")


async def while_followed(redis: RedisServer, running: list[Replica], gates: Gates, stream: str, viewers: int) -> Cost:
    """Commands of the numbers 51 to 250 of a run, with so many viewers on two replicas."""
    one, two, three = running
    begin, end = gates(), gates()
    await three.say(stream, count=300, delay=0.005, gates={50: begin, 250: end})
    following = [Follower((one, two)[number % 2], stream) for number in range(viewers)]
    for viewer in following:
        await viewer.reach(50)
    begun, first = time.monotonic(), following[0].records[-1].offset
    async with overheard(redis, stream) as calls:
        begin.open()
        for viewer in following:
            await viewer.reach(250)
    seconds, last = time.monotonic() - begun, following[0].records[-1].offset
    end.open()
    for viewer in following:
        check_exact(await viewer.end(), 300)
    return Cost(calls, last - first, seconds)


async def test_viewers_do_not_multiply_commands(
    replicas: Starting, alone: RedisServer, gates: Gates, stream: str, tell: Tell
) -> None:
    """An append costs one script with a publication, whether 2 viewers follow on two other replicas or 50."""
    running = await replicas("a", "b", "c", url=alone.url, lease=30.0, poll=1.0, sweep=1.0)
    few = await while_followed(alone, running, gates, f"{stream}-few", 2)
    many = await while_followed(alone, running, gates, f"{stream}-many", 50)
    for name, found in (("2 viewers", few), ("50 viewers", many)):
        tell(f"{name}, {found.records} records, {found.seconds:.1f} s: {dict(found.calls.most_common(12))}")
    for found in (few, many):
        for name in ("evalsha", "set", "xadd", "publish"):
            assert found.records <= found.calls[name] <= found.records + found.tolerated, name
    assert many.beside < few.beside + many.tolerated
