"""Generations of a dead owner: however many there are, all are ended, and none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from unspool import GenerationManager, Hooks, Options
from unspool.backends.redis import RedisStore, from_url
from unspool.content import Snapshot
from unspool.events import Record
from unspool.jobs import Job, Owner, Status
from unspool.protocols import NewJob

PATIENCE = 120.0
Tell = Callable[[str], None]


async def leave(store: RedisStore, numbers: range) -> None:
    """Make a hundred generations from each of these numbers on, of an owner that renews nothing."""
    for begin in numbers:
        names = [f"s{number}" for number in range(begin, begin + 100)]
        await asyncio.gather(
            *(store.create(NewJob(stream_id=name, owner=Owner("u"), replica="dead", lease=1.0)) for name in names)
        )


async def test_a_thousand_orphans_are_shared_by_two_survivors(store: str, tell: Tell) -> None:
    """Each is ended once, by either; none is left over, and none is taken over twice."""
    made, _ = from_url(store, retention=3600.0)
    await made.open()
    await leave(made, range(0, 1_000, 100))
    survivors = [GenerationManager.from_url(store, options=Options(lease=1.0, sweep=0.1)) for _ in range(2)]
    async with survivors[0], survivors[1], asyncio.timeout(PATIENCE):
        while (await made.counts()).by_status[Status.ERROR] < 1_000:
            await asyncio.sleep(0.05)
        jobs = await made.jobs(Owner("u"), None, 2_000)
        assert {job.lease.epoch for job in jobs} == {1}, "without hooks none needs to be taken over first"
        ended = [one.statistics()["totals"].get(Status.ERROR, 0) for one in survivors]
        assert sum(ended) == 1_000
        tell(f"1,000 orphans, two survivors: {ended}")
    await made.close()


async def test_no_orphan_waits_for_the_slow_hook_of_another(store: str) -> None:
    """The hook of the first one ends only when all others have ended: they do not wait for it, nor do later sweeps."""
    made, _ = from_url(store, retention=3600.0)
    await made.open()
    go, slow = asyncio.Event(), list[str]()

    async def save(job: Job, _: Snapshot) -> None:
        if not slow:
            slow.append(job.stream_id)
            await go.wait()

    options = Options(lease=1.0, sweep=0.1, hook_timeout=PATIENCE)
    survivor = GenerationManager.from_url(store, options=options, hooks=Hooks(save_partial=[save]))
    async with survivor, asyncio.timeout(PATIENCE):
        for first in (0, 100):
            await leave(made, range(first, first + 100, 100))
            while (await made.counts()).by_status[Status.ERROR] < first + 99:
                await asyncio.sleep(0.05)
        assert (await made.get(slow[0])).status is Status.RUNNING
        go.set()
        while (await made.counts()).by_status[Status.ERROR] < 200:
            await asyncio.sleep(0.05)
    await made.close()


@pytest.mark.parametrize("stopped", [False, True])
async def test_one_whose_content_cannot_be_read_is_sealed_without_being_saved(store: str, stopped: bool) -> None:
    """What a hook saved before is worth more than nothing; the others of its owner are saved and sealed as ever."""
    made, _ = from_url(store, retention=3600.0)
    await made.open()
    saved: list[str] = []

    async def save(job: Job, _: Snapshot) -> None:
        saved.append(job.stream_id)

    for name in ("good", "bad"):
        job = (await made.create(NewJob(stream_id=name, owner=Owner("u"), replica="dead", lease=0.5))).job
        await made.append(job.key, 1, [Record(1, "text.delta", b'{"id":"p","text":"said"}')])
        if stopped:
            await made.request_abort(job.key, "user", None)
    log = made._keys.stream("bad") + b":1:log"
    await made._redis.call(log, b"DEL", log)
    await made._redis.call(log, b"XADD", log, b"1-0", b"e", b"not an entry")
    hooks = Hooks(save_partial=[save], settled=[save])
    survivor = GenerationManager.from_url(store, options=Options(lease=0.5, sweep=0.1), hooks=hooks)
    async with survivor, asyncio.timeout(PATIENCE):
        while not all(job.settled for job in await made.jobs(Owner("u"), None, 10)):
            await asyncio.sleep(0.05)
        jobs = await made.jobs(Owner("u"), None, 10)
        assert {job.status for job in jobs} == {Status.ABORTED if stopped else Status.ERROR}
    assert saved == ["good", "good"]
    await made.close()
