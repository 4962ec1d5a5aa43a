"""Our Responses API as the provider of another unspool: streams that are cut, owners that die, a Stop that arrives."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from tests.conftest import Serving
from tests.interop.dialects.owner import LEASE, made, provider
from tests.interop.dialects.world import CUTS, QUESTION, RESULT, THOUGHT, TOOL, World, world
from unspool import GenerationManager
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.events import Record
from unspool.jobs import GenerationKey, Status
from unspool.testing.contract.kit import Cluster, eventually

pytestmark = pytest.mark.timeout(300)
UPSTREAM: Final = ["responses"]
ROOT: Final = Path(__file__).parents[3]
Tell = Callable[[str], None]
HANG: Final = 60.0
"""Seconds after which a wait counts as a hang."""


async def run(manager: GenerationManager) -> None:
    await manager.start("s", "answer", args={"question": QUESTION}, on_owner_lost="resume", account="team")


async def log_of(manager: GenerationManager) -> list[Record]:
    """All records, once there is a terminal one."""
    return [record async for record in manager.follow("s")]


async def size(manager: GenerationManager) -> int:
    return (await manager.job("s")).last_offset


async def check(manager: GenerationManager, upstream: World, log: list[Record]) -> None:
    """The answer is there once and whole, of one generation of the provider's, and charged for once."""
    assert log[-1].type == "completed", log[-1].data
    snapshot = await manager.snapshot("s")
    assert snapshot.text == upstream.text
    thought = "".join(record.data["text"] for record in log if record.type == "reasoning.delta")
    assert thought.strip() == THOUGHT
    kinds = ["reasoning", "tool", "source", "text"]
    assert sorted(part["type"] for part in snapshot.parts) == sorted(kinds)
    tool = next(part for part in snapshot.parts if part["type"] == "tool")
    assert (tool["name"], tool["status"]) == ("level", "done")
    assert (json.loads(tool["arguments"]), json.loads(tool["output"])) == (TOOL, RESULT)
    assert len(upstream.requests) == 1, "the provider was asked once"
    [usage] = [record.data for record in log if record.type == "usage"]
    assert (usage["call_id"], usage["input_tokens"]) == ("s/1/main/0/1", 11)
    ledger = manager.billing.ledger
    assert ledger is not None
    used = await ledger.usage(GenerationKey("s", 1))
    [call] = used.calls
    assert (call.call_id, call.state) == ("s/1/main/0/1", "settled")
    assert call.usage is not None
    assert call.usage.input_tokens == 11
    assert (await ledger.audit()).faults == []
    balance = await ledger.balance("team")
    assert balance.posted == 10**12 - (11 * 1000 + usage["output_tokens"] * 2000)


async def fund(manager: GenerationManager) -> None:
    assert manager.billing.ledger is not None
    await manager.billing.ledger.grant("team", 10**12, id="one")


async def test_a_stream_that_is_cut_is_continued(
    serving: Serving, stores: Collection[str], tmp_path: Path, tell: Tell
) -> None:
    """The provider's stream breaks again and again; the log has it once, and nothing was asked for twice."""
    async with world(serving, stores, dialects=UPSTREAM) as upstream, provider(upstream.url) as model:
        async with made("memory://", model, f"sqlite:///{tmp_path}/ledger.db") as manager:
            await fund(manager)
            await run(manager)
            log = await log_of(manager)
            await check(manager, upstream, log)
        assert upstream.proxy.cuts >= CUTS
        tell(f"continued at the provider through {upstream.proxy.cuts} cuts: {len(upstream.text)} characters")


