"""A database engine that fails on demand, in the place of a ledger's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from unspool.ledger import Ledger

HANGS, AWAY, BREAKS = "hangs", "away", "breaks"
KINDS: Final = (HANGS, AWAY, BREAKS)


class Trouble:
    """Runs transactions on the engine inside while `mode` is None. Else each hangs, also beyond the seconds that it was
    given, finds no server, or raises what is not foreseen. `asked`: how many there were."""

    def __init__(self, ledger: Ledger) -> None:
        self.mode: str | None = None
        self.asked = 0
        self._inner: Any = ledger.database._engine
        ledger.database._engine = self  # pyright: ignore[reportAttributeAccessIssue]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def run(self, work: Callable[[Any], Any], *more: Any) -> Any:
        self.asked += 1
        if self.mode == HANGS:
            await asyncio.Event().wait()
        elif self.mode == AWAY:
            raise ConnectionRefusedError
        elif self.mode == BREAKS:
            raise RuntimeError("not foreseen")
        return await self._inner.run(work, *more)
