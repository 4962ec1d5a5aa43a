"""Races between replicas: an append in flight, a slow settlement, a tail that was left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.jobs import Status
from unspool.manager import GenerationManager
from unspool.options import Hooks, Options
from unspool.outcomes import AlreadySettled, Stopped
from unspool.testing.contract.kit import begin, read, settled, within
from unspool.testing.faults import FaultyStore
from unspool.testing.hostile import HostileTransport

pytestmark = pytest.mark.virtual_time


def over(store: Any, transport: Any, *, hooks: Hooks | None = None, **options: Any) -> GenerationManager:
    defaults: dict[str, Any] = {"poll": 0.02, "sweep": 0.02, "drain": 0.0, "abort_grace": 0.1, "lease": 0.6}
    return GenerationManager(store, transport, options=Options(**{**defaults, **options}), hooks=hooks)


@pytest.mark.parametrize("applied", [False, True])
async def test_a_stop_elsewhere_while_an_append_is_in_flight(applied: bool) -> None:
    """The append either is in the log before the seal, and in the answer, or is refused; never after the seal."""
    inner, transport = MemoryStore(), MemoryTransport()
    store = FaultyStore(inner)
    async with over(store.as_store(), transport, lease=60.0) as one, over(inner, transport) as two:
        run = await begin(one, user=None)
        await run.say("a ")
        real, gate, arrived = inner.append, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> None:
            if applied:
                await real(*args, **kwargs)
            arrived.set()
            await gate.wait()
            if not applied:
                await real(*args, **kwargs)

        inner.append = slow  # pyright: ignore[reportAttributeAccessIssue]
        await (await run.generation()).text("b ")
        await within(arrived.wait())
        reader = await read(two, user=None)
        outcome = await within(two.abort("s"))
        assert isinstance(outcome, Stopped)
        gate.set()
        got = await reader.end()
        assert outcome.text == reader.content.text == ("a b " if applied else "a ")
        assert got[-1] == outcome.final
        job = await settled(one, user=None)
        assert (job.last_offset, job.lease.epoch) == (3 if applied else 2, 2)
        here = await read(one, user=None)
        assert await here.end() == got


async def test_a_slow_settlement_keeps_its_lease() -> None:
    """Saving takes several leases: the owner goes on renewing, nobody takes over, it is saved once."""
    saved: list[str] = []

    async def save(*_: object) -> None:
        saved.append("x")
        await asyncio.sleep(1.5)

    store, transport = MemoryStore(), MemoryTransport()
    hooks = Hooks(save_partial=[save])
    async with over(store, transport, hooks=hooks, lease=0.6) as one, over(store, transport, hooks=hooks):
        run = await begin(one, user=None)
        run.fail(ValueError("no"))
        job = await settled(one, user=None)
        assert (job.status, job.lease.epoch, saved) == (Status.ERROR, 1, ["x"])


async def test_a_stop_while_it_is_completing_is_too_late() -> None:
    """The run has returned and its seal is on the way: completed, and the Stop is told so."""
    store = FaultyStore(MemoryStore(), verbs=frozenset({"seal"}))
    async with over(store.as_store(), MemoryTransport()) as manager:
        run = await begin(manager, user=None)
        store.gate = asyncio.Event()
        run.finish()
        while "seal" not in store.calls:
            await asyncio.sleep(0)
        abort = asyncio.ensure_future(manager.abort("s"))
        await asyncio.sleep(0.01)
        store.gate.set()
        outcome = await within(abort)
        assert isinstance(outcome, AlreadySettled)
        assert outcome.status is Status.COMPLETE


async def test_a_replica_left_far_behind_catches_up_over_a_trimmed_log() -> None:
    """B held the first records, heard nothing, and they were trimmed: a marked snapshot, then the rest."""
    store, transport = MemoryStore(), MemoryTransport()
    small: dict[str, Any] = {"log_records": 40, "checkpoint_every": 10, "window": 8}
    async with (
        over(store, transport, **small) as one,
        over(store, HostileTransport(transport, seed=1, drop=1), poll=0.2, **small) as two,
    ):
        run = await begin(one, user=None)
        await run.say("0 ", "1 ")
        reader = await read(two, user=None)
        await reader.reach(2)
        await run.say(*(f"{n} " for n in range(2, 300)))
        await reader.until(lambda reader: reader.records[-1].offset >= 300)
        assert "sync" in reader.types
        run.finish()
        await reader.end()
        assert reader.content.text == "".join(f"{n} " for n in range(300))


async def test_starting_up_twice_at_once_starts_once() -> None:
    """The periodic work of a replica exists once."""
    store = FaultyStore(MemoryStore(), delay=0.005, verbs=frozenset({"open", "ping"}))
    before = asyncio.all_tasks()
    manager = over(store.as_store(), MemoryTransport())
    await asyncio.gather(manager.start_up(), manager.start_up())
    assert len(asyncio.all_tasks() - before) == 4
    await manager.stop()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_replacement_while_an_append_is_in_flight() -> None:
    """Turn 1's viewers get all that was accepted, then 'replaced', in order and once."""
    inner, transport = MemoryStore(), MemoryTransport()
    store = FaultyStore(inner, delay=0.002)
    async with over(store.as_store(), transport) as one, over(inner, transport) as two:
        for turn in range(1, 20):
            run = await begin(one if turn % 2 else two, user=None)
            generation = await run.generation()
            readers = [await read(one, user=None), await read(two, user=None)]
            for n in range(turn):
                await generation.text(str(n), part_id=str(n))
            await asyncio.sleep(0.0005 * turn)
            await begin(two if turn % 3 else one, user=None)
            logs = [await reader.end() for reader in readers]
            assert logs[0] == logs[1]
            assert [record.offset for record in logs[0]] == list(range(1, len(logs[0]) + 1))
            assert logs[0][-1].type == "replaced"
            await (await begin(one, user=None)).generation()
