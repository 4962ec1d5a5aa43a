"""Bounds: trimmed logs, small windows, slow viewers, slow stores. Everything is bounded, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.content import Fold
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.producer import Generation
from unspool.testing.contract.kit import begin, read, settled, within
from unspool.testing.faults import FaultyStore

pytestmark = pytest.mark.virtual_time


def over(store: Any, **options: Any) -> GenerationManager:
    defaults: dict[str, Any] = {"poll": 0.02, "sweep": 0.02, "drain": 0.0}
    return GenerationManager(store, MemoryTransport(), options=Options(**{**defaults, **options}))


async def test_a_long_log_is_trimmed_and_a_late_viewer_ends_with_everything() -> None:
    """The store keeps about `log_records`; from 0 there comes a `sync` marked 'trimmed', then what follows it."""
    store = MemoryStore()
    async with over(store, log_records=200, checkpoint_every=50, window=64) as manager:
        run = await begin(manager, user=None)
        most = 0
        for n in range(3000):
            await run.say(f"{n} ")
            most = max(most, len(store._active[next(iter(store._active))].log.after(0, 10**9)))
        assert most <= 200 + 50 + 25
        reader = await read(manager, user=None)
        await reader.until(lambda reader: bool(reader.records))
        assert (reader.types[0], reader.records[0].data["reason"]) == ("sync", "trimmed")
        run.finish()
        await reader.end()
        assert reader.content.text == "".join(f"{n} " for n in range(3000))
        late = await read(manager, user=None)
        await late.end()
        assert late.content.text == reader.content.text
        assert late.types == [late.types[0], "completed"] or late.types[0] == "sync"
        assert (await manager.snapshot("s")).text == reader.content.text


async def test_a_replica_that_never_saw_it_builds_a_trimmed_log_from_its_checkpoint() -> None:
    """Content that is no longer in the log at all is in the checkpoint."""
    store, transport = MemoryStore(), MemoryTransport()
    options = Options(log_records=40, checkpoint_every=10, poll=0.02, sweep=0.02, drain=0.0)
    async with (
        GenerationManager(store, transport, options=options) as one,
        GenerationManager(store, transport, options=options) as two,
    ):
        run = await begin(one, user=None)
        await run.emit("created", user_message={"id": "q"})
        await run.say(*"abcdefghijklmnopqrstuvwxyz" * 10)
        assert (await one.job("s")).first_offset > 100
        assert (await two.snapshot("s")).text == "abcdefghijklmnopqrstuvwxyz" * 10


async def test_a_snapshot_never_skips_what_was_trimmed_under_its_hands() -> None:
    """The log is trimmed between a reader's checkpoint and its page: the content stays gapless."""
    inner = MemoryStore()
    store = FaultyStore(inner)
    async with over(store.as_store(), log_records=40, checkpoint_every=10) as one:
        run = await begin(one, user=None)
        words = [f"{n} " for n in range(400)]
        await run.say(*words[:200])
        async with over(store.as_store()) as two:
            real = inner.checkpoint

            async def late(key: Any) -> Any:
                found = await real(key)
                if len(words) > 200 and (await inner.get("s")).last_offset < 300:
                    await run.say(*words[200:])  # the owner goes on, and trims beyond what was found
                return found

            inner.checkpoint = late  # pyright: ignore[reportAttributeAccessIssue]
            snapshot = await two.snapshot("s")
            assert snapshot.text == "".join(words[: snapshot.offset])
            assert (await two.snapshot("s")).text == "".join(words)


async def test_a_slow_viewer_reads_the_store_and_is_exact() -> None:
    """It falls behind the window, and catches up by range; the window stays small meanwhile."""
    async with over(MemoryStore(), window=10, log_records=100_000) as manager:
        run = await begin(manager, user=None)
        viewer = await manager.view("s")
        seen: list[int] = []
        for n in range(30):
            await run.say(*(f"{n}.{m} " for m in range(20)))
            records = await viewer.records()
            assert records is not None
            seen += [record.offset for record in records]
            (tail,) = manager.replica.tails.values()
            assert len(tail._records) <= 10
        run.finish()
        async for record in viewer:
            seen.append(record.offset)
        assert seen == list(range(1, 602))


