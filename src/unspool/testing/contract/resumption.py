"""Runs that a survivor goes on with when their owner is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unspool.errors import GenerationStopped, InvalidArgument, InvalidEvent
from unspool.jobs import Status
from unspool.manager import GenerationManager
from unspool.options import Hooks
from unspool.producer import Generation
from unspool.testing.contract.kit import LEASE, Cluster, eventually, read, settled, within


class Writer:
    """A run by name, on any replica: says where it goes on, then waits until it may finish."""

    def __init__(self) -> None:
        self.handles: list[Generation] = []
        self.finish = asyncio.Event()

    async def __call__(self, generation: Generation, args: dict[str, Any]) -> None:
        self.handles.append(generation)
        before = (await generation.snapshot()).text
        await generation.text(f"[{generation.attempt}:{args['word']}:{len(before)}]")
        await self.finish.wait()

    async def attempt(self, number: int) -> Generation:
        """Wait until this attempt has said its word."""

        async def look() -> Generation | None:
            found = [
                one for one in self.handles if one.attempt == number and f"[{number}:" in (await one.snapshot()).text
            ]
            return found[0] if found else None

        return await eventually(look)


async def replicas(cluster: Cluster, writer: Writer, names: str = "ab", **options: Any) -> list[GenerationManager]:
    made = [await cluster.replica(name, lease=LEASE, **options) for name in names]
    for manager in made:
        manager.register("write", writer)
    return made


async def begin_writing(manager: GenerationManager, writer: Writer, **more: Any) -> Generation:
    await manager.start("s", "write", args={"word": "hey"}, on_owner_lost="resume", user="u", **more)
    return await writer.attempt(1)


async def _say_and_flush(generation: Generation, text: str) -> None:
    await generation.text(text)
    await generation._writer.flush()


class TestResumption:
    """`on_owner_lost="resume"`."""

    async def test_a_survivor_goes_on_in_the_same_log(self, cluster: Cluster) -> None:
        """The same generation, a higher epoch, the arguments, the content so far; a viewer sees all of it once."""
        writer = Writer()
        one, two = await replicas(cluster, writer)
        await begin_writing(one, writer)
        reader = await read(two)
        await cluster.kill(one)
        await writer.attempt(2)
        assert (await two.job("s", user="u")).lease.replica == "b"
        writer.finish.set()
        got = await reader.end()
        assert [record.type for record in got] == ["text.delta", "resumed", "text.delta", "completed"]
        assert [record.offset for record in got] == [1, 2, 3, 4]
        assert reader.content.text == "[1:hey:0][2:hey:9]"
        assert got[1].data == {"attempt": 2}
        assert (await settled(two)).status is Status.COMPLETE

    async def test_ids_of_parts_and_calls_are_not_given_twice(self, cluster: Cluster) -> None:
        """What the lost attempt began stays as it was, and its model calls stay its own."""
        writer = Writer()
        one, two = await replicas(cluster, writer)
        first = await begin_writing(one, writer)
        calls = {first.call_id(), first.call_id("other")}
        await cluster.kill(one)
        second = await writer.attempt(2)
        assert not calls & {second.call_id(), second.call_id("other")}
        assert len((await two.snapshot("s", user="u")).parts) == 2

    async def test_whoever_knows_the_name_goes_on(self, cluster: Cluster) -> None:
        """A replica that does not know the run leaves it to one that does."""
        writer = Writer()
        one, knowing = await replicas(cluster, writer)
        for name in "cd":
            await cluster.replica(name, lease=LEASE)
        await begin_writing(one, writer)
        await cluster.kill(one)
        assert (await writer.attempt(2)).job.lease.replica == "b"
        writer.finish.set()
        assert (await settled(knowing)).status is Status.COMPLETE

    async def test_a_run_that_nobody_knows_is_lost(self, cluster: Cluster) -> None:
        """Then it ends as any other whose owner is gone."""
        writer = Writer()
        (one,) = await replicas(cluster, writer, "a", resume_wait=0.0)
        other = await cluster.replica("b", lease=LEASE, resume_wait=0.0)
        await begin_writing(one, writer)
        await cluster.kill(one)
        job = await settled(other)
        assert job.terminal is not None
        assert job.terminal.data["code"] == "owner_lost"

    async def test_a_run_that_kills_its_owners_is_given_up(self, cluster: Cluster) -> None:
        """`resumes` bounds how often it is tried."""
        writer = Writer()
        one, two, three = await replicas(cluster, writer, "abc", resumes=1)
        await begin_writing(one, writer)
        await cluster.kill(one)
        second = await writer.attempt(2)
        dead, alive = (two, three) if second.job.lease.replica == "b" else (three, two)
        await cluster.kill(dead)
        job = await settled(alive)
        assert job.terminal is not None
        assert (job.status, job.terminal.data["code"]) == (Status.ERROR, "owner_lost")

    async def test_a_stop_is_honoured_instead(self, cluster: Cluster) -> None:
        """Asked for before the owner was lost: it is not begun again."""
        writer = Writer()
        one, two = await replicas(cluster, writer)
        await begin_writing(one, writer)
        await cluster.kill(one)
        await two.store.request_abort((await two.job("s", user="u")).key, "user", None)
        assert (await settled(two)).status is Status.ABORTED
        assert len(writer.handles) == 1

    async def test_an_owner_that_was_only_paused_writes_nothing_more(self, cluster: Cluster) -> None:
        """The survivor's epoch fences it off, and its hooks save nothing."""
        writer, saved = Writer(), list[str]()

        async def save(*_: object) -> None:
            saved.append("x")

        one = await cluster.replica("a", lease=LEASE, hooks=Hooks(save_partial=[save]))
        one.register("write", writer)
        (two,) = await replicas(cluster, writer, "b")
        first = await begin_writing(one, writer)
        await cluster.pause(one)
        await writer.attempt(2)
        with pytest.raises(GenerationStopped):
            await _say_and_flush(first, "late")
        await within(first.stopping.wait())
        writer.finish.set()
        assert (await settled(two)).status is Status.COMPLETE
        assert (await two.snapshot("s", user="u")).text == "[1:hey:0][2:hey:9]"
        assert saved == []

    async def test_a_run_without_a_name_takes_no_arguments(self, manager: GenerationManager) -> None:
        """And a name must be known, and be one run's alone."""
        writer = Writer()
        with pytest.raises(InvalidArgument, match="register"):
            await manager.start("s", writer, args={})  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidArgument, match="known are: none"):
            await manager.start("s", "write")
        manager.register("write", writer)
        with pytest.raises(InvalidArgument, match="on_owner_lost must be 'fail' or 'resume', not 'restart'"):
            await manager.start("s", "write", on_owner_lost="restart", user="u")  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidArgument, match="already"):
            manager.register("write", Writer())
        with pytest.raises(InvalidEvent, match="args"):
            await manager.start("s", "write", args={"word": object()})
