"""A process that is told to end: runs may finish, the rest is interrupted, viewers go elsewhere and miss nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx2
import pytest

from tests.integration.redis.conftest import Gates, Starting
from tests.integration.redis.processes import PATIENCE, Follower, Replica, check_exact, read_until_cut, until
from unspool.client import Received
from unspool.client.follow import Following
from unspool.errors import UnspoolError

Tell = Callable[[str], None]

DRAIN = 4.0
"""Far longer than runs take that have ten numbers left to say."""


async def refused(replica: Replica) -> bool:
    """Whether it takes no connections any more."""
    try:
        async with replica.http() as client:
            await client.get("/healthz")
    except httpx2.ConnectError:
        return True
    return False


async def test_a_deploy_loses_nothing(replicas: Starting, gates: Gates, stream: str, tell: Tell) -> None:
    """Scenario 57: ten runs of the one that ends, which finish or are interrupted; those of the other go on untouched,
    and their viewers come over to it, cut off without an end, and go on at their position."""
    one, two = await replicas("a", "b", drain=DRAIN)
    short = [f"{stream}-short-{number}" for number in range(5)]
    long = [f"{stream}-long-{number}" for number in range(5)]
    finish, finish_elsewhere = gates(), gates()
    for name in short:
        await one.say(name, count=100, delay=0.01, gates={90: finish})
    for name in long:
        await one.say(name, count=100_000, delay=0.01)
    await two.say(f"{stream}-elsewhere", count=400, delay=0.01, gates={390: finish_elsewhere})
    viewers = {name: Follower(one, name) for name in (*short, *long)}
    guest, guests_read = Following(f"{stream}-elsewhere", generation=1), list[Received]()
    cut = asyncio.create_task(read_until_cut(one.http(), one.url, guest, guests_read))
    for name, viewer in viewers.items():
        await viewer.reach(90 if name in short else 3)
    await until(lambda: len(guests_read), "the guest reads", lambda count: count > 3)

    begun = time.monotonic()
    one.terminate()
    # Released at once, since its run continues elsewhere; and cut off: the response must not seem to be complete.
    assert isinstance(await asyncio.wait_for(cut, PATIENCE), httpx2.RemoteProtocolError)
    assert not guests_read[-1].terminal
    await until(lambda: refused(one), "it takes no more connections")
    assert not any(viewer.records[-1].terminal for viewer in viewers.values()), "both came before the drain was over"
    finish_elsewhere.open()
    finish.open()
    for name in short:
        records = await viewers[name].end()
        check_exact(records, 100)
        assert records[-1].type == "completed"
    for name in long:
        records = await viewers[name].end()
        check_exact(records)
        assert (records[-1].type, records[-1].data["code"]) == ("failed", "interrupted")
    assert await one.ended() == 0
    seconds = time.monotonic() - begun
    tell(f"SIGTERM to the exit, drain {DRAIN} s, five runs interrupted: {seconds:.2f} s")
    assert seconds >= DRAIN
    rest = await Follower(two, f"{stream}-elsewhere", generation=1, after=guests_read[-1].offset).end()
    check_exact([*guests_read, *rest], 400)
    for name in (*short, *long):
        assert await Follower(two, name).end() == viewers[name].records


async def test_a_client_follows_through_a_rolling_restart(replicas: Starting, gates: Gates, stream: str) -> None:
    """One replica after the other is replaced under load: no run of the others, and no viewer, misses anything."""
    old = await replicas("a", "b", drain=PATIENCE)
    finish = gates()
    await old[1].say(stream, count=300, delay=0.01, gates={290: finish})
    first = Follower(old[0], stream)
    await first.reach(10)
    (new,) = await replicas("c", drain=PATIENCE)
    for replica in old:
        replica.terminate()
    last = await _goes_over(first)
    second = Follower(new, stream, generation=1, after=last)
    await second.until(lambda viewer: viewer.connections > 0, "it is connected to the new one")
    finish.open()
    check_exact([*first.records, *await second.end()], 300)
    for replica in old:
        assert await replica.ended() == 0
    with pytest.raises(UnspoolError):
        await old[0].say(f"{stream}-late", count=1)


async def _goes_over(viewer: Follower) -> int:
    """Wait until its replica has let it go; where it stands."""
    await viewer.until(lambda viewer: "waiting" in viewer.states, "it is let go")
    await viewer.leave()
    return viewer.records[-1].offset
