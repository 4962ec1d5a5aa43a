"""Those who follow a log, and how they are told: a bounded number in each turn of the event loop.

A run that writes on between two turns gives those who come later more to write at once. Under load that is what makes
writes few, which cost more than anything else; where there is no load nobody waits, and where there are few followers
all are told at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

_log = logging.getLogger("unspool.followers")

EACH_TURN: Final = 64
"""Followers that are told in one turn of the loop: well below a millisecond, also where each of them writes."""


class Follower(Protocol):
    """Who is told when a log has changed."""

    def changed(self) -> None:
        """There may be more. What it raises is logged."""
        ...

    def rewound(self, to: int) -> None:
        """What comes after this offset is not what was read: the store has lost records. Must not raise."""
        ...


class Followers(dict[Follower, None]):
    """Followers in the order in which they came."""

    __slots__ = ("_again", "_rest")

    def __init__(self) -> None:
        super().__init__()
        self._rest: Iterator[Follower] | None = None  # those who are still to be told of the last change
        self._again = False  # there was another one meanwhile

    def tell(self) -> None:
        """The log has changed."""
        if self._rest is not None:
            self._again = True
        elif len(self) <= EACH_TURN:
            _tell(list(self))
        else:
            self._rest = iter(list(self))
            self._tell_some()

    def _tell_some(self) -> None:
        assert self._rest is not None
        if _tell(itertools.islice(self._rest, EACH_TURN)) == EACH_TURN:
            asyncio.get_running_loop().call_soon(self._tell_some)
            return
        self._rest = None
        if self._again:
            self._again = False
            self.tell()


def _tell(followers: Iterable[Follower]) -> int:
    """Tell each of them, whatever the others raise; how many they were."""
    told, left = 0, iter(followers)
    while True:
        try:
            for follower in left:
                told += 1
                follower.changed()
        except Exception:  # noqa: BLE001  (logged)
            _log.exception("a follower failed to be told; the others are")
        else:
            return told
