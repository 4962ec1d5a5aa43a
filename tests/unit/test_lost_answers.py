"""Answers of the store that are lost after it has done what was asked: the caller hears of it later, and acts on it."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from unspool import Generation, GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import StoreUnavailable
from unspool.jobs import Status

PATIENCE = 60.0


class Forgetful:
    """A store that does what it is asked, and does not answer the next call of each verb in `silent` that is done."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.silent: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in self.silent or not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            await found(*args, **kwargs)
            self.silent.discard(name)
            raise StoreUnavailable("no answer")

        return call


@pytest.fixture
def shared() -> tuple[MemoryStore, MemoryTransport]:
    return MemoryStore(), MemoryTransport()


def manager(shared: tuple[MemoryStore, MemoryTransport], **options: Any) -> tuple[GenerationManager, Forgetful]:
    store, transport = shared
    forgetful = Forgetful(store)
    made = GenerationManager(forgetful, transport, options=Options(sweep=0.05, **options))  # pyright: ignore[reportArgumentType]
    return made, forgetful


async def answer(gen: Generation) -> None:
    await gen.text(f"by {gen.attempt}")


async def test_a_start_that_was_not_answered_runs_all_the_same(shared: tuple[MemoryStore, MemoryTransport]) -> None:
    """The caller is told that the outcome is not known, repeats it elsewhere under its id, and gets its answer."""
    (one, store), (two, _) = manager(shared), manager(shared)
    async with one, two, asyncio.timeout(PATIENCE):
        store.silent.add("create")
        with pytest.raises(StoreUnavailable):
            await one.start("s", answer, request_id="r")
        again = await two.start("s", answer, request_id="r")
        assert (again.attached, again.generation) == (True, 1)
        records = [record async for record in two.follow("s")]
        assert [record.type for record in records] == ["text.delta", "completed"]


async def test_a_start_that_came_to_nothing_begins_nothing(shared: tuple[MemoryStore, MemoryTransport]) -> None:
    """The store was not reached: what another start made since is left alone."""
    (one, store), (two, _) = manager(shared, lease=1.0), manager(shared)
    begun: list[int] = []

    async def run(gen: Generation) -> None:
        begun.append(gen.generation)

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    async with one, two, asyncio.timeout(PATIENCE):
        store.create = away  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(StoreUnavailable):
            await one.start("s", run, request_id="r")
        assert (await two.start("s", run, request_id="r")).attached is False
        assert [record.type async for record in two.follow("s")] == ["completed"]
        while one.replica._background:
            await asyncio.wait(one.replica._background)
        assert begun == [1]


async def test_a_take_over_that_was_not_answered_is_followed_up(shared: tuple[MemoryStore, MemoryTransport]) -> None:
    """The survivor has the lease, and must not wait until its own has run out: it asks again, and seals."""
    saved = asyncio.Event()

    async def save(*_: object) -> None:
        saved.set()

    (one, _), (two, store) = manager(shared, lease=1.0), manager(shared, lease=1.0, hook_timeout=50.0)
    two.hooks.save_partial.append(save)
    async with two, asyncio.timeout(PATIENCE):
        await one.start_up()

        async def run(gen: Generation) -> None:
            await gen.text("so far")
            await asyncio.Event().wait()

        await one.start("s", run)
        store.silent.add("take_over")
        assert one._supervisor is not None
        await one._supervisor.stop()  # from now on it renews nothing
        records = [record async for record in two.follow("s")]
        assert records[-1].data["code"] == "owner_lost"
        assert saved.is_set()
        assert (await two.job("s")).lease.epoch == 2
        await one.stop(0)
    assert (await shared[0].get("s")).status is Status.ERROR