@pytest.mark.parametrize("seed", range(3 if "UNSPOOL_INTEROP" in os.environ else 1))
async def test_an_owner_that_dies_is_followed_by_another(
    serving: Serving, tmp_path: Path, seed: int, tell: Tell
) -> None:
    """Five owners in a row die anywhere in the stream, which breaks besides; the sixth brings it to its end."""
    random = Random(seed)
    store, transport = MemoryStore(), MemoryTransport()
    cluster = Cluster(Shared(store, transport), hostile=False)
    async with (
        world(serving, dialects=UPSTREAM, seed=seed, least=900, carried=(4000, 30_000)) as upstream,
        provider(upstream.url) as model,
        AsyncExitStack() as stack,
    ):
        stack.push_async_callback(cluster.close)
        upstream.cuts = 0
        upstream.held.clear()  # in the middle, until all have died: however fast it is, they die while it speaks
        managers: list[GenerationManager] = []
        for _ in range(6):
            manager = made(store, model, f"sqlite:///{tmp_path}/ledger.db", transport)
            await manager.start_up()
            managers.append(manager)
            cluster._managers.append(manager)
        await fund(managers[0])
        await run(managers[0])
        last = managers[-1]
        for _ in range(5):
            reached = await size(last) + random.randint(1, 40)

            async def further(reached: int = reached) -> bool:
                if await size(last) >= reached or (await last.job("s")).settled:
                    return True
                return upstream.half.is_set() and (await last.snapshot("s")).text == upstream.text

            await eventually(further)
            job = await last.job("s")
            if job.settled:
                break
            owner = next(one for one in managers if one.replica.name == job.lease.replica)
            if owner is last:
                break
            managers.remove(owner)
            await cluster.kill(owner)
            await owner.billing.close()
        upstream.held.set()
        log = await log_of(last)
        await check(last, upstream, log)
        attempts = sum(record.type == "resumed" for record in log)
        assert attempts > 0
        tell(f"{attempts} owners died, {upstream.proxy.cuts} cuts: {len(upstream.text)} characters, each once")


class Shared:
    name = "memory"

    def __init__(self, store: MemoryStore, transport: MemoryTransport) -> None:
        self._made = store, transport

    async def make(self) -> Any:
        return self._made

    async def close(self) -> None: ...


async def test_a_process_that_is_killed(serving: Serving, database: Any, tmp_path: Path, tell: Tell) -> None:
    """`kill -9`, with a real Redis between it and who goes on: one call of the provider, one charge."""
    store, ledger = f"{database.url}?prefix=continued", f"sqlite:///{tmp_path}/ledger.db"
    async with (
        world(serving, cuts=0, dialects=UPSTREAM, least=600) as upstream,
        provider(upstream.url) as model,
        made(store, model, ledger, lease=LEASE) as survivor,
    ):
        upstream.held.clear()  # in the middle, until its owner is dead
        await fund(survivor)
        command = [sys.executable, "-m", "tests.interop.dialects.owner", store, upstream.url, ledger, QUESTION]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"started\n"

            async def all_said() -> bool:
                return (await survivor.snapshot("s")).text == upstream.text

            await asyncio.wait_for(upstream.half.wait(), HANG)
            await eventually(all_said)
            before = await size(survivor)
        finally:
            process.kill()
            await process.wait()
            upstream.held.set()
        log = await log_of(survivor)
        await check(survivor, upstream, log)
        assert [record.type for record in log].count("resumed") == 1
        at = next(record.offset for record in log if record.type == "resumed")
        assert at == before + 1, "it was alive until it was killed"
        tell(f"killed after {at - 1} of {len(log)} records; {len(upstream.text)} characters, each once")


async def test_a_stop_stops_the_provider(serving: Serving, stores: Collection[str], tmp_path: Path) -> None:
    """Both logs end as stopped, and ours has what came until then."""
    async with (
        world(serving, stores, cuts=0, dialects=UPSTREAM, least=40) as upstream,
        provider(upstream.url) as model,
        made("memory://", model, f"sqlite:///{tmp_path}/ledger.db") as manager,
    ):
        upstream.held.clear()
        await fund(manager)
        await run(manager)

        async def said() -> bool:
            return (await manager.snapshot("s")).text != ""

        await eventually(said)
        await manager.abort("s")
        assert (await manager.job("s")).status is Status.ABORTED
        [job] = await upstream.managers[0].jobs()
        assert job.status is Status.ABORTED
        assert re.match("resp_", job.stream_id)
        assert upstream.text.startswith((await manager.snapshot("s")).text)


async def test_closing_the_stream_stops_the_provider(serving: Serving) -> None:
    """As with every model: whoever reads it no more has stopped it."""
    async with world(serving, cuts=0, dialects=UPSTREAM, least=40) as upstream, provider(upstream.url) as model:
        upstream.held.clear()
        events = model.stream([{"role": "user", "content": QUESTION}], call_id="c")
        types: list[str] = []
        async for event in events:
            types.append(event.type)
            if event.type == "text.delta":
                break
        await events.aclose()
        assert types[0] == "step.started"
        [job] = await upstream.managers[0].jobs()
        assert job.status is Status.ABORTED