async def test_frames_are_exact_for_fast_and_slow_viewers() -> None:
    """The encoded read is the same read: through the window or past it, in one piece or many, each record once."""

    def encode(_: object, record: Any) -> bytes:
        return b"%d;" % record.offset

    async with over(MemoryStore(), window=10) as manager:
        run = await begin(manager, user=None)
        viewers = [await manager.view("s") for _ in range(4)]
        got = [b""] * 4
        for n in range(60):
            await run.emit("custom", name="n", internal=n % 5 == 0)
            for index, viewer in enumerate(viewers):
                if n % (index * 7 + 1) == 0 and n % 5:
                    got[index] += await viewer.frames(encode) or b""
        run.finish()
        for index, viewer in enumerate(viewers):
            while (piece := await within(viewer.frames(encode))) is not None:
                got[index] += piece
        expected = b"".join(b"%d;" % (n + 1) for n in range(60) if n % 5) + b"61;"
        assert got == [expected] * 4


async def test_the_window_is_bounded_in_bytes_as_well() -> None:
    """A few large records fill it as many small ones do; the last one stays."""
    async with over(MemoryStore(), window_bytes=1000) as manager:
        run = await begin(manager, user=None)
        for _ in range(20):
            await run.say("x" * 400)
        (tail,) = manager.replica.tails.values()
        assert tail._bytes <= 1000
        assert tail._bytes == sum(len(record.payload) for record in tail._records)
        run.finish()
        reader = await read(manager, user=None)
        await reader.end()
        assert reader.content.text == "x" * 8000


async def test_a_run_without_pause_is_paced_by_a_slow_store() -> None:
    """It never gets further ahead than its backlog."""
    store = FaultyStore(MemoryStore())
    ahead = 0

    async with over(store.as_store(), backlog=16) as manager:

        async def run(generation: Generation) -> None:
            nonlocal ahead
            for n in range(500):
                await generation.emit("custom", {"name": str(n)})
                job = await manager.job("s")
                ahead = max(ahead, n + 1 - job.last_offset)

        store.delay = 0.0005
        await manager.start("s", run)
        job = await settled(manager, user=None)
        assert job.last_offset == 501
        assert 0 < ahead <= 16


async def test_a_stray_writer_cannot_hold_up_the_end() -> None:
    """A task that the run left behind goes on emitting: the seal comes all the same, and the stray is refused."""
    store = FaultyStore(MemoryStore(), delay=0.001)
    strays: list[asyncio.Task[None]] = []

    async with over(store.as_store()) as manager:

        async def stray(generation: Generation) -> None:
            while True:
                await generation.text("x")
                await asyncio.sleep(0)

        async def run(generation: Generation) -> None:
            strays.append(asyncio.create_task(stray(generation)))
            await generation.text("a")

        await manager.start("s", run)
        job = await settled(manager, user=None)
        assert job.terminal is not None
        assert job.terminal.type == "completed"
        await asyncio.wait(strays)
        assert "GenerationStopped" in repr(strays[0].exception())


async def test_idle_viewers_leave_nothing_behind_at_each_heart_beat() -> None:
    """A thousand pokes on an idle log hold no more memory than one."""
    async with over(MemoryStore()) as manager:
        await begin(manager, user=None)
        viewer = await manager.view("s")
        for _ in range(1000):
            waiting = asyncio.ensure_future(viewer.records())
            await asyncio.sleep(0)
            viewer.poke()
            assert await waiting == ()
        assert (viewer._waiter, len(viewer.tail.viewers)) == (None, 1)
        viewer.close()


async def test_joining_a_long_log_costs_its_content() -> None:
    """The tail's fold is kept as records leave the window: a snapshot reads nothing from the store."""
    store = FaultyStore(MemoryStore())
    async with over(store.as_store(), window=32) as manager:
        run = await begin(manager, user=None)
        await run.say(*(str(n % 10) for n in range(2000)))
        before = store.calls.get("read", 0)
        reader = await read(manager, user=None, snapshot=True)
        await reader.reach(2000)
        assert store.calls.get("read", 0) == before
        whole = Fold()
        whole.apply_all(reader.records)
        assert len(whole.snapshot().text) == 2000
        await reader.leave()
