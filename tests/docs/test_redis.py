"""What docs/redis.md and docs/replicas.md say about Redis is held against a real one."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.docs.blocks import blocks_of
from tests.docs.test_pages import PAGES, code, rows
from tests.servers.redis import PATIENCE, RedisServer, binary, server
from unspool import Generation, GenerationManager, Options
from unspool.backends.redis.topology import SCHEMES
from unspool.errors import StoreUnavailable
from unspool.jobs import Job

DAY: Final = 24 * 3600
RETENTION: Final = 30.0
RECORDS: Final = 60
LATE: Final = 20.0
"""Seconds that may have gone by since a key was written, when the test looks at it."""
OPTIONS: Final = Options(retention=RETENTION, checkpoint_every=20, log_records=50, sweep=0.2)
"""Small enough for everything to happen to one log: a checkpoint, a trim, a packed copy."""


@pytest.fixture
def redis(tmp_path: Path) -> Generator[RedisServer]:
    if binary() is None:
        pytest.skip("NOT HELD AGAINST A REAL REDIS: install the extra `dev` on Linux")
    with server(tmp_path / "redis") as running:
        yield running


async def speak(gen: Generation) -> None:
    """Records that do not merge, then a wait for a Stop."""
    for number in range(RECORDS):
        await gen.emit("custom", {"name": "n", "value": number})
        await gen.snapshot()  # each an append of its own
    await asyncio.Event().wait()


async def read(manager: GenerationManager, stream_id: str, until: int) -> None:
    async for record in manager.follow(stream_id, user="ann"):
        if record.offset == until:
            return


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await look():
            await asyncio.sleep(0.02)


def keys_of(running: RedisServer) -> dict[str, tuple[str, float]]:
    """Every key as the page writes it, with its type and the seconds that it is kept."""
    found: dict[str, tuple[str, float]] = {}
    with running.client as client:
        for key in client.scan_iter():
            name = key.decode().replace("{conv-71}", "{S}").replace("{S}:1", "{S}:N")
            name = re.sub(r"\{\d\}$", "{0}", name).replace('["ann",null]', '["user","tenant"]')
            kind, seconds = str(client.type(key), "ascii"), int(client.pttl(key))  # pyright: ignore[reportArgumentType]
            found[name] = (kind.replace("zset", "sorted set"), seconds / 1000)
    return found


async def test_keys_are_those_that_are_told(redis: RedisServer) -> None:
    """Each key of the table is there at some time, with its type, and no other; each is kept for as long as is told."""
    told = {
        name: kind
        for names, kind, *_ in rows("docs/redis.md", "## What is kept")
        for name in code(names)
        if name.startswith("unspool:")
    }
    seen: dict[str, str] = {}

    def look(generation: float) -> None:
        for name, (kind, seconds) in keys_of(redis).items():
            of_generation = name.startswith("unspool:{S}:")
            days = {"unspool:{S}": 90.0, "unspool:numbers:{0}": 90.0}.get(name, 30.0)
            kept = generation if of_generation else days * DAY
            assert kept - LATE < seconds <= kept, (name, seconds)
            seen[name] = kind

    async with GenerationManager.from_url(redis.url, options=OPTIONS) as manager:
        await manager.start("conv-71", speak, user="ann")
        await read(manager, "conv-71", RECORDS)
        await eventually(lambda: _is(redis, lambda keys: "unspool:{S}:N:fold" in keys))
        look(3600.0)
        await manager.abort("conv-71", user="ann")
        await eventually(lambda: _is(redis, lambda keys: "unspool:{S}:N:pack" in keys))
        look(RETENTION + 60)
        assert "unspool:{S}:N:log" not in keys_of(redis), "the packed copy took its place"
        await manager.delete("conv-71", user="ann", generation=1)
        await manager.start("conv-71", _say, user="ann")
        await read(manager, "conv-71", 2)
        await eventually(lambda: _is(redis, lambda keys: "unspool:completed:{0}" in keys))
        seen["unspool:completed:{0}"] = keys_of(redis)["unspool:completed:{0}"][0]
    assert seen == told


async def _say(gen: Generation) -> None:
    await gen.text("Hello.")


async def _is(redis: RedisServer, test: Callable[[dict[str, tuple[str, float]]], bool]) -> bool:
    return test(keys_of(redis))


async def test_the_rights_that_are_told_are_enough(redis: RedisServer) -> None:
    """For all that a manager can do; and the user that is shown may do nothing else."""
    (rule,) = [block for block in blocks_of("docs/redis.md") if "ACL SETUSER" in block.text]
    redis.ask(*shlex.split(rule.text.replace("\\\n", " ").partition("redis-cli ")[2].partition("\nOK")[0]))
    url = redis.url.replace("redis://", "redis://unspool:a-long-password@")
    one = GenerationManager.from_url(url, options=OPTIONS)
    two = GenerationManager.from_url(url, options=OPTIONS)
    async with one, two:
        job = await one.start("conv-71", speak, user="ann", request_id="r")
        await read(two, "conv-71", RECORDS)
        await eventually(lambda: _has_checkpoint(two, job))
        await two.update("conv-71", user="ann", title="Rivers")
        await two.update("conv-71", user="ann", title=None)
        assert (await two.abort("conv-71", user="ann")).ok
        await eventually(lambda: _is(redis, lambda keys: "unspool:{S}:N:pack" in keys))
        await one.start("conv-71", _say, user="ann")
        await read(two, "conv-71", 2)
        assert len(await two.jobs(user="ann")) == 2
        assert (await two.counts()).total == 2
        assert not await two.active(user="ann")
        assert await two.delete("conv-71", user="ann", generation=1)
    refused = {entry[b"object"] for entry in redis.ask("ACL", "LOG")}
    assert refused <= {b"client|setinfo"}, refused
    assert redis.ask("ACL", "DRYRUN", "unspool", "GET", "other:key") != b"OK"
    assert redis.ask("ACL", "DRYRUN", "unspool", "KEYS", "*") != b"OK"


async def _has_checkpoint(manager: GenerationManager, job: Job) -> bool:
    return await manager.store.checkpoint(job.key) is not None


async def test_an_append_costs_what_is_told(redis: RedisServer) -> None:
    """One script with those commands, with a viewer on each of two replicas as without."""
    (told,) = [costs for what, costs in rows("docs/redis.md", "## Commands") if what.startswith("an append")]
    one, two = GenerationManager.from_url(redis.url), GenerationManager.from_url(redis.url)
    calls: dict[str, int] = {}

    async def run(gen: Generation) -> None:
        await gen.snapshot()
        for number in range(RECORDS):
            await gen.emit("custom", {"name": "n", "value": number})
            await gen.snapshot()

    async with one, two:
        redis.ask("CONFIG", "RESETSTAT")
        await one.start("conv-71", run, user="ann")
        await asyncio.gather(*(read(manager, "conv-71", RECORDS) for manager in (one, two)))
        with redis.client as client:
            stats: Any = client.info("commandstats")
            calls = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}
    for command in code(told):
        # A few more are those of the start, and of an append that was sent again because its answer was late.
        assert RECORDS <= calls[command.lower()] <= RECORDS + 10, (command, calls)
    assert set(code(told)) == {"SET", "XADD", "PUBLISH"}


async def test_a_full_or_lonely_redis_paces_runs(redis: RedisServer) -> None:
    """Out of memory, or without the replicas that it wants: starts are refused, runs wait, and go on."""
    go = asyncio.Event()

    async def run(gen: Generation) -> None:
        await gen.text("Rivers ")
        await go.wait()
        await gen.text("flow.")

    async with GenerationManager.from_url(redis.url) as manager:
        for setting, value in (("maxmemory", 1), ("min-replicas-to-write", 1)):
            go.clear()
            await manager.start(setting, run, user="ann")
            await read(manager, setting, 1)
            redis.ask("CONFIG", "SET", setting, value)
            go.set()
            with pytest.raises(StoreUnavailable):
                await manager.start("other", run, user="ann")
            assert (await manager.snapshot(setting, user="ann")).text == "Rivers "
            redis.ask("CONFIG", "SET", setting, 0)
            async with asyncio.timeout(PATIENCE):
                last = [record async for record in manager.follow(setting, user="ann")][-1]
            assert last.type == "completed"
            assert (await manager.snapshot(setting, user="ann")).text == "Rivers flow."


def test_every_form_of_a_url_is_told() -> None:
    """With Redis in the place of Valkey, and the forms with TLS in the text."""
    section = PAGES["docs/replicas.md"].split("## The URL")[1].split("\n## ")[0]
    for scheme in SCHEMES:
        plain = scheme.replace("valkeys", "rediss").replace("valkey", "redis")
        assert re.search(rf"\b{re.escape(plain)}(://|`)", section), scheme
