"""A process that dies: noticed by the others, said aloud to every viewer, gone on with where that was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.integration.redis.conftest import Gates, Starting
from tests.integration.redis.processes import SLACK, TIMES, Follower, Gate, Replica, check_exact, numbers, until
from tests.servers.redis import RedisServer
from unspool.jobs import Status

Tell = Callable[[str], None]

NEAR = 3_000
"""Milliseconds: twice the lease of the test that uses it, so six renewals."""
LEASE = TIMES["lease"]
PROMISED = LEASE + 2.0
"""Seconds from the death of an owner to the terminal record at every viewer."""


async def test_viewers_of_a_killed_owner_are_told_within_a_lease_and_two_seconds(
    replicas: Starting, stream: str, tell: Tell
) -> None:
    """Scenario 52: one terminal record at each of them, the content kept, not listed any more, a new turn starts."""
    one, two, three = await replicas("a", "b", "c")
    names = [f"{stream}-{number}" for number in range(10)]
    for name in names:
        await one.say(name, count=100_000, delay=0.01)
    viewers = [Follower(replica, name) for name in names for replica in (two, three)]
    for viewer in viewers:
        await viewer.reach(5)
    killed = time.monotonic()
    one.kill()
    for viewer in viewers:
        records = await viewer.end()
        check_exact(records)
        assert (records[-1].type, records[-1].data["code"], records[-1].data["retryable"]) == (
            "failed", "owner_lost", True,
        )  # fmt: skip
    times = sorted(viewer.ended_at - killed for viewer in viewers)
    tell(f"kill -9 to the terminal record, lease {LEASE} s: {times[0]:.2f} to {times[-1]:.2f} s, {len(times)} viewers")
    assert times[-1] < PROMISED + SLACK
    async with two.client() as client:
        assert await client.list(status=Status.RUNNING) == []
        state = await client.status(names[0])
        assert (state.status, state.text) == (Status.ERROR, viewers[0].text)
    assert (await two.say(names[0], count=3)).generation == 2
    check_exact(await Follower(three, names[0], generation=2).end(), 3)


async def test_survivors_settle_each_orphan_once(replicas: Starting, stream: str) -> None:
    """Two that look at the same moment: all orphans are settled, and by one of them each."""
    one, two, three = await replicas("a", "b", "c", sweep=0.05)
    for number in range(30):
        await one.say(f"{stream}-{number}", count=2, tool=1000)
    one.kill()
    async with two.client() as client:
        await until(lambda: client.list(status=Status.ERROR), "all are settled", lambda found: len(found) == 30)
    totals = [(await replica.census())["totals"].get("error", 0) for replica in (two, three)]
    assert sum(totals) == 30


async def test_a_frozen_owner_does_no_harm_when_it_wakes(replicas: Starting, stream: str) -> None:
    """Frozen past its lease it is taken for dead; awake again it is refused, and what was sealed stays as it was."""
    one, two = await replicas("a", "b")
    await one.say(stream, count=100_000, delay=0.005)
    viewer = Follower(two, stream)
    await viewer.reach(5)
    one.freeze()
    try:
        records = await viewer.end()
    finally:
        one.thaw()
    check_exact(records)
    assert records[-1].data["code"] == "owner_lost"
    found = await until(one.census, "the owner gives up", lambda found: not found["runs"])
    assert found["totals"]["lost"] == 1
    assert await Follower(one, stream).end() == records


async def test_a_long_run_outlives_every_short_time(
    replicas: Starting, database: RedisServer, gates: Gates, stream: str
) -> None:
    """Scenario 53 in small: longer than leases and retention, talking or in a tool, it can be resumed to the end."""
    one, two = await replicas("a", "b", lease=1.5, retention=2.0, poll=0.1)
    finish = gates()
    await one.say(f"{stream}-talks", count=300, delay=0.015, gates={290: finish})
    await one.say(f"{stream}-waits", count=3, tool=finish)
    # What Redis itself would forget first is brought near: it is gone soon, unless its owner renews it.
    keys = database.ask("KEYS", f"*{stream}*")
    for key in keys:
        database.ask("PEXPIRE", key.decode(), NEAR)
    talks, waits = Follower(two, f"{stream}-talks"), Follower(two, f"{stream}-waits")
    for key in keys:
        await until(lambda key=key: database.ask("PTTL", key.decode()), "it is renewed", lambda left: left > NEAR)
    await talks.reach(100)
    await talks.leave()
    again = Follower(two, f"{stream}-talks", generation=1, after=talks.records[-1].offset)
    await again.reach(190)  # of those that come after the hundred: it has lasted for more than four seconds
    finish.open()
    check_exact([*talks.records, *await again.end()], 300)
    check_exact(await waits.end(), 3)
    assert waits.types[-3:] == ["tool.call", "tool.result", "completed"]


async def resumed(one: Replica, two: Replica, stream: str, finish: Gate) -> Follower:
    await one.say(stream, count=300, delay=0.004, gates={290: finish})
    viewer = Follower(two, stream)
    await viewer.reach(40)
    one.kill()
    finish.open()
    return viewer


async def test_a_survivor_goes_on_with_a_resumable_run(
    replicas: Starting, gates: Gates, stream: str, tell: Tell
) -> None:
    """In the same log, with the content so far at hand: a viewer sees all numbers, each once, and one end."""
    one, two, three = await replicas("a", "b", "c", resumable="script")
    viewer = await resumed(one, two, stream, gates())
    killed = time.monotonic()
    await viewer.until(lambda viewer: "resumed" in viewer.types)
    tell(f"kill -9 to the survivor's first record, lease {LEASE} s: {time.monotonic() - killed:.2f} s")
    check_exact(await viewer.end(), 300)
    assert viewer.types.count("resumed") == 1
    assert (viewer.types[-1], viewer.text) == ("completed", numbers(300))
    totals = [(await replica.census())["totals"].get("started", 0) for replica in (two, three)]
    assert sorted(totals) == [0, 1]


async def test_what_is_gone_on_with_can_be_stopped_and_killed_again(
    replicas: Starting, gates: Gates, stream: str
) -> None:
    """The second owner dies as well; the third one finishes it, and Stop of another one is answered by its content."""
    one, two, three = await replicas("a", "b", "c", resumable="script", lease=1.5)
    finish = gates()
    await two.say(f"{stream}-other", count=100_000, delay=0.01)
    await one.say(stream, count=400, delay=0.005, gates={390: finish})
    viewer = Follower(three, stream)
    await viewer.reach(20)
    one.kill()
    await viewer.until(lambda viewer: "resumed" in viewer.types)
    owners = await asyncio.gather(two.census(), three.census())
    second, third = (two, three) if f"{stream}/1" in owners[0]["runs"] else (three, two)
    if second is three:  # the viewer is on the one that dies next
        await viewer.leave()
    at = viewer.records[-1].offset
    second.kill()
    finish.open()
    rest = Follower(third, stream, generation=1, after=at) if second is three else viewer
    records = await rest.end()
    check_exact([*viewer.records, *records] if rest is not viewer else records, 400)
    assert [record.type for record in records].count("resumed") == (1 if rest is not viewer else 2)
    async with third.client() as client:
        outcome = await client.stop(f"{stream}-other")
        assert outcome.text == numbers(len(outcome.text.split()))
