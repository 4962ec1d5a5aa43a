"""Applications that share one Redis: in other databases or under other prefixes none hears anything of another."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers.redis import RedisServer
from unspool import Generation, GenerationManager, Options

PATIENCE = 60.0


async def test_databases_of_one_server_do_not_hear_each_other(database: RedisServer) -> None:
    """Both have the same stream under the same prefix; a viewer in one never shows what the other one says.

    Publications of Redis know no databases, and a hint carries records that a viewer may show at once.
    """
    managers = [GenerationManager.from_url(f"{database.url}/{number}?prefix=shared-ids") for number in (0, 1)]
    readers = [GenerationManager.from_url(f"{database.url}/{number}?prefix=shared-ids") for number in (0, 1)]
    go = asyncio.Event()

    def run(name: str):
        async def say(gen: Generation) -> None:
            for number in range(20):
                await gen.emit("custom", {"name": name, "value": number})
                await gen.snapshot()  # each an append of its own
            await go.wait()

        return say

    async def read(manager: GenerationManager) -> list[str]:
        names: list[str] = []
        async for record in manager.follow("conv"):
            if record.type == "custom":
                names.append(record.data["name"])
            if len(names) == 20:
                go.set()
        return names

    async with managers[0], managers[1], readers[0], readers[1]:
        await managers[0].start("conv", run("zero"))
        first = asyncio.create_task(read(readers[0]))
        while not readers[0].statistics()["viewers"]:
            await asyncio.sleep(0)
        await managers[1].start("conv", run("one"))
        async with asyncio.timeout(PATIENCE):
            assert await read(readers[1]) == ["one"] * 20
            assert await first == ["zero"] * 20


@pytest.mark.parametrize("number", [0, 3])
async def test_hints_arrive_in_every_database(database: RedisServer, number: int) -> None:
    """A Stop reaches its owner, and records their viewer, by hints alone: nothing is polled for an hour."""
    options = Options(poll=3600.0, lease=3600.0)
    url = f"{database.url}/{number}?prefix=hints"
    one, two = GenerationManager.from_url(url, options=options), GenerationManager.from_url(url, options=options)
    followed = asyncio.Event()

    async def run(gen: Generation) -> None:
        await followed.wait()
        await gen.text("heard")
        await asyncio.Event().wait()

    async with one, two, asyncio.timeout(PATIENCE):
        await one.start("conv", run)
        async with await two.view("conv") as viewer:
            followed.set()
            [said] = [*(await viewer.records() or ())]
            assert said.data["text"] == "heard"
            assert (await two.abort("conv")).ok
            [end] = [*(await viewer.records() or ())]
            assert end.type == "aborted"
