"""What replicas leave in a Redis, and what they ask of it: keys that end, few connections, commands that viewers do not
multiply."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.integration.redis.conftest import Starting
from tests.integration.redis.processes import Follower, Replica, check_exact, numbers, until
from tests.servers import redis as servers
from tests.servers.redis import RedisServer

Tell = Callable[[str], None]

pytestmark = pytest.mark.skipif(servers.binary() is None, reason="there is no Redis 8 here")

STAYS = (
    re.compile(rb"unspool:\{[^{}]+\}"),  # a stream's hash: it remembers the number of its last generation
    re.compile(rb"unspool:(leases|completed|unfinished|streams):\{\d\}"),
    re.compile(rb"unspool:owner:.*"),
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


async def end_in_every_way(replicas: list[Replica], stream: str) -> None:
    """Generations that complete, are stopped, replaced, given up by their owner, lost by one that is killed."""
    one, two, three = replicas
    await one.say(f"{stream}-done", count=50)
    await one.say(f"{stream}-stopped", count=5, tool=100, usage=["m"])
    async with two.client() as client:
        await client.stop(f"{stream}-stopped")
    await one.say(f"{stream}-replaced", count=5, tool=100)
    await two.say(f"{stream}-replaced", user="u", count=5)
    await two.say(f"{stream}-long", count=600, delay=0.001)
    await three.say(f"{stream}-lost", count=5, tool=100)
    snapshots = [
        Follower(replica, f"{stream}-{name}", snapshot=True) for replica in (one, two) for name in ("lost", "done")
    ]
    three.kill()
    for viewer in snapshots:
        await viewer.end()
    long = Follower(one, f"{stream}-long")
    await long.end()
    assert long.text == numbers(600)


async def test_nothing_in_redis_is_immortal(replicas: Starting, alone: RedisServer, stream: str) -> None:
    """While runs go on every key has an end; past retention nothing is left but what the documentation names."""
    options = {"lease": 1.0, "retention": 5.0, "checkpoint_every": 50, "log_records": 200}
    running = await replicas("a", "b", "c", url=alone.url, **options)
    await end_in_every_way(running, stream)
    found = left(alone)
    assert len(found) > 20
    assert [key for key, milliseconds in found.items() if milliseconds == -1] == []
    await until(lambda: left(alone), "retention is over", lambda found: all(map(is_documented, found)), seconds=15)
    found = left(alone)
    assert [key for key, milliseconds in found.items() if milliseconds <= 0] == []
    for index in (b"unspool:leases", b"unspool:completed", b"unspool:unfinished"):
        for key in (key for key in found if key.startswith(index)):
            assert alone.ask("ZCARD", key.decode()) == 0
    for replica in running[:2]:
        held = await replica.census()
        assert (held["runs"], held["tails"], held["viewers"], held["watched"]) == ([], [], 0, 0)


async def test_without_any_replica_redis_forgets_by_itself(replicas: Starting, alone: RedisServer, stream: str) -> None:
    """All are killed: whatever they have left behind has an end of its own."""
    running = await replicas("a", "b", "c", url=alone.url, lease=1.0)
    await end_in_every_way(running, stream)
    await running[0].say(f"{stream}-alive", count=5, tool=100)
    for replica in running:
        replica.kill()
    found = left(alone)
    assert found
    assert [key for key, milliseconds in found.items() if milliseconds <= 0] == []


async def test_a_replica_has_two_connections(replicas: Starting, alone: RedisServer, stream: str, tell: Tell) -> None:
    """One for commands and one for hints, whatever goes on."""
    running = await replicas("a", "b", url=alone.url)
    for number in range(10):
        await running[number % 2].say(f"{stream}-{number}", count=100, delay=0.01)
    viewers = [Follower(running[n % 2], f"{stream}-{n % 10}") for n in range(40)]
    for viewer in viewers:
        await viewer.reach(10)
    lines = alone.ask("CLIENT", "LIST").splitlines()
    addresses = [line for line in lines if b"cmd=client" not in line]
    kinds = Counter("hints" if b" sub=0 " not in line else "commands" for line in addresses)
    tell(f"two replicas, 10 runs, 40 viewers: {dict(kinds)} connections")
    assert kinds == {"commands": 2, "hints": 2}
    for viewer in viewers:
        check_exact(await viewer.end(), 100)


async def commands(redis: RedisServer) -> Counter[str]:
    """Calls by command, so far."""
    with redis.client as client:
        found = client.info("commandstats")
    assert isinstance(found, dict)
    return Counter({name.removeprefix("cmdstat_"): stats["calls"] for name, stats in found.items()})


async def while_followed(redis: RedisServer, running: list[Replica], stream: str, viewers: int) -> Counter[str]:
    """Commands of one run of 300 records, with so many viewers on two replicas."""
    one, two, three = running
    await three.say(stream, count=300, delay=0.01)
    following = [Follower((one, two)[number % 2], stream) for number in range(viewers)]
    for viewer in following:
        await viewer.reach(50)
    before, begun = await commands(redis), time.monotonic()
    await following[0].reach(250)
    after, seconds = await commands(redis), time.monotonic() - begun
    for viewer in following:
        check_exact(await viewer.end(), 300)
    assert seconds < 20
    return after - before


async def test_viewers_do_not_multiply_commands(
    replicas: Starting, alone: RedisServer, stream: str, tell: Tell
) -> None:
    """An append costs one script with a publication, whether 2 viewers follow on two other replicas or 50."""
    running = await replicas("a", "b", "c", url=alone.url, poll=1.0, sweep=1.0)
    few = await while_followed(alone, running, f"{stream}-few", 2)
    many = await while_followed(alone, running, f"{stream}-many", 50)
    for name, found in (("2 viewers", few), ("50 viewers", many)):
        tell(f"{name}, 200 records: {dict(found.most_common(8))}")
    assert many["publish"] <= 205
    for name in ("xadd", "evalsha", "publish"):
        assert abs(many[name] - few[name]) <= 40, name
    assert sum(many.values()) < 1.3 * sum(few.values())
