"""How long tests wait before a wait counts as a hang, and a wait for a state that has no event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import pytest

HANG: Final = 60.0
"""Seconds after which a wait counts as a hang. A busy machine reaches no such bound; it proves nothing about speed."""


async def until(look: Callable[[], object], every: float = 0.002) -> None:
    """Look again and again until the answer is true."""
    async with asyncio.timeout(HANG):
        while not look():
            await asyncio.sleep(every)


class Pauses:
    """The pauses of one length in a module: each ends when `over` is set. `begun`: how many there were so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, seconds: float) -> None:
        self.begun = 0
        self.over = asyncio.Event()
        self._seconds = seconds
        held = ModuleType("asyncio")
        held.__dict__.update(asyncio.__dict__, sleep=self._sleep)
        monkeypatch.setattr(module, "asyncio", held)

    async def _sleep(self, seconds: float, result: Any = None) -> Any:
        if seconds != self._seconds:
            return await asyncio.sleep(seconds, result)
        self.begun += 1
        await self.over.wait()
        return result
