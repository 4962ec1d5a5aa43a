"""Shared memory context: what is remembered of a user, read once per turn and given to every agent of that turn."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

_log = logging.getLogger("unspool.agents")

ReadMemory = Callable[[], Awaitable[str | None]]


class Agent(msgspec.Struct, frozen=True):
    """How one agent is configured. `instructions`: its system prompt. `extra`: whatever else your application keeps."""

    name: str
    instructions: str | None = None
    model: str | None = None
    extra: dict[str, Any] = {}


class SharedContext(msgspec.Struct, frozen=True):
    """The agents of a turn, with the memory in their instructions. `memory`: what was read, None for nothing."""

    primary: Agent
    parallel: tuple[Agent, ...] = ()
    memory: str | None = None


async def share_memory(
    read_memory: ReadMemory | str | None,
    primary: Agent,
    parallel: Sequence[Agent] | None = None,
    *,
    scope: Literal["all", "primary"] = "all",
) -> SharedContext:
    """Read the memory once and give it to the primary agent and, unless `scope` is "primary", to the parallel ones.

    It is appended to an agent's instructions after a blank line, or becomes them. Nothing that is passed in is changed:
    agents that get memory are new objects, and where there is none (None, empty, blank) they are the very same.

    Call it at the start of a turn. A memory that cannot be read is logged and does without: the turn goes on.
    """
    others = tuple(parallel or ())
    memory = await _read(read_memory)
    if memory is None:
        return SharedContext(primary, others)
    shared = SharedContext(
        _remember(primary, memory),
        tuple(_remember(agent, memory) for agent in others) if scope == "all" else others,
        memory,
    )
    reached = (primary, *others) if scope == "all" else (primary,)
    _log.info("memory of %d characters shared with: %s", len(memory), ", ".join(agent.name for agent in reached))
    return shared


async def _read(read_memory: ReadMemory | str | None) -> str | None:
    try:
        memory = await read_memory() if callable(read_memory) else read_memory
        return memory.strip() or None if memory is not None else None
    except Exception:  # noqa: BLE001 - whatever a store of memories raises: an answer without them is better than none
        _log.exception("the memory could not be read; no agent gets any in this turn")
        return None


def _remember(agent: Agent, memory: str) -> Agent:
    existing = (agent.instructions or "").strip()
    return msgspec.structs.replace(agent, instructions=f"{agent.instructions}\n\n{memory}" if existing else memory)
