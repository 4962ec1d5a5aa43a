"""Projections: a dialect that numbers its own frames has the same ones at every position, however it is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
import pytest

from unspool import Generation, GenerationManager, Gone, InvalidPosition, Options, projecting
from unspool.events import Record
from unspool.projecting import Projected
from unspool.projection import REQUEST, Projection

pytestmark = pytest.mark.virtual_time


class Counted(Projection, kw_only=True):
    """Every record becomes one to three frames, numbered, that say how much text came before."""

    name = "counted"
    said: int = 0
    asked: str = ""

    def project(self, record: Record) -> Sequence[bytes]:
        if record.type == REQUEST:
            self.asked = record.data["asked"]
        before = self.said
        self.said += len(record.data.get("text", ""))
        frames = 1 + record.offset % 3
        return [b"%d:%b:%d;" % (self.count + index, self.asked.encode(), before) for index in range(frames)]


def run(count: int, release: asyncio.Event | None = None, *, until: int = 0):
    async def talk(gen: Generation) -> None:
        await gen.emit(REQUEST, {"asked": "q"}, internal=True)
        for number in range(count):
            if release is not None and number == until:
                await release.wait()
            await gen.text(f"{number} ", part_id=str(number))
            if number % 5 == 0:
                await gen.emit("custom", {"name": "secret"}, internal=True)

    return talk


async def pieces(projected: Projected[Counted]) -> AsyncGenerator[bytes, None]:
    if projected.first:
        yield projected.first
    async with projected.viewer as viewer:
        while (piece := await viewer.frames(projected.encode)) is not None:
            yield piece


async def frames(manager: GenerationManager, position: int = 0) -> list[bytes]:
    job = await manager.job("s")
    projected = await projecting.attach(manager.replica, job, Counted, position)
    got = b"".join([piece async for piece in pieces(projected)])
    return got.split(b";")[:-1]


async def settled(manager: GenerationManager) -> None:
    async for _ in manager.follow("s"):
        pass


async def test_every_position_has_the_same_frames() -> None:
    """After the end, from the window or from the store, and on another replica that shares nothing but the store."""
    async with GenerationManager(options=Options(window=8)) as manager:
        await manager.start("s", run(60))
        await settled(manager)
        whole = await frames(manager)
        assert [int(frame.split(b":")[0]) for frame in whole] == list(range(len(whole)))
        assert {frame.split(b":")[1] for frame in whole} == {b"q"}
        for position in range(len(whole) + 1):
            assert await frames(manager, position) == whole[position:]
        with pytest.raises(InvalidPosition, match="beyond"):
            await frames(manager, len(whole) + 1)
        assert (await projecting.project(manager.replica, await manager.job("s"), Counted)).count == len(whole)


async def test_those_who_follow_live_share_their_frames() -> None:
    """One joins early, others late and in the middle of what a record became; all see the same, at every window."""
    for window in (4, 1024):
        async with GenerationManager(options=Options(window=window)) as manager:
            release = asyncio.Event()
            await manager.start("s", run(40, release, until=20))
            early = asyncio.ensure_future(frames(manager))
            await asyncio.sleep(0.01)
            others = [asyncio.ensure_future(frames(manager, position)) for position in range(30)]
            await asyncio.sleep(0.01)
            release.set()
            whole = await early
            for position, other in enumerate(others):
                assert await other == whole[position:]
            assert len(whole) > 60


async def test_who_fell_behind_goes_through_the_store_and_catches_up() -> None:
    """A viewer took others' frames, then did not read while more than the window came."""
    async with GenerationManager(options=Options(window=8)) as manager:
        release = asyncio.Event()
        await manager.start("s", run(80, release, until=10))
        job = await manager.job("s")
        first = await projecting.attach(manager.replica, job, Counted)
        second = await projecting.attach(manager.replica, job, Counted)
        async with aclosing(pieces(first)) as leading, aclosing(pieces(second)) as lagging:
            await anext(leading)
            got = await anext(lagging)
            release.set()
            await settled(manager)
            rest = [piece async for piece in lagging]
        assert (got + b"".join(rest)).split(b";")[:-1] == await frames(manager)


async def test_a_checkpoint_carries_what_a_projection_needs() -> None:
    """The beginning was trimmed: positions after the checkpoint go on as ever, older ones are refused by name."""
    options = Options(window=8, log_records=60, checkpoint_every=20)
    async with GenerationManager(options=options) as whole, GenerationManager(options=options) as manager:
        for one in (whole, manager):
            started = await one.start("s", slowly(200))
            if one is manager:
                await projecting.keep(one.replica, started.key, Counted)
            await settled(one)
        job = await manager.job("s")
        assert job.first_offset > 60
        state = await manager.store.checkpoint(job.key)
        assert state is not None
        stood = msgspec.json.decode(state.state)["dialects"]["counted"]
        assert stood["offset"] == state.offset
        ended = await projecting.project(manager.replica, job, Counted)
        truth = [*(await untrimmed(200))]
        assert ended.count == len(truth)
        for position in range(stood["count"], len(truth) + 1):
            assert await frames(manager, position) == truth[position:]
        with pytest.raises(Gone, match=f"the first position that is kept is {stood['count']}"):
            await frames(manager, stood["count"] - 1)
        with pytest.raises(Gone, match="none"):
            await frames(whole, 0)


def slowly(count: int):
    async def talk(gen: Generation) -> None:
        await gen.emit(REQUEST, {"asked": "q"}, internal=True)
        for number in range(count):
            await gen.text(f"{number} ", part_id=str(number))
            if number % 10 == 0:
                await gen.snapshot()  # waits for the store, so that checkpoints come in between

    return talk


async def untrimmed(count: int) -> list[bytes]:
    async with GenerationManager() as manager:
        await manager.start("s", slowly(count))
        await settled(manager)
        return await frames(manager)


def test_a_copy_goes_its_own_way() -> None:
    """What is fed to one is not in the other; a state that is none is refused."""
    one = Counted(stream_id="s", generation=1, created_at=1.0)
    one.feed(Record(1, "text.delta", b'{"text":"abc"}'))
    other = one.copy()
    other.feed(Record(2, "text.delta", b'{"text":"d"}'))
    assert (one.said, other.said, one.offset, other.offset) == (3, 4, 1, 2)
    with pytest.raises(Exception, match="not a state of counted"):
        Counted.load(b'{"said":"x"}')
