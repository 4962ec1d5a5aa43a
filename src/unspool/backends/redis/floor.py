"""The number above which streams count that the database does not know.

A database that was emptied knows no stream, and would use numbers again that clients, ledgers and replicas still
remember: their positions would go on in another answer. Whoever has known the database before therefore raises the
floor, to a height that nobody else has come to.
"""

from __future__ import annotations

import secrets
from typing import Final

from unspool.backends.redis.keys import Keys
from unspool.backends.redis.topology import Topology

_STEP: Final = 1_000_000
"""Numbers of one stream in the life of a database, at most."""
_STEPS: Final = 1000


class Floor:
    """The floor of one database, as far as this process knows it."""

    def __init__(self, topology: Topology, keys: Keys, kept: int) -> None:
        self._redis = topology
        self._key = keys.floor
        self._kept = kept
        self._known = ""

    async def look(self) -> int:
        """The floor as it is now, raised where the database has lost what was known here. Raises StoreUnavailable."""
        mark = f"{self._above()}:{secrets.token_hex(4)}"
        found: bytes = await self._redis.run("floor", self._key, self._known, mark, self._kept)
        self._known = found.decode()
        return _number(self._known)

    def _above(self) -> int:
        if not self._known:
            return 0
        return (_number(self._known) // _STEP + 1 + secrets.randbelow(_STEPS)) * _STEP


def _number(mark: str) -> int:
    return int(mark.partition(":")[0])
