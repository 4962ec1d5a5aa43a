"""Turns of the event loop, shared out: so many may begin something in each of them, and the others come in the next.

What grows while it waits is done in larger pieces this way, when there is more of it than time; where there is little
of it, it begins at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

_log = logging.getLogger("unspool.turns")

EACH: Final = 32
"""That begin in one turn: about half a millisecond of appends to a store in memory, each written to a viewer."""
RATE: Final = 10_000
"""That begin in a second, where turns are long for other reasons: about a fourth of the time."""


class Turns:
    """First come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._last = 0.0  # when the last turn began, while anybody waits

    def enter(self, begin: Callable[[], None]) -> None:
        """Call `begin` in the next turn or in a later one. What it raises is logged."""
        self._waiting.append(begin)
        if len(self._waiting) == 1:
            loop = asyncio.get_running_loop()
            self._last = loop.time()
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        allowed = max(EACH, int((now - self._last) * RATE))
        self._last = now
        for _ in range(min(len(self._waiting), allowed)):
            try:
                self._waiting[0]()
            except Exception:  # noqa: BLE001
                _log.exception("one of many failed to begin; the others do")
            self._waiting.popleft()
        if self._waiting:
            loop.call_soon(self._turn)
