"""Thousands of generations, followed and dropped in every way that there is: nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from itertools import pairwise
from typing import Any

import pytest

from tests.leaks.census import OURS, at_rest, cycles, manager_of, objects, risen
from tests.waiting import until
from unspool import GenerationManager, Options
from unspool.errors import GenerationConflict, InvalidArgument, InvalidPosition, NotFound, RunFailed, UnspoolError
from unspool.events import Record
from unspool.producer import Generation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CYCLES = cycles(10_000)
STREAMS = 40  # the numbers of streams are remembered; theirs is a fixed cost
OPTIONS = Options(retention=60.0, sweep=0.2, poll=0.5, abort_grace=10.0, drain=0.0, window=8)


async def short(gen: Generation) -> None:
    for number in range(4):
        await gen.text(f"{number} ")
        await asyncio.sleep(0)


async def endless(gen: Generation) -> None:
    await gen.text("begun")
    await asyncio.Event().wait()


async def failing(gen: Generation) -> None:
    await gen.text("begun")
    raise RunFailed("no")


Cycle = Callable[[GenerationManager, str], Coroutine[Any, Any, None]]


async def to_the_end(manager: GenerationManager, stream: str) -> None:
    await manager.start(stream, short, request_id="r")
    async for _ in manager.follow(stream):
        pass


async def left_early(manager: GenerationManager, stream: str) -> None:
    await manager.start(stream, short)
    async with aclosing(manager.follow(stream)) as records:
        async for _ in records:
            break


async def forgotten(manager: GenerationManager, stream: str) -> None:
    """Nobody closes the generator: the collector does."""
    await manager.start(stream, endless)
    async for _ in manager.follow(stream):
        break
    await manager.abort(stream)


async def cancelled(manager: GenerationManager, stream: str) -> None:
    """A follower is cancelled while it waits."""
    await manager.start(stream, endless)
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in manager.follow(stream):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await manager.abort(stream)


async def called_back(manager: GenerationManager, stream: str) -> None:
    """Callbacks, cancelled half-way or not at all."""
    await manager.start(stream, short)
    ended = asyncio.Event()
    done = await manager.subscribe(stream, on_record=lambda _: None, on_done=lambda _: ended.set())
    dropped = await manager.subscribe(stream, on_record=lambda _: dropped.cancel(), snapshot=True)
    await ended.wait()
    await done.wait()
    await dropped.wait()


async def failed(manager: GenerationManager, stream: str) -> None:
    await manager.start(stream, failing)
    async for _ in manager.follow(stream, snapshot=True):
        pass


async def refused(manager: GenerationManager, stream: str) -> None:
    """Starts and positions that are refused."""
    await manager.start(stream, short)
    for error, work in (
        (NotFound, manager.start(stream, short, user="another")),
        (GenerationConflict, manager.start(stream, short, expect_generation=10**6)),
        (InvalidArgument, manager.start(stream, short, metadata={"colour": 1})),
        (InvalidPosition, manager.view(stream, after=10**6)),
        (NotFound, manager.view(stream, user="another")),
    ):
        with pytest.raises(error):
            await work
    async for _ in manager.follow(stream):
        pass


async def replaced(manager: GenerationManager, stream: str) -> None:
    """The next turn comes while the one before is followed."""
    await manager.start(stream, endless)
    viewer = await manager.view(stream)
    await manager.start(stream, short)
    async with viewer:
        async for _ in viewer:
            pass
    async for _ in manager.follow(stream):
        pass


async def waited_for_in_vain(manager: GenerationManager, stream: str) -> None:
    """Reads that time out, again and again: no waiter may stay."""
    await manager.start(stream, endless)
    async with await manager.view(stream) as viewer:
        for _ in range(5):
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await viewer.records()
        viewer.poke()
    await manager.abort(stream)


WAYS: list[Cycle] = [
    to_the_end, left_early, forgotten, cancelled, called_back, failed, refused, replaced, waited_for_in_vain,
]  # fmt: skip


async def work(manager: GenerationManager, count: int) -> None:
    """So many cycles, as many at a time as there are streams, each stream in all ways in turn."""

    async def one(place: int) -> None:
        for number in range(place, count, STREAMS):
            await WAYS[(number + number // STREAMS) % len(WAYS)](manager, f"s{place}")

    await asyncio.gather(*(one(place) for place in range(STREAMS)))


@pytest.fixture
async def manager() -> AsyncGenerator[GenerationManager, None]:
    logging.getLogger("unspool").setLevel(logging.CRITICAL)
    async with manager_of(OPTIONS) as made:
        yield made
    logging.getLogger("unspool").setLevel(logging.NOTSET)


async def test_cycles_leave_nothing_behind(manager: GenerationManager, capsys: pytest.CaptureFixture[str]) -> None:
    """After 10,000 cycles there are as many tasks, timers, descriptors, viewers and objects as before."""
    await work(manager, 20 * STREAMS)  # what is made once is made
    before, things = await at_rest(manager), objects()
    assert not any(before[name] for name in OURS)
    await work(manager, CYCLES)
    assert risen(await at_rest(manager, before), before) == {}
    more = objects() - things
    with capsys.disabled():
        print(f"\n{CYCLES} cycles in process; objects more than before: {more.total()} {dict(more.most_common(3))}")
    assert not {name: count for name, count in more.items() if name.startswith("unspool")}
    assert more.total() < max(CYCLES // 10, 500)  # the event loop keeps some cancelled timers for a while


async def test_memory_is_given_back(manager: GenerationManager) -> None:
    """What is kept is kept in every round: the best of three adds less than 20 bytes for each cycle."""
    count = CYCLES // 20
    await work(manager, STREAMS)
    tracemalloc.start()
    try:
        in_use: list[int] = []
        for _ in range(4):
            await work(manager, count)
            await at_rest(manager)
            gc.collect()
            in_use.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert min(after - before for before, after in pairwise(in_use)) < 20 * count


async def test_a_follower_of_what_is_deleted_holds_nothing(manager: GenerationManager) -> None:
    """A generation that is deleted under its viewers takes its tail and its hints with it."""
    before = await at_rest(manager)
    for number in range(200):
        await manager.start("s", short)
        viewer = await manager.view("s")
        behind = [record async for record in manager.follow("s")]
        assert isinstance(behind[-1], Record)
        await manager.delete("s", generation=viewer.generation)
        with suppress(UnspoolError):
            async with viewer:
                async for _ in viewer:
                    pass
        assert viewer.end is not None, number
    assert risen(await at_rest(manager, before), before) == {}


async def test_a_manager_that_stops_leaves_no_task() -> None:
    """Whatever goes on when it is stopped: runs, viewers, waiters, subscriptions."""
    tasks = asyncio.all_tasks()
    for _ in range(50):
        async with GenerationManager(options=OPTIONS) as manager:
            await manager.start("s", endless)
            await manager.start("t", short)
            kept = [await manager.view("s") for _ in range(3)]
            waiting = asyncio.create_task(kept[0].records())
            await manager.subscribe("s", on_record=lambda _: None)
            await asyncio.sleep(0)
        with suppress(UnspoolError):
            await waiting
    await until(lambda: asyncio.all_tasks() <= tasks)
