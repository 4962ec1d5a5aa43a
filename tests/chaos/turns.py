"""One generation, as those know it who started, followed and stopped it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.integration.redis.replica import Script

if TYPE_CHECKING:
    from tests.chaos.viewers import Viewer


@dataclass(frozen=True)
class Stopped:
    """What Stop was answered."""

    outcome: str
    status: str
    text: str
    final: dict[str, Any] | None


@dataclass
class Turn:
    """`asked`: the processes that were asked to start it, one of which owned it first. `paid`: an account is charged.
    `kills`: when a process died that owned it. `followed_up`: the next one did not wait for its end."""

    stream: str
    generation: int
    script: Script
    resumable: bool
    begun: float
    asked: frozenset[str] = frozenset()
    paid: bool = False
    viewers: list[Viewer] = field(default_factory=list)
    reading: list[asyncio.Task[None]] = field(default_factory=list)
    stopping: asyncio.Task[Stopped | None] | None = None
    followed_up: bool = False
    kills: list[float] = field(default_factory=list)
    digest: int | None = None

    def __str__(self) -> str:
        return f"{self.stream}/{self.generation}"

    @property
    def over(self) -> bool:
        return all(task.done() for task in self.reading)
