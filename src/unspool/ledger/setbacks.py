"""Setbacks: items of periodic work that failed. Each waits for its own next try, and holds up no other."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

import msgspec

_log = logging.getLogger("unspool.ledger")
_FIRST_PAUSE: Final = 1.0  # seconds after the first failure; doubled with each
_LONGEST_PAUSE: Final = 3600.0
_KEPT: Final = 10_000


class Setback(msgspec.Struct, frozen=True):
    """The number of failures of an item, the last reason, and the Unix time of the next try."""

    failures: int
    reason: str
    until: float


class Setbacks:
    """The items that failed last time, by name: 10,000 at most, and then the oldest is forgotten and tried at once."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        self.items: dict[str, Setback] = {}
        self._clock = clock
        self._rng = rng

    def waiting(self, name: str) -> bool:
        """Tell whether it is too early to try an item again."""
        found = self.items.get(name)
        return found is not None and self._clock() < found.until

    def failed(self, name: str, error: Exception) -> None:
        """Put an item back. Its first failure is logged, the others are only counted."""
        before = self.items.pop(name, None)
        failures = 1 if before is None else before.failures + 1
        if before is None:
            _log.error("%s cannot be settled, and is tried again later", name, exc_info=error)
            if len(self.items) >= _KEPT:
                del self.items[next(iter(self.items))]
        self.items[name] = Setback(failures, repr(error), self._clock() + pause(failures, self._rng))

    def done(self, name: str) -> None:
        """Forget an item: it has succeeded."""
        if self.items.pop(name, None) is not None:
            _log.info("%s is settled after all", name)


def pause(failures: int, rng: random.Random) -> float:
    """Seconds until the next try: doubled with each failure up to an hour, and spread, so that not all come at once."""
    whole = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures - 1, 20))
    return whole * (0.5 + rng.random() / 2)
