"""The number above which generations count in a database that has lost some.

A database that was emptied knows no stream, and one that came back in an older state has forgotten the latest
generations: both would use numbers again that clients, ledgers and replicas still remember. A process that has
known the database before therefore raises the floor, to a random height above all numbers in use.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Final

from unspool.backends.redis.keys import Keys
from unspool.backends.redis.topology import Topology
from unspool.errors import StoreUnavailable

_log = logging.getLogger("unspool.redis")
_STEP: Final = 1_000_000
"""Numbers of one stream in the life of a database, at most."""
_STEPS: Final = 1000
_DAY: Final = 24 * 3600


class Floor:
    """The floor of one database, as far as this process knows it.

    With each creation the process leaves a note in the database, a number that rises: when it finds a lower one, the
    database has lost what came later.
    """

    def __init__(self, topology: Topology, keys: Keys, kept: int) -> None:
        self._redis = topology
        self._key = keys.numbers
        self._field = f"note:{secrets.token_hex(8)}"
        self._kept = kept
        self._known = ""
        self._made = self._noted = 0  # the last note, and the last one that is known to have been written
        self._noted_at = 0.0

    async def note(self) -> int:
        """Leave a note; the floor, raised if the database has lost what this process knew. Raises StoreUnavailable."""
        self._made += 1
        note = self._made
        floor = await self._look(note)
        self._noted, self._noted_at = max(note, self._noted), time.monotonic()
        return floor

    async def look(self) -> None:
        """Raise the floor if the database can be reached now and has lost what this process knew."""
        try:
            if time.monotonic() - self._noted_at > _DAY:  # or the note would run out
                await self.note()
            else:
                await self._look(self._noted)
        except StoreUnavailable as error:
            _log.debug("the floor is looked at later: %s", error)

    async def _look(self, note: int) -> int:
        mark = f"{self._above()}:{secrets.token_hex(4)}"
        found: bytes = await self._redis.run(
            "floor", self._key, self._field, self._known, self._noted, mark, note, self._kept, 7 * _DAY
        )
        if self._known and found == mark.encode():
            _log.warning("Redis has lost what it knew: generations are numbered above %d from now on", _number(mark))
        self._known = found.decode()
        return _number(self._known)

    def _above(self) -> int:
        if not self._known:
            return 0
        return (_number(self._known) // _STEP + 1 + secrets.randbelow(_STEPS)) * _STEP


def _number(mark: str) -> int:
    return int(mark.partition(":")[0])
