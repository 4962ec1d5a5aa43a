"""Large events and large texts: they are bounded, cut up, and hold up no neighbour on the same connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.servers.redis import RedisServer, binary, server
from unspool import Generation, GenerationManager, Options
from unspool.errors import GenerationStopped, InvalidEvent
from unspool.events import EVENT_BYTES
from unspool.testing.proxy import Faults, Proxy

pytestmark = pytest.mark.skipif(binary() is None, reason="there is no Redis 8 here: install the extra `dev` on Linux")

PATIENCE = 60.0


async def test_an_event_has_a_bound_that_is_told(store: str) -> None:
    """The run hears which event it was, how large it may be, and what to do; the log takes what comes next."""
    refused: list[InvalidEvent] = []

    async def run(gen: Generation) -> None:
        try:
            await gen.tool_result("call", "x" * EVENT_BYTES)
        except InvalidEvent as error:
            refused.append(error)
        await gen.tool_result("call", "x" * (EVENT_BYTES - 100))

    async with GenerationManager.from_url(store) as manager, asyncio.timeout(PATIENCE):
        await manager.start("conv", run)
        records = [record async for record in manager.follow("conv")]
    assert [record.type for record in records] == ["tool.result", "completed"]
    (error,) = refused
    assert "tool.result" in error.message
    assert str(EVENT_BYTES) in error.message
    assert "link" in error.message


async def test_a_text_of_any_length_is_cut_up(store: str) -> None:
    """Twelve million characters in one call are many records, in appends of a bounded size, and nothing is lost."""
    text = "".join(f"{number:08} " for number in range(1_300_000))

    async with GenerationManager.from_url(store) as manager, asyncio.timeout(PATIENCE):
        await manager.start("conv", lambda gen: gen.text(text))
        records = [record async for record in manager.follow("conv")]
        assert max(len(record.payload) for record in records) < 64 * 1024
        assert "".join(record.data.get("text", "") for record in records) == text


async def test_large_events_on_a_slow_line_hold_up_no_neighbour(database: RedisServer, store: str) -> None:
    """A neighbour says a hundred words, each of which waits for the store, while megabytes creep through the line."""
    query = store.partition("?")[2]
    async with Proxy(database.port, Faults(uplink=400_000)) as line:
        url = f"redis://127.0.0.1:{line.port}?{query}"
        said: list[str] = []

        async def large(gen: Generation) -> None:
            for number in range(4):
                await gen.tool_result(f"call-{number}", "x" * 900_000)
            await gen.snapshot()
            said.append("large")

        async def small(gen: Generation) -> None:
            for number in range(100):
                await gen.emit("custom", {"name": "n", "value": number})
                await gen.snapshot()
            said.append("small")

        async with GenerationManager.from_url(url, options=Options(lease=60.0)) as manager, asyncio.timeout(PATIENCE):
            await manager.start("large", large)
            await manager.start("small", small)
            for name in ("small", "large"):
                records = [record async for record in manager.follow(name)]
                assert records[-1].type == "completed"
        assert said == ["small", "large"]


async def test_what_the_server_takes_not_fails_its_run_alone(tmp_path: Path) -> None:
    """A managed Redis has a smaller bound: the run fails and says why; its neighbours and its log are well."""
    with server(tmp_path / "redis", "--proto-max-bulk-len", "1mb") as redis:
        stopped = asyncio.Event()

        async def large(gen: Generation) -> None:
            await gen.text("before")
            await gen.snapshot()
            try:
                await gen.tool_result("call", "x" * (EVENT_BYTES - 40))
                await gen.snapshot()
            except GenerationStopped:
                pass
            finally:
                stopped.set()

        async def small(gen: Generation) -> None:
            while not stopped.is_set():
                await gen.emit("custom", {"name": "n"})
                await gen.snapshot()

        url = f"redis://127.0.0.1:{redis.port}"
        async with GenerationManager.from_url(url) as manager, asyncio.timeout(PATIENCE):
            await manager.start("small", small)
            await manager.start("large", large)
            records = [record async for record in manager.follow("large")]
            assert [record.type for record in records] == ["text.delta", "failed"]
            assert records[-1].data["code"] == "too_large"
            assert "proto-max-bulk-len" in records[-1].data["message"]
            assert [record async for record in manager.follow("small")][-1].type == "completed"
