"""What happened, as lines that a person can read, and the first thing that went wrong."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """An invariant that did not hold. `invariant`: its name; `time`: virtual seconds; `step`: the loop's count."""

    invariant: str
    message: str
    time: float
    step: int

    def __str__(self) -> str:
        return f"{self.invariant}: {self.message}"


class Trace:
    """A ring of the last events, each (virtual seconds, who, what); put into words only when someone reads it."""

    def __init__(self, size: int | None) -> None:
        self._ring: deque[tuple[float, str, str, tuple[Any, ...]]] = deque(maxlen=size)
        self.add = self._ring.append

    def lines(self) -> list[str]:
        """Oldest first: `    12.345678  b.2        sealed conv-1/3 as failed`."""
        return [f"{time:14.6f}  {who:<10} {what % args if args else what}" for time, who, what, args in self._ring]
