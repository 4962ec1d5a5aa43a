"""The runs of a simulated application: what a model says, and every way in which a run may behave and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from unspool.jobs import GenerationKey
from unspool.manager import RunFunction
from unspool.producer import Generation
from unspool.testing.model import CallTool, Fail, ReportUsage, Say, ScriptedModel, Step, Think, Wait

Began = Callable[[GenerationKey], None]


class PlannedFailure(Exception):
    """A run fails, as its script wants it."""


def make_run(random: Random, chunk: float, began: Began) -> tuple[str, RunFunction]:
    """The name of a behaviour, and a run that shows it. `began` is called first; `chunk`: mean seconds per piece."""
    name, behave = random.choices(_NAMED, _WEIGHTS)[0]
    own = Random(random.getrandbits(32))

    async def run(generation: Generation) -> None:
        began(generation.key)
        await behave(generation, own, chunk)

    return name, run


def _script(random: Random) -> list[Step]:
    steps: list[Step] = []
    for part in range(random.randint(1, 4)):
        # Every word says its place: a piece that is missing, doubled or moved cannot go unseen.
        words = " ".join(f"{part}.{place}" for place in range(random.randint(1, 40)))
        match random.randrange(6):
            case 0:
                steps.append(Think(words))
            case 1:
                steps.append(CallTool("look", {"for": words}))
            case 2:
                steps.append(Wait(random.random() * 2))
            case _:
                steps.append(Say(words))
    if random.random() < 0.7:
        steps.append(ReportUsage(input_tokens=random.randint(1, 999), output_tokens=random.randint(1, 999)))
    return steps


async def _call(generation: Generation, random: Random, chunk: float, *more: Step) -> None:
    model = ScriptedModel([*_script(random), *more], seed=random.getrandbits(32), delay=chunk)
    await generation.relay(model.stream([{"role": "user", "content": "?"}], call_id=generation.call_id()))


async def _answer(generation: Generation, random: Random, chunk: float) -> None:
    """An ordinary turn: the user's message, one to three model calls, something internal, a title."""
    if random.random() < 0.7:
        message = {"id": f"m-{generation.generation}", "text": "?"}
        await generation.emit("created", {"user_message": message, "response_id": f"r-{generation.generation}"})
    for _ in range(random.randint(1, 3)):
        await _call(generation, random, chunk)
        if random.random() < 0.5:
            await generation.emit("custom", {"name": "note", "value": random.random()}, internal=True)
    if random.random() < 0.3:
        await generation.emit("title", {"text": f"about {random.randrange(1000)}"})
    if random.random() < 0.3:
        generation.finish(message={"text": "whole"}, finish_reason="length")


async def _burst(generation: Generation, random: Random, chunk: float) -> None:
    """Much more at once than the store takes: the backlog holds it back. The parts alternate, so nothing merges."""
    for place in range(random.choice((20, 200, 1000))):
        await (generation.text if place % 2 else generation.reasoning)(f"{place} ")
        if place % 50 == 49:
            await asyncio.sleep(chunk)


async def _long(generation: Generation, random: Random, chunk: float) -> None:
    """Many small records, one after the other: what viewers reconnect to."""
    for place in range(random.choice((100, 300))):
        await generation.text(f"{place} ", part_id=f"p{place % 3}")
        await asyncio.sleep(chunk * random.random())


async def _stall(generation: Generation, random: Random, chunk: float) -> None:
    await _call(generation, random, chunk)
    await asyncio.Event().wait()


async def _fail(generation: Generation, random: Random, chunk: float) -> None:
    await _call(generation, random, chunk, Fail())


async def _crash(generation: Generation, random: Random, chunk: float) -> None:
    await _call(generation, random, chunk)
    raise PlannedFailure


async def _deaf(generation: Generation, random: Random, chunk: float) -> None:
    """It goes on after it was stopped, for longer than its grace, and tries to write what comes too late."""
    try:
        await _call(generation, random, chunk)
        await asyncio.sleep(random.random() * 3)
    except asyncio.CancelledError:
        await asyncio.sleep(random.random() * 6)
        await generation.usage(generation.call_id("late"), input_tokens=1, output_tokens=1)
        await generation.text("too late")


async def _approval(generation: Generation, random: Random, chunk: float) -> None:
    await _call(generation, random, chunk)
    await generation.emit("approval.requested", {"action_id": "a", "what": "send it"})
    await asyncio.sleep(random.random() * 5)
    await generation.emit("approval.resolved", {"action_id": "a", "decision": "yes"})
    await _call(generation, random, chunk)


_Behaviour = Callable[[Generation, Random, float], Awaitable[None]]
_BEHAVIOURS: Final[tuple[tuple[int, str, _Behaviour], ...]] = (
    (10, "answer", _answer),
    (6, "long", _long),
    (2, "burst", _burst),
    (1, "stall", _stall),
    (1, "fail", _fail),
    (1, "crash", _crash),
    (2, "deaf", _deaf),
    (1, "approval", _approval),
)
_NAMED: Final = [(name, behave) for _, name, behave in _BEHAVIOURS]
_WEIGHTS: Final = [weight for weight, _, _ in _BEHAVIOURS]
