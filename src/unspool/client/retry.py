"""When to try again: exponential back-off with full jitter, never sooner than the server asked for."""

from __future__ import annotations

from random import Random
from typing import Final

from unspool.client.errors import retryable
from unspool.errors import UnspoolError

_FIRST: Final = 0.5
_MOST: Final = 15.0


class Retry:
    """Failures in a row. `attempts`: how many there may be; None: any number. `least`: seconds to wait at least."""

    def __init__(self, attempts: int | None = None, random: Random | None = None) -> None:
        self.least = 0.0
        self._attempts = attempts
        self._random = random or Random()
        self._failures = 0

    def after(self, error: UnspoolError) -> float:
        """Seconds to wait before the next attempt; raises the error where there is to be none.

        The room for chance doubles with each failure, so that clients that failed together do not come back together.
        """
        self._failures += 1
        if not retryable(error) or (self._attempts is not None and self._failures >= self._attempts):
            raise error
        room = min(_MOST, _FIRST * 2.0 ** min(self._failures - 1, 10))
        return max(self.least, float(error.details.get("retry_after") or 0.0)) + self._random.random() * room

    def succeeded(self) -> None:
        """An attempt did what it was for."""
        self._failures = 0
