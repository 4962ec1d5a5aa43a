"""Generations of a dead owner: who resumes or ends them, and what must not keep a replica from it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import StoreUnavailable
from unspool.jobs import GenerationKey, Job, Owner, Status, Task
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.producer import Generation
from unspool.protocols import Lease, NewJob
from unspool.testing.contract.kit import begin, eventually, settled

pytestmark = pytest.mark.virtual_time


def over(store: MemoryStore, **options: Any) -> GenerationManager:
    given: dict[str, Any] = {"lease": 1.0, "sweep": 0.1, "poll": 0.1, "abort_grace": 0.2, "drain": 0.0}
    return GenerationManager(store, MemoryTransport(), options=Options(**{**given, **options}))


async def orphan(store: MemoryStore, stream: str = "s") -> Job:
    """A generation that may be resumed, of an owner that renews nothing."""
    new = NewJob(stream_id=stream, owner=Owner(), replica="dead", lease=0.3, task=Task("job", {}, resume=True))
    return (await store.create(new)).job


async def test_a_replica_that_drains_takes_no_orphan_that_others_could_resume() -> None:
    """Each take-over counts as an attempt, and it would drop the run at once."""
    store = MemoryStore()

    async def job(gen: Generation, _: Mapping[str, Any]) -> None:
        await gen.text(f"attempt {gen.attempt}")

    draining, other = over(store), over(store)
    for manager in (draining, other):
        manager.register("job", job)
    await draining.start_up()
    run = await begin(draining, "busy", user=None)
    await asyncio.sleep(1.5)
    stopping = asyncio.create_task(draining.stop(60.0))
    await orphan(store)
    await asyncio.sleep(10.0)
    assert (await store.get("s")).lease.epoch == 1
    run.finish()
    await stopping
    async with other:
        ended = await settled(other, user=None)
        assert (ended.status, ended.lease.epoch) == (Status.COMPLETE, 2)


async def test_no_run_begins_on_a_replica_that_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began to close while the ledger was asked, between the take-over and the run."""
    store, manager, begun = MemoryStore(), None, list[int]()

    async def job(gen: Generation, _: Mapping[str, Any]) -> None:
        begun.append(gen.attempt)

    manager = over(store)
    manager.register("job", job)
    await manager.start_up()
    asked, answer = asyncio.Event(), asyncio.Event()

    async def take_over(*_: object) -> None:
        asked.set()
        await answer.wait()

    monkeypatch.setattr(manager.billing, "take_over", take_over)
    await orphan(store)
    await asyncio.wait_for(asked.wait(), 60)
    stopping = asyncio.create_task(manager.stop())
    await asyncio.sleep(0)
    answer.set()
    await stopping
    await asyncio.sleep(1.0)
    assert begun == []


async def test_one_answer_that_is_lost_costs_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun = MemoryStore(), list[int]()
    take_over, get = store.take_over, store.get

    async def job(gen: Generation, _: Mapping[str, Any]) -> None:
        begun.append(gen.attempt)

    async def lost(*args: Any, **more: Any) -> Job:
        monkeypatch.setattr(store, "get", get)
        raise StoreUnavailable("the answer was lost")

    async def taken(*args: Any, **more: Any) -> Lease | None:
        monkeypatch.setattr(store, "get", lost)
        return await take_over(*args, **more)

    monkeypatch.setattr(store, "take_over", taken)
    async with over(store, resumes=1) as manager:
        manager.register("job", job)
        await orphan(store)
        assert (await settled(manager, user=None)).status is Status.COMPLETE
    assert begun == [2]


async def test_a_stop_that_comes_before_the_take_over_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run, and the model call that it would pay for, never begin."""
    store, begun = MemoryStore(), list[int]()
    take_over = store.take_over

    async def job(gen: Generation, _: Mapping[str, Any]) -> None:
        begun.append(gen.attempt)

    async def stopped(key: GenerationKey, *args: Any, **more: Any) -> Lease | None:
        await store.request_abort(key, "user", None)
        return await take_over(key, *args, **more)

    monkeypatch.setattr(store, "take_over", stopped)
    async with over(store) as manager:
        manager.register("job", job)
        await orphan(store)
        assert (await settled(manager, user=None)).status is Status.ABORTED
    assert begun == []


async def test_a_retention_that_fails_does_not_hide_dead_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    store, failed = MemoryStore(), 0

    async def away(*_: object) -> Any:
        nonlocal failed
        failed += 1
        raise StoreUnavailable("no deletions now")

    monkeypatch.setattr(store, "delete_expired", away)
    async with over(store) as manager:
        await asyncio.sleep(3.0)
        await store.create(NewJob(stream_id="s", owner=Owner(), replica="dead", lease=0.3))
        assert (await settled(manager, user=None)).status is Status.ERROR
    assert failed > 10


async def test_many_that_wait_for_the_store_do_not_ask_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was away is not met by thousands of calls in each step of the loop."""
    store, asked = MemoryStore(), list[float]()
    now = asyncio.get_running_loop().time

    async def away(*_: object, **__: object) -> Any:
        asked.append(now())
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "seal", away)
    async with over(store):
        await asyncio.sleep(3.0)
        for number in range(100):
            await store.create(NewJob(stream_id=f"s{number}", owner=Owner(), replica="dead", lease=0.3))

        async def all_asked() -> bool:
            return len(asked) >= 1000

        await eventually(all_asked)
        later = asked[500:]
        assert len(set(later)) == len(later)
        assert len(later) / (later[-1] - later[0]) < 100
