"""Cost of the hot loops in instructions: a figure that a noisy machine does not change.

`python -m bench.instructions`: bytecodes of the package per event, counted by the interpreter itself on a loop with
virtual time, and beside them machine instructions under `valgrind --tool=callgrind`, where that is installed: all that
the event loop and the C code do as well.

The bounds are in bytecodes, so that they hold wherever the tests run; they are of CPython 3.11.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from types import FrameType
from typing import Any, Final, NamedTuple

from unspool import Generation, GenerationManager
from unspool.backends.memory import MemoryStore
from unspool.content import Fold
from unspool.events import Record
from unspool.http.dialects.ai_sdk import UIMessageStream
from unspool.jobs import GenerationKey, Owner
from unspool.protocols import NewJob
from unspool.sse import native_frame
from unspool.testing.flowing import flow
from unspool.testing.simulation.loop import SimLoop

EVENTS: Final = 2000
_KEY: Final = GenerationKey("s", 1)
_COUNTED: Final = "unspool"
_TESTING: Final = "unspool.testing"
"""The loop of the simulation is not what a product costs."""


def _records(count: int) -> list[Record]:
    return [Record(n, "text.delta", b'{"part_id":"%d","text":" token"}' % (n % 2)) for n in range(1, count + 1)]


async def _talk(count: int, *, parts: int, viewers: int) -> None:
    """A run says so many tokens while viewers take frames. Tokens of several parts by turns do not merge."""

    async def run(gen: Generation) -> None:
        for number in range(count):
            marks = {"part_id": str(number % parts)} if parts > 1 else {}
            await gen.text(" token", **marks)
            if number % 8 == 7:
                await asyncio.sleep(0)

    async with GenerationManager() as manager:
        await manager.start("s", run)

        async def view() -> None:
            async with await manager.view("s") as viewer:
                while await viewer.frames(native_frame) is not None:
                    await flow(viewer, native_frame, lambda _: True)

        await asyncio.gather(*(view() for _ in range(viewers)))


async def emit(count: int) -> None:
    """From `Generation.text` through writer, log and tail to one viewer that takes frames."""
    await _talk(count, parts=2, viewers=1)


async def fan(count: int) -> None:
    """The same with ten viewers more: what a viewer costs is a tenth of the difference."""
    await _talk(count, parts=2, viewers=11)


async def merge(count: int) -> None:
    """Deltas of one part, which merge before they get an offset: what a token costs to whom it is handed over."""
    await _talk(count, parts=1, viewers=0)


async def append(count: int) -> None:
    """Groups of eight into the memory store."""
    store = MemoryStore()
    await store.create(NewJob(stream_id="s", owner=Owner(), replica="a", lease=60.0))
    records = _records(count)
    for at in range(0, count, 8):
        await store.append(_KEY, 1, records[at : at + 8])


async def fold(count: int) -> None:
    """Records into content."""
    state = Fold()
    state.apply_all(_records(count))
    state.snapshot()


async def frame(count: int) -> None:
    """Records into frames of the native dialect."""
    for record in _records(count):
        native_frame(_KEY, record)


async def project(count: int) -> None:
    """Records into frames of a dialect that numbers its own."""
    told = UIMessageStream(stream_id="s", generation=1, created_at=0.0)
    for record in _records(count):
        told.feed(record)


class Loop(NamedTuple):
    """`bound`: bytecodes per event that it may take."""

    run: Callable[[int], Awaitable[None]]
    bound: float


LOOPS: Final = {
    "emit": Loop(emit, 700),
    "fan": Loop(fan, 840),
    "merge": Loop(merge, 212),
    "append": Loop(append, 14.5),
    "fold": Loop(fold, 119),
    "frame": Loop(frame, 16),
    "project": Loop(project, 317),
}


def bytecodes(run: Callable[[int], Awaitable[None]], count: int = EVENTS) -> float:
    """Bytecodes of the package per event, without what the loop costs before its first."""
    return sum(stages(run, count).values())


def stages(run: Callable[[int], Awaitable[None]], count: int = EVENTS) -> dict[str, float]:
    """The same by the module in which they are."""
    _traced(run, 8)  # imports, caches
    few, many = _traced(run, 8), _traced(run, count)
    return {name: (many[name] - few[name]) / (count - 8) for name in many}


def _traced(run: Callable[[int], Awaitable[None]], count: int) -> Counter[str]:
    total = Counter[str]()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_COUNTED) or name.startswith(_TESTING):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            total[name] += 1
        return trace

    # On virtual time the same callbacks run in the same turns, whatever else the machine does.
    loop = SimLoop(Random(0))
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        loop.run_until_complete(run(count))
    finally:
        sys.settrace(before)
        loop.close()
    return total


def instructions(name: str) -> float | None:
    """Machine instructions per event under callgrind; None where there is no valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return None
    _, few, many = (_collected(valgrind, name, count) for count in (8, 8, EVENTS))  # the first may compile modules
    return (many - few) / (EVENTS - 8)


def _collected(valgrind: str, name: str, count: int) -> int:
    command = [
        valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m", "bench.instructions",
        "--run", name, "--events", str(count),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "0"})
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


async def _run(loop: Loop, count: int) -> None:
    await loop.run(count)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--run", choices=LOOPS, help="only run this loop, for whoever counts from outside")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--stages", choices=LOOPS, help="where the bytecodes of this loop are, by module")
    parser.add_argument("--no-valgrind", action="store_true", help="bytecodes alone, which takes seconds")
    given = parser.parse_args()
    if given.run:
        asyncio.run(_run(LOOPS[given.run], given.events))
        return
    if given.stages:
        for name, cost in sorted(stages(LOOPS[given.stages].run).items(), key=lambda stage: -stage[1]):
            if cost >= 0.5:
                print(f"{cost:>8,.0f}  {name}")
        return
    print(f"{'loop':<8}{'bytecodes':>12}{'bound':>8}{'instructions':>15}   per event")
    for name, loop in LOOPS.items():
        machine = None if given.no_valgrind else instructions(name)
        shown = "-" if machine is None else f"{machine:,.0f}"
        print(f"{name:<8}{bytecodes(loop.run):>12,.0f}{loop.bound:>8,.0f}{shown:>15}")


if __name__ == "__main__":
    main()
