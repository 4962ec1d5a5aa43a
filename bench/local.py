"""One process: emit, follow, join."""

from __future__ import annotations

import asyncio
import json
import time

from unspool import Generation, GenerationManager, Record

EVENTS = 100_000
TOKEN = "token and a bit of text "


async def emit_and_follow() -> float:
    """Seconds per event, from the first emit to the last record at the subscriber, with the content folded."""

    async def run(gen: Generation) -> None:
        for _ in range(EVENTS):
            await gen.text(TOKEN)

    return await _follow(run)


async def emit_unmerged() -> float:
    """The same where nothing can merge."""

    async def run(gen: Generation) -> None:
        for number in range(EVENTS):
            await gen.emit("custom", {"name": "token", "value": TOKEN, "number": number})

    return await _follow(run)


async def _follow(run) -> float:
    async with GenerationManager() as manager:
        begun = time.perf_counter()
        await manager.start("s", run)
        last: Record | None = None
        async for record in manager.follow("s"):
            last = record
        await manager.snapshot("s")
        assert last is not None
        assert last.terminal
        return (time.perf_counter() - begun) / EVENTS


async def floor_callback() -> float:
    """What no Python can do without: keep the event, call the subscriber."""
    log: list[dict[str, str]] = []
    seen = 0

    def subscriber(event: dict[str, str]) -> None:
        nonlocal seen
        seen += 1

    begun = time.perf_counter()
    for _ in range(EVENTS):
        event = {"type": "text.delta", "text": TOKEN}
        log.append(event)
        subscriber(event)
    return (time.perf_counter() - begun) / EVENTS


async def join(events: int) -> float:
    """Seconds until a new viewer has the snapshot of a running generation of so many events."""

    async def run(gen: Generation) -> None:
        for number in range(events):
            await gen.emit("text.delta", {"text": TOKEN, "part_id": "p1", "step": str(number % 2)})
        await asyncio.Event().wait()

    async with GenerationManager() as manager:
        await manager.start("s", run)
        while (await manager.job("s")).last_offset < events:
            await asyncio.sleep(0.01)
        begun = time.perf_counter()
        async for record in manager.follow("s", snapshot=True):
            assert record.type == "sync"
            break
        return time.perf_counter() - begun


async def floor_join(events: int) -> float:
    """Reading the same content as JSON."""
    content = json.dumps({"text": TOKEN * events})
    begun = time.perf_counter()
    json.loads(content)
    return time.perf_counter() - begun
