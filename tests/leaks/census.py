"""What this process holds: tasks, descriptors, viewers, objects. Two counts, with work between them, must be equal."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter
from typing import Any

from tests.waiting import HANG
from unspool import GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport

OURS = ("runs", "tails", "viewers", "viewers of tails", "hints asked for", "background work", "jobs", "request ids")
"""What is nobody's but the manager's, and is 0 when nothing goes on."""


class Clock:
    """The store's clock: real time, and what was skipped of it."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self.skipped


def manager_of(options: Options) -> GenerationManager:
    """A manager whose store forgets at once what has ended, when `at_rest` asks it to."""
    return GenerationManager(MemoryStore(clock=Clock()), MemoryTransport(), options=options)


def cycles(default: int) -> int:
    """How many cycles a test does: a share of UNSPOOL_LEAK_CYCLES, where that is set."""
    asked = os.environ.get("UNSPOOL_LEAK_CYCLES")
    return max(default * int(asked) // 10_000, 1) if asked else default


def held(manager: GenerationManager) -> dict[str, int]:
    """Everything that a cycle may leave behind, by name; the bare objects are counted apart, in `objects`."""
    loop: Any = asyncio.get_running_loop()
    replica, store = manager.replica, manager.store
    assert isinstance(store, MemoryStore)
    tails = list(replica.tails.values())
    return {
        "tasks": len(asyncio.all_tasks()),
        "timers": sum(not timer.cancelled() for timer in loop._scheduled),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "runs": len(replica.runs),
        "tails": len(tails),
        "viewers": len(replica.viewers),
        "viewers of tails": sum(len(tail.viewers) for tail in tails),
        "hints asked for": len(replica.channel._watched),  # pyright: ignore[reportAttributeAccessIssue]
        "background work": len(replica._background),
        "jobs": sum((len(store._active), len(store._settled), len(store._unpacked), len(store._by_owner))),
        "request ids": sum(len(stream.requests) for stream in store._streams.values()),
    }


def objects() -> Counter[str]:
    """How many objects of each type the collector knows."""
    gc.collect()
    return Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())


def risen(found: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Of what is held, that of which there is more than before. Less is no leak: what was on its way then has ended."""
    return {name: count for name, count in found.items() if count > before[name]}


async def at_rest(manager: GenerationManager, expected: dict[str, int] | None = None) -> dict[str, int]:
    """What is held once everything that is on its way has arrived, or has not for so long that it never will.

    `expected`: what it should come to at most; else, that nothing of the manager's is left. While nothing runs, the
    time for which the store keeps what has ended is skipped. The manager is one of `manager_of`.
    """
    supervisor, loop = manager._supervisor, asyncio.get_running_loop()
    assert supervisor is not None
    assert isinstance(manager.store, MemoryStore)
    clock = manager.store._clock
    assert isinstance(clock, Clock)
    until = loop.time() + HANG
    while True:
        gc.collect()  # a generator that nobody holds any more is closed by a task, a moment later
        for _ in range(3):
            await asyncio.sleep(0.01)
        if not manager.replica.runs:
            clock.skipped += manager.options.retention
        await supervisor.sweep()
        await supervisor.retain()
        found = held(manager)
        good = not (risen(found, expected) if expected is not None else any(found[name] for name in OURS))
        if good or loop.time() > until:
            return found
