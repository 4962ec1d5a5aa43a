"""Tasks of the ledger's own, which no caller can cancel and shutting down waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_log = logging.getLogger("unspool.ledger")
T = TypeVar("T")


class OwnedTasks:
    """The tasks of a ledger. A caller that is cancelled stops waiting; its work goes on."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` whatever becomes of the caller, and answer what it answers. Raises what it raises."""
        task = self.spawn(work)
        task.add_done_callback(_retrieve)  # the caller may have gone
        return await asyncio.shield(task)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work`. The caller logs what it raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def rest(self, seconds: float) -> None:
        """Sleep, but not beyond the beginning of `drain`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()

    async def drain(self, deadline: float) -> int:
        """Wait until all is done, for `deadline` seconds at most, then cancel the rest. Returns their number."""
        self.closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline)
        left = set(self._tasks)
        for task in left:
            task.cancel()
        if left:
            _log.warning("the ledger closes with %d tasks unfinished; their calls are settled by the reaper", len(left))
            await asyncio.wait(left, timeout=1.0)
        return len(left)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
